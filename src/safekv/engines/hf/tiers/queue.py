"""The copy queue between host memory and disk: one thread, and nobody waits for it."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from safekv.engines.hf.tiers.files import About, BlockFiles, DamagedFile
from safekv.errors import SafeKVError
from safekv.types import BlockId, TenantId

log = logging.getLogger(__name__)

STOP_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Write:
    """A copy of one block that goes to disk, or, without `payload`, a file to be removed."""

    tenant: TenantId
    block: BlockId
    about: About
    payload: bytes | None = field(repr=False)


@dataclass(slots=True, eq=False)
class Read:
    """Files of one tenant and where their content goes; `arrived` are those that did.

    `hide` obfuscates what came, before anybody else hears of it.
    """

    tenant: TenantId
    parts: Sequence[tuple[About, BlockId, memoryview]] = field(repr=False)
    hide: Callable[[BlockId], None] | None = field(default=None, repr=False)
    arrived: set[BlockId] = field(default_factory=set, repr=False)


class DiskQueue:
    """Writes, removes and reads files in a thread of its own.

    Reads go first, since requests wait for them, but never before a write of the same file. At
    most `queue_blocks` blocks wait to be written, divided among the tenants that there are, so
    that a flood of one does not cost another its writes. Mutable state, behind `_ready`: the jobs,
    and what became of them. `_io` is held while files are touched.
    """

    def __init__(self, files: BlockFiles, queue_blocks: int, wake: Callable[[], None]) -> None:
        self._files = files
        self._queue_blocks = queue_blocks
        self._wake = wake
        self._ready = threading.Condition()
        self._io = threading.Lock()
        self._writes: deque[Write] = deque()
        self._reads: deque[Read] = deque()
        self._waiting: Counter[TenantId] = Counter()
        self._unwritten: Counter[bytes] = Counter()
        self._failed: list[Write] = []
        self._finished: list[Read] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="safekv-disk", daemon=True)
        self._thread.start()

    # -- called from the engine's thread ---------------------------------------------------

    def write(self, job: Write, tenants: int) -> bool:
        """Queue `job`, one of `tenants` tenants'; `False` when there is no room for it."""
        with self._ready:
            if job.payload is not None:
                if self._waiting[job.tenant] >= max(1, self._queue_blocks // max(1, tenants)):
                    return False
                self._waiting[job.tenant] += 1
                self._unwritten[job.about.name] += 1
            self._writes.append(job)
            self._ready.notify()
        return True

    def read(self, job: Read) -> None:
        """Queue `job`; it is among `take_finished` one day."""
        with self._ready:
            self._reads.append(job)
            self._ready.notify()

    def take_failed(self) -> list[Write]:
        """Writes that failed since the last call."""
        with self._ready:
            failed, self._failed = self._failed, []
        return failed

    def take_finished(self) -> list[Read]:
        """Reads that ended since the last call."""
        with self._ready:
            finished, self._finished = self._finished, []
        return finished

    def forget(self, tenant: TenantId) -> None:
        """Drop what waits to be written for `tenant`, then delete its keys and files."""
        with self._io:
            self._drop(lambda job: job.tenant == tenant)
            self._files.forget(tenant)

    def wipe(self) -> None:
        """Drop all that waits to be written, then delete all files of this model."""
        with self._io:
            self._drop(lambda job: True)
            self._files.wipe()

    def _drop(self, which: Callable[[Write], bool]) -> None:
        with self._ready:
            for job in [job for job in self._writes if which(job)]:
                self._writes.remove(job)
                self._done(job)

    def backlog(self) -> int:
        """Blocks that wait to be written."""
        with self._ready:
            return self._waiting.total()

    def stop(self) -> None:
        """Write what waits, for ten seconds at most, and end the thread."""
        with self._ready:
            self._stopping = True
            self._ready.notify()
        self._thread.join(STOP_S)

    # -- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._do(job)
            except Exception as error:  # one bad job must not end the thread
                log.error("disk tier: %s", type(error).__name__)

    def _next(self) -> Write | Read | None:
        with self._ready:
            while not (self._writes or self._reads or self._stopping):
                self._ready.wait()
            if self._reads and not self._unwritten_of(self._reads[0]):
                return self._reads.popleft()
            return self._writes[0] if self._writes else None

    def _unwritten_of(self, read: Read) -> bool:
        return any(about.name in self._unwritten for about, _, _ in read.parts)

    def _do(self, job: Write | Read) -> None:
        if isinstance(job, Read):
            try:
                with self._io:
                    self._do_read(job)
            finally:
                with self._ready:
                    self._finished.append(job)
                self._wake()
            return
        with self._io:
            with self._ready:
                # It may have been dropped meanwhile.
                if not self._writes or self._writes[0] is not job:
                    return
                self._writes.popleft()
            failed = not self._do_write(job)
        with self._ready:
            self._done(job)
            if failed:
                self._failed.append(job)

    def _done(self, job: Write) -> None:
        if job.payload is not None:
            self._waiting[job.tenant] -= 1
            self._unwritten[job.about.name] -= 1
            if not self._unwritten[job.about.name]:
                del self._unwritten[job.about.name]

    def _do_write(self, job: Write) -> bool:
        if job.payload is None:
            self._files.remove(job.tenant, job.about.name)
            return True
        try:
            self._files.write(job.tenant, job.about, job.payload)
        except (OSError, SafeKVError) as error:
            log.warning("a block was not written to disk: %s", type(error).__name__)
            return False
        return True

    def _do_read(self, job: Read) -> None:
        for about, block, out in job.parts:
            try:
                self._files.read(job.tenant, about, out)
            except DamagedFile:
                self._files.remove(job.tenant, about.name)
                continue
            if job.hide is not None:
                job.hide(block)
            job.arrived.add(block)
