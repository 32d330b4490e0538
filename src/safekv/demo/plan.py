"""How much of the story is played: every count in one place."""

from __future__ import annotations

from dataclasses import dataclass

from safekv.demo.texts import FIRST_QUESTIONS, FOLLOW_UPS
from safekv.errors import ConfigError
from safekv.types import Mode

PLAYED = (Mode.ISOLATED, Mode.SELECTIVE, Mode.UNSAFE_GLOBAL)
"""The modes of the story; `declared` shares what no story can hide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryPlan:
    """The counts of one mode's story; the same in every mode.

    `honest_tenants` ask one first question each and `follow_ups` further ones. Per form of
    letter the victim sends `targets`, nobody sends as many decoys, and the attacker measures
    `calibrations` hits and misses of its own. `settle_s` is the pause in which promotion may
    happen, a little more than one epoch. `seed` fixes secrets and orders, so that all modes
    see the same requests. A mode has `mode_s` seconds, its server's start included; where that
    is too short, targets and candidates are fewer than planned.
    """

    honest_tenants: int = 5
    follow_ups: int = 1
    answer_tokens: int = 4
    targets: int = 8
    calibrations: int = 3
    card_candidates: int = 10
    project_candidates: int = 6
    settle_s: float = 1.5
    promotion_wait_s: float = 5.0
    mode_s: float = 74.0
    seed: int = 20

    def __post_init__(self) -> None:
        if not 2 <= self.honest_tenants <= len(FIRST_QUESTIONS):
            raise ConfigError(
                f"honest_tenants is {self.honest_tenants}", f"use 2 to {len(FIRST_QUESTIONS)}"
            )
        if not 0 <= self.follow_ups <= len(FOLLOW_UPS):
            raise ConfigError(f"follow_ups is {self.follow_ups}", f"use 0 to {len(FOLLOW_UPS)}")
        if not self.mode_s > 0:
            raise ConfigError(f"mode_s is {self.mode_s}", "use more than 0 seconds")
        for name in ("targets", "calibrations", "card_candidates", "project_candidates"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{name} is {getattr(self, name)}", "use 2 or more")

    @classmethod
    def quick(cls) -> StoryPlan:
        """A short story for tests: too few samples to rely on its numbers."""
        return cls(
            honest_tenants=3,
            follow_ups=1,
            answer_tokens=8,
            targets=3,
            calibrations=3,
            card_candidates=6,
            project_candidates=4,
        )
