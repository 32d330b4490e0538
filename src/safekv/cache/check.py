"""The invariants of the prefix tree, as code that can be run at any time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from safekv.cache.node import Claim, Holder, Node
from safekv.cache.structure import Structure, mergeable_child
from safekv.errors import IsolationBroken
from safekv.types import TOKEN_BYTES, Scope, unpack_blocks


def check_structure(structure: Structure) -> None:
    """Raise `IsolationBroken` for the first broken invariant. O(tree).

    The message names the rule, never content.
    """
    for broken in _broken(structure):
        raise IsolationBroken(f"prefix tree: {broken}")


def _broken(structure: Structure) -> Iterator[str]:
    seen: set[int] = set(unpack_blocks(structure.freed))
    charged: Counter[Holder] = Counter()
    reused: Counter[Holder] = Counter()
    accounts = (*structure.ledger, structure.ledger.pool)
    waiting = {claim for account in accounts for claim in account.waiting()}
    nodes = n_blocks = 0
    for node in structure.walk():
        yield from _broken_shape(structure, node)
        yield from _broken_claims(structure, node, waiting)
        ids = unpack_blocks(node.blocks)
        if len(set(ids)) < len(ids) or not seen.isdisjoint(ids):
            yield "a block is stored twice"
        seen.update(ids)
        nodes, n_blocks = nodes + 1, n_blocks + len(ids)
        free = node.shared and not structure.ledger.holders_pay
        for holder in (Scope.SHARED,) if free else node.holders():
            charged[holder] += len(ids)
            reused[holder] += claim.reused if (claim := node.claim(holder)) else 0
    if (nodes, n_blocks) != (structure.nodes, structure.blocks):
        yield "the tree's counters disagree with its nodes"
    yield from _broken_accounts(structure, charged, reused)
    yield from _broken_leases(structure)


def _broken_shape(structure: Structure, node: Node) -> Iterator[str]:
    parent, width = node.parent, structure.width
    if parent is None:
        yield "only the root has no parent"
        return
    size, odd = divmod(len(node.key) + len(node.rest), width)
    if not size or odd or len(node.key) != width or len(node.blocks) != size * TOKEN_BYTES:
        yield "tokens and blocks disagree"
    if parent.children.get(node.key) is not node:
        yield "a node is filed under a wrong key"
    if not any(True for _ in node.holders()):
        yield "nobody holds a node"
    if parent is structure.root:
        return
    if node.shared and not parent.shared:
        yield "a shared node lies below a private one"
    if not set(node.holders()) <= set(parent.holders()):
        yield "holders grow downwards"
    if mergeable_child(parent) is node and not structure.loose:
        yield "a node does not differ from its parent"


def _broken_claims(structure: Structure, node: Node, waiting: set[Claim]) -> Iterator[str]:
    for holder in node.holders():
        claim = node.claim(holder)
        assert claim is not None, "a holder has a claim"
        if claim.below != sum(child.claim(holder) is not None for child in node.children.values()):
            yield "a claim miscounts the claims below it"
        yield from _broken_steps(claim, node.size)
        above = node.parent.claim(holder) if node.parent is not None else None
        if claim.reused and above is not None and above.reused < above.node.size:
            yield "a re-used block lies below one that is not"
        account = structure.ledger.of(holder)
        locked = structure.locked_blocks(node, account) == node.size
        if account.may_lapse(claim) and claim not in waiting and not locked:
            yield "a claim that may lapse does not wait"


def _broken_steps(claim: Claim, size: int) -> Iterator[str]:
    steps = [(size, claim.used), *(claim.steps or ())]
    for (longer, before), (shorter, after) in pairwise(steps):
        if not (longer > shorter > 0 and after > before):
            yield "a claim's times of use do not fall along its run"


def _broken_accounts(
    structure: Structure, charged: Counter[Holder], reused: Counter[Holder]
) -> Iterator[str]:
    ledger = structure.ledger
    for account in (*ledger, ledger.pool):
        if account.charged_blocks != charged[account.holder]:
            yield "an account is charged for what it does not hold"
        if account.reused_blocks != reused[account.holder]:
            yield "an account miscounts its re-used blocks"
    if ledger.pool.charged_blocks > ledger.quota_blocks(ledger.pool):
        yield "the shared pool is over its budget"


def _broken_leases(structure: Structure) -> Iterator[str]:
    for account in structure.ledger:
        for lease in account.leases:
            node = lease.node
            if lease.released or lease.tenant != account.holder:
                yield "an account has a lease that is not its own"
            if lease.tail and lease not in structure.ends.get(node, ()):
                yield "a lease does not lock what it covers"
            if lease.tail > node.size or (node.parent is None and node is not structure.root):
                yield "a lease covers blocks that are gone"
            if node is not structure.root and not node.visible_to(lease.tenant):
                yield "a lease covers what its tenant may not read"
