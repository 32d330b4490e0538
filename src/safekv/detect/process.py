"""The stages in a process of their own: killed when it hangs, started again when it dies."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

from safekv.clock import Clock, SystemClock
from safekv.detect.base import Document, Finding
from safekv.detect.cascade import OnFailure
from safekv.detect.config import DetectConfig
from safekv.detect.wire import Channel, config_to_wire, documents_to_wire, findings_from_wire
from safekv.errors import ConfigError, DetectorError

LIMIT_CHARACTERS: Final = 10_000
START_LIMIT_S: Final = 120.0
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 60.0
"""Back-off between starts: doubled by every failure, reset by an answer."""

RUNNING: Final = "running"
RESTARTING: Final = "restarting: nothing new is promoted"
STOPPED: Final = "stopped: nothing new is promoted"


class NoVerdictError(DetectorError):
    """The detector process gave no verdict. `reason` is one of a few words, for metrics."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"no verdict from the detector process: {reason}")
        self.reason = reason


class DetectorProcess:
    """Judges documents in a child process; each failure is a `DetectorError` and no verdict.

    A child that dies, hangs for `config.time_limit_s` per 10,000 characters, or answers with
    too few findings is killed. The next call after a back-off starts another; until then
    calls fail at once.
    A child takes the time that nobody else wants, until one exceeded its limit: where cores are
    never idle that means starved, not hung, so those after it only give way (nice 10).
    For one thread; `state`, `restarts` and `stop` may be called from any.
    Mutable state: the child, its channel, the back-off and whether children may starve.
    """

    name = "process"

    def __init__(
        self, config: DetectConfig, on_failure: OnFailure, *, clock: Clock | None = None
    ) -> None:
        """`on_failure` hears of stages that failed inside a child that went on."""
        self._config = config
        self._on_failure = on_failure
        self._clock = clock or SystemClock()
        self._child: subprocess.Popen[bytes] | None = None
        self._idle = True
        self._channel: Channel | None = None
        self._numbers = count()
        self._wait_s = FIRST_WAIT_S
        self._next_start_s = 0.0
        self._stopped = False
        self._starts = 0

    def start(self) -> None:
        """Start the child and wait until its stages are built. Nothing when it runs already.

        Raises `ConfigError`, as the stages themselves do, when they cannot be built, and
        `DetectorError` when the child does not say within two minutes.
        """
        if self._channel is None:
            self._begin()

    def stop(self) -> None:
        """End the child for good. Safe to call twice, and while another thread waits for it."""
        self._stopped = True
        self._end()

    def state(self) -> str:
        """`RUNNING`, `RESTARTING` or `STOPPED`."""
        if self._stopped:
            return STOPPED
        child = self._child
        return RUNNING if child is not None and child.poll() is None else RESTARTING

    @property
    def restarts(self) -> int:
        """How often a child was started after the first."""
        return max(0, self._starts - 1)

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return None if self._child is None else self._child.pid

    def judge(self, document: Document) -> list[Finding]:
        """One finding per block. Raises `DetectorError`."""
        (findings,) = self.judge_all([document])
        return findings

    def judge_all(self, documents: Sequence[Document]) -> list[list[Finding]]:
        """The findings of each. Raises `DetectorError` when the child gave no valid answer."""
        channel = self._running()
        number = next(self._numbers)
        deadline_s = self._clock.now_s() + self._limit_s(documents)
        try:
            channel.send({"id": number, "documents": documents_to_wire(documents)}, deadline_s)
            answer = channel.receive(deadline_s)
            findings = self._findings(answer, number, documents)
        except TimeoutError:
            self._idle = False
            raise self._ended("hung") from None
        except (EOFError, OSError):
            raise self._ended("died") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise self._ended("wrong-answer") from None
        self._wait_s = FIRST_WAIT_S
        for stage, reason in answer["failures"]:
            self._on_failure(str(stage), str(reason))
        return findings

    def _limit_s(self, documents: Sequence[Document]) -> float:
        """The time limit, once for every 10,000 characters begun: long is not the same as hung."""
        characters = sum(len(document.text) for document in documents)
        return self._config.time_limit_s * (1 + characters // LIMIT_CHARACTERS)

    def _findings(
        self, answer: Any, number: int, documents: Sequence[Document]
    ) -> list[list[Finding]]:
        if answer["id"] != number:
            raise ValueError("the answer is to another question")
        if "failed" in answer:
            raise NoVerdictError("refused")
        return findings_from_wire(answer["findings"], documents)

    def _running(self) -> Channel:
        """The channel to a child, started again if it is time. Raises `DetectorError` if not."""
        if self._stopped:
            raise NoVerdictError("stopped")
        if self._channel is not None:
            return self._channel
        if self._clock.now_s() < self._next_start_s:
            raise NoVerdictError("restarting")
        try:
            return self._begin()
        except ConfigError as error:
            # What was good at the start is not any more: a file was removed, perhaps.
            raise NoVerdictError("cannot-start") from error

    def _begin(self) -> Channel:
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = _spawn(theirs.fileno(), self._idle)
        channel = Channel(ours, self._clock)
        if self._stopped:  # while the child was started
            channel.close()
            raise self._ended("stopped")
        self._starts += 1
        deadline_s = self._clock.now_s() + START_LIMIT_S
        try:
            channel.send(config_to_wire(self._config), deadline_s)
            said = channel.receive(deadline_s)
        except (TimeoutError, EOFError, OSError, ValueError) as error:
            self._idle = self._idle and not isinstance(error, TimeoutError)
            channel.close()
            raise self._ended("cannot-start") from None
        if "refused" in said:
            channel.close()
            self._postpone()
            raise ConfigError(*said["refused"])
        self._channel = channel
        return channel

    def _ended(self, reason: str) -> NoVerdictError:
        """Ends the child, and is what to raise."""
        self._postpone()
        return NoVerdictError(reason)

    def _postpone(self) -> None:
        self._end()
        self._next_start_s = self._clock.now_s() + self._wait_s
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)

    def _end(self) -> None:
        channel, child = self._channel, self._child
        self._channel = self._child = None
        if child is not None:
            child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=10)
        if channel is not None:
            channel.close()


def _spawn(descriptor: int, idle: bool) -> subprocess.Popen[bytes]:
    """This interpreter with `safekv.detect.child`. Its output is dropped: it may quote prompts."""
    path = os.pathsep.join(one for one in sys.path if one and Path(one).is_dir())
    options = ["idle"] if idle else []
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", "-m", "safekv.detect.child", str(descriptor), *options],
        pass_fds=(descriptor,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )
