"""The story of one mode: honest tenants, a victim with secrets, and an attacker with a clock."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import islice
from typing import Protocol, TypeVar

from safekv.attack.prompt_recovery import CONTROLS, recover
from safekv.attack.target import Message, Probe
from safekv.attack.timing import threshold
from safekv.demo.operator import Counters, Watcher
from safekv.demo.pace import Pace
from safekv.demo.plan import StoryPlan
from safekv.demo.result import AttackerTimes, Guessing, HonestTraffic, ModeResult
from safekv.demo.texts import (
    FIRST_QUESTIONS,
    FOLLOW_UPS,
    SYSTEM_PROMPT,
    WARM_UP,
    Form,
    Letter,
    draw_secrets,
)
from safekv.types import Mode

VICTIM, ATTACKER, SECOND_READER, WARMER = "victim", "attacker", "second-reader", "warm-up"
POLL_S = 0.2
SECOND_LOOKS = 1
LEAST_TARGETS, LEAST_GUESSES = 4, 4
# What a guess stage costs beyond one request per candidate: first controls, one second look.
GUESS_EXTRA = CONTROLS + 3 * SECOND_LOOKS
T = TypeVar("T")


class Stage(Enum):
    """The parts of a story, in order; the value is what progress shows."""

    START = "starting the server"
    WARM_UP = "warming up"
    FIRST_TURNS = "honest tenants' first turns"
    FOLLOW_UPS = "honest tenants' follow-ups"
    COMPARE = "comparing outputs"
    VICTIM = "the victim's letters"
    CALIBRATE = "attacker calibrates"
    PROBE = "attacker probes"
    GUESS_CARD = "attacker guesses the card"
    GUESS_PROJECT = "attacker guesses the project"


Hear = Callable[[Stage, int, int], None]
"""Told before each request: the stage, how many of it are done, and how many there may be."""


class Speaker(Protocol):
    """A tenant's line to the server."""

    def ttft(self, prompt: Sequence[Message], *, max_tokens: int = 1) -> Probe: ...


def honest_names(plan: StoryPlan) -> tuple[str, ...]:
    """The names of the honest tenants, in the order in which they first speak."""
    return tuple(f"tenant-{place}" for place in range(1, plan.honest_tenants + 1))


def cast_names(plan: StoryPlan) -> tuple[str, ...]:
    """Everybody who needs a key."""
    return (*honest_names(plan), VICTIM, ATTACKER, SECOND_READER, WARMER)


def conversation(*turns: str) -> list[Message]:
    """The shop's system prompt, then `turns`: user, assistant, user, …"""
    roles = ("user", "assistant")
    spoken = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return [{"role": "system", "content": SYSTEM_PROMPT}, *spoken]


@dataclass(frozen=True, slots=True)
class Script:
    """The secrets of one form, all different, drawn from the plan's seed.

    Nobody but the attacker sends `opener`, `fresh`, `controls` and `decoys`. The
    `candidates` hold `truth`, which the victim sends too, at a random place.
    """

    form: Form
    opener: str = field(repr=False)
    fresh: tuple[str, ...] = field(repr=False)
    targets: tuple[str, ...] = field(repr=False)
    decoys: tuple[str, ...] = field(repr=False)
    candidates: tuple[str, ...] = field(repr=False)
    controls: tuple[str, ...] = field(repr=False)
    truth: str = field(repr=False)

    @classmethod
    def draw(cls, form: Form, plan: StoryPlan) -> Script:
        """The same script for the same form and plan."""
        rng = random.Random(f"{plan.seed}/{form.value}")  # noqa: S311 - a story, not a key
        guesses = plan.card_candidates if form is Form.CARD else plan.project_candidates
        sizes = {
            "fresh": plan.calibrations,
            "targets": plan.targets,
            "decoys": plan.targets,
            "candidates": guesses,
            "controls": 2 * guesses + CONTROLS,
        }
        secrets = iter(draw_secrets(form, 1 + sum(sizes.values()), rng))
        opener = next(secrets)
        groups = {name: tuple(islice(secrets, size)) for name, size in sizes.items()}
        return cls(form=form, opener=opener, truth=rng.choice(groups["candidates"]), **groups)

    def with_targets(self, count: int) -> Script:
        """The same script with at most `count` targets and as many decoys."""
        return replace(self, targets=self.targets[:count], decoys=self.decoys[:count])

    def with_candidates(self, count: int) -> Script:
        """The same script with at most `count` candidates; the truth keeps its relative place."""
        if count >= len(self.candidates):
            return self
        place = self.candidates.index(self.truth) * count // len(self.candidates)
        others = [c for c in self.candidates if c != self.truth][: count - 1]
        return replace(self, candidates=(*others[:place], self.truth, *others[place:]))


class Story:
    """Plays one mode's story against a fresh server and measures it.

    `speak` gives a tenant's line by name. Requests go out one at a time, so that no time
    depends on somebody else's. `pause` waits for some seconds. On a machine too slow for
    `pace` there are fewer letters, probes and candidates.
    """

    def __init__(
        self,
        mode: Mode,
        plan: StoryPlan,
        speak: Callable[[str], Speaker],
        operator: Watcher,
        hear: Hear,
        pause: Callable[[float], None] = time.sleep,
        pace: Pace | None = None,
    ) -> None:
        self._mode = mode
        self._plan = plan
        self._speak = speak
        self._operator = operator
        self._hear = hear
        self._pause = pause
        self._pace = pace or Pace()
        self._rng = random.Random(f"{plan.seed}/order")  # noqa: S311 - a story, not a key
        self._scripts = {form: Script.draw(form, plan) for form in Form}

    def play(self) -> ModeResult:
        """All stages in order. Takes 20 to 60 s on two CPU cores with a 135M model."""
        start = time.perf_counter()
        self._warm_up()
        honest = self._honest_part()
        self._victim_writes()
        times = self._attacker_measures()
        self._fit_candidates(Form.CARD, reserve=LEAST_GUESSES + GUESS_EXTRA)
        card = self._guess(Stage.GUESS_CARD, Form.CARD, times.cut)
        self._fit_candidates(Form.PROJECT)
        project = self._guess(Stage.GUESS_PROJECT, Form.PROJECT, times.cut)
        seconds = time.perf_counter() - start
        return ModeResult(self._mode, honest, times, card, project, seconds)

    def _each(self, stage: Stage, items: Sequence[T]) -> Iterable[T]:
        for done, item in enumerate(items):
            self._hear(stage, done, len(items))
            yield item

    def _warm_up(self) -> None:
        """Let the first requests' one-off costs fall on a text that nobody else sends."""
        system, user = WARM_UP
        prompt = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        for _ in self._each(Stage.WARM_UP, ("a miss", "a hit")):
            self._speak(WARMER).ttft(prompt, max_tokens=4)

    def _honest_part(self) -> HonestTraffic:
        names = honest_names(self._plan)
        before = self._operator.counters()
        histories, first = self._first_turns(names)
        later = self._follow_ups(names, histories)
        after = self._operator.counters()
        return HonestTraffic(
            first_turn_ttft_s=tuple(first),
            follow_up_ttft_s=tuple(later),
            prompt_tokens=round(after.prompt_tokens(names) - before.prompt_tokens(names)),
            hit_tokens=round(after.hit_tokens(names) - before.hit_tokens(names)),
            promoted_blocks=round(after.promoted_blocks() - before.promoted_blocks()),
            outputs_equal=self._outputs_equal(histories),
        )

    def _first_turns(self, names: Sequence[str]) -> tuple[list[list[str]], list[float]]:
        before = self._operator.counters()
        histories, times = [], []
        for place, name in enumerate(self._each(Stage.FIRST_TURNS, names)):
            answer = self._ask(name, [FIRST_QUESTIONS[place]])
            histories.append([FIRST_QUESTIONS[place], answer.text])
            times.append(answer.ttft_s)
            if place == 0:
                self._await_promotion(before)
        return histories, times

    def _await_promotion(self, before: Counters) -> None:
        """Pause alike in every mode; in `selective` until promotion is seen, or time is up."""
        self._pause(self._plan.settle_s)
        if self._mode is not Mode.SELECTIVE:
            return
        for _ in range(round(self._plan.promotion_wait_s / POLL_S)):
            if self._operator.counters().promoted_blocks() > before.promoted_blocks():
                return
            self._pause(POLL_S)

    def _follow_ups(self, names: Sequence[str], histories: list[list[str]]) -> list[float]:
        times = []
        turns = [
            (place, question)
            for question in FOLLOW_UPS[: self._plan.follow_ups]
            for place in range(len(names))
        ]
        for place, question in self._each(Stage.FOLLOW_UPS, turns):
            answer = self._ask(names[place], [*histories[place], question])
            histories[place] += [question, answer.text]
            times.append(answer.ttft_s)
        return times

    def _ask(self, name: str, turns: Sequence[str]) -> Probe:
        answer = self._speak(name).ttft(conversation(*turns), max_tokens=self._plan.answer_tokens)
        self._pace.note(answer.ttft_s)
        return answer

    def _outputs_equal(self, histories: Sequence[Sequence[str]]) -> bool:
        """Whether another tenant gets the very same answer to the last question."""
        same = []
        for question, answer, *_ in self._each(Stage.COMPARE, [histories[-1]]):
            same.append(self._ask(SECOND_READER, [question]).text == answer)
        return all(same)

    def _victim_writes(self) -> None:
        """The secrets in whole letters; the other targets, to save time, in short ones."""
        self._fit_targets()
        letters = []
        for form, script in self._scripts.items():
            letters += [Letter(form, secret).short for secret in script.targets]
            letters.append(Letter(form, script.truth).full)
        self._rng.shuffle(letters)
        for letter in self._each(Stage.VICTIM, letters):
            self._speak(VICTIM).ttft(conversation(letter))
        # Long enough for a wrong promotion to happen before the attacker looks.
        self._pause(self._plan.settle_s)

    def _fit_targets(self) -> None:
        """Keep as many targets as leave time to calibrate and to guess.

        Each costs a letter and two probes per form.
        """
        calibration = len(Form) * (1 + 2 * self._plan.calibrations)
        guessing = self._plan.card_candidates + self._plan.project_candidates
        reserve = calibration + guessing
        count = self._pace.fitting(
            3 * len(Form), LEAST_TARGETS, self._plan.targets, reserve=reserve
        )
        for form, script in self._scripts.items():
            self._scripts[form] = script.with_targets(count)

    def _fit_candidates(self, form: Form, *, reserve: int = 0) -> None:
        script = self._scripts[form]
        count = self._pace.fitting(
            1, LEAST_GUESSES, len(script.candidates), reserve=GUESS_EXTRA + reserve
        )
        self._scripts[form] = script.with_candidates(count)

    def _attacker_measures(self) -> AttackerTimes:
        hits, misses = self._calibrate()
        times: dict[bool, list[float]] = {True: [], False: []}
        order = self._probing_order()
        guessing = self._plan.card_candidates + self._plan.project_candidates
        probes = self._pace.fitting(1, 2 * len(Form) * LEAST_TARGETS, len(order), reserve=guessing)
        for letter, sent in self._each(Stage.PROBE, order[: probes // 2 * 2]):
            times[sent].append(self._probe(letter.short))
        return AttackerTimes(
            hit_s=hits,
            miss_s=misses,
            target_s=tuple(times[True]),
            decoy_s=tuple(times[False]),
            threshold_s=threshold(hits, misses),
        )

    def _probing_order(self) -> list[tuple[Letter, bool]]:
        """Letters with whether the victim sent them: pairs of both kinds, each in random order.

        In pairs, because a machine whose speed drifts would otherwise favour one kind by chance.
        """
        pairs = [
            [(Letter(form, target), True), (Letter(form, decoy), False)]
            for form, script in self._scripts.items()
            for target, decoy in zip(script.targets, script.decoys, strict=True)
        ]
        self._rng.shuffle(pairs)
        for pair in pairs:
            self._rng.shuffle(pair)
        return [probe for pair in pairs for probe in pair]

    def _calibrate(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The attacker's own hits and misses. Also brings the forms into its own cache."""
        for form, script in self._scripts.items():
            self._probe(Letter(form, script.opener).short)
        letters = [
            Letter(form, secret).short
            for form, script in self._scripts.items()
            for secret in script.fresh
        ]
        misses, hits = [], []
        for letter in self._each(Stage.CALIBRATE, letters):
            misses.append(self._probe(letter))
            hits.append(self._probe(letter))
        return tuple(hits), tuple(misses)

    def _probe(self, text: str) -> float:
        ttft_s = self._speak(ATTACKER).ttft(conversation(text)).ttft_s
        self._pace.note(ttft_s)
        return ttft_s

    def _guess(self, stage: Stage, form: Form, cut: float) -> Guessing:
        script = self._scripts[form]
        counted = iter(self._each(stage, script.candidates))

        def probe(secret: str) -> float:
            next(counted)
            return self._probe(Letter(form, secret).short)

        def confirm(secret: str) -> float:
            return self._probe(Letter(form, secret).full)

        unsent = iter(script.controls)

        def control() -> float:
            return self._probe(Letter(form, next(unsent)).short)

        outcome = recover(
            script.candidates, probe, cut, confirm, control, second_looks=SECOND_LOOKS
        )
        return Guessing(
            recovered=outcome.found == script.truth,
            wrong_claim=outcome.found not in (None, script.truth),
            guesses=outcome.guesses,
            candidates=len(script.candidates),
            ttft_s=outcome.ttfts_s,
        )
