"""One node of the prefix tree: a run of blocks, who holds it, and whether it is shared."""

from __future__ import annotations

from dataclasses import dataclass, field

from safekv.types import BlockId, Scope, TenantId


@dataclass(slots=True, eq=False)
class Node:
    """A run of consecutive full blocks that one set of tenants holds.

    `tokens` are the run's tokens as int32 bytes, `blocks` its KV, one id per block.
    `holders` are the tenants in whose own cache the run lies: they computed it, or read it
    as part of a prompt of theirs. `scope` says whether everyone else may read it too.

    `safekv.cache.check` enforces:

    * children are keyed by the tokens of their first block, so content has one path;
    * holders only shrink downwards, and a shared node's parent is shared;
    * `locks` counts the leases at or below the node, so an unlocked leaf may be evicted
      without looking up.
    """

    tokens: bytes = field(repr=False)
    blocks: list[BlockId]
    holders: set[TenantId]
    scope: Scope
    parent: Node | None = field(default=None, repr=False)
    children: dict[bytes, Node] = field(default_factory=dict, repr=False)
    locks: int = 0
    last_used: int = 0
    queued: bool = False

    def visible_to(self, tenant: TenantId) -> bool:
        """Whether `tenant` may reuse this run. O(1).

        Visibility is decided here and nowhere else. A run that is not visible is not
        refused but absent: the walk ends as if nobody had ever sent it.
        """
        return self.scope is Scope.SHARED or tenant in self.holders

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

        Both halves keep holders, scope and locks: a split moves a boundary and never
        changes who may read a block or whether it may be evicted. This object stays the
        lower half, so a lease that points at it still covers what it covered.
        """
        assert self.parent is not None, "the root holds no blocks to split"
        assert 0 < n < len(self.blocks), f"cannot split {len(self.blocks)} blocks at {n}"
        upper = Node(
            tokens=self.tokens[: n * width],
            blocks=self.blocks[:n],
            holders=set(self.holders),
            scope=self.scope,
            parent=self.parent,
            locks=self.locks,
            last_used=self.last_used,
        )
        self.parent.children[upper.tokens[:width]] = upper
        self.tokens, self.blocks, self.parent = self.tokens[n * width :], self.blocks[n:], upper
        upper.children[self.tokens[:width]] = self
        return upper
