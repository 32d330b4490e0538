"""The secrets of one process: they name blocks, and draw thresholds."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Final

KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Keys:
    """Drawn from `os.urandom` when a process starts, and never stored.

    So after a restart, when no evidence is left, no threshold holds that anybody may have
    learnt before.
    """

    names: bytes = field(default_factory=lambda: secrets.token_bytes(KEY_BYTES), repr=False)
    thresholds: bytes = field(default_factory=lambda: secrets.token_bytes(KEY_BYTES), repr=False)
