"""Settings of the embedded engine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from safekv.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class HFConfig:
    """Where and how the model runs.

    `device` and `dtype` `"auto"` mean CUDA and bfloat16 where there is a CUDA device, else
    CPU and float32. `max_batch_tokens` bounds one step's prefill; `threads` the CPU threads
    (0: torch's choice). `context_tokens` 0 means the model's own limit.
    """

    device: str = "auto"
    dtype: str = "auto"
    max_batch_tokens: int = 512
    max_requests_per_batch: int = 32
    context_tokens: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("max_batch_tokens", "max_requests_per_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"engine.{name} is {getattr(self, name)}", "use 1 or more")
        for name in ("context_tokens", "threads"):
            if getattr(self, name) < 0:
                raise ConfigError(f"engine.{name} is {getattr(self, name)}", "use 0 or more")
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ConfigError(
                f"engine.dtype is {self.dtype!r}", "use auto, float32, bfloat16 or float16"
            )


class CloakProfile(Enum):
    """How an engine's blocks lie in memory."""

    OFF = "off"
    STREAM = "stream"
    MATRIX = "matrix"


@dataclass(frozen=True, kw_only=True, slots=True)
class CloakSettings:
    """What a server obfuscates its blocks with: off by default, and **never encryption**.

    Both profiles hide blocks from a reader of KV pages alone. `matrix` is KV-Cloak, broken by
    known plaintext; the rest of these settings is for it alone: `key_file` (without one the key
    is random and ends with the process), `beacon`, and the strengths `condition` and `scale`.
    A shared block is keyed with the deployment's key, like every other. Raises `ConfigError`.
    """

    profile: CloakProfile = CloakProfile.OFF
    key_file: Path | None = None
    beacon: bool = True
    condition: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name, most in (("condition", 1e6), ("scale", 1e3)):
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"cloak.{name} is {getattr(self, name)}", f"use 1 to {most:g}")
