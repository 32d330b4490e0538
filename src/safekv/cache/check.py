"""The invariants of the prefix tree, as code that can be run at any time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from safekv.cache.node import Node
from safekv.errors import IsolationBroken
from safekv.types import BlockId, Scope


def check_nodes(root: Node, nodes: Iterable[Node], width: int) -> None:
    """Raise `IsolationBroken` for the first broken invariant of `nodes`. O(tree).

    `width` is a block's size in bytes. The message names the rule, never content.
    """
    seen: set[BlockId] = set()
    for node in nodes:
        for broken in _broken_rules(root, node, width):
            raise IsolationBroken(f"prefix tree: {broken}")
        if len(set(node.blocks)) < len(node.blocks) or not seen.isdisjoint(node.blocks):
            raise IsolationBroken("prefix tree: a block is stored twice")
        seen.update(node.blocks)


def _broken_rules(root: Node, node: Node, width: int) -> Iterator[str]:
    parent = node.parent
    if parent is None:
        yield "only the root has no parent"
        return
    if not node.blocks or len(node.tokens) != len(node.blocks) * width:
        yield "tokens and blocks disagree"
    if parent.children.get(node.tokens[:width]) is not node:
        yield "a node is filed under a wrong key"
    if not node.holders:
        yield "nobody holds a node"
    if parent is not root and not node.holders <= parent.holders:
        yield "holders grow downwards"
    if node.scope is Scope.SHARED and parent.scope is not Scope.SHARED:
        yield "a shared node lies below a private one"
    if node.locks < sum(child.locks for child in node.children.values()):
        yield "a locked node has an unlocked ancestor"
    if not (node.children or node.locks or node.queued):
        yield "an evictable leaf is not queued"
