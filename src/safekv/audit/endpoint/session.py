"""One audit of one endpoint, from the first request to the verdict."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from scipy import stats

from safekv.attack.target import TargetError
from safekv.audit.endpoint.arms import CONTROL, Arm, Ranks, Round, pairs
from safekv.audit.endpoint.content import Writer
from safekv.audit.endpoint.crowd import Crowd, places
from safekv.audit.endpoint.judge import Finding, Judge, Place, Verdict, overall
from safekv.audit.endpoint.line import Line, Now
from safekv.audit.endpoint.line import Place as Address
from safekv.audit.endpoint.observation import Channel, Content, Observation, Pair, Scope
from safekv.audit.endpoint.plan import CROWD_EVERY, Keys, Plan
from safekv.audit.endpoint.preflight import (
    REFUSED_KEY,
    clock_step_s,
    find_form,
    prompt_tokens,
    refused_key,
    require_fine_clock,
    spread,
    words_for,
)
from safekv.audit.endpoint.wire import Form

FIRST_WORDS: Final = 24
MOST_FAILED: Final = 0.2
LEAST_TO_GIVE_UP: Final = 20
Hear = Callable[[int, int], None]
"""Told how many requests are done, and of at most how many."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an audit came to. `control_s` are the control probes' latencies in order of sending."""

    verdict: Verdict
    reason: str
    findings: tuple[Finding, ...]
    environment: dict[str, Any] = field(repr=False)


class Session:
    """Primes, waits, probes in drawn order, and judges.

    A probe leaves its prompt in the prober's own cache, so every prompt is probed once and every
    arm of every round has prompts of its own. What a request showed is kept, never its text.
    """

    def __init__(
        self,
        address: Address,
        keys: Keys,
        plan: Plan,
        hear: Hear,
        pause: Callable[[float], None] = time.sleep,
        now: Now = time.perf_counter,
    ) -> None:
        self._address, self._keys, self._plan = address, keys, plan
        self._hear, self._pause, self._now = hear, pause, now
        self._claims = keys.claims()
        self._rng = random.Random(f"order/{plan.seed}")  # noqa: S311 - an order, not a key
        self._writer = Writer(plan.seed)
        self._pairs: dict[Place, list[Pair]] = {
            (scope, content): []
            for content in plan.contents
            for scope in (Scope.SAME_KEY, Scope.NEGATIVE, *self._claims)
        }
        self._judge = Judge(
            plan.rules, len(Channel) * len(self._claims) * len(plan.contents), seed=plan.seed
        )
        self._words: dict[Content, int] = {}
        self._lengths: dict[Content, list[float]] = {content: [] for content in plan.contents}
        self._control_s: list[float] = []
        self._probes = self._failed = self._rounds = 0
        self._notes: list[str] = []
        self._clock_step_s = clock_step_s(now)

    def run(self) -> Outcome:
        """Carry the audit out. Raises `TargetError` or `ConfigError` when it cannot be."""
        started_s = self._now()
        with ExitStack() as stack:
            self._open_lines(stack)
            self._prepare()
            for look, end in enumerate(self._plan.look_ends()):
                while self._rounds < end:
                    self._batch(min(self._plan.batch, end - self._rounds))
                self._judge.look(look, self._pairs)
                if not self._open_contents():
                    break
        return self._outcome(self._now() - started_s)

    # -- before measuring ------------------------------------------------------------------

    def _open_lines(self, stack: ExitStack) -> None:
        """One connection for each key, so that no line's state depends on another's use."""
        keys = {
            Scope.SAME_KEY: self._keys.own,
            Scope.ORGANISATION: self._keys.organisation,
            Scope.OTHER: self._keys.other,
        }
        self._lines = {
            scope: stack.enter_context(self._line(key))
            for scope, key in keys.items()
            if key is not None
        }
        if self._keys.anonymous:
            self._lines[Scope.ANONYMOUS] = stack.enter_context(self._line(None))
        self._crowd = None
        if self._plan.crowd:
            crowd = Crowd(self._plan.crowd, lambda: self._line(self._keys.own, 0.0))
            self._crowd = stack.enter_context(crowd)

    def _line(self, key: str | None, interval_s: float | None = None) -> Line:
        plan = self._plan
        return Line(
            self._address,
            Form(plan.api),
            key,
            interval_s=plan.interval_s if interval_s is None else interval_s,
            wait=self._pause,
            now=self._now,
        )

    def _prepare(self) -> None:
        """Find the form of requests and the length of prompts; warm every line up."""
        own = self._lines[Scope.SAME_KEY]
        find_form(own, self._writer, FIRST_WORDS)
        for line in self._lines.values():
            line.form = own.form
        if not own.form.stream:
            self._notes.append("the endpoint does not stream: no time to first token")
        for content in self._plan.contents:
            wanted = self._plan.prompt_tokens
            self._words[content], told = words_for(own, self._writer, content, wanted)
            if told is None:
                self._notes.append("the endpoint tells no prompt lengths; they are estimated")
        self._warm_up()

    def _warm_up(self) -> None:
        content = self._plan.contents[0]
        shortest_s = float("inf")
        for scope, line in list(self._lines.items()):
            for _ in range(self._plan.warm_up):
                seen = line.ask(self._text(content))
                if seen.outcome in REFUSED_KEY:
                    self._refuse(scope, seen)
                    break
                if seen.total_s is not None:
                    shortest_s = min(shortest_s, seen.ttft_s or seen.total_s)
        if self._crowd is not None:
            self._crowd.use(self._lines[Scope.SAME_KEY].form)
            self._together([self._text(content) for _ in range(self._crowd.size)], content)
        if shortest_s == float("inf"):
            raise TargetError("no warm-up request was answered", "look into the server's log")
        require_fine_clock(self._clock_step_s, shortest_s)

    def _refuse(self, scope: Scope, seen: Observation) -> None:
        """A refused key ends the audit; to refuse requests without a key is as it should be."""
        if scope is not Scope.ANONYMOUS:
            raise refused_key(f"the key of {scope.value}", seen.outcome)
        self._notes.append(f"requests without a key are refused ({seen.outcome}): nothing to judge")
        self._claims = tuple(claim for claim in self._claims if claim is not scope)
        for content in self._plan.contents:
            del self._pairs[scope, content]

    # -- measuring -------------------------------------------------------------------------

    def _text(self, content: Content) -> str:
        return self._writer.write(content, self._words[content])

    def _open_contents(self) -> list[Content]:
        """Contents with a scope for which no leak is established yet."""
        leaking = self._judge.leaking()
        return [
            content
            for content in self._plan.contents
            if any((claim, content) not in leaking for claim in self._claims)
        ]

    def _batch(self, rounds: int) -> None:
        """Prime the prompts of some rounds in random order, let them settle, and probe them."""
        contents = self._open_contents()
        # All texts are written beforehand: nothing but the order may differ between the arms.
        written = [self._new_round(contents, self._rounds + n) for n in range(rounds)]
        jobs = [
            (texts, arm)
            for one in written
            for texts in (one.texts, one.crowd)
            for arm in texts
            if arm[0] is not CONTROL
        ]
        self._rng.shuffle(jobs)
        for texts, arm in jobs:
            self._prime(arm, texts)
        self._pause(self._plan.settle_s)
        for one in written:
            self._rng.shuffle(contents)
            for content in contents:
                self._probe_content(content, one)
            self._rounds += 1

    def _new_round(self, contents: Sequence[Content], number: int) -> Round:
        crowded = self._crowd is not None and number % CROWD_EVERY == 0
        crowd = self._texts(contents) if crowded else {}
        # A crowd has one key, so it looks at what keys see.
        keyed = {arm: text for arm, text in crowd.items() if not arm[2]}
        return Round(self._texts(contents), keyed, number % CROWD_EVERY == 1)

    def _texts(self, contents: Sequence[Content]) -> dict[Arm, str]:
        """New prompts for all arms of one round."""
        return {
            (scope, content, without_key): self._text(content)
            for content in contents
            for scope, without_key in self._arms()
        }

    def _arms(self) -> list[tuple[Scope | None, bool]]:
        """Scopes with whether they are probed without a key, and a control arm for each such."""
        scopes = [Scope.SAME_KEY, Scope.NEGATIVE, *self._claims]
        arms: list[tuple[Scope | None, bool]] = [(s, s is Scope.ANONYMOUS) for s in scopes]
        return arms + [(CONTROL, False)] + [(CONTROL, True)] * (Scope.ANONYMOUS in scopes)

    def _prime(self, arm: Arm, texts: dict[Arm, str]) -> None:
        """Send a prompt as its first sender would; one that fails is taken out.

        The negative control's prompt is sent by nobody: another one is, in its place.
        """
        scope, content, _ = arm
        assert scope is not CONTROL, "nobody sends a control prompt before its probe"
        text = self._text(content) if scope is Scope.NEGATIVE else texts[arm]
        seen = self._first_sender(scope).ask(text)
        self._sent(content, seen)
        if seen.total_s is None:
            del texts[arm]

    def _first_sender(self, scope: Scope) -> Line:
        if scope in (Scope.ORGANISATION, Scope.SAME_KEY):
            return self._lines[scope]
        # Anonymous probes look for what somebody with a key sent, and so does the control.
        return self._lines.get(Scope.OTHER, self._lines[Scope.SAME_KEY])

    def _probe_content(self, content: Content, one: Round) -> None:
        """Probe all arms of one content once, in random order, and keep the pairs."""
        arms = [arm for arm in one.texts if arm[1] is content]
        self._rng.shuffle(arms)
        seen = {arm: self._probe(arm, one.texts[arm]) for arm in arms}
        self._rng.shuffle(arms)
        again = {arm: self._probe(arm, one.texts[arm]) for arm in arms} if one.again else {}
        ranks = self._probe_together(content, one)
        for place, pair in pairs(seen, again, ranks):
            self._pairs[place].append(pair)

    def _probe_together(self, content: Content, one: Round) -> Ranks:
        """Probe the crowd's prompts of one content at once, among new ones, on connections drawn
        at random; the places in which they were served, if those say anything."""
        prompts = {arm[0]: text for arm, text in one.crowd.items() if arm[1] is content}
        if self._crowd is None or CONTROL not in prompts:
            return {}
        fillers = [self._text(content) for _ in range(self._crowd.size - len(prompts))]
        return places(prompts, self._together([*prompts.values(), *fillers], content))

    def _together(self, texts: list[str], content: Content) -> dict[str, Observation]:
        assert self._crowd is not None, "there is nobody to ask"
        self._rng.shuffle(texts)
        answers = self._crowd.ask(texts)
        for seen in answers:
            self._sent(content, seen)
        self._pause(self._crowd.size * self._plan.interval_s)
        return dict(zip(texts, answers, strict=True))

    def _probe(self, arm: Arm, text: str) -> Observation:
        scope, content, without_key = arm
        seen = self._lines[Scope.ANONYMOUS if without_key else Scope.SAME_KEY].ask(text)
        self._sent(content, seen)
        if scope is CONTROL and not without_key and seen.total_s is not None:
            self._control_s.append(seen.ttft_s or seen.total_s)
        return seen

    def _sent(self, content: Content, seen: Observation) -> None:
        """Count a request. Raises `TargetError` when too many of them fail."""
        self._probes += 1
        self._failed += seen.total_s is None
        length = prompt_tokens(seen)
        if length is not None:
            self._lengths[content].append(length)
        if self._probes >= LEAST_TO_GIVE_UP and self._failed > MOST_FAILED * self._probes:
            raise TargetError(
                f"{self._failed} of {self._probes} requests failed, the last with {seen.outcome}",
                "a verdict needs an endpoint that answers; look into the server's log",
            )
        self._hear(self._probes, self._plan.requests(self._claims))

    # -- after measuring -------------------------------------------------------------------

    def _outcome(self, seconds: float) -> Outcome:
        findings = tuple(self._judge.findings())
        places = [(claim, content) for claim in self._claims for content in self._plan.contents]
        verdict, reason = overall(findings, places, self._plan.shared)
        return Outcome(verdict, reason, findings, self._environment(seconds))

    def _environment(self, seconds: float) -> dict[str, Any]:
        plan = self._plan
        crowd = () if self._crowd is None else (self._crowd,)
        lines = [*self._lines.values(), *crowd]
        return {
            "model": self._address.model,
            "api": plan.api.value,
            "streamed": self._lines[Scope.SAME_KEY].form.stream,
            "scopes": [claim.value for claim in self._claims],
            "contents": [content.value for content in plan.contents],
            "meant_to_be_shared": sorted(content.value for content in plan.shared),
            "rounds": self._rounds,
            "crowd": plan.crowd,
            "requests": sum(line.requests for line in lines),
            "failed_requests": self._failed,
            "waits_for_rate_limits": sum(line.waited_for_limits for line in lines),
            "seconds": round(seconds, 1),
            "settle_s": plan.settle_s,
            "alpha": plan.rules.alpha,
            "power": plan.rules.power,
            "largest_auc": plan.rules.largest_auc,
            "looks": plan.rules.looks,
            "seed": plan.seed,
            "clock_step_s": self._clock_step_s,
            "prompt_tokens": spread(self._lengths),
            "drift": drift(self._control_s),
            "notes": sorted(set(self._notes)),
        }


def drift(control_s: Sequence[float]) -> dict[str, float] | None:
    """How the control probes changed over the audit: rank correlation with time, and last third
    over first third. `None` for fewer than six."""
    if len(control_s) < 6:
        return None
    third = len(control_s) // 3
    first, last = sorted(control_s[:third]), sorted(control_s[-third:])
    rho = stats.spearmanr(range(len(control_s)), control_s).statistic
    ratio = last[third // 2] / first[third // 2]
    return {"rank_correlation": round(float(rho), 3), "last_over_first": round(ratio, 3)}
