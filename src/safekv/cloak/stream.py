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
_NONCE: Final = struct.Struct(">IQI")
"""Block, version, and the 4 bytes in which AES-CTR counts 16-byte steps: 64 GiB of them."""


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
        # The mutable state: the next version, and that of what each block holds now.
        self._count = itertools.count()
        self._versions: dict[BlockId, int] = {}
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"Stream(blocks={len(self._versions)}, key=<redacted>)"

    def obfuscate_into(self, block: BlockId, plain: Buffer | Any, out: Buffer | Any) -> None:
        """Write `plain` obfuscated to `out`, as the new content of `block`. O(n), no copy.

        Both are equally long buffers, NumPy arrays or CPU tensors; `out` may be `plain` itself
        and must not overlap it otherwise. Raises `CloakError` for other lengths, a read-only
        `out`, and after a fork, whose child would repeat the versions.
        """
        if self._generation != _generation:
            raise CloakError("a stream was used after a fork", "make one in the child")
        version = next(self._count)
        # Forgotten first: should this fail, the block holds nothing.
        self._versions.pop(block, None)
        self._apply(block, version, bits_of(plain), bits_of(out))
        self._versions[block] = version

    def deobfuscate_into(self, block: BlockId, stored: Buffer | Any, out: Buffer | Any) -> None:
        """Write to `out` what was last obfuscated as `block` and lies in `stored`. O(n), no copy.

        Raises `CloakError` for a block that holds nothing, and like `obfuscate_into`.
        """
        version = self._versions.get(block)
        if version is None:
            raise CloakError(f"block {block} holds nothing obfuscated", "write it first")
        self._apply(block, version, bits_of(stored), bits_of(out))

    def forget(self, block: BlockId) -> bool:
        """Drop the version of a block, so that what lies in it stays obfuscated for good."""
        return self._versions.pop(block, None) is not None

    def _apply(self, block: BlockId, version: int, source: memoryview, target: memoryview) -> None:
        if len(source) != len(target) or target.readonly:
            kind = "read-only " if target.readonly else ""
            raise CloakError(
                f"{len(source)} bytes do not fit a {kind}buffer of {len(target)}",
                "pass a writable one of the same size",
            )
        if len(source) > LIMIT_BYTES:
            raise CloakError(f"a block of {len(source)} bytes is over 2 GiB", "split it")
        nonce = _NONCE.pack(block, version, 0)
        cipher = getattr(self._local, "cipher", None)
        if cipher is None:
            # A cipher context is kept per thread: making one takes 7 µs, a new nonce 0.4.
            cipher = self._local.cipher = Cipher(self._key, modes.CTR(nonce)).encryptor()
        cipher.reset_nonce(nonce)
        cipher.update_into(source, target)


_generation = 0
"""Counts forks: asking for the process id would be a system call per block."""


def _forked() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_forked)
