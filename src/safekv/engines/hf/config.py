"""Settings of the embedded engine."""

from __future__ import annotations

from dataclasses import dataclass

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
