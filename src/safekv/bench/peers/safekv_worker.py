"""safekv's prefix tree, in a process of its own like every peer.

All calls come from one tenant, so each pays for visibility, accounts and leases.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import safekv
from safekv.cache import CacheConfig, Lease, PrefixTree
from safekv.types import BlockId, TenantId

if TYPE_CHECKING:
    from safekv.bench.peers.wire import Case, Item, Op, Tokens


class SafeKVTree:
    """The tree under test. `insert` is the whole of match, insert and release."""

    def __init__(self, make_op: Callable[..., Op]) -> None:
        self._op = make_op
        self.about = {"version": safekv.__version__, "python": platform.python_version()}

    def open(self, case: Case, tokens: Tokens) -> None:
        self._tokens, self._page = tokens, case.page
        self._tenant = TenantId(case.salt or "tenant-a")
        self._next_block = 0
        # Free the old tree first: both together would be counted as memory of the new one.
        self._tree = PrefixTree(CacheConfig())
        blocks = case.capacity_tokens // case.page + 2
        self._tree = PrefixTree(
            CacheConfig(block_tokens=case.page, capacity_blocks=blocks, shared_blocks=0)
        )

    def _fresh_blocks(self, item: Item) -> list[BlockId]:
        """Ids for every block of `item`; those not used are offered again."""
        n = sum(stop - start for start, stop in item) // self._page
        return cast("list[BlockId]", list(range(self._next_block, self._next_block + n)))

    def _to_insert(self, item: Item) -> tuple[bytes, list[BlockId]]:
        return self._tokens.packed(item), self._fresh_blocks(item)

    def _to_insert_leased(self, item: Item) -> tuple[bytes, list[BlockId], Lease, int]:
        tokens, blocks = self._to_insert(item)
        lease = self._tree.match(self._tenant, tokens)
        return tokens, blocks[lease.n_blocks :], lease, lease.n_blocks

    def ops(self) -> dict[str, Op]:
        tree, tenant, packed = self._tree, self._tenant, self._tokens.packed
        match, insert, release = tree.match, tree.insert, tree.release

        def indices(tokens: bytes) -> tuple[Lease, int]:
            lease = match(tenant, tokens)
            return lease, len(lease.packed_blocks) // 4

        def id_list(tokens: bytes) -> tuple[Lease, int]:
            lease = match(tenant, tokens)
            return lease, len(lease.blocks)

        def locked(tokens: bytes) -> Lease:
            lease = match(tenant, tokens)
            release(lease)
            return lease

        def whole(argument: tuple[bytes, list[BlockId]]) -> int:
            tokens, blocks = argument
            lease = match(tenant, tokens)
            known = lease.n_blocks
            insert(lease, tokens, blocks[known:])
            release(lease)
            return known

        plain = self._op(packed, lambda tokens: match(tenant, tokens), self._found)
        return {
            "match": plain,
            "match_hashed": plain,  # there are no hashes: the whole match is the lookup
            "match_indices": self._op(packed, indices, self._listed),
            "match_id_list": self._op(packed, id_list, self._listed),
            "match_locked": self._op(packed, locked, lambda _, lease: lease.n_blocks * self._page),
            "insert": self._op(self._to_insert, whole, self._inserted),
            "insert_leased": self._op(
                self._to_insert_leased, lambda a: insert(a[2], a[0], a[1]), self._inserted_leased
            ),
            "evict": self._op(
                lambda n: n // self._page,
                lambda n: tree.evict(n, tenant),
                lambda _, freed: len(freed) * self._page,
            ),
        }

    def _found(self, tokens: bytes, lease: Lease) -> int:
        found = lease.n_blocks * self._page
        self._tree.release(lease)
        return found

    def _listed(self, tokens: bytes, result: tuple[Lease, int]) -> int:
        self._tree.release(result[0])
        return result[1] * self._page

    def _inserted(self, argument: tuple[bytes, list[BlockId]], known: int) -> int:
        self._next_block += len(argument[1]) - known
        return known * self._page

    def _inserted_leased(self, argument: tuple[bytes, list[BlockId], Lease, int], _: Any) -> int:
        self._next_block += len(argument[1])
        self._tree.release(argument[2])
        return argument[3] * self._page

    def facts(self) -> dict[str, int]:
        stats = self._tree.stats()
        return {"nodes": stats.nodes, "blocks": stats.blocks, "tokens": stats.blocks * self._page}


def contender(kind: str, make_op: Callable[..., Op]) -> SafeKVTree:
    """The tree of the safekv that this Python imports; `kind` is not used."""
    return SafeKVTree(make_op)
