"""A shop whose times follow from what is cached, by rules as simple as the story's."""

from __future__ import annotations

import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from safekv.attack.target import Message, Probe
from safekv.demo.pace import Pace
from safekv.demo.plan import StoryPlan
from safekv.demo.result import ModeResult
from safekv.demo.story import Stage, Story
from safekv.types import Mode

BLOCK_CHARS = 128
FIXED_S, PER_CHAR_S = 0.05, 0.0005


def ignore(stage: Stage, done: int, of: int) -> None:
    pass


@dataclass
class Counted:
    prompt: dict[str, int]
    hit: dict[str, int]
    promoted: int

    def prompt_tokens(self, tenants: Iterable[str]) -> float:
        return sum(self.prompt.get(name, 0) for name in tenants)

    def hit_tokens(self, tenants: Iterable[str]) -> float:
        return sum(self.hit.get(name, 0) for name in tenants)

    def promoted_blocks(self) -> float:
        return self.promoted


@dataclass
class World:
    """Prefixes of whole blocks, and who may reuse them. `selective` shares what no letter is in."""

    mode: Mode
    noise_s: float = 0.002
    differing: frozenset[str] = frozenset()
    own: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    shared: set[str] = field(default_factory=set)
    pending: set[str] = field(default_factory=set)
    prompt: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    hit: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    sent: list[tuple[str, str]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(3))
    clock_s: float = 0.0
    slowness: float = 1.0

    def speak(self, name: str) -> Voice:
        return Voice(self, name)

    def counters(self) -> Counted:
        return Counted(dict(self.prompt), dict(self.hit), len(self.shared))

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock_s += seconds
        self.shared |= self.pending
        self.pending.clear()

    def answer(self, name: str, text: str) -> Probe:
        self.sent.append((name, text))
        prefixes = [text[:n] for n in range(BLOCK_CHARS, len(text), BLOCK_CHARS)]
        known = self.own[name] | self.shared
        hits = next((i for i, p in enumerate(prefixes) if p not in known), len(prefixes))
        self.prompt[name] += len(text)
        self.hit[name] += hits * BLOCK_CHARS
        self._store(name, prefixes)
        ttft_s = FIXED_S + PER_CHAR_S * (len(text) - hits * BLOCK_CHARS)
        ttft_s = (ttft_s + self.rng.uniform(0, self.noise_s)) * self.slowness
        self.clock_s += ttft_s
        salt = name if name in self.differing else ""
        reply = hashlib.sha256((text + salt).encode()).hexdigest()[:12]
        return Probe(ttft_s, ttft_s, reply, None)

    def _store(self, name: str, prefixes: Sequence[str]) -> None:
        self.own[name] |= set(prefixes)
        if self.mode is Mode.UNSAFE_GLOBAL:
            self.shared |= set(prefixes)
        if self.mode is Mode.SELECTIVE:
            self.pending |= {p for p in prefixes if "letter" not in p}

    def play(self, plan: StoryPlan, deadline: float = math.inf) -> ModeResult:
        pace = Pace(deadline, lambda: self.clock_s)
        return Story(self.mode, plan, self.speak, self, ignore, self.pause, pace).play()


@dataclass
class Voice:
    world: World
    name: str

    def ttft(self, prompt: Sequence[Message], *, max_tokens: int = 1) -> Probe:
        text = "".join(f"<{m['role']}>{m['content']}" for m in prompt)
        return self.world.answer(self.name, text)
