"""The invariants of the prefix tree, as code that can be run at any time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from safekv.cache.eviction import may_lapse
from safekv.cache.node import Node
from safekv.errors import IsolationBroken
from safekv.types import BlockId, Scope


def check_nodes(root: Node, nodes: Iterable[Node], width: int) -> None:
    """Raise `IsolationBroken` for the first broken invariant of `nodes`. O(tree).

    `width` is a block's size in bytes. The message names the rule, never content.
    """
    seen: set[BlockId] = set()
    for node in nodes:
        for broken in (*_broken_shape(root, node, width), *_broken_claims(node)):
            raise IsolationBroken(f"prefix tree: {broken}")
        if len(set(node.blocks)) < len(node.blocks) or not seen.isdisjoint(node.blocks):
            raise IsolationBroken("prefix tree: a block is stored twice")
        seen.update(node.blocks)


def _broken_shape(root: Node, node: Node, width: int) -> Iterator[str]:
    parent = node.parent
    if parent is None:
        yield "only the root has no parent"
        return
    if not node.blocks or len(node.tokens) != len(node.blocks) * width:
        yield "tokens and blocks disagree"
    if parent.children.get(node.tokens[:width]) is not node:
        yield "a node is filed under a wrong key"
    if not any(holder is not Scope.SHARED for holder in node.holds):
        yield "nobody holds a node"
    if node.shared and parent is not root and not parent.shared:
        yield "a shared node lies below a private one"
    if parent is not root and not node.holds.keys() <= parent.holds.keys():
        yield "holders grow downwards"


def _broken_claims(node: Node) -> Iterator[str]:
    for holder, hold in node.holds.items():
        below = [child.holds[holder] for child in node.children.values() if holder in child.holds]
        if hold.children != len(below):
            yield "a claim miscounts the claims below it"
        paid = holder is Scope.SHARED or not node.shared
        if paid and hold.locks < sum(claim.locks for claim in below):
            yield "a locked claim has an unlocked one above it"
        if may_lapse(node, holder) and not hold.queued:
            yield "a claim that may lapse is not queued"
