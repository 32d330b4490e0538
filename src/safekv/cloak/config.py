"""Shapes and strengths of the matrix profile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from safekv.errors import ConfigError


class Part(Enum):
    """Keys or values: each has matrices of its own."""

    KEYS = "k"
    VALUES = "v"


@dataclass(frozen=True, kw_only=True, slots=True)
class CloakConfig:
    """One model's shapes, and how strongly its blocks are mixed.

    `limit` bounds the magnitude of what is obfuscated: the beacon is larger than anything
    below it, and larger inputs are refused. `condition` bounds the condition number of S (1:
    orthogonal) and `scale` that of each plane of M within [1/scale, scale] (1: rotations).
    Both cost precision. `rope` says that keys carry rotary positions in the half-split layout,
    with which M must commute. Raises `ConfigError` for what has no inverse or no block.
    """

    block_tokens: int = 16
    head_dim: int
    kv_heads: int
    limit: float
    condition: float = 1.0
    scale: float = 1.0
    beacon: bool = True
    rope: bool = True

    def __post_init__(self) -> None:
        for name in ("block_tokens", "head_dim", "kv_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"cloak {name} is {getattr(self, name)}", "use 1 or more")
        if self.rope and self.head_dim % 2:
            raise ConfigError(f"cloak head_dim is {self.head_dim}", "rotary planes need it even")
        if not 0 < self.limit < float("inf"):
            raise ConfigError(f"cloak limit is {self.limit}", "use a positive number")
        for name, most in (("condition", 1e6), ("scale", 1e3)):
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"cloak {name} is {getattr(self, name)}", f"use 1 to {most:g}")

    @property
    def threshold(self) -> float:
        """What no entry exceeds once its plane was rotated and scaled; beacons are above it."""
        return math.sqrt(2) * self.scale * self.limit
