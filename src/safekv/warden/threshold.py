"""The secret threshold of each block."""

from __future__ import annotations

import hashlib
from typing import Final

DRAW_BYTES: Final = 16


class SecretThreshold:
    """How many contributors each block needs: the same all through a window, known to nobody.

    Uniform in `low` to `low + width - 1` by a keyed pseudo-random function of window and
    block, so nothing is stored that an eviction could lose, and a threshold is never drawn
    again, and a new window has new ones.
    """

    def __init__(self, low: int, width: int, key: bytes) -> None:
        self.low, self.width = low, width
        self._key = key

    def __repr__(self) -> str:
        return f"SecretThreshold({self.low}, {self.width})"

    def of(self, block: bytes, window: int) -> int:
        """The threshold of the block named `block` in `window`. O(1)."""
        message = window.to_bytes(8, "big") + block
        draw = hashlib.blake2b(message, key=self._key, digest_size=DRAW_BYTES).digest()
        # 128 bits modulo a small width: the bias is below 2**-96.
        return self.low + int.from_bytes(draw, "big") % self.width
