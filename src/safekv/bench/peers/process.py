"""The driver's half of a worker: start it, ask it, notice when it dies."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import safekv

HERE: Final = Path(__file__).resolve().parent
START_S: Final = 300.0  # importing a peer takes 10 to 16 s on a quiet machine
ANSWER_S: Final = 900.0


class ContenderLostError(Exception):
    """A worker did not start, died, hung or refused a request; the text says which."""


@dataclass(frozen=True, slots=True)
class Contender:
    """What is measured under `name`: the worker file, its kind, and the Python that runs it.

    `pages` are the block sizes it is measured with; empty for all.
    """

    name: str
    python: str
    script: Path
    kind: str = ""
    pages: tuple[int, ...] = ()

    def takes(self, page: int) -> bool:
        """Whether it is measured with blocks of `page` tokens."""
        return not self.pages or page in self.pages


class Worker:
    """One contender's process. Used by one thread."""

    def __init__(self, contender: Contender) -> None:
        """Start it without waiting. Raises `ContenderLostError` when it cannot be run at all."""
        self.contender = contender
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        command = [contender.python, "-P", str(HERE / "wire.py"), str(contender.script)]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user names the interpreter
                [*command, contender.kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
                env=_environment(contender.python),
            )
        except OSError as error:
            self._stderr.close()
            raise ContenderLostError(f"cannot be run: {error.strerror}") from error
        assert self._process.stdout is not None
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def _read(self, stdout: IO[str]) -> None:
        with stdout:
            for line in stdout:
                self._lines.put(line)
        self._lines.put("")

    def hello(self) -> dict[str, str]:
        """What it says of itself once its imports are done. Raises `ContenderLostError`."""
        about: dict[str, str] = self._answer(START_S)["about"]
        return about

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer. Raises `ContenderLostError`."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
        except OSError as error:
            raise ContenderLostError(self._epitaph()) from error
        return self._answer(ANSWER_S)

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise ContenderLostError(f"no answer within {timeout_s:.0f} s") from None
        if not line:
            raise ContenderLostError(self._epitaph())
        answer: dict[str, Any] = json.loads(line)
        if not answer["ok"]:
            raise ContenderLostError(answer["why"])
        return answer

    def _epitaph(self) -> str:
        """How it ended: its exit status and the last line it wrote on stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"exited with status {self._process.returncode}" + (f": {last}" if last else "")

    def close(self) -> None:
        """End the process, by force if need be. Safe to call twice."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._stderr):
            with contextlib.suppress(OSError):
                assert stream is not None
                stream.close()


def _environment(python: str) -> dict[str, str]:
    """One thread for all; our own path only for our own Python: peers have their own packages."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    kept["OMP_NUM_THREADS"] = "1"
    if python == sys.executable:
        kept["PYTHONPATH"] = str(Path(safekv.__file__).resolve().parent.parent)
    return kept
