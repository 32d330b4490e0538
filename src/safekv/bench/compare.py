"""Whether a later record is worse than an earlier one, by more than noise.

Compared is what does not depend on how quick a machine is: ratios to a peer of the same run, hit
rates, shares. A value with an interval is worse when the intervals part and the values differ by
more than the tolerance; one without (a replay, which has no noise) when it differs at all.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from safekv.bench.records import Record

TOLERANCE: Final = 0.02
EXACT: Final = 1e-6
DRAWS: Final = 1000
LEAST_RUNS: Final = 3


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a record; `better` is `lower` or `higher`. `low` and `high` are `None` for a
    number without noise."""

    name: str
    better: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One metric in both records. `verdict` is `same`, `worse` or `better`."""

    setting: str
    name: str
    before: float
    after: float
    change: float
    verdict: str


def compare(
    before: Sequence[Record], after: Sequence[Record], tolerance: float = TOLERANCE
) -> list[dict[str, Any]]:
    """Changes of every metric that both have in equal settings, the last record of each. Cut short
    ones are left out."""
    earlier, later = _latest(before), _latest(after)
    changes = []
    for key in earlier:
        if key not in later:
            continue
        old = {metric.name: metric for metric in metrics(earlier[key])}
        for new in metrics(later[key]):
            if new.name in old:
                change = _judge(_title(earlier[key]), old[new.name], new, tolerance)
                changes.append(asdict(change))
    return changes


def _latest(records: Sequence[Record]) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for record in records:
        if record["benchmark"] in EXTRACTORS and not record.get("partial"):
            found[json.dumps(_setting(record), sort_keys=True)] = record
    return found


SETTING: Final[tuple[str, ...]] = (
    *("benchmark", "model", "model_name", "engine", "plan", "trace", "tenants", "bound"),
    *(
        "dealing",
        "capacity_blocks",
        "shared_share",
        "overcommit",
        "quota_part",
        "epoch_s",
        "requests",
    ),
)


def _setting(record: Record) -> dict[str, Any]:
    """What must be equal for two records to be compared."""
    setting: dict[str, Any] = {key: record[key] for key in SETTING if key in record}
    if record["benchmark"] == "serve":
        setting.pop("model", None)  # where it ran, which may differ
    return setting


def _title(record: Record) -> str:
    parts = [record["benchmark"], *(str(record[k]) for k in ("trace", "tenants") if k in record)]
    return " ".join(parts)


def _judge(setting: str, old: Metric, new: Metric, tolerance: float) -> Change:
    change = (new.value - old.value) / abs(old.value) if old.value else float(new.value != 0)
    worse = change > 0 if new.better == "lower" else change < 0
    noisy = None not in (old.low, old.high, new.low, new.high)
    least = tolerance if noisy else EXACT
    differs = abs(change) > least and (not noisy or _apart(old, new))
    verdict = ("worse" if worse else "better") if differs else "same"
    return Change(setting, new.name, old.value, new.value, round(change, 5), verdict)


def _apart(old: Metric, new: Metric) -> bool:
    assert old.low is not None
    assert old.high is not None
    assert new.low is not None
    assert new.high is not None
    return new.low > old.high or new.high < old.low


# -- what the benchmarks' records hold ---------------------------------------------------------


def metrics(record: Record) -> list[Metric]:
    """The numbers of a record that can be compared; none for a benchmark that is not known."""
    extract = EXTRACTORS.get(record["benchmark"])
    return list(extract(record)) if extract else []


BETTER: Final = {"throughput": "higher", "throughput_tok_s": "higher"}


def _ratios(name: str, ratios: dict[str, Any]) -> Iterator[Metric]:
    for key, ratio in ratios.items():
        # Of fewer than three runs an interval says nothing.
        if ratio is not None and "low" in ratio and ratio.get("runs", LEAST_RUNS) >= LEAST_RUNS:
            better = BETTER.get(key, "lower")
            yield Metric(f"{name} {key}", better, ratio["value"], ratio["low"], ratio["high"])


def _engine(record: Record) -> Iterator[Metric]:
    yield from _ratios("safekv/transformers", record["ratio_safekv_to_transformers"])


def _serve(record: Record) -> Iterator[Metric]:
    for workload, pairs in record["comparisons"].items():
        for pair, ratios in pairs.items():
            yield from _ratios(f"{workload} {pair}", ratios)
    for workload, modes in record["workloads"].items():
        for mode, row in modes.items():
            runs = [one for one in row["own_cpu_share_by_run"] if one is not None]
            if runs:
                name = f"{workload} {mode} own_cpu_share"
                yield Metric(name, "lower", row["own_cpu_share"], min(runs), max(runs))
            if row["failed"]:
                yield Metric(f"{workload} {mode} failed", "lower", row["failed"])


def _replay(record: Record) -> Iterator[Metric]:
    better = {"hit_rate": "higher", "attacker_advantage": "lower", "duplicate_kv_ratio": "lower"}
    for policy, row in record["policies"].items():
        for key, way in better.items():
            if row.get(key) is not None:
                yield Metric(f"{policy} {key}", way, row[key])


def _tick(record: Record) -> Iterator[Metric]:
    rng = random.Random(0)  # noqa: S311 - statistics, not a secret
    for row in record["rows"]:
        times = row["samples_ms"]
        drawn = sorted(statistics.median(rng.choices(times, k=len(times))) for _ in range(DRAWS))
        low, high = drawn[int(0.025 * DRAWS)], drawn[int(0.975 * DRAWS) - 1]
        # The size comes out a little different each time: the promised one is the key.
        size = 10 ** (len(str(row["nodes"])) - 1)
        name = f"about {size} nodes, {row['cleared_prompts']} prompts"
        yield Metric(name, "lower", statistics.median(times), low, high)


EXTRACTORS: Final[dict[str, Callable[[Record], Iterator[Metric]]]] = {
    "engine": _engine,
    "serve": _serve,
    "replay": _replay,
    "tick": _tick,
}
