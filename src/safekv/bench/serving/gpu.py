"""One call on a GPU: a large architecture with random weights, by prompt length and by tenants.

**Never run on a GPU by us**: written and tested on a CPU, with the shape `toy`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from safekv.bench.serving.engines import EngineHost
from safekv.bench.serving.plan import ServePlan
from safekv.bench.serving.play import run as serve
from safekv.errors import ConfigError

MODES: Final = ("global", "isolated", "selective")
WORDS_PER_S: Final = 6000.0
"""What the device is taken to compute: prompts come about as fast as that."""
RESERVED_BYTES: Final = 28 << 30
"""Of the device's memory, for 16 GB of weights, the attention mask (batch x cache, some 4 GB),
activations and what the allocator wastes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point of a sweep: so many tenants, each with one prompt of so many words in common."""

    sweep: str
    tenants: int
    common_words: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlan:
    """`lengths` of the common prompt with few tenants, for latencies; and numbers of `tenants` with
    `tenant_words` in common, all at once, for throughput. Short ones first; after `limit_s`
    nothing new is begun, and what is left is listed as not run."""

    lengths: Sequence[int] = (1024, 2048, 4096, 8192, 16384, 32768)
    few: int = 4
    tenants: Sequence[int] = (4, 16, 64, 256)
    tenant_words: int = 2048
    answer_tokens: int = 16
    limit_s: float = 540.0
    settle_s: float = 2.5

    def cells(self) -> list[Cell]:
        """All points, the cheaper ones first."""
        lengths = [
            Cell(sweep="length", tenants=self.few, common_words=words) for words in self.lengths
        ]
        tenants = [
            Cell(sweep="tenants", tenants=n, common_words=self.tenant_words) for n in self.tenants
        ]
        return sorted([*lengths, *tenants], key=lambda cell: cell.tenants * cell.common_words)


TOY: Final = GpuPlan(
    lengths=(64, 128), few=2, tenants=(2, 3), tenant_words=64, answer_tokens=4, settle_s=0.5
)
"""For a CPU and the shape `toy`: shows that everything works, and measures nothing."""


def engine_settings() -> dict[str, Any]:
    """The engine's settings for a large device."""
    return {"max_batch_tokens": 4096, "max_requests_per_batch": 256}


def run(
    host: EngineHost,
    plan: GpuPlan,
    report: Callable[[int, int], None],
    *,
    toy: bool = False,
    modes: Sequence[str] = MODES,
) -> dict[str, Any]:
    """Measure every cell, as JSON types. Raises `ConfigError` without a GPU, unless `toy`."""
    if host.about["device"] == "cpu" and not toy:
        raise ConfigError("there is no CUDA device", "use --toy to try the command on a CPU")
    deadline_s = time.monotonic() + plan.limit_s
    cells, not_run = plan.cells(), list[dict[str, Any]]()
    found: list[dict[str, Any]] = []
    stopped = None
    for n, cell in enumerate(cells):
        report(n, len(cells))
        if stopped is None and time.monotonic() < deadline_s:
            result = serve(
                host, _plan(plan, cell, modes, host), lambda done, total: None, deadline_s
            )
            stopped = result["stopped"]
            found.append({**asdict(cell), **_kept(result)})
        else:
            not_run.append(asdict(cell))
    report(len(cells), len(cells))
    late = stopped in (None, "out of time")
    return {
        "plan": asdict(plan),
        "model": host.about,
        "toy": toy,
        "partial": bool(not_run) or stopped is not None,
        "stopped": "out of time" if not_run and late else stopped,
        "cells": found,
        "not_run": not_run,
    }


def _plan(plan: GpuPlan, cell: Cell, modes: Sequence[str], host: EngineHost) -> ServePlan:
    by_length = cell.sweep == "length"
    return ServePlan(
        workloads=["system"],
        modes=modes,
        seeds=1,
        phases=["paced"] if by_length else ["burst"],
        tenants=cell.tenants,
        turns=1,
        common_words=cell.common_words,
        answer_tokens=plan.answer_tokens,
        rate=WORDS_PER_S / cell.common_words,
        settle_s=plan.settle_s,
        most_blocks=_most_blocks(host),
    )


def _most_blocks(host: EngineHost) -> int | None:
    """Blocks that fit the device beside the model; `None` where that is not known."""
    memory, block = host.about.get("memory_bytes"), host.about.get("block_bytes")
    if not memory or not block:
        return None
    return max(64, int((memory - RESERVED_BYTES) // block))


def _kept(result: dict[str, Any]) -> dict[str, Any]:
    """Of one cell: numbers by mode, ratios, memory and raw answers."""
    return {
        "modes": result["workloads"].get("system", {}),
        "comparisons": result["comparisons"].get("system", {}),
        "capacity_blocks": [run["capacity_blocks"] for run in result["runs"]],
        "overcommit": [run["overcommit"] for run in result["runs"]],
        "runs": result["runs"],
    }
