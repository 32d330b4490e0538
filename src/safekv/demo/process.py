"""A `safekv serve` of our own, in its own process, that never outlives the demo."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from safekv.errors import EngineError
from safekv.types import Mode

HOST = "127.0.0.1"
POLL_S = 0.1
LOG_LINES = 15


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answered `/health` with 200."""

    host: str
    port: int
    pid: int

    @property
    def api_url(self) -> str:
        """Where an OpenAI client points to."""
        return f"http://{self.host}:{self.port}/v1"

    def get(self, path: str, key: str = "", timeout_s: float = 10.0) -> tuple[int, bytes]:
        """Status and body of one GET. Raises `OSError` or `HTTPException` without an answer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def serve_command(model: str, mode: Mode, port: int, keys: Path) -> list[str]:
    """The command line that serves `model` in `mode` on loopback."""
    place = ["--host", HOST, "--port", str(port), "--keys", str(keys)]
    # -P: a stray click.py where the demo is started must not become part of the server.
    program = [sys.executable, "-P", "-m", "safekv.cli.main"]
    return [*program, "serve", model, "--mode", mode.value, "--profile", "paper", *place]


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago; someone else may take it first."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    command: Sequence[str],
    port: int,
    *,
    log: Path | None = None,
    start_s: float = 180.0,
    stop_s: float = 15.0,
) -> Iterator[Running]:
    """Run `command` until the block ends, and yield once `/health` answers 200.

    On the way out, however that happens, the process gets SIGTERM and, `stop_s` seconds later,
    SIGKILL. It is started in a session of its own, so that Ctrl-C reaches it only through us.
    Its output is appended to `log`, or goes to a temporary file. Raises `EngineError` with the
    last lines of that output when the process ends early or is not ready after `start_s`.
    """
    with _log_file(log) as output:
        process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            server = Running(HOST, port, process.pid)
            _wait_until_ready(process, server, output, start_s)
            with _death_explained(process, output):
                yield server
        finally:
            _stop(process, stop_s)


def _log_file(log: Path | None) -> IO[bytes]:
    return tempfile.TemporaryFile("w+b") if log is None else log.open("a+b")


def _wait_until_ready(
    process: subprocess.Popen[bytes], server: Running, output: IO[bytes], start_s: float
) -> None:
    deadline = time.monotonic() + start_s
    while not _healthy(server):
        if process.poll() is not None:
            raise _died(process, output)
        if time.monotonic() > deadline:
            raise EngineError(
                f"the server was not ready after {start_s:g} seconds; it said:\n{_tail(output)}"
            )
        time.sleep(POLL_S)


def _healthy(server: Running) -> bool:
    try:
        return server.get("/health", timeout_s=5.0)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


@contextmanager
def _death_explained(process: subprocess.Popen[bytes], output: IO[bytes]) -> Iterator[None]:
    """Turn an error inside the block into "the server died" when that is what happened."""
    try:
        yield
    except Exception as error:
        # A dying server closes its sockets before its process can be reaped.
        if _ended_within(process, 1.0):
            raise _died(process, output) from error
        raise


def _ended_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _died(process: subprocess.Popen[bytes], output: IO[bytes]) -> EngineError:
    return EngineError(
        f"the server ended with status {process.returncode}; it said last:\n{_tail(output)}",
        "run `safekv serve` by itself to see more",
    )


def _tail(output: IO[bytes]) -> str:
    # The child shares this file's offset: read by position, never move it.
    size = os.fstat(output.fileno()).st_size
    start = max(0, size - 8192)
    text = os.pread(output.fileno(), size - start, start).decode(errors="replace")
    return "\n".join(f"  {line}" for line in text.splitlines()[-LOG_LINES:]) or "  (nothing)"


def _stop(process: subprocess.Popen[bytes], stop_s: float) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(stop_s)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # Also when interrupted while waiting: nothing may be left behind.
        if process.poll() is None:
            process.kill()
            process.wait()
