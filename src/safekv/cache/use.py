"""What a match leaves behind: a time of use, and locks on what could lapse meanwhile."""

from __future__ import annotations

from safekv.cache.lease import Lease
from safekv.cache.node import Node
from safekv.cache.quota import Account
from safekv.cache.structure import Structure


def mark_use(structure: Structure, account: Account, lease: Lease) -> None:
    """Mark the tenant's deepest claim used, and note the deepest shared run if there is one.

    Says in the lease, which covers a block or more, how many of them are the tenant's own.
    """
    pool, own, tokens = structure.ledger.pool, False, lease.tokens
    node, n_blocks, tail = lease.node, lease.n_blocks, lease.tail
    first = structure.root.children[tokens[: structure.width]]
    unread = bool(pool.charged_blocks) and first.shared
    while node.parent is not None and (not own or unread):
        if not own and (claim := node.claim(account.holder)) is not None:
            own, size, lease.own_blocks = True, node.size, n_blocks
            if n_blocks < lease.n_blocks and account.pays_shared:
                lease.own_part = _lock(structure, account, lease, node, tail)
            if claim.reused < tail:
                structure.reuse(node, account, tail)
            claim.mark(tail, size, account.tick())
            if tail == size:
                account.used_now(claim)
        if unread and node.shared:
            pool.note_read(node, tail, tokens, n_blocks)
            unread = False
        n_blocks -= tail
        node = node.parent
        tail = node.size


def _lock(structure: Structure, account: Account, lease: Lease, node: Node, tail: int) -> Lease:
    """A lease of the part of `lease` that its tenant holds, which could lapse otherwise."""
    part = Lease(lease.tenant, lease.tokens, lease.own_blocks, lease.own_blocks, node, tail)
    part.adopted = True
    account.leases[part] = None
    structure.lock(part)
    return part
