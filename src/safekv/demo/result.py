"""What was measured in one mode. Every number of the demo comes from here."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from safekv.attack.timing import auc, bootstrap_interval, median, null_deviation, quantile
from safekv.types import Mode


@dataclass(frozen=True, slots=True)
class HonestTraffic:
    """What the honest tenants got. Times in seconds, tokens as counted by the server."""

    first_turn_ttft_s: tuple[float, ...]
    follow_up_ttft_s: tuple[float, ...]
    prompt_tokens: int
    hit_tokens: int
    promoted_blocks: int
    outputs_equal: bool

    @property
    def hit_rate(self) -> float:
        """Hit tokens per prompt token, 0..1."""
        return self.hit_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def saving(self) -> float:
        """How much sooner tenants after the first got their first token, as a share of its wait.

        The first tenant's turn is cold in every mode; negative when the later ones were slower.
        """
        cold, *later = self.first_turn_ttft_s
        return 1 - median(later) / cold

    @property
    def ttft_s(self) -> tuple[float, ...]:
        """The times of all honest requests."""
        return self.first_turn_ttft_s + self.follow_up_ttft_s


@dataclass(frozen=True, slots=True)
class AttackerTimes:
    """Times to first token that the attacker measured, in seconds.

    `hit_s` and `miss_s` are its calibration: prompts of its own, sent again and sent for the
    first time. `target_s` are letters the victim had sent, `decoy_s` letters nobody had sent.
    """

    hit_s: tuple[float, ...]
    miss_s: tuple[float, ...]
    target_s: tuple[float, ...]
    decoy_s: tuple[float, ...]
    threshold_s: float

    @property
    def auc(self) -> float:
        """How well the times tell a target from a decoy: 0.5 not at all, 1.0 perfectly."""
        return auc(self.target_s, self.decoy_s)

    @property
    def control_auc(self) -> float:
        """How well the times tell the attacker's own hits from its own misses.

        The positive control: unless it is near 1.0 the machine was too busy to see anything,
        and an `auc` near 0.5 says nothing about the cache.
        """
        return auc(self.hit_s, self.miss_s)

    @property
    def cut(self) -> float:
        """`threshold_s` in shares of a miss's time, so that a drift in speed matters less."""
        return self.threshold_s / median(self.miss_s)

    @property
    def auc_interval(self) -> tuple[float, float]:
        """A 95 % bootstrap interval of `auc`. Costs some 0.1 s."""
        return bootstrap_interval(self.target_s, self.decoy_s)

    @property
    def auc_noise(self) -> float:
        """The standard deviation `auc` would have if the times told nothing."""
        return null_deviation(len(self.target_s), len(self.decoy_s))


@dataclass(frozen=True, slots=True)
class Guessing:
    """One secret's recovery: whether the right candidate was claimed, and at what cost.

    `wrong_claim` says that another candidate was claimed.
    """

    recovered: bool
    wrong_claim: bool
    guesses: int
    candidates: int
    ttft_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ModeResult:
    """One mode's story. `seconds` is how long it took without the server's start."""

    mode: Mode
    honest: HonestTraffic
    times: AttackerTimes
    card: Guessing
    project: Guessing
    seconds: float

    @property
    def first_turn_median_s(self) -> float:
        """Over all honest tenants' first turns, the cold first one included."""
        return median(self.honest.first_turn_ttft_s)

    @property
    def p95_s(self) -> float:
        """Over all honest requests, follow-ups included."""
        return quantile(self.honest.ttft_s, 0.95)

    @property
    def guesses(self) -> int:
        """Requests spent on guessing both secrets."""
        return self.card.guesses + self.project.guesses

    @property
    def wrong_claims(self) -> int:
        """How many of the two secrets the attacker believed to know, wrongly."""
        return self.card.wrong_claim + self.project.wrong_claim

    @property
    def recovered_any(self) -> bool:
        """Whether the card number or the project's name was recovered."""
        return self.card.recovered or self.project.recovered

    def to_json(self) -> dict[str, object]:
        """All of it as JSON types; the first six keys are the table."""
        return {
            "hit_rate": self.honest.hit_rate,
            "ttft_first_turn_median_s": self.first_turn_median_s,
            "ttft_p95_s": self.p95_s,
            "attacker_auc": self.times.auc,
            "secret_recovered": self.card.recovered,
            "guesses": self.guesses,
            "first_turn_saving": self.honest.saving,
            "control_auc": self.times.control_auc,
            "auc_ci": list(self.times.auc_interval),
            "project_recovered": self.project.recovered,
            "outputs_equal": self.honest.outputs_equal,
            "seconds": self.seconds,
            "honest": asdict(self.honest),
            "attacker_times": asdict(self.times),
            "card": asdict(self.card),
            "project": asdict(self.project),
        }
