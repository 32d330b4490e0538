"""Settings of the sharing policy."""

from __future__ import annotations

from dataclasses import dataclass

from safekv.errors import ConfigError
from safekv.types import Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class WardenConfig:
    """How tenants share (`mode`) and how often promotions happen (`epoch_s` seconds)."""

    mode: Mode = Mode.SELECTIVE
    epoch_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.epoch_s > 0:
            raise ConfigError(f"warden.epoch_s is {self.epoch_s}", "use more than 0 seconds")
