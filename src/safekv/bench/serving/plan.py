"""What `safekv bench serve` measures: workloads, modes, seeds and load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from safekv.bench.serving.arrivals import AT_ONCE, Arrivals
from safekv.bench.serving.workloads import WORKLOADS, Script, Size, Workload, demand_words
from safekv.errors import ConfigError

PHASES: Final = ("paced", "burst")
"""`paced` sends at the rate, for latencies; `burst` all at once, for throughput."""
TOKENS_PER_WORD: Final = 1.3
TURN_TOKENS: Final = 24
"""What a chat template and the ends of blocks add to a turn, generously."""
DETECTORS: Final = ("on", "off", "saturated", "dead")
SELECTIVE: Final = "selective"


def mode_and_detector(side: str) -> tuple[str, str]:
    """The mode and the state of the detector that a side such as `selective:dead` stands for."""
    mode, _, state = side.partition(":")
    return mode, state or "on"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServePlan:
    """Each of `seeds` runs sends the same requests at the same times in every mode.

    `tenants`, `turns`, `common_words`, `answer_tokens` and `rate` replace a workload's own where
    they are not `None`. `times_s` are a trace's, whose gaps the arrivals then have. Unless `cold`,
    a tenant of its own sends what is common before each measurement, in all modes alike. With
    several `detectors`, `selective` takes part once with each. `slo_s`
    is the time to first token within which an answer counts as served in time. Memory is as much
    as everything sent needs, but `most_blocks` at most; then tenants may hold more than their
    share (overcommit), and lose it to each other.

    Raises `ConfigError` for what cannot be measured.
    """

    workloads: Sequence[str] = tuple(WORKLOADS)
    modes: Sequence[str] = ("stock", "global", "isolated", "selective")
    seeds: int = 3
    first_seed: int = 0
    phases: Sequence[str] = PHASES
    tenants: int | None = None
    turns: int | None = None
    common_words: int | None = None
    answer_tokens: int | None = None
    rate: float | None = None
    times_s: Sequence[float] = ()
    cold: bool = False
    detectors: Sequence[str] = ("on",)
    slo_s: float = 2.0
    epoch_s: float = 1.0
    settle_s: float = 2.5
    settle_limit_s: float = 30.0
    timeout_s: float = 600.0
    most_blocks: int | None = None

    def __post_init__(self) -> None:
        for name in self.workloads:
            if name not in WORKLOADS:
                raise ConfigError(f"there is no workload {name}", f"use {', '.join(WORKLOADS)}")
        if not self.workloads or not self.modes or not self.phases:
            raise ConfigError("nothing is to be measured", "name a workload, a mode and a phase")
        if not self.detectors or not set(self.detectors) <= set(DETECTORS):
            raise ConfigError(
                f"detectors are {', '.join(self.detectors)}", f"use {', '.join(DETECTORS)}"
            )
        if self.seeds < 1:
            raise ConfigError(f"seeds is {self.seeds}", "use 1 or more")
        for name in ("slo_s", "epoch_s", "timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", "use more than 0 seconds")
        for name in self.workloads:
            self.size(name)
            self.arrivals(name, "paced")

    @property
    def sides(self) -> list[str]:
        """What takes turns: the modes, `selective` once for each state of the detector."""
        found = []
        for mode in self.modes:
            states = self.detectors if mode == SELECTIVE else ("on",)
            found += [mode if state == "on" else f"{mode}:{state}" for state in states]
        return found

    def size(self, name: str) -> Size:
        """How much workload `name` sends."""
        given = {
            field: value
            for field in ("tenants", "turns", "common_words", "answer_tokens")
            if (value := getattr(self, field)) is not None
        }
        return replace(WORKLOADS[name].size, **given)

    def arrivals(self, name: str, phase: str) -> Arrivals:
        """When workload `name` sends in `phase`."""
        if phase == "burst":
            return Arrivals(AT_ONCE)
        return Arrivals(self.rate or WORKLOADS[name].rate, self.times_s)

    def scripts(self, name: str, seed: int) -> dict[str, Script]:
        """What is sent in each phase: other texts, of the same shape."""
        workload: Workload = WORKLOADS[name]
        return {
            phase: workload.make(self.size(name), f"{name}/{seed}/{phase}") for phase in self.phases
        }

    def public(self) -> dict[str, Any]:
        """All but the trace's times, as JSON types."""
        facts: dict[str, Any] = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name != "times_s"
        }
        sizes = {name: self.size(name) for name in self.workloads}
        facts["sizes"] = {
            name: {field: getattr(size, field) for field in size.__dataclass_fields__}
            for name, size in sizes.items()
        }
        facts["rates"] = {name: self.arrivals(name, "paced").rate for name in self.workloads}
        facts["arrivals"] = "trace" if self.times_s else "poisson"
        return {name: list(v) if isinstance(v, tuple) else v for name, v in facts.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Blocks for all, of these for the shared pool, and how often a tenant may exceed its share."""

    capacity_blocks: int
    shared_blocks: int
    overcommit: float = 1.0


def memory_plan(
    scripts: Sequence[Script], block_tokens: int, most_blocks: int | None = None
) -> MemoryPlan:
    """As much as everything sent needs, when each tenant has an equal share and keeps all it sent,
    so that nothing is ever evicted; or `most_blocks`, if that is less."""
    turns = [turn for script in scripts for turn in (*script.warm, *script.turns)]
    names = sorted({turn.tenant for turn in turns})
    most = max(
        _blocks([turn for turn in turns if turn.tenant == name], block_tokens) for name in names
    )
    pool = _blocks(turns, block_tokens)
    capacity = most * len(names) + pool
    if most_blocks is None or capacity <= most_blocks:
        return MemoryPlan(capacity_blocks=capacity, shared_blocks=pool)
    pool = min(pool, most_blocks // 2)
    share = max(1, (most_blocks - pool) // len(names))
    return MemoryPlan(
        capacity_blocks=most_blocks, shared_blocks=pool, overcommit=max(1.0, most / share + 1)
    )


def _blocks(turns: Sequence[Any], block_tokens: int) -> int:
    tokens = demand_words(turns) * TOKENS_PER_WORD
    # A turn's last block is its own, and its answer may begin another.
    tokens += sum(TURN_TOKENS + turn.answer_tokens + 2 * block_tokens for turn in turns)
    return int(tokens // block_tokens) + 1
