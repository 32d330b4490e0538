"""The prefix tree: one tree of content over all tenants' blocks.

The path of a prompt exists once, whoever sent it. A node says who holds it, and a tenant's
walk ends at the first node that is not visible to it. All mutable state is the nodes, the
leaf queue and three counters; nothing here locks or blocks, so the owner serialises calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from safekv.cache.check import check_nodes
from safekv.cache.eviction import LeafQueue
from safekv.cache.node import Node
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
    """Sizes at one moment. `locked_blocks` lie under a lease and cannot be evicted."""

    nodes: int
    blocks: int
    locked_blocks: int
    shared_blocks: int


class PrefixTree:
    """A path-compressed radix tree of token blocks with holders, leases and LRU eviction.

    Follows the unified radix tree of the SafeKV paper (arXiv 2508.08438, section on the
    memory manager), with per-tenant holders in place of one owner.
    """

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._width = block_tokens * TOKEN_BYTES
        self._root = Node(b"", [], set(), Scope.SHARED, locks=1)
        self._leaves = LeafQueue()
        self._clock = 0
        self._blocks = 0
        self._locked_blocks = 0
        self._nodes = 0

    # -- reading ---------------------------------------------------------------------------

    def match(self, tenant: TenantId, tokens: bytes, max_blocks: int) -> Lease:
        """The longest run of blocks that begins `tokens` and is visible to `tenant`.

        At most `max_blocks` blocks. Locks what it found until `release`, and nothing more: a
        run that matches in part is cut there, so that its rest can still be evicted. Who may
        read what does not change. O(matched tokens).
        """
        self._clock += 1
        node, own, walking_own = self._root, 0, True
        blocks: list[BlockId] = []
        limit = min(max_blocks, len(tokens) // self._width)
        while len(blocks) < limit:
            start = len(blocks) * self._width
            child = node.children.get(tokens[start : start + self._width])
            if child is None or not child.visible_to(tenant):
                break
            n = child.common_blocks(tokens, start, limit - len(blocks), self._width)
            if n < len(child.blocks):
                child = self._split(child, n)
            blocks += child.blocks
            walking_own = walking_own and tenant in child.holders
            own += n if walking_own else 0
            child.last_used = self._clock
            node = child
        self._lock(node)
        return Lease(tenant, blocks, own, node)

    def shared_blocks_of(self, tokens: bytes) -> int:
        """How many leading blocks of `tokens` everyone may read already. O(tokens)."""
        node, found, limit = self._root, 0, len(tokens) // self._width
        while found < limit:
            start = found * self._width
            child = node.children.get(tokens[start : start + self._width])
            if child is None or child.scope is not Scope.SHARED:
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
            node = self._append(node, lease.tenant, tokens[len(stored) * self._width :], new)
        self._move(lease, node)
        return [*stored, *new]

    def adopt(self, lease: Lease, tokens: bytes) -> None:
        """Make the lease's tenant a holder of everything it matched. O(matched tokens).

        Alone on the machine it would have computed these blocks, so from now on they count
        as its own. `tokens` are the prompt's.
        """
        if not lease.released and lease.own_blocks < len(lease.blocks):
            self._join_path(lease.tenant, tokens, len(lease.blocks))

    def promote(self, tenant: TenantId, tokens: bytes, n_blocks: int) -> int:
        """Share the first `n_blocks` blocks of `tokens`, as far as `tenant` can see them.

        Labels only: no block is copied or recomputed. What is shared stays prefix-closed,
        since the walk starts at the root and stops at the first block it cannot take.
        Returns how many blocks became shared. O(tokens).
        """
        node, done, promoted = self._root, 0, 0
        limit = min(n_blocks, len(tokens) // self._width)
        while done < limit:
            start = done * self._width
            child = node.children.get(tokens[start : start + self._width])
            if child is None or not child.visible_to(tenant):
                break
            n = child.common_blocks(tokens, start, limit - done, self._width)
            if child.scope is Scope.PRIVATE:
                if n < len(child.blocks):
                    child = self._split(child, n)
                child.scope = Scope.SHARED
                promoted += n
            done += n
            node = child
            if n < len(child.blocks):
                break
        return promoted

    def release(self, lease: Lease) -> None:
        """Unlock what the lease covers. Once; releasing again does nothing. O(depth)."""
        if not lease.released:
            lease.released = True
            self._unlock(lease.node)

    def evict(self, n_blocks: int) -> list[BlockId]:
        """Forget the `n_blocks` least recently used blocks, leaf ends first; return them.

        Never more than asked, fewer when the rest is locked; 0 is always safe. A run is
        shortened from its end, so what stays is still a usable prefix.
        """
        freed: list[BlockId] = []
        while len(freed) < n_blocks:
            leaf = self._leaves.pop()
            if leaf is None:
                break
            keep = max(0, len(leaf.blocks) - (n_blocks - len(freed)))
            freed += reversed(leaf.blocks[keep:])
            self._truncate(leaf, keep)
        return freed

    # -- facts -----------------------------------------------------------------------------

    @property
    def evictable_blocks(self) -> int:
        """How many blocks `evict` could return now. O(1)."""
        return self._blocks - self._locked_blocks

    @property
    def stored_blocks(self) -> int:
        """How many blocks the tree holds. O(1)."""
        return self._blocks

    def stats(self) -> TreeStats:
        """Sizes now. O(nodes)."""
        shared = sum(len(n.blocks) for n in self._walk() if n.scope is Scope.SHARED)
        return TreeStats(self._nodes, self._blocks, self._locked_blocks, shared)

    def check(self) -> None:
        """Raise `IsolationBroken` unless every structural invariant holds. O(tree).

        For tests and for idle moments; it changes nothing.
        """
        check_nodes(self._root, self._walk(), self._width)
        nodes = list(self._walk())
        counted = (
            len(nodes),
            sum(len(n.blocks) for n in nodes),
            sum(len(n.blocks) for n in nodes if n.locks),
        )
        if counted != (self._nodes, self._blocks, self._locked_blocks):
            raise IsolationBroken("the tree's counters disagree with its nodes")

    def _walk(self) -> Iterator[Node]:
        todo = list(self._root.children.values())
        while todo:
            node = todo.pop()
            yield node
            todo += node.children.values()

    # -- steps -----------------------------------------------------------------------------

    def _append(
        self, parent: Node, tenant: TenantId, tokens: bytes, blocks: Sequence[BlockId]
    ) -> Node:
        """Add a run below `parent`: in place when `parent` is this tenant's own open end."""
        self._blocks += len(blocks)
        if (
            parent is not self._root
            and not parent.children
            and parent.holders == {tenant}
            and parent.scope is Scope.PRIVATE
        ):
            parent.tokens += tokens
            parent.blocks += blocks
            parent.last_used = self._clock
            self._locked_blocks += len(blocks) if parent.locks else 0
            return parent
        node = Node(tokens, list(blocks), {tenant}, Scope.PRIVATE, parent, last_used=self._clock)
        parent.children[tokens[: self._width]] = node
        self._nodes += 1
        self._leaves.push(node)
        return node

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
            node = self._join(child, n, tenant, more=len(stored) + n < n_blocks)
            stored += node.blocks[:n]
        return node, stored

    def _join(self, child: Node, n: int, tenant: TenantId, *, more: bool) -> Node:
        """Make `tenant` a holder of the first `n` blocks of `child`; return their node.

        Splits only where holders or content part: `more` says that the tenant's path goes
        on, differently, behind these blocks.
        """
        if n < len(child.blocks) and (more or tenant not in child.holders):
            child = self._split(child, n)
        child.holders.add(tenant)
        child.last_used = self._clock
        return child

    def _split(self, node: Node, n: int) -> Node:
        self._nodes += 1
        return node.split_at(n, self._width)

    def _truncate(self, leaf: Node, keep: int) -> None:
        self._blocks -= len(leaf.blocks) - keep
        if keep:
            del leaf.blocks[keep:]
            leaf.tokens = leaf.tokens[: keep * self._width]
            self._leaves.push(leaf)
            return
        parent = leaf.parent
        assert parent is not None, "the root is never evicted"
        del parent.children[leaf.tokens[: self._width]]
        leaf.parent = None
        self._nodes -= 1
        if parent is not self._root and not parent.children:
            self._leaves.push(parent)

    # -- locks -----------------------------------------------------------------------------

    def _move(self, lease: Lease, node: Node) -> None:
        """Let `lease` cover the path to `node` instead of what it covered."""
        self._lock(node)
        self._unlock(lease.node)
        lease.node = node

    def _lock(self, node: Node) -> None:
        at: Node | None = node
        while at is not None and at is not self._root:
            if at.locks == 0:
                self._locked_blocks += len(at.blocks)
            at.locks += 1
            at = at.parent

    def _unlock(self, node: Node) -> None:
        at: Node | None = node
        while at is not None and at is not self._root:
            at.locks -= 1
            if at.locks == 0:
                self._locked_blocks -= len(at.blocks)
                if not at.children:
                    self._leaves.push(at)
            at = at.parent
