"""One node of the prefix tree: a run of blocks, who holds it, and whether it is shared."""

from __future__ import annotations

from dataclasses import dataclass, field

from safekv.types import BlockId, Scope, TenantId

Holder = TenantId | Scope
"""A tenant, or `Scope.SHARED` for the pool of shared runs, which is nobody's own."""


@dataclass(slots=True, eq=False)
class Hold:
    """One holder's claim on one node: when it last used it, and what depends on it.

    `locks` counts the leases that need this claim, `children` the child nodes on which the
    same holder has a claim too. A claim without either may lapse.
    """

    last_used: int
    locks: int = 0
    children: int = 0
    queued: bool = False


@dataclass(slots=True, eq=False)
class Node:
    """A run of consecutive full blocks that one set of tenants holds.

    `tokens` are the run's tokens as int32 bytes, `blocks` its KV, one id per block. `holds`
    are the claims of the tenants in whose own cache the run lies: they computed it, or read
    it as part of a prompt of theirs. A shared run also has the claim of `Scope.SHARED`.

    `safekv.cache.check` enforces:

    * children are keyed by the tokens of their first block, so content has one path;
    * holders only shrink downwards, and a shared node's parent is shared;
    * a claim counts the leases and the claims below it, so one without any may lapse
      without looking further.
    """

    tokens: bytes = field(repr=False)
    blocks: list[BlockId]
    holds: dict[Holder, Hold]
    parent: Node | None = field(default=None, repr=False)
    children: dict[bytes, Node] = field(default_factory=dict, repr=False)

    def visible_to(self, tenant: TenantId) -> bool:
        """Whether `tenant` may reuse this run. O(1).

        Visibility is decided here and nowhere else. A run that is not visible is not
        refused but absent: the walk ends as if nobody had ever sent it.
        """
        return Scope.SHARED in self.holds or tenant in self.holds

    @property
    def shared(self) -> bool:
        """Whether every tenant may reuse this run."""
        return Scope.SHARED in self.holds

    def payer(self, tenant: TenantId) -> Holder:
        """Whose claim a lease of `tenant` needs: the shared pool's where there is one."""
        return Scope.SHARED if self.shared else tenant

    def payers(self) -> list[tuple[Holder, Hold]]:
        """The claims that are charged for this run, each with its full length.

        A private run is charged to every holder, although its blocks exist once. So what
        one tenant can keep never depends on whether another sent the same text.
        """
        if self.shared:
            return [(Scope.SHARED, self.holds[Scope.SHARED])]
        return list(self.holds.items())

    def common_blocks(self, tokens: bytes, start: int, limit: int, width: int) -> int:
        """How many leading blocks equal `tokens` from byte `start` on, at most `limit`.

        `width` is a block's size in bytes. Tokens are compared, never hashes. O(run).
        """
        n = min(len(self.blocks), limit)
        if self.tokens.startswith(tokens[start : start + n * width]):
            return n
        low, high = 0, n  # blocks [0, low) are equal, blocks [0, high] are not all equal
        while high - low > 1:
            middle = (low + high) // 2
            if self.tokens.startswith(tokens[start : start + middle * width]):
                low = middle
            else:
                high = middle
        return low

    def split_at(self, n: int, width: int) -> Node:
        """Cut the first `n` blocks off into a new parent, and return it. O(run).

        Both halves keep their claims and locks: a split moves a boundary and never changes
        who may read a block or whether it may be evicted. This object stays the lower half,
        so a lease that points at it still covers what it covered.
        """
        assert self.parent is not None, "the root holds no blocks to split"
        assert 0 < n < len(self.blocks), f"cannot split {len(self.blocks)} blocks at {n}"
        upper = Node(
            tokens=self.tokens[: n * width],
            blocks=self.blocks[:n],
            holds={
                holder: Hold(hold.last_used, hold.locks, children=1)
                for holder, hold in self.holds.items()
            },
            parent=self.parent,
        )
        self.parent.children[upper.tokens[:width]] = upper
        self.tokens, self.blocks, self.parent = self.tokens[n * width :], self.blocks[n:], upper
        upper.children[self.tokens[:width]] = self
        return upper
