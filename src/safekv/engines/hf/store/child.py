"""Child processes that do slow work while the parent shows progress."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

POLL_S = 0.2
MAX_REASON_CHARS = 300


@dataclass(frozen=True, slots=True)
class ChildResult:
    """How a child ended: its exit status (negative: killed by that signal) and all it printed."""

    status: int
    output: str

    @property
    def reason(self) -> str:
        """The last line the child printed, shortened; its exit status if it printed nothing."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1][:MAX_REASON_CHARS] if lines else f"exit status {self.status}"


def run_python(
    arguments: Sequence[str], *, environment: Mapping[str, str], tick: Callable[[], None]
) -> ChildResult:
    """Run this interpreter with `arguments` to its end; `tick` is called every `POLL_S` seconds.

    The child finds the same modules as this process and none from the working directory.
    It reads no input and what it prints is kept off the terminal. It never outlives the
    call: if `tick` raises, or Ctrl-C comes, it is killed and the exception goes on.
    """
    command = [sys.executable, "-P", *arguments]
    env = {**os.environ, "PYTHONPATH": _module_path(), **environment}
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter, arguments from constants
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env
        )
        try:
            status = _wait(child, tick)
        finally:
            child.kill()
            child.wait()
        output.seek(0)
        return ChildResult(status, output.read().decode(errors="replace"))


def _wait(child: subprocess.Popen[bytes], tick: Callable[[], None]) -> int:
    while True:
        try:
            return child.wait(POLL_S)
        except subprocess.TimeoutExpired:
            tick()


def _module_path() -> str:
    return os.pathsep.join(entry for entry in sys.path if entry)
