"""Endpoints that exist as noise only: to find out how often an audit is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import signal, stats

from safekv.audit.endpoint.judge import Judge, Place, Rules, Verdict, overall
from safekv.audit.endpoint.observation import CONTROL_SCOPES, Content, Observation, Pair, Scope

Floats = NDArray[np.float64]
Noise = Callable[[int, np.random.Generator], Floats]

ARMS: Final = (Scope.SAME_KEY, Scope.NEGATIVE, Scope.OTHER)
CONTENTS: Final = (Content.LETTERS, Content.PERSONAL, Content.KEY)
OWN_HIT_DEVIATIONS: Final = 4.0
SPREAD: Final = 0.1


def gaussian(count: int, rng: np.random.Generator) -> Floats:
    """Independent normal deviations."""
    return rng.standard_normal(count)


def heavy_tailed(count: int, rng: np.random.Generator) -> Floats:
    """Independent, with a Pareto tail that has no variance: a busy network."""
    found: Floats = rng.standard_normal(count) + rng.pareto(1.5, count)
    return found


def bimodal(count: int, rng: np.random.Generator) -> Floats:
    """Two states, such as two replicas or a frequency step; each lasts five requests on average."""
    state = np.cumsum(rng.random(count) < 0.2) % 2
    found: Floats = rng.standard_normal(count) * 0.3 + 6.0 * state
    return found


def drifting(count: int, rng: np.random.Generator) -> Floats:
    """A trend, a slow wave and a random walk: a machine that warms up and fills."""
    t = np.linspace(0, 1, count)
    trend = rng.uniform(-10, 10) * t + 4 * np.sin(2 * np.pi * (3 * t + rng.random()))
    walk = np.cumsum(rng.standard_normal(count)) * 0.2
    found: Floats = trend + walk + rng.standard_normal(count)
    return found


def autocorrelated(count: int, rng: np.random.Generator) -> Floats:
    """Each request resembles the one before, with correlation 0.95."""
    found: Floats = signal.lfilter([np.sqrt(1 - 0.95**2)], [1, -0.95], rng.standard_normal(count))
    return found


def alternating(count: int, rng: np.random.Generator) -> Floats:
    """Every second request is slow, as with two workers taking turns: a fixed order's trap."""
    found: Floats = rng.standard_normal(count) * 0.3 + 6.0 * (np.arange(count) % 2)
    return found


NOISES: Final[Mapping[str, Noise]] = {
    noise.__name__.replace("_", "-"): noise
    for noise in (gaussian, heavy_tailed, bimodal, drifting, autocorrelated, alternating)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A simulated endpoint: noise, how far a leaked hit is earlier, and the audit's size.

    `leak_deviations` is the shift of another tenant's hit, in units of the noise's scale; with
    gaussian noise its AUC is `auc_of(leak_deviations)`.
    """

    noise: Noise
    leak_deviations: float = 0.0
    blocks: int = 60


def auc_of(deviations: float) -> float:
    """The AUC of a shift by that many standard deviations under gaussian noise."""
    return float(stats.norm.cdf(deviations / np.sqrt(2)))


def deviations_of(auc: float) -> float:
    """The shift that has this AUC under gaussian noise."""
    return float(np.sqrt(2) * stats.norm.ppf(auc))


@dataclass(frozen=True, slots=True)
class Simulated:
    """One simulated audit: its verdict, and whether it claimed a leak anywhere."""

    verdict: Verdict
    alarmed: bool


def simulated_audit(world: World, rules: Rules, *, seed: int) -> Simulated:
    """A whole audit of a simulated endpoint: three contents, both controls, every look."""
    rng = np.random.default_rng(seed)
    samples = _samples(world, rng)
    judge = Judge(rules, len(CONTENTS), seed=seed)
    for look in range(rules.looks):
        upto = world.blocks * (look + 1) // rules.looks
        judge.look(look, {place: pairs[:upto] for place, pairs in samples.items()})
        if judge.leaking():
            break
    places = [place for place in samples if place[0] not in CONTROL_SCOPES]
    verdict, _ = overall(judge.findings(), places, frozenset())
    return Simulated(verdict, bool(judge.leaking()))


def _samples(world: World, rng: np.random.Generator) -> dict[Place, list[Pair]]:
    """Pairs as an audit draws them: in each block the arms of all contents in random order."""
    arms: list[tuple[Scope | None, Content]] = [
        (scope, content) for content in CONTENTS for scope in (None, *ARMS)
    ]
    orders = np.stack([rng.permutation(len(arms)) for _ in range(world.blocks)])
    noise = world.noise(orders.size, rng).reshape(orders.shape)
    times = np.empty_like(noise)
    np.put_along_axis(times, orders, noise, axis=1)
    shifts = np.array([_shift(scope, world) for scope, _ in arms])
    times_s = np.exp((times - shifts) * SPREAD)
    seen = [[Observation("200", float(t)) for t in row] for row in times_s]
    places = {arm: place for place, arm in enumerate(arms)}
    return {
        (scope, content): [
            Pair(row[places[scope, content]], row[places[None, content]]) for row in seen
        ]
        for content in CONTENTS
        for scope in ARMS
    }


def _shift(scope: Scope | None, world: World) -> float:
    """How much earlier a probe of this arm is answered; the own key's hit stands far out."""
    if scope is Scope.SAME_KEY:
        return OWN_HIT_DEVIATIONS
    return world.leak_deviations if scope is Scope.OTHER else 0.0
