"""The tiers below the device, as the engine's thread uses them: behind the warden's lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence

from safekv.cache import Below, Fetch, Lease, Tiers, TiersStats
from safekv.cache.shelf import Gap
from safekv.cache.tiers import Step
from safekv.types import BlockId, TenantId


class TierWarden:
    """What an adapter may ask of the tiers. Called from the engine's thread only.

    Claims lapse on the epoch's thread too; what is to be moved then waits. `perform` hears
    of all moves in their order, in the engine's thread, before a block they free is used again.
    """

    def __init__(self, tiers: Tiers, lock: threading.Lock) -> None:
        self._tiers = tiers
        self._lock = lock
        self._perform: Callable[[Sequence[Step]], None] = lambda steps: None

    def connect(self, perform: Callable[[Sequence[Step]], None]) -> None:
        """Let `perform` move blocks."""
        self._perform = perform

    def perform(self, steps: Sequence[Step]) -> None:
        """Hand `steps` to the adapter."""
        if steps:
            self._perform(steps)

    def below(self, lease: Lease) -> Below | None:
        """Step 4: what host memory has of the prompt of `lease` beyond the device; see `Tiers`."""
        with self._lock:
            return self._tiers.below(lease)

    def onload(self, lease: Lease, below: Below, blocks: Sequence[BlockId]) -> list[BlockId]:
        """Step 4: `blocks` are copies of the first ones of `below`; store them. The duplicates."""
        with self._lock:
            return self._tiers.onload(lease, below, blocks)

    def leave(self, below: Below) -> None:
        """Onload nothing of `below`."""
        with self._lock:
            self._tiers.leave(below)

    def fetch(self, tenant: TenantId, tokens: bytes) -> Fetch | None:
        """Places in host memory for what only the disk has of `tokens`, free to be written."""
        with self._lock:
            fetch = self._tiers.fetch(tenant, tokens)
            steps = self._tiers.take_steps()
        self.perform(steps)
        return fetch

    def fetched(self, fetch: Fetch, arrived: Collection[BlockId]) -> None:
        """The files of `fetch` were read into the places `arrived`, and into no others."""
        with self._lock:
            self._tiers.fetched(fetch, arrived)

    def lose(self, blocks: Collection[BlockId], *, dropped: bool) -> None:
        """These blocks did not reach the disk; see `Tiers`."""
        with self._lock:
            self._tiers.lose(blocks, dropped=dropped)

    def count_damaged(self, n_files: int) -> None:
        """So many files were found damaged and were removed."""
        with self._lock:
            self._tiers.count_damaged(n_files)

    def restore(self, tenant: TenantId, tokens: bytes) -> list[Gap]:
        """Places on disk for a path whose files are there already; see `Tiers`."""
        with self._lock:
            gaps = self._tiers.restore(tenant, tokens)
            steps = self._tiers.take_steps()
        self.perform(steps)
        return gaps

    def stats(self) -> TiersStats:
        """Sizes and counts, for the operator only. Any thread."""
        with self._lock:
            return self._tiers.stats()
