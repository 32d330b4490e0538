"""The nodes of the tree and who holds them: small steps, each of which keeps all invariants.

Nothing here decides what should be shared or evicted; `tree` and `eviction` do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from safekv.cache.lease import Lease
from safekv.cache.node import Holder, Node, Share
from safekv.cache.quota import Account, Ledger
from safekv.types import TOKEN_BYTES, Scope, TenantId


class Structure:
    """All nodes, the leases that end in them, and the accounts that are charged for them.

    `blocks` is how many blocks exist. `freed` collects the ids (int32 bytes) of those that
    nobody holds any more, until somebody takes them. `loose` are nodes that may have become
    equal to their neighbours. `on_lapse` hears of each claim before it lapses, if anybody listens,
    and `on_share` of each run that becomes shared or private again, with the tenants that hold it.
    """

    def __init__(self, width: int, ledger: Ledger) -> None:
        self.width = width
        self.ledger = ledger
        self.root = Node(b"", b"", b"", None, {})
        self.nodes = 0
        self.blocks = 0
        self.freed = bytearray()
        self.ends: dict[Node, dict[Lease, None]] = {}
        self.loose: deque[Node] = deque()
        self.on_lapse: Callable[[Node, Holder], None] | None = None
        self.on_share: Callable[[Node, list[TenantId], bool], None] | None = None

    def walk(self) -> Iterator[Node]:
        """All nodes but the root, parents first."""
        todo = list(self.root.children.values())
        while todo:
            node = todo.pop()
            yield node
            todo += node.children.values()

    # -- content ---------------------------------------------------------------------------

    def append(self, parent: Node, account: Account, tokens: bytes, blocks: bytes) -> Node:
        """A new run below `parent`, which `account` holds already, private to it."""
        assert not isinstance(account.holder, Scope), "runs are private at first"
        node = Node(tokens[: self.width], tokens[self.width :], blocks, parent, account.holder)
        parent.add_child(node)
        self._count_below(parent, account.holder, 1)
        self.nodes += 1
        self._grow(account, node.size)
        if not isinstance(parent.holds, str):
            self.loose.append(parent)
        return node

    def extend(self, node: Node, account: Account, tokens: bytes, blocks: bytes) -> None:
        """Lengthen a run without children that `account` alone holds. O(run)."""
        node.rest += tokens
        node.blocks += blocks
        self._grow(account, len(blocks) // TOKEN_BYTES)

    def _grow(self, account: Account, n_blocks: int) -> None:
        self.blocks += n_blocks
        account.charged_blocks += n_blocks

    def split(self, node: Node, n: int) -> Node:
        """Cut the first `n` blocks off into a new parent, and return it. O(run + leases).

        A split moves a boundary: who may read a block, how long ago each holder used it and
        which leases cover it stay as they were. `node` stays the lower half.
        """
        if n == node.size:
            return node
        assert n > 0, "cannot split off nothing"
        assert node.parent is not None, "the root has no blocks"
        tokens, at = node.tokens(), n * self.width
        rest, blocks = node.rest[: at - self.width], node.blocks[: n * TOKEN_BYTES]
        upper = Node(node.key, rest, blocks, node.parent, {})
        node.parent.add_child(upper)
        node.key, node.rest = tokens[at : at + self.width], tokens[at + self.width :]
        node.blocks, node.parent = node.blocks[n * TOKEN_BYTES :], upper
        upper.add_child(node)
        self.nodes += 1
        if isinstance(node.holds, str):
            upper.holds = node.holds
            node.split_off(upper, n)
        else:
            upper.holds = {h: Share(upper, 0, 1, share.born) for h, share in node.holds.items()}
            for holder, share in node.holds.items():
                share.split_off(upper.holds[holder], n)
        self._split_leases(node, upper, n)
        self.loose.append(upper)
        return upper

    def _split_leases(self, node: Node, upper: Node, n: int) -> None:
        for lease in list(self.ends.get(node, ())):
            if lease.tail > n:
                lease.tail -= n
            else:
                self.unlock(lease)
                lease.node = upper
                self.lock(lease)

    # -- claims ----------------------------------------------------------------------------

    def hold(self, node: Node, account: Account, now: int) -> None:
        """Make `account` a holder of `node`, whose parent it holds already."""
        shares = self._shares(node)
        born = self.ledger.pool.serial if account.holder is Scope.SHARED else 0
        shares[account.holder] = Share(node, now, born=born)
        if node.parent is not None:
            self._count_below(node.parent, account.holder, 1)
        if account.pays_shared or Scope.SHARED not in shares:
            account.charged_blocks += node.size
        account.touch(shares[account.holder])
        self.loose.append(node)

    def drop(self, node: Node, account: Account) -> None:
        """End the claim of `account`, which holds nothing below; free what nobody holds then."""
        claim = node.claim(account.holder)
        parent = node.parent
        assert claim is not None, "only a claim can be dropped"
        assert parent is not None, "the root has no claims"
        account.remove(claim)
        if account.pays_shared or not node.shared:
            account.charged_blocks -= node.size
            account.reused_blocks -= claim.reused
        if isinstance(node.holds, str):
            self._remove(node, parent)
        else:
            del node.holds[account.holder]
            self.loose.append(node)
            if not node.holds:
                self._remove(node, parent)
        self._count_below(parent, account.holder, -1)
        above = parent.claim(account.holder)
        if above is not None:
            # A use of the child was one of the parent too.
            if claim.latest > above.used:
                account.remove(above)
                above.mark(parent.size, parent.size, claim.latest)
            self.offer(parent, account)

    def shorten(self, node: Node, account: Account, keep: int) -> None:
        """End the claim of `account` behind the first `keep` blocks. O(run)."""
        if keep and isinstance(node.holds, str):
            self._truncate(node, account, keep)
        elif keep:
            self.split(node, keep)
            self.drop(node, account)
        else:
            self.drop(node, account)

    def adopt(self, lease: Lease) -> None:
        """Make the lease's tenant a holder of all that it covers. O(nodes not yet held).

        Alone on the machine it would have computed these blocks. What it did not hold yet is
        shared, so nothing is charged unless holders pay.
        """
        tenant, path = lease.tenant, self._unclaimed(lease)
        lease.adopted = True
        if not path:
            return
        self.split(lease.node, lease.tail)
        path[0] = lease.node
        account = self.ledger.get(tenant)
        now = account.tick()
        for node in reversed(path):
            self.hold(node, account, now)

    def _unclaimed(self, lease: Lease) -> list[Node]:
        """The nodes that the lease covers and its tenant does not hold, the lowest first."""
        path, node = list[Node](), lease.node if lease.tail else self.root
        while node is not self.root and node.claim(lease.tenant) is None:
            path.append(node)
            assert node.parent is not None, "only the root has no parent"
            node = node.parent
        return path

    def adoption_blocks(self, lease: Lease) -> int:
        """How many blocks adopting the lease may add to what its tenant is charged for.

        As many as a tenant that computes them makes room for, which does not ask either whether
        another request of it has brought some of them since.
        """
        if lease.adopted or not self.ledger.holders_pay:
            return 0
        return lease.hit_blocks - lease.own_blocks

    def share(self, node: Node) -> None:
        """Give `node` to everyone: the pool pays for it from now on, and by default its holders
        do not.

        Counts as part of the promotion for which the pool's clock ticked last.
        """
        pool = self.ledger.pool
        self._charge(node, -1)
        if self.on_share is not None:
            self.on_share(node, _tenants(node), True)
        self.hold(node, pool, pool.clock)

    def unshare(self, node: Node) -> None:
        """Return `node`, which has no shared child, to the tenants that hold it.

        Without any its blocks are free. Whoever leases it must have adopted it before.
        """
        self._charge(node, 1)
        tenants = _tenants(node)
        if self.on_share is not None:
            self.on_share(node, tenants, False)
        self.drop(node, self.ledger.pool)
        for tenant in tenants:
            self.offer(node, self.ledger.of(tenant))

    def _charge(self, node: Node, times: int) -> None:
        """Charge all tenants that hold `node` for it, or with -1 no longer."""
        if self.ledger.holders_pay:
            return
        for holder in node.holders():
            claim = node.claim(holder)
            if claim is not None and holder is not Scope.SHARED:
                account = self.ledger.of(holder)
                account.charged_blocks += times * node.size
                account.reused_blocks += times * claim.reused

    def reuse(self, node: Node, account: Account, n_blocks: int) -> None:
        """The first `n_blocks` of `node`, and so all above it, were matched by their holder.

        The caller marks that use. O(nodes that were not matched before).
        """
        at: Node | None = node
        while at is not None and (claim := at.claim(account.holder)) is not None:
            if claim.reused >= n_blocks:
                return
            if account.pays_shared or not at.shared:
                account.reused_blocks += n_blocks - claim.reused
            if n_blocks == at.size:
                # Its order changes. Only `node` itself may lapse, and its use puts it back.
                account.remove(claim)
            claim.reused, at = n_blocks, at.parent
            n_blocks = at.size if at is not None else 0

    def offer(self, node: Node, account: Account) -> None:
        """Make the claim of `account` a candidate for eviction if nothing hangs below it."""
        claim = node.claim(account.holder)
        if claim is not None and account.may_lapse(claim):
            account.offer(claim)

    def _shares(self, node: Node) -> dict[Holder, Share]:
        """The node's claims as a table, made when a second holder comes."""
        owner = node.holds
        if not isinstance(owner, str):
            return owner
        share = Share(node, node.used, len(node.children))
        share.reused = node.reused
        share.set_uses(node.used, node.steps)
        node.set_uses(0, None)
        shares: dict[Holder, Share] = {owner: share}
        node.holds = shares
        self.ledger.of(owner).replace(node, share)
        return shares

    def _count_below(self, parent: Node, holder: Holder, change: int) -> None:
        if (share := parent.share_of(holder)) is not None:
            share.count_below(change)

    def _truncate(self, node: Node, account: Account, keep: int) -> None:
        dropped = node.size - keep
        self.freed += node.blocks[keep * TOKEN_BYTES :]
        node.rest = node.rest[: (keep - 1) * self.width]
        node.blocks = node.blocks[: keep * TOKEN_BYTES]
        self.blocks -= dropped
        account.charged_blocks -= dropped
        account.reused_blocks -= max(0, node.reused - keep)
        node.shorten(keep)
        self.offer(node, account)

    def _remove(self, node: Node, parent: Node) -> None:
        self.freed += node.blocks
        self.blocks -= node.size
        self.nodes -= 1
        parent.remove_child(node)
        node.parent = None
        self.loose.append(parent)

    # -- leases ----------------------------------------------------------------------------

    def lock(self, lease: Lease) -> None:
        """Keep what the lease covers. O(1): nothing above a claim lapses before the claim."""
        if not lease.tail:
            return
        ends = self.ends.get(lease.node)
        if ends is None:
            self.ends[lease.node] = {lease: None}
        else:
            ends[lease] = None

    def unlock(self, lease: Lease) -> None:
        if lease.tail:
            ends = self.ends[lease.node]
            del ends[lease]
            if not ends:
                del self.ends[lease.node]

    def locked_blocks(self, node: Node, account: Account) -> int:
        """How many leading blocks of `node` leases of `account` end in. O(leases there).

        Only what the tenant held when it leased them, or holds by the lease: what it found
        shared keeps no claim of it alive.
        """
        tails = (
            lease.tail
            for lease in self.ends.get(node, ())
            if lease.tenant == account.holder and lease.adopted
        )
        return max(tails, default=0)

    # -- path compression ------------------------------------------------------------------

    def compact(self, n_nodes: int) -> int:
        """Merge nodes with neighbours they no longer differ from; looks at `n_nodes` at most.

        Returns how many candidates are left.
        """
        for _ in range(min(n_nodes, len(self.loose))):
            node = self.loose.popleft()
            while (below := mergeable_child(node)) is not None:
                self._merge(node, below)
                node = below
            if node.parent is not None and mergeable_child(node.parent) is node:
                self._merge(node.parent, node)
        return len(self.loose)

    def _merge(self, upper: Node, lower: Node) -> None:
        """Put the run of `upper` in front of its only child, which lives on."""
        n, grandparent = upper.size, upper.parent
        assert grandparent is not None, "the root is never merged"
        if isinstance(upper.holds, str) and isinstance(lower.holds, str):
            lower.absorb(upper, n)
            self.ledger.of(upper.holds).remove(upper)
        else:
            above, below = self._shares(upper), self._shares(lower)
            for holder, share in below.items():
                share.absorb(above[holder], n)
                self.ledger.of(holder).remove(above[holder])
        lower.rest = upper.rest + lower.key + lower.rest
        lower.key, lower.blocks = upper.key, upper.blocks + lower.blocks
        lower.parent, upper.parent = grandparent, None
        grandparent.add_child(lower)
        self.nodes -= 1
        for lease in self.ends.get(lower, ()):
            lease.tail += n
        for lease in self.ends.pop(upper, ()):
            lease.node = lower
            self.lock(lease)


def _tenants(node: Node) -> list[TenantId]:
    return [holder for holder in node.holders() if isinstance(holder, str)]


def mergeable_child(node: Node) -> Node | None:
    """The only child of `node`, if the same holders hold both: then they are one run."""
    if node.parent is None or len(node.children) != 1:
        return None
    child = next(iter(node.children.values()))
    above, below = node.holds, child.holds
    same = (
        above == below
        if isinstance(above, str) and isinstance(below, str)
        else set(child.holders()) == set(node.holders())
    )
    return child if same and child.born == node.born else None
