"""A child process that answers requests: one JSON object a line, on its stdin and stdout."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

from safekv.errors import EngineError


class Child:
    """One child. Used by one thread. Every method raises `EngineError` when it is lost.

    It is started in a session of its own, so that Ctrl-C reaches it only through us.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=dict(env),
            start_new_session=True,
        )
        assert self._process.stdout is not None
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self, stdout: IO[str]) -> None:
        with stdout:
            for line in stdout:
                self._lines.put(line)
        self._lines.put("")

    def ask(self, timeout_s: float, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer, `timeout_s` at most."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
        except OSError as error:
            raise EngineError(f"the server's process is lost: {self._epitaph()}") from error
        return self.answer(timeout_s)

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """The next answer."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise EngineError(
                f"the server's process gave no answer within {timeout_s:.0f} s"
            ) from None
        if not line:
            raise EngineError(f"the server's process is lost: {self._epitaph()}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise EngineError(f"the server's process failed: {answer['failed']}")
        return answer

    def _epitaph(self) -> str:
        """How it ended: its exit status and the last line it wrote on stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        size = os.fstat(self._stderr.fileno()).st_size
        text = os.pread(self._stderr.fileno(), 8192, max(0, size - 8192)).decode(errors="replace")
        last = next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "")
        return f"it ended with status {self._process.returncode}" + (f": {last}" if last else "")

    def close(self, grace_s: float = 10.0) -> None:
        """End it: at the end of its input, or by force. Safe to call twice."""
        with contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # Also when interrupted while waiting: nothing may be left behind.
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._stderr.close()
