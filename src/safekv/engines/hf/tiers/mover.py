"""Performs the tiers' moves in their order: device memory, host memory, and files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch

from safekv.cache import Discard, Fetch, Move, TiersConfig
from safekv.cache.tiers import Step
from safekv.clock import Clock, SystemClock
from safekv.engines.hf.cloaked.pages import Pages
from safekv.engines.hf.tiers.files import NAME_BYTES, NO_PARENT, About, BlockFiles, Sealer
from safekv.engines.hf.tiers.queue import DiskQueue, Read, Write
from safekv.engines.hf.tiers.restore import paths
from safekv.errors import ConfigError
from safekv.types import TOKEN_BYTES, BlockId, TenantId, Tier
from safekv.warden import TierWarden


@dataclass(frozen=True, slots=True)
class TierSetup:
    """What the tiers need besides the device: sizes, what seals, and the model's name.

    `fingerprint` makes that name from the layout of a block; it is called for a disk only.
    """

    config: TiersConfig
    sealer: Sealer | None
    fingerprint: Callable[[tuple[object, ...]], str]
    wake: Callable[[], None]
    clock: Clock


@dataclass(slots=True)
class _Wait:
    until_s: float
    asked: bool = False
    over: bool = False


class Mover:
    """Host memory, and the queue to the disk if there is one. The engine's thread only.

    `device` has one row of bytes per block. A step is done when `perform` returns, but for writes
    to disk, of which a copy waits in the queue. On CUDA each batch of copies is waited for.
    Blocks that `pages` obfuscated stay so in host memory; to the disk they go sealed instead.
    """

    def __init__(
        self,
        tiers: TierWarden,
        device: torch.Tensor,
        block_tokens: int,
        it: TierSetup,
        pages: Pages | None = None,
    ):
        self._tiers = tiers
        self._pages = pages
        self._device = device
        self._width = block_tokens * TOKEN_BYTES
        self._clock, self._limit_s = it.clock, it.config.read_limit_s
        self._host = host_memory(it.config.host_blocks, device)
        if pages is not None:
            pages.attach_host(self._host)
        self._names: dict[BlockId, bytes] = {}
        self._tenants: set[TenantId] = set()
        self._in_flight: dict[TenantId, Fetch] = {}
        self._waits: dict[str, _Wait] = {}
        self._files: BlockFiles | None = None
        self._queue: DiskQueue | None = None
        if it.config.disk_blocks:
            assert it.config.disk_path is not None, "the configuration asks for it"
            assert it.sealer is not None, "the engine asks for it"
            layout = (block_tokens, tuple(device.shape[1:]), str(device.dtype))
            self._files = BlockFiles(
                it.config.disk_path,
                it.fingerprint(layout),
                it.sealer,
                device.shape[1],
                self._width,
            )
            self._queue = DiskQueue(self._files, it.config.queue_blocks, it.wake)
        tiers.connect(self.perform)

    # -- moves -----------------------------------------------------------------------------

    def perform(self, steps: Sequence[Step]) -> None:
        """Move what `steps` say, one after another."""
        for step in steps:
            if isinstance(step, Discard):
                self._remove(step)
            elif step.target is Tier.HOST:
                self._copy(self._device, step.source_blocks, self._host, step.gap.blocks)
                if self._pages is not None:
                    self._pages.offloaded(step.source_blocks, step.gap.blocks)
            else:
                self._write(step)

    def onload(self, sources: Sequence[BlockId], targets: Sequence[BlockId]) -> None:
        """Copy blocks of host memory to the device."""
        self._copy(self._host, sources, self._device, targets)
        if self._pages is not None:
            self._pages.onloaded(sources, targets)

    def _copy(
        self,
        source: torch.Tensor,
        blocks: Sequence[BlockId],
        target: torch.Tensor,
        places: Sequence[BlockId],
    ) -> None:
        # transformers computes on a stream of its own: what it still does must be done first.
        self._synchronise()
        for block, place in zip(blocks, places, strict=True):
            target[place].copy_(source[block], non_blocking=True)
        self._synchronise()

    def _synchronise(self) -> None:
        if self._device.is_cuda:
            torch.cuda.synchronize(self._device.device)

    # -- to disk ---------------------------------------------------------------------------

    def _write(self, move: Move) -> None:
        assert self._queue is not None, "only a disk is written to"
        self._tenants.add(move.tenant)
        parent = NO_PARENT if move.gap.parent is None else self._names[move.gap.parent]
        dropped = list[BlockId]()
        for n, (source, block) in enumerate(
            zip(move.source_blocks, move.gap.blocks, strict=True), start=move.gap.start
        ):
            name = self._names.setdefault(block, os.urandom(NAME_BYTES))
            tokens = move.tokens[n * self._width : (n + 1) * self._width]
            about = About(name, n, parent, tokens)
            payload = self._payload(source)
            if not self._queue.write(Write(move.tenant, block, about, payload), len(self._tenants)):
                dropped.append(block)
            parent = name
        if dropped:
            self._tiers.lose(dropped, dropped=True)

    def _payload(self, source: BlockId) -> bytes:
        if self._pages is not None:
            return self._pages.reveal(source)
        return self._host[source].numpy().tobytes()

    def _remove(self, step: Discard) -> None:
        assert self._queue is not None, "only a disk is discarded from"
        for block in step.blocks:
            about = About(self._names.pop(block), 0, NO_PARENT, b"")
            self._queue.write(Write(step.tenant, block, about, None), 1)

    # -- from disk -------------------------------------------------------------------------

    def waits(self, request_id: str, tenant: TenantId, prompt: Callable[[], bytes]) -> bool:
        """Whether a request waits for its tenant's files; asking for the first time orders them.

        One order of a tenant is under way at a time. Never longer than the limit: what has not
        come then is a miss.
        """
        if self._queue is None:
            return False
        self._collect(self._queue)
        now_s = self._clock.now_s()
        wait = self._waits.setdefault(request_id, _Wait(now_s + self._limit_s))
        if wait.over or now_s >= wait.until_s:
            wait.over = True
        elif tenant not in self._in_flight and not wait.asked:
            wait.asked = True
            self._restore(tenant)
            self._order(self._queue, tenant, prompt())
            wait.over = tenant not in self._in_flight
        elif tenant not in self._in_flight:
            wait.over = True
        return not wait.over

    def done(self, request_id: str) -> None:
        """The request has ended, or starts anew."""
        self._waits.pop(request_id, None)

    def _order(self, queue: DiskQueue, tenant: TenantId, prompt: bytes) -> None:
        fetch = self._tiers.fetch(tenant, prompt)
        if fetch is None:
            return
        self._in_flight[tenant] = fetch
        path, parts, first = fetch.disk_lease.blocks, [], fetch.disk_lease.blocks.index
        for block, place in fetch.reads:
            n = first(block)
            parent = self._names[path[n - 1]] if n else NO_PARENT
            about = About(self._names[block], n, parent, b"")
            parts.append((about, place, self._host[place].numpy().data))
        hide = self._pages.hide if self._pages is not None else None
        queue.read(Read(tenant, parts, hide))

    def _collect(self, queue: DiskQueue) -> None:
        """Hear of what the queue has done."""
        for read in queue.take_finished():
            self._tiers.fetched(self._in_flight.pop(read.tenant), read.arrived)
        lost = [
            job.block for job in queue.take_failed() if self._names.get(job.block) == job.about.name
        ]
        if lost:
            self._tiers.lose(lost, dropped=False)

    # -- after a restart, and for good -----------------------------------------------------

    def _restore(self, tenant: TenantId) -> None:
        """Read what files there are of a tenant that comes for the first time."""
        if tenant in self._tenants or self._files is None:
            return
        self._tenants.add(tenant)
        found, damaged = self._files.scan(tenant)
        self._tiers.count_damaged(damaged)
        for path in paths(found):
            tokens = b"".join(about.tokens for about in path)
            for gap in self._tiers.restore(tenant, tokens):
                names = (about.name for about in path[gap.start : gap.end])
                self._names.update(zip(gap.blocks, names, strict=True))
        kept = set(self._names.values())
        for _, about in found:
            if about.name not in kept:
                self._files.remove(tenant, about.name)

    def forget(self, tenant: TenantId) -> None:
        """Delete the tenant's keys and files. What the trees know of it is gone already."""
        if self._queue is not None:
            self._tenants.discard(tenant)
            self._queue.forget(tenant)

    def wipe(self) -> None:
        """Delete all files of this model; before any tenant came there is nothing to forget."""
        if self._queue is not None and self._tenants:
            self._queue.wipe()

    def backlog(self) -> int:
        """Blocks that wait to be written to disk."""
        return self._queue.backlog() if self._queue is not None else 0

    def stop(self) -> None:
        """Write what waits, and end the thread."""
        if self._queue is not None:
            self._queue.stop()


def host_memory(n_blocks: int, device: torch.Tensor) -> torch.Tensor:
    """Room for `n_blocks` rows of `device`, pinned for CUDA. Raises `ConfigError` for too much.

    All of it is written to once, as the first touch of a page is slow: see `SelectiveCache`.
    """
    n_bytes = n_blocks * int(device.shape[1])
    if n_bytes > psutil.virtual_memory().available:
        raise ConfigError(
            f"tiers.host_blocks is {n_blocks}, {n_bytes >> 20} MiB, more than memory holds",
            "use fewer blocks",
        )
    host = torch.empty((n_blocks, device.shape[1]), dtype=device.dtype, pin_memory=device.is_cuda)
    return host.fill_(0)


def setup(
    config: TiersConfig,
    sealer: Sealer | None,
    fingerprint: Callable[[tuple[object, ...]], str],
    wake: Callable[[], None],
) -> TierSetup:
    """The set-up with the machine's own clock."""
    return TierSetup(config, sealer, fingerprint, wake, SystemClock())
