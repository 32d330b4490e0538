"""How often the audit is wrong: false alarms on isolated endpoints, and leaks that it finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from scipy import stats

from safekv.audit.endpoint.judge import Rules, Verdict
from safekv.audit.endpoint.simulation import (
    NOISES,
    Simulated,
    World,
    auc_of,
    deviations_of,
    simulated_audit,
)

POWER_AUCS: Final = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
LEVEL: Final = 0.95

Hear = Callable[[int, int], None]
"""Told how many audits are done, and of how many."""


def calibrate(
    audits: int, power_audits: int, blocks: int, rules: Rules, *, seed: int, hear: Hear
) -> dict[str, Any]:
    """Simulated audits of isolated endpoints under each noise, and of leaks of known size.

    The record's `calibrated` is false when a false-alarm rate lies above `rules.alpha` by more
    than chance: the lower end of its Clopper-Pearson interval (95 %) does. Seeds make it
    repeatable. Costs about 0.1 s an audit.
    """
    total = len(NOISES) * audits + len(POWER_AUCS) * power_audits
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        hear(done, total)

    alarms = [
        {"noise": name, **_rates(World(noise=noise, blocks=blocks), audits, rules, seed, step)}
        for name, noise in NOISES.items()
    ]
    power = [_power(auc, power_audits, blocks, rules, seed, step) for auc in POWER_AUCS]
    return {
        "alpha": rules.alpha,
        "blocks": blocks,
        "looks": rules.looks,
        "seed": seed,
        "false_alarms": alarms,
        "power": power,
        "calibrated": all(row["alarms"]["ci"][0] <= rules.alpha for row in alarms),
    }


def _power(
    auc: float, audits: int, blocks: int, rules: Rules, seed: int, step: Callable[[], None]
) -> dict[str, Any]:
    shift = deviations_of(auc)
    world = World(noise=NOISES["gaussian"], leak_deviations=shift, blocks=blocks)
    return {"auc": round(auc_of(shift), 4), **_rates(world, audits, rules, seed, step)}


def _rates(
    world: World, audits: int, rules: Rules, seed: int, step: Callable[[], None]
) -> dict[str, Any]:
    outcomes: list[Simulated] = []
    for number in range(audits):
        outcomes.append(simulated_audit(world, rules, seed=seed + number))
        step()
    verdicts = {v.value: sum(one.verdict is v for one in outcomes) for v in Verdict}
    alarms = sum(one.alarmed for one in outcomes)
    return {"audits": audits, "alarms": proportion(alarms, audits), "verdicts": verdicts}


def proportion(count: int, of: int) -> dict[str, Any]:
    """A share with its Clopper-Pearson interval (95 %), which is exact."""
    interval = stats.binomtest(count, of).proportion_ci(LEVEL, "exact")
    return {
        "count": count,
        "rate": round(count / of, 5),
        "ci": [round(float(interval.low), 5), round(float(interval.high), 5)],
    }
