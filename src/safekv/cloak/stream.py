"""The `stream` profile: a keystream over the stored bits of each block, undone exactly."""

from __future__ import annotations

import itertools
import os
import struct
import threading
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from safekv.cloak.bits import bits_of
from safekv.errors import CloakError
from safekv.types import BlockId

if TYPE_CHECKING:
    from typing_extensions import Buffer

KEY_BYTES: Final = 32
LIMIT_BYTES: Final = 2**31 - 1
STEP_BYTES: Final = 16
"""Where a keystream can be entered: at multiples of AES-CTR's step."""

_STAMP: Final = struct.Struct(">IQ")
_STEP: Final = struct.Struct(">I")
"""The nonce: block and version, then the 4 bytes that count 16-byte steps, 64 GiB of them."""


class Stream:
    """Obfuscates blocks with AES-256-CTR under one key that exists in this process alone.

    Lossless for any dtype; equal blocks look different, and so does one block written twice.
    The nonce is the block and the version of what is in it. Versions are counted here, over
    all blocks, so no caller can make a keystream come twice. **There is no integrity**: a block
    that was changed deobfuscates to something else without notice.

    The key's scope is this object: one per deployment where blocks are shared, one per tenant
    where they never are. Safe to use from several threads, as long as one block is written by
    one at a time.
    """

    def __init__(self) -> None:
        self._key = algorithms.AES(os.urandom(KEY_BYTES))
        self._generation = _generation
        # The mutable state: the next version, and the stamp of what each block holds now.
        self._count = itertools.count()
        self._stamps: dict[BlockId, bytes] = {}
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"Stream(blocks={len(self._stamps)}, key=<redacted>)"

    def obfuscate_into(self, block: BlockId, plain: Buffer | Any, out: Buffer | Any) -> None:
        """Write `plain` obfuscated to `out`, as the new content of `block`. O(n), no copy.

        Both are equally long buffers, NumPy arrays or CPU tensors; `out` may be `plain` itself
        and must not overlap it otherwise. Raises `CloakError` for other lengths, a read-only
        `out`, and after a fork, whose child would repeat the versions.
        """
        stamp = self.stamp(block)
        # Forgotten first: should this fail, the block holds nothing.
        self._stamps.pop(block, None)
        self._cross(stamp, bits_of(plain), bits_of(out))
        self._stamps[block] = stamp

    def deobfuscate_into(self, block: BlockId, stored: Buffer | Any, out: Buffer | Any) -> None:
        """Write to `out` what was last obfuscated as `block` and lies in `stored`. O(n), no copy.

        Raises `CloakError` for a block that holds nothing, and like `obfuscate_into`.
        """
        stamp = self._stamps.get(block)
        if stamp is None:
            raise CloakError(f"block {block} holds nothing obfuscated", "write it first")
        self._cross(stamp, bits_of(stored), bits_of(out))

    def forget(self, block: BlockId) -> bool:
        """Drop the version of a block, so that what lies in it stays obfuscated for good."""
        return self._stamps.pop(block, None) is not None

    def stamp(self, block: BlockId) -> bytes:
        """What names one new content of `block` for `apply`: never the same bytes twice.

        For callers who write a block piece by piece, or whose content moves: they keep the stamp.
        Raises `CloakError` after a fork.
        """
        if self._generation != _generation:
            raise CloakError("a stream was used after a fork", "make one in the child")
        return _STAMP.pack(block, next(self._count))

    def apply(self, stamp: bytes, step: int, source: memoryview, target: memoryview) -> None:
        """XOR `source` into `target` with the keystream of `stamp`, from its byte 16·`step` on.

        Obfuscates and deobfuscates. Both are flat and equally long. **The caller answers for it
        that no part of a stamp's keystream is used for two different contents**. O(n), no copy.
        """
        cipher = getattr(self._local, "cipher", None)
        if cipher is None:
            # A cipher context is kept per thread: making one takes 7 µs, a new nonce 0.4.
            cipher = self._local.cipher = Cipher(self._key, modes.CTR(bytes(16))).encryptor()
        cipher.reset_nonce(stamp + _STEP.pack(step))
        cipher.update_into(source, target)

    def _cross(self, stamp: bytes, source: memoryview, target: memoryview) -> None:
        if len(source) != len(target) or target.readonly:
            kind = "read-only " if target.readonly else ""
            raise CloakError(
                f"{len(source)} bytes do not fit a {kind}buffer of {len(target)}",
                "pass a writable one of the same size",
            )
        if len(source) > LIMIT_BYTES:
            raise CloakError(f"a block of {len(source)} bytes is over 2 GiB", "split it")
        self.apply(stamp, 0, source, target)


_generation = 0
"""Counts forks: asking for the process id would be a system call per block."""


def _forked() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_forked)
