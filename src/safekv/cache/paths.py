"""Walks down the tree that leave no trace: not even a time of use."""

from __future__ import annotations

from safekv.cache.node import Node
from safekv.cache.quota import Account
from safekv.types import TenantId


def shared_path(
    root: Node, width: int, tokens: bytes, n_blocks: int | None = None
) -> tuple[Node, int, int]:
    """The last shared node that `tokens` reach, the blocks up to there, and its own of them.

    Looks at the first `n_blocks` blocks of `width` bytes, or at all. O(matched nodes).
    """
    node, found, tail = root, 0, 0
    limit = len(tokens) // width if n_blocks is None else min(n_blocks, len(tokens) // width)
    while found < limit and tail == node.size:
        child = node.children.get(tokens[found * width : (found + 1) * width])
        if child is None or not child.shared:
            break
        tail = 1 + child.common_blocks(tokens, (found + 1) * width, limit - found - 1)
        node, found = child, found + tail
    return node, found, tail


def visible_path(root: Node, width: int, tenant: TenantId, tokens: bytes) -> tuple[Node, int, int]:
    """The last node that `tenant` can see of `tokens`, the blocks up to there, and its own of them.

    O(matched nodes), each one comparison of memory. `Node.visible_to` is asked wherever the
    holders differ from those of the node above: below a tenant's own run, its own runs need no
    second answer. A run that is not visible is not compared, however long it is.
    """
    node, at, seen = root, 0, None
    while (child := node.children.get(tokens[at : at + width])) is not None:
        if child.holds is not seen:
            if not child.visible_to(tenant):
                break
            seen = child.holds
        at += width
        if not tokens.startswith(child.rest, at):
            more = child.common_blocks(tokens, at, (len(tokens) - at) // width)
            return child, at // width + more, 1 + more
        node = child
        at += len(child.rest)
    return node, at // width, node.size


def path_to(node: Node) -> tuple[bytes, bytes]:
    """The tokens and block ids, packed, of the whole path that ends with `node`. Copies."""
    tokens, blocks, at = list[bytes](), list[bytes](), node
    while at.parent is not None:
        tokens.append(at.tokens())
        blocks.append(at.blocks)
        at = at.parent
    return b"".join(reversed(tokens)), b"".join(reversed(blocks))


def leased_blocks(account: Account) -> int:
    """How many blocks the account is charged for its leases cover. O(nodes under them)."""
    locked: dict[Node, int] = {}
    for lease in account.leases:
        if account.pays_shared and not lease.adopted:
            continue
        node, covered = lease.node, lease.tail
        while node.parent is not None and locked.get(node, 0) < covered:
            locked[node] = covered
            node = node.parent
            covered = node.size
    return sum(n for node, n in locked.items() if account.pays_shared or not node.shared)
