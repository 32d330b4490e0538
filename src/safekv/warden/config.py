"""Settings of the sharing policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from safekv.cache import CacheConfig
from safekv.errors import ConfigError
from safekv.types import Mode, Profile, Release


@dataclass(frozen=True, slots=True, kw_only=True)
class WardenConfig:
    """How tenants share (`mode`) and what has to be shown before a block is.

    Promotions happen once per epoch of `epoch_s` seconds. Under the profile `anonymous` a
    block needs T distinct contributors beside its verdict, T secret and drawn from
    `threshold_low` to `threshold_low + threshold_width - 1`. Thresholds and evidence last
    for a window of `window_epochs` epochs, in which at most `contributions_per_window`
    blocks of a tenant count.

    With `release` masked, shared blocks save computing and no time: answers go out when they
    would have, had only the tenant's own and declared blocks been found. All but
    `release_tail` of the answers are ready by then.

    Raises `ConfigError` for values that cannot work.
    """

    mode: Mode = Mode.SELECTIVE
    profile: Profile = Profile.PAPER
    epoch_s: float = 1.0
    threshold_low: int = 8
    threshold_width: int = 32
    window_epochs: int = 3600
    contributions_per_window: int = 4096
    release: Release = Release.IMMEDIATE
    release_tail: float = 0.01

    def __post_init__(self) -> None:
        if not self.epoch_s > 0:
            raise ConfigError(f"warden.epoch_s is {self.epoch_s}", "use more than 0 seconds")
        self._require("threshold_low", 2, "fewer contributors are no crowd")
        self._require("threshold_width", 2, "with 1 the threshold is no secret")
        self._require("window_epochs", 1, "a window has at least one epoch")
        self._require("contributions_per_window", 1, "with 0 nothing is ever shared")
        if not 0 < self.release_tail < 0.5:
            raise ConfigError(
                f"warden.release_tail is {self.release_tail}", "use a share above 0 and below 0.5"
            )
        if self.release is Release.MASKED and self.mode is Mode.UNSAFE_GLOBAL:
            raise ConfigError(
                "warden.release is masked, which hides nothing in mode unsafe-global",
                "use mode selective, or release immediate",
            )

    def _require(self, name: str, least: int, reason: str) -> None:
        value = getattr(self, name)
        if value < least:
            raise ConfigError(f"warden.{name} is {value}", f"use {least} or more: {reason}")

    def pool_blocks(self, cache: CacheConfig) -> int:
        """The budget of the shared pool: `cache.shared_blocks`, or what suits the mode.

        By default half of the memory where a clean verdict is enough, since most text is shared
        then, and a quarter where more is asked for (docs/sizing.md has the figures). Without
        promotion nothing is ever in the pool, so the tenants get its part.
        """
        if self.mode not in PROMOTING:
            return 0
        if cache.shared_blocks is None and self.strictness == PAPER:
            return cache.capacity_blocks // PAPER_POOL_PART
        return cache.pool_blocks

    @property
    def masked(self) -> bool:
        """Whether times must be masked: elsewhere all that is found is the tenant's to know."""
        return self.release is Release.MASKED and self.mode is Mode.SELECTIVE

    @property
    def strictness(self) -> int:
        """The place in the order of sharing: nobody shares less than at 4, nor more than at 0."""
        return STRICTNESS[self.mode, self.profile]


PROMOTING: Final = (Mode.DECLARED, Mode.SELECTIVE)
PAPER: Final = 1
PAPER_POOL_PART: Final = 2
STRICTNESS: Final = {
    (mode, profile): rank
    for profile in Profile
    for mode, rank in (
        (Mode.ISOLATED, 4),
        (Mode.DECLARED, 3),
        (Mode.SELECTIVE, 2 if profile is Profile.ANONYMOUS else PAPER),
        (Mode.UNSAFE_GLOBAL, 0),
    )
}


def stricter(config: WardenConfig, mode: Mode, profile: Profile) -> WardenConfig:
    """`config` with `mode` and `profile`. Raises `ConfigError` unless that shares less."""
    wanted = replace(config, mode=mode, profile=profile)
    if wanted.strictness < config.strictness:
        raise ConfigError(
            f"mode {mode.value} shares more than {config.mode.value}",
            "a running server can only become stricter; restart it to share more",
        )
    return wanted
