"""Which block a holder loses first: the one it used least recently, from the end of a run on.

Every holder evicts within its own account, by its own uses. So what a tenant can keep is a
function of what it did itself, whoever else stores the same text.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import ceil

from safekv.cache.node import Node
from safekv.cache.quota import Account
from safekv.cache.structure import Structure


def lapse(structure: Structure, account: Account, n_blocks: int) -> int:
    """Let the oldest claims of a tenant lapse, block by block, until `n_blocks` are gone.

    Returns how many are: fewer when the rest is locked, never more than asked.
    """
    left = n_blocks
    while left > 0 and (gone := _lapse_oldest(structure, account, left)) is not None:
        left -= gone
    return n_blocks - left


def _lapse_oldest(structure: Structure, account: Account, n_blocks: int) -> int | None:
    """Let up to `n_blocks` of one claim lapse, all used at the same time; how many are gone.

    `None` when none is left that may. A claim that is locked in full leaves the queue;
    `PrefixTree.release` puts it back.
    """
    floor = structure.ledger.floor_blocks(account)
    if (claim := account.pop(floor)) is None:
        return None
    node, size = claim.node, claim.node.size
    older = claim.steps[0][0] if claim.steps else 0
    keep = max(structure.locked_blocks(node, account), older, size - n_blocks)
    if claim.reused < size:
        keep = max(keep, claim.reused)
    elif account.reused_blocks > floor:
        # At the floor it is the turn of a fresh one, if there is any.
        keep = max(keep, size - ceil(account.reused_blocks - floor))
    if keep < size:
        if structure.on_lapse is not None:
            structure.on_lapse(node, account.holder)
        structure.shorten(node, account, keep)
    return size - keep


def reclaim(structure: Structure, n_blocks: int) -> None:
    """Free `n_blocks` blocks for others: from tenants over their quota first.

    Blocks go also that someone else holds too and that free nothing: sparing these would tell
    a tenant that its text is someone else's as well.
    """
    goal = structure.blocks - n_blocks
    _reclaim_borrowed(structure, goal)
    _reclaim_within_quotas(structure, goal)


def _reclaim_borrowed(structure: Structure, goal: int) -> None:
    """Take back what tenants hold beyond their quotas, what was used least recently first, whose
    ever it is, until `goal` blocks are stored. O(tenants + log tenants for each claim)."""
    waiting = [entry for account in structure.ledger if (entry := _borrowed(structure, account))]
    heapify(waiting)
    while structure.blocks > goal and waiting:
        _, account = heappop(waiting)
        over = account.charged_blocks - structure.ledger.quota_blocks(account)
        _lapse_oldest(structure, account, min(over, structure.blocks - goal))
        if (entry := _borrowed(structure, account)) is not None:
            heappush(waiting, entry)


def _borrowed(structure: Structure, account: Account) -> tuple[int, Account] | None:
    """When the block was last used that `account` loses next, if it is over its quota.

    No two accounts have used anything at the same time, so accounts are never compared.
    """
    ledger = structure.ledger
    if account.charged_blocks <= ledger.quota_blocks(account):
        return None
    claim = account.first(ledger.floor_blocks(account))
    return None if claim is None else (claim.used, account)


def _reclaim_within_quotas(structure: Structure, goal: int) -> None:
    """Take from those who have most of their quotas, until `goal` blocks are stored.

    Only when quotas do not fit the memory, as when a tenant came late.
    """
    ledger, spent = structure.ledger, set[Account]()
    while structure.blocks > goal:
        accounts = [a for a in ledger if a not in spent and a.charged_blocks]
        if not accounts:
            return
        account = max(accounts, key=lambda a: a.charged_blocks / max(1, ledger.quota_blocks(a)))
        if not lapse(structure, account, structure.blocks - goal):
            spent.add(account)


def demote(structure: Structure, top: Node) -> int:
    """Return the shared part of the subtree from `top` on to the tenants. O(subtree).

    Returns how many blocks are no longer shared.
    """
    parent, key = top.parent, top.key
    assert parent is not None, "the root is never shared"
    shared = set(_shared_from(top))
    for account in structure.ledger:
        # Oldest first: the order must not depend on where others cut the tree.
        for lease in account.leases:
            if lease.node in shared:
                structure.adopt(lease)
                shared.add(lease.node)
    demoted = 0
    # Adopting may have cut `top`, so it is looked up again.
    for node in reversed(_shared_from(parent.children[key])):
        demoted += node.size
        structure.unshare(node)
    return demoted


def replace_shared(structure: Structure, n_blocks: int, keep: Node) -> int:
    """Demote the ends of the least recently used shared runs until `n_blocks` are gone.

    `keep`, the end of the run about to grow, is spared. Called at epoch ticks only. Returns how
    many blocks left the pool.
    """
    pool, left, spared = structure.ledger.pool, n_blocks, None
    while left > 0 and (claim := pool.pop(0)) is not None:
        node = claim.node
        if node is keep:
            spared = node
            continue
        cut = max(claim.steps[0][0] if claim.steps else 0, node.size - left)
        if cut > 0:
            structure.split(node, cut)
        left -= demote(structure, node)
    if spared is not None:
        structure.offer(spared, pool)
    return n_blocks - left


def _shared_from(top: Node) -> list[Node]:
    """The shared nodes of a subtree, parents first."""
    found, todo = list[Node](), [top]
    while todo:
        node = todo.pop()
        if node.shared:
            found.append(node)
            todo += node.children.values()
    return found
