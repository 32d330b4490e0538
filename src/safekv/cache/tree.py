"""The prefix tree: one tree of content over all tenants' blocks.

The path of a prompt exists once, whoever sent it. A node says who holds it, and a tenant's
walk ends at the first node that is not visible to it. Each tenant has a virtual cache: what it
keeps is decided by its own uses and its own quota alone, as if it had the memory to itself.
Nothing here locks or blocks, so the owner serialises calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from safekv.cache.check import check_structure
from safekv.cache.config import CacheConfig
from safekv.cache.eviction import demote, lapse, reclaim, replace_shared
from safekv.cache.input import packed_blocks, require_tokens
from safekv.cache.lease import Lease
from safekv.cache.node import Holder, Node
from safekv.cache.paths import leased_blocks, path_to, shared_path, visible_path
from safekv.cache.quota import Account, Ledger, require_tenant
from safekv.cache.stats import TreeStats
from safekv.cache.structure import Structure
from safekv.cache.use import mark_use
from safekv.errors import CacheError
from safekv.types import TOKEN_BYTES, BlockId, TenantId, unpack_blocks

COMPACT_STEP = 4


class PrefixTree:
    """A path-compressed radix tree of token blocks with holders, leases and virtual caches.

    Follows the memory manager of the SafeKV paper (arXiv 2508.08438), with claims for owners.
    With `holders_pay` tenants are charged for what they hold of shared runs too, so that what they
    keep does not depend on what is shared.
    """

    def __init__(self, config: CacheConfig, *, holders_pay: bool = False) -> None:
        self.config = config
        self.block_tokens = config.block_tokens
        self._width = config.block_tokens * TOKEN_BYTES
        self._ledger = Ledger(config, holders_pay=holders_pay)
        self._at = Structure(self._width, self._ledger)

    def open(self, tenant: TenantId, quota_blocks: int | None = None) -> None:
        """Give `tenant` a virtual cache of `quota_blocks`, by default an equal share.

        A tenant that was not opened gets its cache on first use. Opening one makes the equal
        shares smaller, which those who lose can feel: open all tenants at the start. Raises
        `CacheError` when there is no room for it.
        """
        quota = self.config.quota_blocks if quota_blocks is None else quota_blocks
        self._ledger.open(tenant, quota)

    def on_lapse(self, listener: Callable[[TenantId, bytes, list[BlockId]], None]) -> None:
        """Tell `listener` of each claim before it lapses: its tenant, and tokens and blocks of the
        whole path that ends with the claimed run. It must not touch this tree."""

        def tell(node: Node, holder: Holder) -> None:
            if isinstance(holder, str):
                tokens, blocks = path_to(node)
                listener(holder, tokens, unpack_blocks(blocks))

        self._at.on_lapse = tell

    def on_share(self, listener: Callable[[Node, list[TenantId], bool], None]) -> None:
        """Tell `listener` of runs that become shared, parents first, or private, parents last."""
        self._at.on_share = listener

    # -- reading ---------------------------------------------------------------------------

    def match(self, tenant: TenantId, tokens: bytes, max_blocks: int | None = None) -> Lease:
        """The longest run of blocks that begins `tokens` and is visible to `tenant`.

        At most `max_blocks` blocks. Locks what it found until `release`, and nothing more.
        Changes no structure: only the times of use, and only on the last node. O(matched nodes),
        each one comparison of memory. Raises `CacheError` for an impossible tenant and for
        tokens that are not whole int32 values.
        """
        require_tokens(tokens, max_blocks)
        account, width = self._ledger.get(tenant), self._width
        sought = tokens
        if max_blocks is not None and max_blocks < len(tokens) // width:
            sought = tokens[: max_blocks * width]
        node, n_blocks, tail = visible_path(self._at.root, width, tenant, sought)
        lease = Lease(tenant, tokens, n_blocks, 0, node, tail)
        if n_blocks:
            mark_use(self._at, account, lease)
        lease.adopted = lease.own_blocks == n_blocks
        account.leases[lease] = None
        self._at.lock(lease)
        return lease

    def shared_blocks_of(self, tokens: bytes) -> int:
        """How many leading blocks of `tokens` everyone may read already. O(tokens)."""
        return shared_path(self._at.root, self._width, tokens)[1]

    # -- writing ---------------------------------------------------------------------------

    def insert(self, lease: Lease, tokens: bytes, blocks: Sequence[BlockId]) -> list[BlockId]:
        """Store `blocks`, the KV of the blocks of `tokens` behind what the lease covers.

        `tokens` are all tokens from the start on, and begin with those of the lease. Returns
        the blocks that are not needed, because the same content was there already: the caller
        frees them and uses those that the lease names now. New runs are private, and the lease
        covers them. Blocks the tenant used least recently lapse where its quota is full;
        `take_freed` has what nobody holds any more.

        O(new tokens + nodes passed). Raises `CacheError` when the lease is released, the sizes
        disagree, a block id is negative, or the quota cannot hold the blocks; nothing was stored
        then.
        """
        packed = packed_blocks(lease, tokens, blocks, self.block_tokens)
        account = self._ledger.get(lease.tenant)
        self._make_room(account, len(blocks) + self._at.adoption_blocks(lease))
        self._at.adopt(lease)
        now, n_new = account.tick(), len(blocks)
        node, tail, done = self._pass_stored(lease, tokens, n_new, account, now)
        if done < n_new:
            at = (lease.n_blocks + done) * self._width
            node = self._append(node, tail, account, tokens[at:], packed[done * TOKEN_BYTES :])
            tail = node.size
        self._at.unlock(lease)
        lease.node, lease.tail, lease.tokens = node, tail, tokens
        lease.n_blocks += n_new
        self._at.lock(lease)
        claim = node.claim(lease.tenant)
        if claim is not None and n_new:
            claim.mark(tail, node.size, now)
            if claim.used == now:
                account.used_now(claim)
        self._at.compact(COMPACT_STEP)
        return unpack_blocks(packed[: done * TOKEN_BYTES])

    def _pass_stored(
        self, lease: Lease, tokens: bytes, n_new: int, account: Account, now: int
    ) -> tuple[Node, int, int]:
        """Walk on from the end of `lease` over blocks that are stored already, and hold them.

        At most `n_new` blocks. Returns the last node, how far it was passed, and the blocks.
        """
        node, tail, done = lease.node, lease.tail, 0
        while done < n_new:
            at = (lease.n_blocks + done) * self._width
            if tail == node.size:
                child = node.children.get(tokens[at : at + self._width])
                if child is None:
                    break
                n = 1 + child.common_blocks(tokens, at + self._width, n_new - done - 1)
                if child.claim(lease.tenant) is None:
                    child = self._at.split(child, n)
                    self._at.hold(child, account, now)
                node, tail = child, n
            else:
                n = node.common_blocks(tokens, at, n_new - done, skip=tail)
                if not n:
                    break
                tail += n
            done += n
        return node, tail, done

    def _append(
        self, node: Node, tail: int, account: Account, tokens: bytes, blocks: bytes
    ) -> Node:
        """Add a run behind the first `tail` blocks of `node`: in place where that is its end."""
        if tail < node.size:
            node = self._at.split(node, tail)
        elif not node.children and node.holds == account.holder:
            self._at.extend(node, account, tokens, blocks)
            return node
        return self._at.append(node, account, tokens, blocks)

    def _make_room(self, account: Account, n_blocks: int) -> None:
        ceiling = self._ledger.ceiling_blocks(account)
        lacking = account.charged_blocks + n_blocks - ceiling
        if lacking <= 0 or not n_blocks:
            return
        if lacking > account.charged_blocks - leased_blocks(account):
            raise CacheError(
                f"{n_blocks} blocks do not fit the {ceiling} blocks of tenant {account.holder}",
                "raise its quota (cache.quota_blocks) or cache.capacity_blocks",
            )
        lapse(self._at, account, lacking)

    def adopt(self, lease: Lease) -> None:
        """Make the lease's tenant a holder of everything it matched. O(nodes not yet held).

        Alone on the machine it would have computed these blocks, so from now on they are its
        own. Raises `CacheError` when holders pay and its quota cannot hold them.
        """
        if not lease.released:
            self._make_room(self._ledger.get(lease.tenant), self._at.adoption_blocks(lease))
            self._at.adopt(lease)

    def release(self, lease: Lease) -> None:
        """Unlock what the lease covers. Once; releasing again does nothing. O(log claims)."""
        if not lease.released:
            lease.released = True
            account = self._ledger.get(lease.tenant)
            account.leases.pop(lease, None)
            self._at.unlock(lease)
            self._at.offer(lease.node, account)
            if lease.own_part is not None:
                self.release(lease.own_part)

    def promote(self, tenant: TenantId, tokens: bytes, n_blocks: int) -> int:
        """Share the first `n_blocks` blocks of `tokens`, as far as `tenant` can see them.

        Labels only: no block is copied or recomputed. What is shared stays prefix-closed,
        since the walk starts at the root and stops at the first block it cannot take. Where
        the pool is full, runs that were read least recently leave it, as of the last epochs;
        what still does not fit stays private. Returns how many blocks became shared.
        """
        root, width = self._at.root, self._width
        last, start, _ = shared_path(root, width, tokens, n_blocks)
        _, reach, _ = visible_path(root, width, tenant, tokens[: max(0, n_blocks) * width])
        if reach <= start:
            return 0
        reach = min(reach, start + self._ledger.ceiling_blocks(self._ledger.pool))
        lacking = reach - start - self._ledger.room_blocks(self._ledger.pool)
        replaced = lacking > 0 and replace_shared(self._at, lacking, last) > 0
        reach = min(reach, start + max(0, self._ledger.room_blocks(self._ledger.pool)))
        self._ledger.pool.tick()
        node, done = root, 0
        while done < reach:
            child = node.children[tokens[done * width : (done + 1) * width]]
            n = min(child.size, reach - done)
            if not child.shared:
                child = self._at.split(child, n)
                self._at.share(child)
            node, done = child, done + n
        if replaced:
            self._enforce()
        return reach - start

    def demote(self, tokens: bytes, keep_blocks: int = 0) -> int:
        """Make private again what is shared of `tokens` behind the first `keep_blocks` blocks,
        and everything shared below it.

        Those who hold a run keep it, and are charged for it. Returns the demoted blocks.
        """
        if keep_blocks < 0:
            raise CacheError(f"keep_blocks is {keep_blocks}", "use 0 or more")
        node, found, tail = shared_path(self._at.root, self._width, tokens, keep_blocks + 1)
        if found <= keep_blocks:
            return 0
        if tail > 1:
            self._at.split(node, tail - 1)
        demoted = demote(self._at, node)
        self._enforce()
        return demoted

    def evict(self, n_blocks: int, tenant: TenantId | None = None) -> list[BlockId]:
        """Let claims of `tenant` lapse until `n_blocks` of its quota are free, oldest first.

        Without a tenant: free `n_blocks` blocks, from those furthest over their quota first.
        Returns the blocks that nobody holds any more. Never more lapses than asked, less when the
        rest is locked. A run is shortened from its end, so what stays is still a usable prefix.
        """
        if tenant is None:
            reclaim(self._at, n_blocks)
        else:
            lapse(self._at, self._ledger.get(tenant), n_blocks)
        self._at.compact(COMPACT_STEP)
        return self.take_freed()

    def forget(self, tenant: TenantId) -> list[BlockId]:
        """Remove every claim of `tenant`, and its account; returns the blocks it held alone.

        What is shared stays, since it is nobody's own. Raises `CacheError` while the tenant has
        leases; nothing was removed then. An unknown tenant has nothing. O(its nodes).
        """
        require_tenant(tenant)
        if tenant not in self._ledger:
            return []
        account = self._ledger.get(tenant)
        if account.leases:
            raise CacheError(
                f"tenant {tenant} has {len(account.leases)} running requests",
                "cancel or finish them first",
            )
        held, todo = list[Node](), [self._at.root]
        while todo:
            children = [c for c in todo.pop().children.values() if c.claim(tenant) is not None]
            held += children
            todo += children
        for node in reversed(held):
            self._at.drop(node, account)
        self._ledger.close(tenant)
        return self.take_freed()

    def clear(self) -> list[BlockId]:
        """Forget all that no lease needs, shared too; returns the blocks. O(nodes)."""
        for child in list(self._at.root.children.values()):
            if child.shared:
                demote(self._at, child)
        for account in self._ledger:
            lapse(self._at, account, account.charged_blocks)
        return self.take_freed()

    def take_freed(self) -> list[BlockId]:
        """The blocks that nobody holds any more, each once. The caller owns them again."""
        freed = unpack_blocks(self._at.freed)
        self._at.freed.clear()
        return freed

    def end_epoch(self) -> None:
        """Start a new epoch: reads of shared runs count as newer than those before."""
        pool = self._ledger.pool
        for tokens, n_blocks, now in pool.take_reads():
            node, found, tail = shared_path(self._at.root, self._width, tokens, n_blocks)
            if found:
                pool.read(node, tail, now)
        pool.end_epoch()

    def compact(self, n_nodes: int | None = None) -> int:
        """Merge runs that no longer differ, `n_nodes` candidates or all; how many are left."""
        return self._at.compact(len(self._at.loose) * 2 + 1 if n_nodes is None else n_nodes)

    def _enforce(self) -> None:
        """Bring tenants back under their ceilings after the pool gave runs back to them."""
        for account in self._ledger:
            lapse(self._at, account, -self._ledger.room_blocks(account))

    # -- facts -----------------------------------------------------------------------------

    def room_blocks(self, tenant: TenantId) -> int:
        """How many more blocks `tenant` may hold now without losing any. O(1)."""
        return self._ledger.room_blocks(self._ledger.get(tenant))

    def locked_blocks(self, tenant: TenantId) -> int:
        """How many blocks `tenant` is charged for and cannot lose. O(nodes under its leases)."""
        return leased_blocks(self._ledger.get(tenant))

    @property
    def tenants(self) -> int:
        """How many tenants have a virtual cache. O(1)."""
        return len(self._ledger)

    @property
    def stored_blocks(self) -> int:
        """How many blocks the tree holds. O(1)."""
        return self._at.blocks

    @property
    def freed_blocks(self) -> int:
        """How many blocks wait for `take_freed`. O(1)."""
        return len(self._at.freed) // TOKEN_BYTES

    def charged_blocks(self, tenant: TenantId) -> int:
        """How many blocks `tenant` is charged for. O(1)."""
        return self._ledger.get(tenant).charged_blocks

    def quota_blocks(self, tenant: TenantId) -> int:
        """What `tenant` is guaranteed. O(1)."""
        return self._ledger.quota_blocks(self._ledger.get(tenant))

    def ceiling_blocks(self, tenant: TenantId) -> int:
        """What `tenant` may hold at most. O(1)."""
        return self._ledger.ceiling_blocks(self._ledger.get(tenant))

    def stats(self) -> TreeStats:
        """Sizes now. O(tenants)."""
        return TreeStats.of(self._at)

    def check(self) -> None:
        """Raise `IsolationBroken` unless every invariant holds. Changes nothing. O(tree)."""
        check_structure(self._at)

    def nodes(self) -> Iterator[Node]:
        """All nodes, parents first, to read only."""
        return self._at.walk()
