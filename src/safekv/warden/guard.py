"""The safeguard at work: who may read on, and what is demoted on suspicion."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from safekv.cache import Lease, PrefixTree
from safekv.events import Suspected
from safekv.safeguard import Monitor, SafeguardConfig, Suspicion
from safekv.types import TOKEN_BYTES, TenantId
from safekv.warden.declared import DeclaredPrefixes
from safekv.warden.quarantine import Quarantine

log = logging.getLogger(__name__)


class Guard:
    """Joins the monitor, the quarantine and what is declared, which both leave alone."""

    def __init__(
        self,
        config: SafeguardConfig,
        block_tokens: int,
        declared: DeclaredPrefixes,
        key: bytes,
    ) -> None:
        self.monitor = Monitor(config, block_tokens, key)
        self.quarantine = Quarantine()
        self._declared = declared

    def allows(self, lease: Lease) -> bool:
        """Whether the lease's tenant may read the shared blocks that are new to it."""
        if lease.hit_blocks <= lease.own_blocks:
            return True
        known = max(lease.own_blocks, self._declared.blocks_of(lease.tokens))
        if lease.hit_blocks <= known:
            return True
        return self.monitor.allows(lease.tenant, lease.tokens, known, lease.hit_blocks)

    def note(self, tenant: TenantId, prompt: bytes, own_blocks: int, hit_blocks: int) -> None:
        """Remember a read until the epoch ends."""
        if hit_blocks > own_blocks:
            known = max(own_blocks, self._declared.blocks_of(prompt))
            self.monitor.note(tenant, prompt, known, hit_blocks)

    def demote(self, tree: PrefixTree, found: Iterable[Suspicion]) -> list[Suspected]:
        """Demote and quarantine what lies below each suspicious block, and say so."""
        said = []
        for one in found:
            demoted = 0
            if not one.surge:
                self.quarantine.add(one.name)
                demoted = demote_below(tree, one.tokens)
                log.warning(
                    "probing suspected: %d reads below one block by %s; %d blocks demoted",
                    one.reads,
                    ", ".join(one.tenants),
                    demoted,
                )
            said.append(Suspected(one.tenants, one.reads, demoted, one.surge))
        return said


def demote_below(tree: PrefixTree, tokens: bytes) -> int:
    """Demote all that is shared behind `tokens`, whole blocks; with none, everything. O(found).

    Returns the demoted blocks.
    """
    keep = len(tokens) // (tree.block_tokens * TOKEN_BYTES)
    return sum(tree.demote(tokens + key, keep) for key in _shared_behind(tree, tokens))


def _shared_behind(tree: PrefixTree, tokens: bytes) -> list[bytes]:
    """The tokens of each shared block that comes right behind `tokens`."""
    node = next(tree.nodes(), None)
    while node is not None and node.parent is not None:
        node = node.parent
    width, at = tree.block_tokens * TOKEN_BYTES, 0
    while node is not None and at < len(tokens):
        node = node.children.get(tokens[at : at + width])
        if node is None or not node.shared:
            return []
        n = 1 + node.common_blocks(tokens, at + width, (len(tokens) - at) // width - 1)
        at += n * width
        if n < node.size:
            return [node.tokens()[n * width : (n + 1) * width]] if at == len(tokens) else []
    children = node.children.values() if node is not None else ()
    return [child.key for child in children if child.shared]
