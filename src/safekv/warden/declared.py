"""What an operator declared public: shared at the next tick after somebody computed it."""

from __future__ import annotations

from collections.abc import Sequence

from safekv.cache import PrefixTree
from safekv.types import TOKEN_BYTES, TenantId


class DeclaredPrefixes:
    """The declared prefixes as tokens, whole blocks each, and who computed them lately.

    Few and compared by equality, so looking a prompt up costs less than a microsecond each.
    """

    def __init__(self, block_tokens: int) -> None:
        self._width = block_tokens * TOKEN_BYTES
        self._prefixes: tuple[bytes, ...] = ()
        self._revoked: list[bytes] = []
        self._seen: dict[bytes, dict[TenantId, None]] = {}

    def __len__(self) -> int:
        return len(self._prefixes)

    def replace(self, prefixes: Sequence[bytes]) -> None:
        """Declare exactly `prefixes`, as token bytes; a part of a block at the end is left out.

        What was declared before and is not now loses its place at the next tick.
        """
        whole = {p[: len(p) // self._width * self._width] for p in prefixes} - {b""}
        self._revoked += [p for p in self._prefixes if p not in whole]
        self._prefixes = tuple(sorted(whole))
        self._seen = {p: tenants for p, tenants in self._seen.items() if p in whole}

    def blocks_of(self, tokens: bytes) -> int:
        """How many leading blocks of `tokens` are declared. O(prefixes)."""
        found = 0
        for prefix in self._prefixes:
            if len(prefix) > found and tokens.startswith(prefix):
                found = len(prefix)
        return found // self._width

    def note(self, tenant: TenantId, tokens: bytes) -> None:
        """Remember until the next tick that `tenant` holds what `tokens` begin with."""
        for prefix in self._prefixes:
            if tokens.startswith(prefix):
                self._seen.setdefault(prefix, {})[tenant] = None

    def apply(self, tree: PrefixTree, *, promotes: bool) -> tuple[int, int]:
        """Demote what was revoked and, if the mode `promotes`, promote what was computed.

        Returns the blocks of each.
        """
        demoted = sum(tree.demote(prefix) for prefix in self._revoked)
        self._revoked.clear()
        promoted = 0
        for prefix, tenants in self._seen.items() if promotes else ():
            n_blocks = len(prefix) // self._width
            for tenant in tenants:
                promoted += tree.promote(tenant, prefix, n_blocks)
        self._seen.clear()
        return demoted, promoted
