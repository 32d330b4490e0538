"""The prefix tree: one tree of content over all tenants' blocks.

The path of a prompt exists once, whoever sent it. A node says who holds it, and a tenant's
walk ends at the first node that is not visible to it. Memory is charged as if every holder
had a copy of its own, and each holder's claims age by its own use alone: so what a tenant can
keep tells it how much others store, and never what.

All mutable state is the nodes, the queue of claims and four counters; nothing here locks or
blocks, so the owner serialises calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from safekv.cache.check import check_nodes
from safekv.cache.eviction import ClaimQueue, may_lapse
from safekv.cache.node import Hold, Holder, Node
from safekv.errors import CacheError, IsolationBroken
from safekv.types import TOKEN_BYTES, BlockId, Scope, TenantId


@dataclass(slots=True, eq=False)
class Lease:
    """A matched prefix that cannot be evicted until it is released.

    `blocks` are the matched blocks in order; the first `own_blocks` of them lie in the
    tenant's own cache, so only these may show in what the tenant is told.
    """

    tenant: TenantId
    blocks: list[BlockId]
    own_blocks: int
    node: Node = field(repr=False)
    released: bool = False


@dataclass(frozen=True, slots=True)
class TreeStats:
    """Sizes at one moment.

    `blocks` exist; `charged_blocks` count a private run once per holder, and of these
    `locked_blocks` lie under a lease and cannot be evicted.
    """

    nodes: int
    blocks: int
    charged_blocks: int
    locked_blocks: int
    shared_blocks: int


class PrefixTree:
    """A path-compressed radix tree of token blocks with holders, leases and LRU eviction.

    Follows the unified radix tree of the SafeKV paper (arXiv 2508.08438, section on the
    memory manager), with per-tenant claims in place of one owner.
    """

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._width = block_tokens * TOKEN_BYTES
        self._root = Node(b"", [], {Scope.SHARED: Hold(0)})
        self._claims = ClaimQueue()
        self._clock = 0
        self._nodes = 0
        self._blocks = 0
        self._charged = 0
        self._locked = 0

    # -- reading ---------------------------------------------------------------------------

    def match(self, tenant: TenantId, tokens: bytes, max_blocks: int) -> Lease:
        """The longest run of blocks that begins `tokens` and is visible to `tenant`.

        At most `max_blocks` blocks. Locks what it found until `release`, and nothing more: a
        run that matches in part is cut there, so that its rest can still be evicted. Who may
        read what does not change. O(matched tokens).
        """
        self._clock += 1
        node, own = self._root, 0
        blocks: list[BlockId] = []
        limit = min(max_blocks, len(tokens) // self._width)
        while len(blocks) < limit:
            start = len(blocks) * self._width
            child = node.children.get(tokens[start : start + self._width])
            if child is None or not child.visible_to(tenant):
                break
            n = child.common_blocks(tokens, start, limit - len(blocks), self._width)
            node = self._cut(child, n)
            # Holders shrink downwards, so own blocks come first.
            own += n if tenant in node.holds else 0
            blocks += node.blocks
            self._touch(node, tenant)
        self._lock(node, tenant)
        return Lease(tenant, blocks, own, node)

    def shared_blocks_of(self, tokens: bytes) -> int:
        """How many leading blocks of `tokens` everyone may read already. O(tokens)."""
        node, found, limit = self._root, 0, len(tokens) // self._width
        while found < limit:
            start = found * self._width
            child = node.children.get(tokens[start : start + self._width])
            if child is None or not child.shared:
                break
            n = child.common_blocks(tokens, start, limit - found, self._width)
            found += n
            node = child
            if n < len(child.blocks):
                break
        return found

    # -- writing ---------------------------------------------------------------------------

    def insert(self, lease: Lease, tokens: bytes, blocks: Sequence[BlockId]) -> list[BlockId]:
        """Store `blocks`, the KV of all full blocks of `tokens`, as held by the lease's tenant.

        Returns the stored blocks of the path: where another copy was there already it is
        that one, and the caller frees its own. New runs are private. The lease then covers
        the whole path. O(tokens). Raises `CacheError` when the lease is released or the
        sizes disagree; nothing was changed then.
        """
        if lease.released:
            raise CacheError("insert on a released lease", "admit the request again")
        if len(tokens) != len(blocks) * self._width:
            raise CacheError(
                f"{len(blocks)} blocks do not match {len(tokens) // TOKEN_BYTES} tokens",
                f"pass only full blocks of {self.block_tokens} tokens",
            )
        self._clock += 1
        node, stored = self._join_path(lease.tenant, tokens, len(blocks))
        new = blocks[len(stored) :]
        if new:
            node = self._append(node, lease, tokens[len(stored) * self._width :], new)
        self._lock(node, lease.tenant)
        self._unlock(lease.node, lease.tenant)
        lease.node = node
        return [*stored, *new]

    def adopt(self, lease: Lease, tokens: bytes) -> None:
        """Make the lease's tenant a holder of everything it matched. O(matched tokens).

        Alone on the machine it would have computed these blocks, so from now on they count
        as its own. `tokens` are the prompt's.
        """
        if not lease.released and lease.own_blocks < len(lease.blocks):
            self._clock += 1
            self._join_path(lease.tenant, tokens, len(lease.blocks))

    def promote(self, tenant: TenantId, tokens: bytes, n_blocks: int) -> int:
        """Share the first `n_blocks` blocks of `tokens`, as far as `tenant` can see them.

        Labels only: no block is copied or recomputed. What is shared stays prefix-closed,
        since the walk starts at the root and stops at the first block it cannot take. It counts
        as used now. Returns how many blocks became shared. O(tokens).
        """
        self._clock += 1
        node, done, promoted = self._root, 0, 0
        limit = min(n_blocks, len(tokens) // self._width)
        while done < limit:
            start = done * self._width
            child = node.children.get(tokens[start : start + self._width])
            if child is None or not child.visible_to(tenant):
                break
            n = child.common_blocks(tokens, start, limit - done, self._width)
            node = self._cut(child, n)
            done += n
            if not node.shared:
                self._share(node)
                promoted += n
        return promoted

    def release(self, lease: Lease) -> None:
        """Unlock what the lease covers. Once; releasing again does nothing. O(depth)."""
        if not lease.released:
            lease.released = True
            self._unlock(lease.node, lease.tenant)

    def evict(self, n_blocks: int) -> list[BlockId]:
        """Let the least recently used claims lapse until `n_blocks` charged blocks are free.

        Returns the blocks that nobody holds any more: as many or fewer. Lapses never more than
        asked, less when the rest is locked; 0 is always safe. A run is shortened from its end, so
        what stays is still a usable prefix.
        """
        freed: list[BlockId] = []
        left = n_blocks
        while left > 0 and (claim := self._claims.pop()) is not None:
            node, holder = claim
            dropped = min(left, len(node.blocks))
            left -= dropped
            self._charged -= dropped
            freed += self._lapse(node, holder, len(node.blocks) - dropped)
        return freed

    # -- facts -----------------------------------------------------------------------------

    @property
    def evictable_blocks(self) -> int:
        """How many charged blocks `evict` could free now. O(1)."""
        return self._charged - self._locked

    @property
    def charged_blocks(self) -> int:
        """What the tree costs of the budget: a private run once per holder. O(1)."""
        return self._charged

    @property
    def stored_blocks(self) -> int:
        """How many blocks the tree holds; never more than it charges. O(1)."""
        return self._blocks

    def stats(self) -> TreeStats:
        """Sizes now. O(nodes)."""
        shared = sum(len(n.blocks) for n in self._walk() if n.shared)
        return TreeStats(self._nodes, self._blocks, self._charged, self._locked, shared)

    def check(self) -> None:
        """Raise `IsolationBroken` unless every structural invariant holds. O(tree).

        For tests and for idle moments; it changes nothing.
        """
        check_nodes(self._root, self._walk(), self._width)
        nodes = list(self._walk())
        paid = [(len(n.blocks), hold.locks) for n in nodes for _, hold in n.payers()]
        counted = (
            len(nodes),
            sum(len(n.blocks) for n in nodes),
            sum(size for size, _ in paid),
            sum(size for size, locks in paid if locks),
        )
        if counted != (self._nodes, self._blocks, self._charged, self._locked):
            raise IsolationBroken("the tree's counters disagree with its nodes")

    def _walk(self) -> Iterator[Node]:
        todo = list(self._root.children.values())
        while todo:
            node = todo.pop()
            yield node
            todo += node.children.values()

    # -- steps -----------------------------------------------------------------------------

    def _cut(self, node: Node, n: int) -> Node:
        """The first `n` blocks of `node` as a node of their own."""
        if n == len(node.blocks):
            return node
        self._nodes += 1
        return node.split_at(n, self._width)

    def _touch(self, node: Node, tenant: TenantId) -> None:
        """Mark the claims through which `tenant` uses `node`; nobody else's ages are moved."""
        for holder in (tenant, Scope.SHARED):
            if hold := node.holds.get(holder):
                hold.last_used = self._clock

    def _join_path(
        self, tenant: TenantId, tokens: bytes, n_blocks: int
    ) -> tuple[Node, list[BlockId]]:
        """Make `tenant` a holder of `tokens` as far as they are stored, at most `n_blocks`.

        Returns the last node taken and the stored blocks of the path so far.
        """
        node, stored = self._root, list[BlockId]()
        while len(stored) < n_blocks:
            start = len(stored) * self._width
            child = node.children.get(tokens[start : start + self._width])
            if child is None:
                break
            n = child.common_blocks(tokens, start, n_blocks - len(stored), self._width)
            node = self._cut(child, n)
            if tenant not in node.holds:
                self._claim(node, tenant)
                self._charged += 0 if node.shared else len(node.blocks)
            self._touch(node, tenant)
            stored += node.blocks
        return node, stored

    def _append(self, parent: Node, lease: Lease, tokens: bytes, blocks: Sequence[BlockId]) -> Node:
        """Add a run below `parent`: in place when `parent` is the tenant's own open end.

        Not in place when another lease needs `parent`: it would hold the new blocks too.
        """
        self._blocks += len(blocks)
        self._charged += len(blocks)
        if not parent.children and parent.holds.keys() == {lease.tenant}:
            locks = parent.holds[lease.tenant].locks
            if locks == int(lease.node is parent):
                parent.tokens += tokens
                parent.blocks += blocks
                self._locked += len(blocks) if locks else 0
                return parent
        node = Node(tokens, list(blocks), {}, parent)
        parent.children[tokens[: self._width]] = node
        self._nodes += 1
        self._claim(node, lease.tenant)
        return node

    def _claim(self, node: Node, holder: Holder) -> None:
        """Add a claim of `holder` to `node`, whose parent it holds already."""
        node.holds[holder] = Hold(self._clock)
        if node.parent is not None and node.parent is not self._root:
            node.parent.holds[holder].children += 1
        self._offer(node, holder)

    def _share(self, node: Node) -> None:
        """Give `node` to everyone: the shared pool pays for it, and takes over its leases."""
        size = len(node.blocks)
        tenants = list(node.holds.values())
        self._charged += size - size * len(tenants)
        self._locked -= size * sum(1 for hold in tenants if hold.locks)
        self._claim(node, Scope.SHARED)
        pool = node.holds[Scope.SHARED]
        pool.locks = sum(hold.locks for hold in tenants)
        for hold in tenants:
            hold.locks = 0
        self._locked += size if pool.locks else 0

    def _lapse(self, node: Node, holder: Holder, keep: int) -> list[BlockId]:
        """End a claim behind the first `keep` blocks; return the blocks nobody holds then."""
        if holder is Scope.SHARED or len(node.holds) == 1:
            return self._truncate(node, holder, keep)
        if keep:
            self._cut(node, keep)  # `node` stays the lower part, which is given up
        del node.holds[holder]
        self._release_parent(node, [holder])
        return []

    def _truncate(self, node: Node, holder: Holder, keep: int) -> list[BlockId]:
        freed = node.blocks[keep:][::-1]
        self._blocks -= len(freed)
        if keep:
            del node.blocks[keep:]
            node.tokens = node.tokens[: keep * self._width]
            self._claims.push(node, holder)
            return freed
        parent = node.parent
        assert parent is not None, "the root is never evicted"
        del parent.children[node.tokens[: self._width]]
        self._nodes -= 1
        self._release_parent(node, list(node.holds))
        node.parent = None
        return freed

    def _release_parent(self, node: Node, holders: list[Holder]) -> None:
        """Claims of `holders` on `node` are gone: those above may be able to lapse now."""
        parent = node.parent
        if parent is None or parent is self._root:
            return
        for holder in holders:
            parent.holds[holder].children -= 1
            self._offer(parent, holder)
        if parent.shared:
            self._offer(parent, Scope.SHARED)

    def _offer(self, node: Node, holder: Holder) -> None:
        if may_lapse(node, holder):
            self._claims.push(node, holder)

    # -- locks -----------------------------------------------------------------------------

    def _lock(self, node: Node, tenant: TenantId) -> None:
        at: Node | None = node
        while at is not None and at is not self._root:
            hold = at.holds[at.payer(tenant)]
            self._locked += 0 if hold.locks else len(at.blocks)
            hold.locks += 1
            at = at.parent

    def _unlock(self, node: Node, tenant: TenantId) -> None:
        at: Node | None = node
        while at is not None and at is not self._root:
            payer = at.payer(tenant)
            hold = at.holds[payer]
            hold.locks -= 1
            if not hold.locks:
                self._locked -= len(at.blocks)
                self._offer(at, payer)
            at = at.parent
