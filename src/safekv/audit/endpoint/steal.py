"""Prompt recovery against a prompt that the auditor planted itself: what would a thief get?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

from scipy import stats

from safekv.attack import cloze
from safekv.attack.target import TargetError
from safekv.attack.timing import median
from safekv.audit.endpoint.canary import MOST_CANDIDATES, MOST_GAPS, Canary, Order
from safekv.audit.endpoint.content import Writer
from safekv.audit.endpoint.crowd import Crowd
from safekv.audit.endpoint.line import Line, Now, Place
from safekv.audit.endpoint.observation import Content, Observation
from safekv.audit.endpoint.preflight import REFUSED_KEY, find_form, refused_key, words_for
from safekv.audit.endpoint.wire import Api, Form
from safekv.errors import ConfigError

OPENING_TOKENS: Final = 48
LEAST_COPIES, LEAST_CANDIDATES = 1, 4
LARGEST_HIT_SHARE: Final = 0.9
"""With hits no quicker than this share of a miss, times could not tell them apart."""

CALIBRATIONS: Final = 6
MOST_FAILED: Final = 10
Hear = Callable[[int, int], None]


class Road(Enum):
    """What the thief looks at."""

    TIME = "ttft"
    ORDER = "served-order"


class Verdict(Enum):
    """What the theft came to."""

    RECOVERED = "recovered"
    NOTHING = "nothing"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class StealPlan:
    """The size and the pace of a theft. Raises `ConfigError` for values outside their ranges.

    A canary has `gaps` words to find among `candidates` each, and `copies` that differ in their
    openings only. Behind each gap stand `after_tokens` tokens of known text. With one copy,
    `flush` unrelated prompts are sent before a second look, and the victim sends its prompt again.
    """

    road: Road = Road.TIME
    content: Content = Content.PERSONAL
    gaps: int = 5
    candidates: int = 16
    copies: int = 4
    after_tokens: int = 80
    flush: int = 15
    flush_tokens: int = 300
    settle_s: float = 3.0
    rate_per_s: float = 2.0
    timeout_s: float = 60.0
    api: Api = Api.CHAT
    alpha: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = {
            "gaps": (1, MOST_GAPS),
            "candidates": (LEAST_CANDIDATES, MOST_CANDIDATES),
            "copies": (LEAST_COPIES, 32),
            "after_tokens": (16, 4096),
            "flush": (0, 1000),
            "flush_tokens": (16, 4096),
            "settle_s": (0, 3600),
            "rate_per_s": (0, 1000),
            "timeout_s": (0.01, 3600),
            "alpha": (1e-6, 0.2),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} is {getattr(self, name)}", f"use {low} to {high}")
        if chance(self.gaps, self.gaps, self.candidates) > self.alpha:
            raise ConfigError(
                f"{self.gaps} words of {self.candidates} candidates can be guessed blindly",
                "use more gaps, more candidates, or a larger alpha",
            )

    @property
    def interval_s(self) -> float:
        return 1 / self.rate_per_s if self.rate_per_s else 0.0

    @property
    def requests(self) -> int:
        """How many requests two thefts (the control and the target) send at most."""
        word = (4 + self.copies) * self.candidates + 3
        if self.copies == 1:
            word += self.candidates * (self.flush + 1)
        if self.road is Road.ORDER:
            word = self.candidates * self.copies
        return 2 * (self.copies + self.gaps * word) + 2 * CALIBRATIONS + 8 + 2 * self.gaps


def chance(right: int, gaps: int, candidates: int) -> float:
    """The chance to get so many words right, or more, by blind guesses."""
    return float(stats.binom.sf(right - 1, gaps, 1 / candidates))


@dataclass(frozen=True, slots=True)
class Loot:
    """What one theft got. `leading` counts words before the first mistake; texts are made up."""

    right: int
    leading: int
    guessed: int
    requests: int
    seconds: float
    p: float
    truth: tuple[str, ...] = field(repr=False)
    guess: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Theft:
    """The outcome: the target's loot, the positive control's, and the circumstances.

    `target` is `None` when the control failed, because then nothing could be concluded.
    """

    verdict: Verdict
    reason: str
    target: Loot | None
    control: Loot | None
    environment: dict[str, Any] = field(repr=False)


def example(plan: StealPlan) -> str:
    """One planted prompt of such a theft; its words are another theft's."""
    words = max(8, plan.after_tokens * 2 // 3)
    canary = Canary(
        -1,
        plan.content,
        gaps=plan.gaps,
        candidates=plan.candidates,
        copies=1,
        opening_words=OPENING_TOKENS * 2 // 3,
        after_words=words,
    )
    return canary.prompts[0]


class Thief:
    """Plants a canary with one key and tries to read it with another, by time or by order.

    The positive control comes first: the same theft from the thief's own cache. If that does not
    succeed the audit is inconclusive. Only prompts made up here are ever looked for.
    """

    def __init__(
        self,
        place: Place,
        own: str,
        other: str,
        plan: StealPlan,
        order: Order,
        hear: Hear,
        pause: Callable[[float], None] = time.sleep,
        now: Now = time.perf_counter,
    ) -> None:
        self._place = replace(place, max_tokens=1)
        self._plan, self._order, self._hear = plan, order, hear
        self._keys = (own, other)
        self._pause, self._now = pause, now
        self._failed = self._told_tokens = 0

    def run(self) -> Theft:
        """Carry it out. Raises `TargetError` or `ConfigError` when it cannot be."""
        started_s = self._now()
        with ExitStack() as stack:
            own, other = (stack.enter_context(self._line(key)) for key in self._keys)
            self._own, self._other, self._crowd = own, other, None
            self._prepare()
            if self._plan.road is Road.ORDER:
                crowd = Crowd(self._plan.candidates, lambda: self._line(self._keys[0], 0.0))
                self._crowd = stack.enter_context(crowd)
                self._crowd.use(own.form)
            theft = self._steal_twice()
            seconds = self._now() - started_s
            return replace(theft, environment=self._environment(seconds, theft.target))

    def _line(self, key: str, interval_s: float | None = None) -> Line:
        pace_s = self._plan.interval_s if interval_s is None else interval_s
        form = Form(self._plan.api)
        return Line(self._place, form, key, interval_s=pace_s, wait=self._pause, now=self._now)

    # -- before ------------------------------------------------------------------------------

    def _prepare(self) -> None:
        writer = Writer(self._plan.seed + 1)
        find_form(self._own, writer, OPENING_TOKENS)
        self._other.form = self._own.form
        _, per_word = words_for(self._own, writer, Content.PROSE, self._plan.after_tokens)
        self._per_word = per_word or 1.5
        for line, whose in ((self._own, "the own key"), (self._other, "the other key")):
            seen = line.ask(writer.write(Content.PROSE, OPENING_TOKENS))
            if seen.outcome in REFUSED_KEY:
                raise refused_key(whose, seen.outcome)

    def _words(self, tokens: int) -> int:
        return max(8, math.ceil(tokens / self._per_word))

    def _canary(self, salt: int) -> Canary:
        plan = self._plan
        return Canary(
            2 * plan.seed + salt,
            plan.content,
            gaps=plan.gaps,
            candidates=plan.candidates,
            copies=plan.copies,
            opening_words=self._words(OPENING_TOKENS),
            after_words=self._words(plan.after_tokens),
        )

    # -- the theft ---------------------------------------------------------------------------

    def _steal_twice(self) -> Theft:
        mine = self._canary(0)
        self._plant(mine, self._own)
        cut = self._calibrate(mine)
        if cut is None:
            reason = "the own key's cache does not show in response times"
            return Theft(Verdict.INCONCLUSIVE, reason, None, None, {})
        control = self._steal(mine, self._own, cut)
        if control.p > self._plan.alpha:
            got = f"{control.right} of {len(control.truth)}"
            reason = f"the own key's words were not recovered ({got})"
            return Theft(Verdict.INCONCLUSIVE, reason, None, control, {})
        theirs = self._canary(1)
        self._plant(theirs, self._other)
        loot = self._steal(theirs, self._other, cut)
        of = f"{loot.right} of {len(loot.truth)} words of another tenant's prompt"
        if loot.p <= self._plan.alpha:
            return Theft(Verdict.RECOVERED, f"{of} were recovered", loot, control, {})
        reason = f"{of} were guessed, which is chance"
        return Theft(Verdict.NOTHING, reason, loot, control, {})

    def _plant(self, canary: Canary, victim: Line) -> None:
        for text in canary.prompts:
            seen = victim.ask(text)
            if self._time(seen) is None:
                raise TargetError(
                    f"a canary could not be planted: {seen.outcome}", "look into the server's log"
                )
        self._pause(self._plan.settle_s)

    def _calibrate(self, canary: Canary) -> float | None:
        """The share of a miss's time below which an answer is a hit, from the thief's own cache.

        `None` where hits are hardly quicker. The order of service needs none: 1.
        """
        if self._plan.road is Road.ORDER:
            return 1.0
        hits, misses, decoys = [], [], canary.decoys()
        for number in range(CALIBRATIONS):
            copy = canary.clozes[number % len(canary.clozes)]
            misses.append(self._ask(copy.prompt([next(decoys)])))
            hits.append(self._ask(copy.prompt(canary.truth[:1])))
        share = median(hits) / median(misses)
        return (1 + share) / 2 if share <= LARGEST_HIT_SHARE else None

    def _steal(self, canary: Canary, victim: Line, cut: float) -> Loot:
        requests, started_s = self._sent(), self._now()
        copies = canary.attackers_view(self._order)
        if self._plan.road is Road.ORDER:
            guess = cloze.by_order(copies, self._ask_all)
        else:
            renew = self._renewer(canary, victim)
            guess = cloze.by_time(copies, self._ask, cut, canary.decoys(), renew)
        right = [a == b for a, b in zip(guess, canary.truth, strict=False)]
        return Loot(
            right=sum(right),
            leading=right.index(False) if False in right else len(right),
            guessed=len(guess),
            requests=self._sent() - requests,
            seconds=self._now() - started_s,
            p=chance(sum(right), len(canary.truth), self._plan.candidates),
            truth=canary.truth,
            guess=tuple(guess),
        )

    def _renewer(self, canary: Canary, victim: Line) -> Callable[[], None]:
        """Push the thief's own copies out by unrelated prompts, and let the victim send again."""

        def renew() -> None:
            for _ in range(self._plan.flush):
                self._time(self._own.ask(canary.filler(self._words(self._plan.flush_tokens))))
            self._plant(canary, victim)

        return renew

    # -- requests ----------------------------------------------------------------------------

    def _ask(self, text: str) -> float:
        """Seconds to the first token. A failed probe cannot be sent again: it may have been
        computed, and would then be answered from the own cache. So it ends the theft."""
        seen = self._own.ask(text)
        time_s = self._time(seen)
        if time_s is None:
            raise TargetError(
                f"a probe failed with {seen.outcome}",
                "a theft needs an endpoint that answers; look into the server's log",
            )
        return time_s

    def _ask_all(self, texts: Sequence[str]) -> Sequence[int] | None:
        assert self._crowd is not None, "only the order of service needs a crowd"
        seen = self._crowd.ask(texts)
        self._pause(len(texts) * self._plan.interval_s)
        for one in seen:
            self._time(one)
        ranks = [one.rank for one in seen if one.rank is not None]
        return ranks if len(ranks) == len(texts) else None

    def _time(self, seen: Observation) -> float | None:
        """Take note of an answer. Raises `TargetError` when too many requests failed."""
        self._failed += seen.total_s is None
        if self._failed > MOST_FAILED:
            raise TargetError(
                f"{self._failed} requests failed, the last with {seen.outcome}",
                "a verdict needs an endpoint that answers; look into the server's log",
            )
        self._told_tokens += int(seen.usage.get("prompt_tokens", 0))
        self._hear(self._sent(), self._plan.requests)
        return seen.total_s if seen.ttft_s is None else seen.ttft_s

    def _sent(self) -> int:
        crowd = 0 if self._crowd is None else self._crowd.requests
        return self._own.requests + self._other.requests + crowd

    # -- after -------------------------------------------------------------------------------

    def _tokens(self, words: Sequence[str]) -> int | None:
        """How many tokens the endpoint counts these words as, each by itself; `None` untold."""
        counts = [
            [self._own.ask(text).usage.get("prompt_tokens") for text in (f"on {word}", "on")]
            for word in words
        ]
        told = [(a, b) for a, b in counts if a is not None and b is not None]
        return round(sum(a - b for a, b in told)) if len(told) == len(counts) else None

    def _environment(self, seconds: float, loot: Loot | None) -> dict[str, Any]:
        plan = self._plan
        right = [a for a, b in zip(loot.guess, loot.truth, strict=False) if a == b] if loot else []
        tokens = self._tokens(right)
        return {
            "model": self._place.model,
            "content": plan.content.value,
            "copies": plan.copies,
            "after_tokens": plan.after_tokens,
            "recovered_tokens": tokens,
            "requests_per_token": round(loot.requests / tokens, 1) if loot and tokens else None,
            "seconds": round(seconds, 1),
            "requests": self._sent(),
            "failed_requests": self._failed,
            "prompt_tokens_sent": self._told_tokens,
            "alpha": plan.alpha,
            "seed": plan.seed,
        }
