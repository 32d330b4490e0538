"""The names under which vLLM files blocks: one for everybody, and one for each tenant.

vLLM finds a cached block by a name and trusts it. Its own names are chained hashes from a
public seed, so whoever knows a text knows its names. Here both kinds are keyed.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from safekv.types import TOKEN_BYTES, TenantId

NAME_BYTES: Final = 32
ROOT: Final = b"\x00" * NAME_BYTES
"""What the name of a first block is chained to."""

KEPT_TENANTS: Final = 65_536


class BlockKeys:
    """Derives names from one secret of the deployment, by keyed BLAKE2b.

    The **public** name of a block commits to its tokens and to all before it; the **private**
    one is a hash of the public one under a key of the tenant. Without the secret neither can be
    computed from a text, and without a tenant's key its private names cannot be told from
    random ones. The same secret gives the same names, so ranks and restarts agree.
    Mutable state: tenant keys derived lately, a cache; safe for several threads.
    """

    def __init__(self, secret: bytes) -> None:
        self._public = self._derive(secret, b"safekv public block names")
        self._tenants = self._derive(secret, b"safekv tenant keys")
        self._known: dict[TenantId, bytes] = {}

    def __repr__(self) -> str:
        return "BlockKeys()"

    @staticmethod
    def _derive(secret: bytes, purpose: bytes) -> bytes:
        return hashlib.blake2b(purpose, key=secret, digest_size=NAME_BYTES).digest()

    def tenant(self, tenant: TenantId) -> bytes:
        """The key of `tenant`, for `private`. O(1)."""
        key = self._known.get(tenant)
        if key is None:
            if len(self._known) >= KEPT_TENANTS:
                self._known.clear()
            key = self._known[tenant] = self._derive(self._tenants, tenant.encode())
        return key

    @staticmethod
    def nobody() -> bytes:
        """A key that no tenant has, nor any other call gives again."""
        return secrets.token_bytes(NAME_BYTES)

    def public(self, parent: bytes, tokens: bytes, block_tokens: int, extra: bytes = b"") -> bytes:
        """The public name of one block behind the one called `parent` (`ROOT` for the first).

        `tokens` are the block's, as int32 bytes. `extra` stands for what its KV depends on
        beside tokens. Raises `ValueError` for a part of a block.
        """
        if len(tokens) != block_tokens * TOKEN_BYTES:
            raise ValueError("not one full block")
        return hashlib.blake2b(
            parent + tokens + extra, key=self._public, digest_size=NAME_BYTES
        ).digest()

    def chain(self, parent: bytes, tokens: bytes, block_tokens: int) -> list[bytes]:
        """The public names of all full blocks of `tokens`, the first behind `parent`.

        O(tokens): about 1 µs a block. A part of a block at the end has no name.
        """
        width, key, blake2b = block_tokens * TOKEN_BYTES, self._public, hashlib.blake2b
        names, name = list[bytes](), parent
        for at in range(0, len(tokens) - width + 1, width):
            block = name + tokens[at : at + width]
            name = blake2b(block, key=key, digest_size=NAME_BYTES).digest()
            names.append(name)
        return names

    @staticmethod
    def private(key: bytes, public: list[bytes]) -> list[bytes]:
        """What the tenant with `key` calls the blocks with the `public` names. O(blocks)."""
        blake2b = hashlib.blake2b
        return [blake2b(name, key=key, digest_size=NAME_BYTES).digest() for name in public]
