"""Hears every read of a shared run, and says at epoch ticks what looks like probing."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from safekv.safeguard.budget import ReadBudgets
from safekv.safeguard.config import SafeguardConfig
from safekv.safeguard.diversity import Diversity
from safekv.safeguard.names import NameMemory
from safekv.types import TOKEN_BYTES, TenantId

MAIN_PART: Final = 0.5


@dataclass(frozen=True, slots=True)
class Read:
    """One request that found shared blocks new to its tenant: those behind `own_blocks`."""

    tenant: TenantId
    tokens: bytes = field(repr=False)
    own_blocks: int
    hit_blocks: int


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Few tenants read much of what lies below the first `keep_blocks` blocks of `tokens`.

    `name` is the keyed name of the last of these blocks. With `surge` it is many tenants, and
    only an alarm.
    """

    tokens: bytes = field(repr=False)
    keep_blocks: int
    name: bytes = field(repr=False)
    tenants: tuple[TenantId, ...]
    reads: int
    surge: bool = False

    @property
    def ratio(self) -> float:
        """Tenants per read."""
        return len(self.tenants) / self.reads


class Monitor:
    """The reuse-diversity monitor of the SafeKV paper (v2), without what its code got wrong.

    Counted are reads that went *beyond* a block, so honest readers of a template do not hide
    a prober of what lies below it; and only what is new to the reader, since who read a run
    holds it from then on. The engine's thread calls `allows` and `note`, which hash nothing but
    one answer; the epoch's thread `end_epoch`. `key` hides the names of blocks. Counters are
    bounded by what is shared.
    """

    def __init__(self, config: SafeguardConfig, block_tokens: int, key: bytes) -> None:
        self._config = config
        self._width = block_tokens * TOKEN_BYTES
        self._memory = NameMemory(key, block_tokens)
        self._budgets = ReadBudgets(config.reads_per_node, config.reads_per_tenant)
        self._reads: deque[Read] = deque()
        self._now: dict[bytes, Diversity] = {}
        self._before: dict[bytes, Diversity] = {}
        self._alarmed: set[tuple[bool, bytes]] = set()
        self._epochs = self._tenants = 0

    def names(self, tenant: TenantId, tokens: bytes, n_blocks: int) -> tuple[bytes, ...]:
        """The keyed names of the first `n_blocks` blocks of `tokens`, which `tenant` sent.

        O(tokens), hashing only what its text before did not begin with.
        """
        return self._memory.names(tenant, tokens, n_blocks)

    def allows(self, tenant: TenantId, tokens: bytes, own_blocks: int, hit_blocks: int) -> bool:
        """Whether `tenant` may read what was found behind its own blocks. Counts it if so."""
        answer = tokens[own_blocks * self._width : hit_blocks * self._width]
        return self._budgets.spend(tenant, tokens[: self._width], answer)

    def note(self, tenant: TenantId, tokens: bytes, own_blocks: int, hit_blocks: int) -> None:
        """Remember a read until the epoch ends."""
        if hit_blocks > own_blocks:
            read = tokens[: hit_blocks * self._width]
            self._reads.append(Read(tenant, read, own_blocks, hit_blocks))

    def end_epoch(self, n_tenants: int) -> list[Suspicion]:
        """What the reads of this window look like now; each finding once. O(reads * blocks).

        `n_tenants` are served in all. Those who were active would be a better measure, but
        then a request of one tenant could change what another may read.
        """
        self._tenants = n_tenants
        fresh = list[tuple[Read, tuple[bytes, ...]]]()
        while self._reads:
            read = self._reads.popleft()
            fresh.append((read, self.names(read.tenant, read.tokens, read.hit_blocks)))
        for read, names in fresh:
            for name in names[:-1]:
                self._now.setdefault(name, Diversity()).add(read.tenant)
        found = self._suspicions(fresh)
        self._epochs += 1
        if self._epochs % self._config.window_epochs == 0:
            self._next_window()
        return found

    def _next_window(self) -> None:
        self._before, self._now = self._now, {}
        self._alarmed.clear()
        self._budgets.clear()

    def _suspicions(self, fresh: Sequence[tuple[Read, tuple[bytes, ...]]]) -> list[Suspicion]:
        """What became suspicious by the reads of this epoch: only they changed a count."""
        found = dict[tuple[bool, bytes], Suspicion]()
        for read, names in fresh:
            for surge, at in ((False, self._low(names)), (True, self._surging(names))):
                if at is not None and (surge, names[at]) not in self._alarmed:
                    found[surge, names[at]] = self._suspicion(read, names, at, surge)
                    self._alarmed.add((surge, names[at]))
        return list(found.values())

    def _suspicion(self, read: Read, names: Sequence[bytes], at: int, surge: bool) -> Suspicion:
        seen, end = self._now[names[at]], (at + 1) * self._width
        tenants = tuple(sorted(seen.by_tenant))
        return Suspicion(read.tokens[:end], at + 1, names[at], tenants, seen.reads, surge)

    def _low(self, names: Sequence[bytes]) -> int | None:
        """The block to demote below: the last suspicious one that most of the reads went through.

        Further up lies what all readers have in common, further down what one of them found.
        """
        low = [at for at, name in enumerate(names[:-1]) if self._is_low(self._now[name])]
        if not low:
            return None
        least = MAIN_PART * self._now[names[low[0]]].reads
        return max(at for at in low if self._now[names[at]].reads >= least)

    def _is_low(self, seen: Diversity) -> bool:
        return seen.low(self._config.armed_reads, self._config.low_diversity, self._tenants)

    def _surging(self, names: Sequence[bytes]) -> int | None:
        """The last block that many more tenants read beyond than in the window before."""
        armed, factor = self._config.armed_reads, self._config.surge_factor
        seen = [(at, self._now[name], self._before.get(name)) for at, name in enumerate(names[:-1])]
        surging = [
            at
            for at, now, before in seen
            if now.surges(before, armed, factor) and not self._is_low(now)
        ]
        return surging[-1] if surging else None
