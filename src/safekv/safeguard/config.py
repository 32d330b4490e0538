"""Settings of the safeguard."""

from __future__ import annotations

from dataclasses import dataclass

from safekv.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeguardConfig:
    """What counts as probing of shared runs, in reads per window of `window_epochs` epochs.

    A read is a request that found shared blocks which its tenant had neither computed nor
    read before. A tenant gets at most `reads_per_node` of them below one first block, and
    `reads_per_tenant` in all; what it asks for beyond that, it computes. Where at least
    `armed_reads` reads went beyond a block, by fewer than `low_diversity` tenants per read, and
    these are one tenant or fewer than that share of all, what lies below the block is demoted.
    `surge_factor` times the reads of the window before, at rising diversity, raises an alarm
    and nothing more.

    Raises `ConfigError` for values that cannot work.
    """

    window_epochs: int = 60
    armed_reads: int = 10
    low_diversity: float = 0.2
    surge_factor: float = 10.0
    reads_per_node: int = 16
    reads_per_tenant: int = 64

    def __post_init__(self) -> None:
        if self.window_epochs < 1:
            raise ConfigError(f"safeguard.window_epochs is {self.window_epochs}", "use 1 or more")
        if self.armed_reads < 1:
            raise ConfigError(f"safeguard.armed_reads is {self.armed_reads}", "use 1 or more")
        if not 0 <= self.low_diversity <= 1:
            raise ConfigError(
                f"safeguard.low_diversity is {self.low_diversity}", "use 0 (never) to 1"
            )
        if not self.surge_factor > 1:
            raise ConfigError(f"safeguard.surge_factor is {self.surge_factor}", "use more than 1")
        if self.reads_per_node < self.armed_reads:
            raise ConfigError(
                f"safeguard.reads_per_node is {self.reads_per_node}",
                f"use safeguard.armed_reads ({self.armed_reads}) or more, or one prober alone is"
                " never noticed",
            )
        if self.reads_per_tenant < self.reads_per_node:
            raise ConfigError(
                f"safeguard.reads_per_tenant is {self.reads_per_tenant}",
                f"use safeguard.reads_per_node ({self.reads_per_node}) or more",
            )
