"""The few types that every part of safekv shares."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from enum import Enum
from typing import Final, NewType, cast

TenantId = NewType("TenantId", str)
"""A trust boundary (an organisation, not a login). Comes only from an authenticated credential."""

BlockId = NewType("BlockId", int)
"""An engine's name for one physical block of KV."""

TOKEN_BYTES: Final = 4
"""A prompt travels as one `bytes` object of native int32 tokens."""


class Scope(Enum):
    """A holder that is no tenant. `SHARED` is a value of its own, so that a missing tenant
    (`None`, `""`) can never be mistaken for everyone."""

    SHARED = "shared"


class Mode(Enum):
    """How tenants share the prefix cache. The unsafe one says so in its name."""

    ISOLATED = "isolated"
    DECLARED = "declared"
    SELECTIVE = "selective"
    UNSAFE_GLOBAL = "unsafe-global"


class Profile(Enum):
    """What `selective` asks for beside a clean verdict: nothing, or several contributors."""

    PAPER = "paper"
    ANONYMOUS = "anonymous"


class Release(Enum):
    """When the first token of an answer goes out: as soon as it is there, or when it would have
    been had only the tenant's own and declared blocks been found."""

    IMMEDIATE = "immediate"
    MASKED = "masked"


class Tier(Enum):
    """Where blocks lie, from the fastest to the largest."""

    DEVICE = "device"
    HOST = "host"
    DISK = "disk"


class Verdict(Enum):
    """What a detector says of one block. Only `SHAREABLE` ever lets a block be shared."""

    PRIVATE = "private"
    SHAREABLE = "shareable"
    UNSURE = "unsure"


def pack_blocks(blocks: Iterable[BlockId]) -> bytes:
    """`blocks` as uint32 bytes. O(n). Raises `OverflowError` for ids that do not fit."""
    return array("I", blocks).tobytes()


def unpack_blocks(packed: bytes | bytearray) -> list[BlockId]:
    """The inverse of `pack_blocks`. O(n)."""
    ids = array("I")
    ids.frombytes(packed)
    return cast(list[BlockId], ids.tolist())


def pack_tokens(token_ids: Iterable[int]) -> bytes:
    """`token_ids` as int32 bytes, 4 per token. O(n). Raises `OverflowError` above 2**31 - 1."""
    return array("i", token_ids).tobytes()


def unpack_tokens(tokens: bytes) -> list[int]:
    """The inverse of `pack_tokens`. O(n)."""
    ids = array("i")
    ids.frombytes(tokens)
    return ids.tolist()
