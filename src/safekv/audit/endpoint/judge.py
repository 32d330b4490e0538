"""From paired observations to a verdict for each scope, content and channel, and for all."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from safekv.audit.endpoint import effect
from safekv.audit.endpoint.channels import Floats, Reading, read
from safekv.audit.endpoint.observation import CONTROL_SCOPES, Channel, Content, Pair, Scope
from safekv.audit.endpoint.randomisation import FIRST_DRAWS, classical_p
from safekv.audit.endpoint.sequential import SequentialTests, spending
from safekv.errors import ConfigError

Place = tuple[Scope, Content]
Key = tuple[Scope, Content, Channel]
Samples = Mapping[Place, Sequence[Pair]]

LATENCIES = (Channel.TTFT, Channel.TOTAL)
DRAWS_PER_TEST = 4


class Verdict(Enum):
    """What the audit says of a cell, or of the endpoint."""

    LEAK = "leak"
    NO_LEAK = "no-leak"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How sure the audit must be. Raises `ConfigError` for values outside their ranges.

    `alpha` is the chance of one false alarm or more in a whole audit; `power` the chance to find
    a leak of the size called detectable; `largest_auc` the largest leak that may stay possible
    for a verdict of no leak; `looks` how often the data are judged while they grow.
    """

    alpha: float = 0.01
    power: float = 0.9
    largest_auc: float = 0.8
    looks: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 0.2:
            raise ConfigError(f"alpha is {self.alpha}", "use more than 0 and at most 0.2")
        if not 0.5 < self.largest_auc < 1:
            raise ConfigError(f"largest_auc is {self.largest_auc}", "use between 0.5 and 1")
        if not 0.5 <= self.power < 1:
            raise ConfigError(f"power is {self.power}", "use at least 0.5 and less than 1")
        if not 1 <= self.looks <= 20:
            raise ConfigError(f"looks is {self.looks}", "use 1 to 20")


@dataclass(frozen=True, slots=True)
class Effect:
    """The size of a difference. `None` throughout where values have no order."""

    auc: float | None = None
    auc_ci: tuple[float, float] | None = None
    tpr_at_fpr: tuple[float, ...] | None = None
    ks_p: float | None = None
    mw_p: float | None = None

    @classmethod
    def of(cls, reading: Reading, *, seed: int) -> Effect:
        """Measure a reading. Costs some ms."""
        arms = reading.primed, reading.control
        if not reading.primed.size:
            return cls()
        rates = tuple(effect.tpr_at_fpr(*arms, rate) for rate in effect.FALSE_POSITIVE_RATES)
        interval = effect.auc_interval(*arms, seed=seed)
        return cls(effect.auc(*arms), interval, rates, *classical_p(*arms))


@dataclass(frozen=True, slots=True)
class Finding:
    """One cell: its verdict, its numbers, and why. `None` where a number has no meaning.

    `p` is corrected for all looks and all tests of the audit.
    """

    scope: Scope
    content: Content
    channel: Channel
    verdict: Verdict
    reason: str
    effect: Effect
    minimal_detectable_auc: float
    samples: int
    p: float
    primed: Floats = field(repr=False, compare=False)
    control: Floats = field(repr=False, compare=False)

    @property
    def bound(self) -> float:
        """The largest AUC that this cell leaves possible."""
        high = self.effect.auc_ci[1] if self.effect.auc_ci else 0.5
        return max(self.minimal_detectable_auc, high)


class Judge:
    """Keeps the tests of one audit over its looks.

    Three families, each with its own error `alpha`: claims (another tenant's prompts), positive
    controls (the own key's) and negative controls (prompts nobody sent).
    """

    def __init__(self, rules: Rules, cells: int, *, seed: int) -> None:
        """`cells` is how many claims there can be; it sets how finely p-values are resolved."""
        self._rules = rules
        self._seed = seed
        shares = spending([(k + 1) / rules.looks for k in range(rules.looks)])
        needed = DRAWS_PER_TEST * max(1, cells) / (rules.alpha * min(shares))
        self._draws = min(2_000_000, math.ceil(needed))
        self._claims = SequentialTests(shares)
        self._positive = SequentialTests(shares)
        self._negative = SequentialTests(shares)
        self._readings: dict[Key, Reading] = {}

    def look(self, number: int, samples: Samples) -> None:
        """Test everything at look `number`, counted from 0. Costs some ms for each cell."""
        for (scope, content), pairs in samples.items():
            for channel in Channel:
                key = (scope, content, channel)
                # A seed per test and look: equal draws would tie the tests' chances together.
                seed = _seed(self._seed, *key, number)
                # What is settled needs no fine p-value again: a sequential p-value never rises.
                draws = FIRST_DRAWS if self._rejected(key) else self._draws
                reading = read(channel, pairs, draws=draws, seed=seed) if pairs else None
                if reading is not None:
                    self._readings[key] = reading
                    self._family(scope).note(key, number, reading.p)

    def _family(self, scope: Scope) -> SequentialTests:
        families = {Scope.SAME_KEY: self._positive, Scope.NEGATIVE: self._negative}
        return families.get(scope, self._claims)

    def _rejected(self, key: Key) -> bool:
        return self._family(key[0]).adjusted().get(key, 1.0) <= self._rules.alpha

    def leaking(self) -> set[Place]:
        """Scopes and contents in which a leak is established: no more samples are needed."""
        return {
            key[:2]
            for key in self._readings
            if key[0] not in CONTROL_SCOPES and self._rejected(key)
        }

    def findings(self) -> list[Finding]:
        """All cells, controls included, with intervals. Costs some ms for each cell."""
        controls = {
            key: self._finding(key, {}) for key in self._readings if key[0] in CONTROL_SCOPES
        }
        claims = [
            self._finding(key, controls) for key in self._readings if key[0] not in CONTROL_SCOPES
        ]
        return [*controls.values(), *claims]

    def _finding(self, key: Key, controls: Mapping[Key, Finding]) -> Finding:
        reading = self._readings[key]
        family = self._family(key[0])
        level = family.final_level(self._rules.alpha)
        detect = effect.detectable_count_auc if reading.counted else effect.detectable_auc
        found = Finding(
            *key,
            Verdict.INCONCLUSIVE,
            "",
            Effect.of(reading, seed=_seed(self._seed, *key)),
            detect(reading.pairs, level, self._rules.power),
            reading.pairs,
            family.adjusted()[key],
            reading.primed,
            reading.control,
        )
        verdict, reason = self._verdict(found, controls)
        return replace(found, verdict=verdict, reason=reason)

    def _verdict(self, found: Finding, controls: Mapping[Key, Finding]) -> tuple[Verdict, str]:
        if found.p <= self._rules.alpha:
            return Verdict.LEAK, "primed and fresh prompts can be told apart"
        if found.scope in CONTROL_SCOPES:
            return Verdict.NO_LEAK, "primed and fresh prompts cannot be told apart"
        control = controls.get((Scope.SAME_KEY, found.content, found.channel))
        if control is None or control.verdict is not Verdict.LEAK:
            return Verdict.INCONCLUSIVE, "this channel does not show the own key's cache either"
        own = control.effect.auc_ci
        if own is not None and own[0] < found.minimal_detectable_auc:
            return Verdict.INCONCLUSIVE, "too few samples to see even the own key's cache"
        if found.bound > self._rules.largest_auc:
            return Verdict.INCONCLUSIVE, f"a leak up to AUC {found.bound:.2f} remains possible"
        return Verdict.NO_LEAK, f"no leak larger than AUC {found.bound:.2f}"


def overall(
    findings: Sequence[Finding], places: Sequence[Place], shared: frozenset[Content]
) -> tuple[Verdict, str]:
    """The endpoint's verdict and the reason for it, in words.

    `places` are all scopes and contents that were to be judged, so that one without any data
    is not forgotten. Contents in `shared` are meant to be shared and not judged.
    """
    if broken := [f for f in findings if f.scope is Scope.NEGATIVE and f.verdict is Verdict.LEAK]:
        where = f"{broken[0].content.value}, {broken[0].channel.value}"
        return Verdict.INCONCLUSIVE, f"the negative control failed ({where}): noise looks like data"
    claims = [f for f in findings if f.scope not in CONTROL_SCOPES and f.content not in shared]
    if leaks := [f for f in claims if f.verdict is Verdict.LEAK]:
        named = sorted({f"{f.scope.value}/{f.content.value}" for f in leaks})
        return Verdict.LEAK, "prompts can be confirmed: " + ", ".join(named)
    judged = [place for place in places if place[1] not in shared]
    if not judged:
        return Verdict.INCONCLUSIVE, "nothing was judged"
    if open_places := [place for place in judged if not _settled(place, claims)]:
        scope, content = open_places[0]
        return (
            Verdict.INCONCLUSIVE,
            f"{scope.value}/{content.value}: {_why_open((scope, content), claims)}",
        )
    return Verdict.NO_LEAK, f"no leak larger than AUC {_largest(claims):.2f} in response times"


def _settled(place: Place, claims: Sequence[Finding]) -> bool:
    """Whether a latency channel, which every attacker has, excludes a leak here."""
    return any(
        f.verdict is Verdict.NO_LEAK and f.channel in LATENCIES and (f.scope, f.content) == place
        for f in claims
    )


def _why_open(place: Place, claims: Sequence[Finding]) -> str:
    reasons = [f.reason for f in claims if f.channel in LATENCIES and (f.scope, f.content) == place]
    return reasons[0] if reasons else "no answer could be timed"


def _largest(claims: Sequence[Finding]) -> float:
    return max(f.bound for f in claims if f.verdict is Verdict.NO_LEAK and f.channel in LATENCIES)


def _seed(base: int, *parts: object) -> int:
    """A seed that depends on all parts, the same in every process."""
    text = "/".join(part.value if isinstance(part, Enum) else str(part) for part in parts)
    return zlib.crc32(f"{base}/{text}".encode())
