"""The engine core's end of the index: starts its process, and talks to it in two threads."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from safekv.engines.vllm.index.wire import Kind, Link, pack_prompt
from safekv.errors import ConfigError, EngineError
from safekv.types import TenantId

log = logging.getLogger(__name__)

FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 60.0
"""Back-off between starts: doubled by every failure, reset by a start that succeeded."""


@dataclass(frozen=True, slots=True)
class IndexProcess:
    """What to start: `module` of this package's interpreter, and what to tell it first."""

    module: str
    hello: bytes


class IndexClient:
    """Sends computed prompts to the index and hands on what it says.

    `hear` gets every frame, and `lost` is called when the process is gone; both in the thread
    that reads. The process is started again after a back-off, and knows nothing then. At most
    `limit` prompts wait; what does not fit is lost, and stays private.
    Mutable state: the child, the link to it, and the queue.
    """

    def __init__(
        self,
        process: IndexProcess,
        hear: Callable[[Kind, bytes], None],
        lost: Callable[[], None],
        limit: int,
    ) -> None:
        self._process, self._hear, self._lost = process, hear, lost
        self._limit = limit
        self._queue: SimpleQueue[tuple[TenantId, bytes] | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self._reading = threading.Thread(target=self._read_on, name="safekv-verdicts", daemon=True)
        self._sending = threading.Thread(target=self._send_on, name="safekv-prompts", daemon=True)
        self.dropped = self.restarts = 0

    def start(self) -> None:
        """Start the process and wait until it is ready: seconds, for its tokenizer and rules.

        Raises `ConfigError` when it says that its settings cannot work, and `EngineError` when
        it ends without a word.
        """
        self._begin()
        self._reading.start()
        self._sending.start()

    def stop(self) -> None:
        """End the process. Safe to call twice."""
        self._stopping.set()
        self._queue.put(None)
        self._end()

    def put(self, tenant: TenantId, tokens: bytes) -> None:
        """Queue a prompt that was computed. Never waits."""
        if self._queue.qsize() >= self._limit:
            self.dropped += 1
            return
        self._queue.put((tenant, tokens))

    def state(self) -> str:
        """`running`, or what is amiss."""
        child = self._child
        alive = child is not None and child.poll() is None
        return "running" if alive else "restarting: nothing is shared"

    @property
    def pid(self) -> int | None:
        """The process id of the index, while there is one."""
        return self._child.pid if self._child is not None else None

    # -- the process -----------------------------------------------------------------------

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = _spawn(self._process.module, theirs.fileno())
        link = Link(ours)
        try:
            link.send(Kind.HELLO, self._process.hello)
            kind, payload = link.receive()
        except (EOFError, ValueError):
            link.close()
            self._end()
            raise EngineError("the index of safekv did not start", "see its output above") from None
        if kind is not Kind.READY:
            link.close()
            self._end()
            message, _, hint = payload.decode().partition("\n")
            raise ConfigError(message, hint)
        self._link = link

    def _end(self) -> None:
        link, child = self._link, self._child
        self._link = self._child = None
        if link is not None:
            link.close()
        if child is not None:
            child.kill()
            child.wait()

    def _read_on(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stopping.is_set():
            link = self._link
            if link is not None:
                self._read(link)
                self._end()
                if self._stopping.is_set():
                    return
                self._lost()
                log.error("the index of safekv is gone: nothing is shared until it is back")
            if self._stopping.wait(wait_s):
                return
            try:
                self._begin()
                self.restarts += 1
                wait_s = FIRST_WAIT_S
            except (ConfigError, EngineError) as error:
                log.error("the index of safekv cannot start: %s", error.message)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _read(self, link: Link) -> None:
        """Hand frames on until the other end is gone, or says what it should not."""
        try:
            while True:
                self._hear(*link.receive())
        except EOFError:
            return
        except ValueError:
            log.error("the index of safekv said something that is no frame")

    def _send_on(self) -> None:
        while (job := self._queue.get()) is not None:
            link = self._link
            if link is None:
                continue
            try:
                link.send(Kind.PROMPT, pack_prompt(*job))
            except EOFError:
                continue  # the reading thread notices, too


def _spawn(module: str, descriptor: int) -> subprocess.Popen[bytes]:
    """This interpreter with `module`. What it logs holds no prompt, so it goes to stderr."""
    path = os.pathsep.join(one for one in sys.path if one and Path(one).is_dir())
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", "-m", module, str(descriptor)],
        pass_fds=(descriptor,),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )
