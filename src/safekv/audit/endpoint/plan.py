"""What an audit sends, to whom, and how often."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from safekv.audit.endpoint.judge import Rules
from safekv.audit.endpoint.observation import Content, Scope
from safekv.audit.endpoint.wire import Api
from safekv.errors import ConfigError

CROWD_EVERY: Final = 2
"""Of so many rounds one has a crowd and one asks again: these cost more than the rest."""

LEAST_CROWD: Final = 5
LARGEST_CROWD: Final = 64


@dataclass(frozen=True, slots=True)
class Keys:
    """Who takes part. `own` probes; the others send prompts before it. Never shown."""

    own: str = field(repr=False)
    other: str | None = field(default=None, repr=False)
    organisation: str | None = field(default=None, repr=False)
    anonymous: bool = False

    def __post_init__(self) -> None:
        given = [key for key in (self.own, self.other, self.organisation) if key is not None]
        if len(set(given)) < len(given):
            raise ConfigError(
                "two of the keys are the same key", "an audit needs keys of different tenants"
            )

    def claims(self) -> tuple[Scope, ...]:
        """The scopes these keys can judge. Raises `ConfigError` when there are none."""
        scopes = [
            *([Scope.ORGANISATION] if self.organisation is not None else []),
            *([Scope.OTHER] if self.other is not None else []),
            *([Scope.ANONYMOUS] if self.anonymous else []),
        ]
        if not scopes:
            raise ConfigError(
                "there is nobody whose prompts could leak",
                "give a second tenant's key with --other-key",
            )
        return tuple(scopes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The size and the pace of an audit. Raises `ConfigError` for values outside their ranges.

    In each of `blocks` rounds every content's arms are probed once, in random order. Prompts of
    `batch` rounds are primed together, and `settle_s` later probed: a cache that shares at
    intervals needs that long. `shared` contents are meant to be shared: measured, not judged.
    In every second round `crowd` requests go out at once for each content, to see in which order
    they are served (0 leaves that out); in the others each probe is sent again, to see whether
    its answer changes.
    """

    contents: tuple[Content, ...] = tuple(Content)
    shared: frozenset[Content] = frozenset()
    blocks: int = 60
    crowd: int = 8
    batch: int = 5
    warm_up: int = 3
    prompt_tokens: int = 256
    max_tokens: int = 4
    settle_s: float = 3.0
    rate_per_s: float = 5.0
    timeout_s: float = 60.0
    api: Api = Api.CHAT
    seed: int = 0
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        least = {"blocks": self.rules.looks, "batch": 1, "warm_up": 1, "max_tokens": 1}
        for name, minimum in (least | {"prompt_tokens": 16}).items():
            if getattr(self, name) < minimum:
                raise ConfigError(f"{name} is {getattr(self, name)}", f"use at least {minimum}")
        if self.crowd and not LEAST_CROWD <= self.crowd <= LARGEST_CROWD:
            raise ConfigError(
                f"crowd is {self.crowd}", f"use {LEAST_CROWD} to {LARGEST_CROWD}, or 0 for none"
            )
        for name in ("settle_s", "rate_per_s", "timeout_s"):
            if not 0 <= getattr(self, name) < 3600:
                raise ConfigError(f"{name} is {getattr(self, name)}", "use 0 to 3600")
        if not self.contents or len(set(self.contents)) < len(self.contents):
            raise ConfigError("the contents are empty or named twice", "name each once")

    @property
    def interval_s(self) -> float:
        """The least time between the starts of two requests of one key."""
        return 1 / self.rate_per_s if self.rate_per_s else 0.0

    def requests(self, claims: tuple[Scope, ...]) -> int:
        """How many requests an audit of these scopes sends at most, retries not counted."""
        primes = len(claims) + 2
        probes = len(claims) + 3 + (Scope.ANONYMOUS in claims)
        lines = 2 + len(claims)
        crowds = math.ceil(self.blocks / CROWD_EVERY) if self.crowd else 0
        crowd = crowds * (primes - (Scope.ANONYMOUS in claims) + self.crowd)
        each = self.blocks * (primes + probes) + self.blocks // CROWD_EVERY * probes + crowd
        return each * len(self.contents) + self.warm_up * lines + self.crowd

    def look_ends(self) -> tuple[int, ...]:
        """After how many rounds the data are judged."""
        looks = self.rules.looks
        return tuple(self.blocks * (look + 1) // looks for look in range(looks))
