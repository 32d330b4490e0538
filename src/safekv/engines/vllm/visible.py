"""Which blocks of a request everybody's name is used for: the one place that decides it.

A request finds what lies under its blocks' names and nothing else, so choosing the names is
choosing what it may reuse. Pure Python, and nothing here grows with the prompt but `own`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Container, Iterable, Sequence
from typing import Final

from safekv.engines.vllm.prompt import Keyed
from safekv.safeguard import SafeguardConfig
from safekv.safeguard.budget import ReadBudgets
from safekv.types import Mode, TenantId

ALL_TENANTS: Final = 4
MAX_BLOCKS: Final = 1 << 62
NOTHING: Final[frozenset[bytes]] = frozenset()


def leading(names: Sequence[bytes], known: Container[bytes], limit: int | None = None) -> int:
    """How many leading `names` are `known`, of a set that never has a block without all before.

    O(log blocks), by halving, which only a prefix-closed set allows.
    """
    n = len(names) if limit is None else min(limit, len(names))
    if not n or names[0] not in known:
        return 0
    return bisect_left(range(n), True, key=lambda at: names[at] not in known)


class OwnBlocks:
    """The blocks each tenant computed or read, so that it can be told of its own and no other.

    By its own requests alone: two generations of up to `limit` blocks each, the older one is
    forgotten as a whole, so both stay prefix-closed. Beyond `ALL_TENANTS` times `limit` blocks
    in all, the tenant that came longest ago is forgotten.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tenants: OrderedDict[TenantId, tuple[set[bytes], set[bytes]]] = OrderedDict()
        self._blocks = 0

    def __len__(self) -> int:
        return self._blocks

    def add(self, tenant: TenantId, names: Sequence[bytes]) -> None:
        """Remember a whole prompt, from its first block on. O(blocks), in C."""
        young, old = self._tenants.pop(tenant, (set[bytes](), set[bytes]()))
        self._blocks -= len(young) + len(old)
        if len(young) + len(names) > self._limit:
            young, old = set(), young
        young.update(names[: self._limit])
        self._blocks += len(young) + len(old)
        self._tenants[tenant] = young, old
        while len(self._tenants) > 1 and self._blocks > ALL_TENANTS * self._limit:
            _, forgotten = self._tenants.popitem(last=False)
            self._blocks -= sum(map(len, forgotten))

    def leading(self, tenant: TenantId, names: Sequence[bytes]) -> int:
        """How many leading blocks `names` are the tenant's own. O(log blocks)."""
        young, old = self._tenants.get(tenant) or (NOTHING, NOTHING)
        return max(leading(names, young), leading(names, old))


class Visibility:
    """What is shared now, and how far each tenant may read it.

    `shared` are public names, always prefix-closed: parents come first and go last. `declared`
    are those among them that an operator signed. `version` changes with either. Read and
    changed by the engine's thread; `revoke` by the thread that hears verdicts, too.
    """

    def __init__(self, mode: Mode, safeguard: SafeguardConfig, own_blocks: int) -> None:
        self.mode = mode
        self.shared: set[bytes] = set()
        self.declared: frozenset[bytes] = NOTHING
        self.version = 0
        self.denied = 0
        self.own = OwnBlocks(own_blocks)
        self._safeguard = safeguard
        self._budgets = self._fresh()
        self._epochs = 0

    def _fresh(self) -> ReadBudgets:
        return ReadBudgets(self._safeguard.reads_per_node, self._safeguard.reads_per_tenant)

    def admit(self, keyed: Keyed, limit: int) -> int:
        """How many leading blocks get public names for a lookup of at most `limit` blocks.

        Counts a read of blocks that are new to the tenant. Nobody's requests read declared
        blocks only, since every one would have a fresh budget.
        """
        n = self._shared(keyed)
        keyed.allowed = self._allowed(keyed, n, limit)
        return self._settle(keyed, min(n, keyed.allowed))

    def refresh(self, keyed: Keyed) -> int:
        """The same for a request that was looked up before: no further than it was allowed then,
        but for blocks that it computes itself and only names. O(1) where nothing changes."""
        n, names, shared = keyed.n_public, keyed.public, self.shared
        unsafe = self.mode is Mode.UNSAFE_GLOBAL
        same = (not n or names[n - 1] in shared) and (n >= len(names) or names[n] not in shared)
        if unsafe or not same:
            n = min(self._shared(keyed), keyed.allowed)
        return self._settle(keyed, n)

    def told(self, keyed: Keyed, hit_blocks: int) -> int:
        """How many of `hit_blocks` found blocks the tenant is told of: its own and declared.

        What lies below a private block of its own is its own, too.
        """
        if self.mode is Mode.UNSAFE_GLOBAL or hit_blocks > keyed.n_public:
            return hit_blocks
        return min(hit_blocks, self._known(keyed))

    def computed(self, keyed: Keyed) -> None:
        """The prompt was computed: from now on all of it is the tenant's own. O(blocks)."""
        if keyed.tenant is not None:
            self.own.add(keyed.tenant, keyed.public[: keyed.prompt_blocks])

    def _shared(self, keyed: Keyed) -> int:
        if not keyed.reads_shared:
            return 0
        if self.mode is Mode.UNSAFE_GLOBAL and keyed.tenant is not None:
            return len(keyed.public)
        return leading(keyed.public, self.shared)

    def _known(self, keyed: Keyed) -> int:
        """Blocks that cost no budget: the tenant's own, and declared ones."""
        declared = leading(keyed.public, self.declared) if self.declared else 0
        if keyed.tenant is None:
            return declared
        return max(declared, self.own.leading(keyed.tenant, keyed.public))

    def _allowed(self, keyed: Keyed, n: int, limit: int) -> int:
        everything = MAX_BLOCKS
        if not n or self.mode is Mode.UNSAFE_GLOBAL:
            return everything if keyed.tenant is not None else 0
        known, found = self._known(keyed), min(n, limit)
        if keyed.tenant is None:
            return known
        if found <= known or self._budgets.spend(
            keyed.tenant, keyed.public[0], keyed.public[found - 1]
        ):
            return everything
        self.denied += 1
        return known

    def _settle(self, keyed: Keyed, n: int) -> int:
        keyed.version, keyed.seen_blocks = self.version, len(keyed.public)
        return n

    @property
    def epochs(self) -> int:
        """Epochs that ended since the start."""
        return self._epochs

    # -- verdicts --------------------------------------------------------------------------

    def share(self, name: bytes) -> None:
        """Everybody may read the block called `name`; all before it they may already."""
        self.shared.add(name)
        self.version += 1

    def revoke(self, names: Iterable[bytes]) -> None:
        """Nobody finds the blocks `names` by what others sent any more. The last ones first."""
        for name in names:
            self.shared.discard(name)
        self.version += 1

    def declare(self, names: Iterable[bytes]) -> None:
        """Exactly the blocks `names` are declared."""
        self.declared = frozenset(names)
        self.version += 1

    def tick(self) -> None:
        """An epoch ended; at the end of a window budgets start anew."""
        self._epochs += 1
        if self._epochs % self._safeguard.window_epochs == 0:
            self._budgets = self._fresh()

    def forget(self) -> None:
        """Nothing is shared any more: who decided it is gone, with its evidence."""
        self.shared, self.declared = set(), NOTHING
        self.version += 1
