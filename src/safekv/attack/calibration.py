"""Where to cut between a token's own states and strangers', learned from one's own prompts.

The attacker sends prompts of its own (chosen plaintext), so it knows which distances are of right
tokens. Both kinds are taken as normal in their logarithm; the cut is where the densities meet.
KV-Cloak paper (arXiv 2508.09442), the "+" variant of the collision attack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from safekv.attack.capture import Captured
from safekv.attack.collision import Rows
from safekv.attack.errors import AttackError

TINY: Final = 1e-5
"""Below this only rounding differs, and says nothing about the next prompt's."""

LEAST_SPREAD: Final = 0.5
"""Standard deviations, in the logarithm: a few samples must not make the cut too sure."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A threshold on relative distances, and the chance of each error under the two normals."""

    value: float
    missed: float
    wrong: float


def calibrate(
    plain: Sequence[Captured], stored: Sequence[Captured], layer: int, positions: range
) -> Cut:
    """The cut for `layer`, from own prompts as the model computes them and as they were stored.

    A right token's distance is that of a stored row to its own states; a wrong one's that to
    another own prompt's states at the same position. `positions` are those at which the prompts
    differ. No forward pass. Raises `AttackError` for fewer than two prompts or four positions.
    """
    right, wrong = list[float](), list[float]()
    for n, one in enumerate(stored):
        target = Rows(one, layer)
        for position in positions:
            if position >= one.tokens:
                break
            for other, states in enumerate(plain):
                if position < states.tokens:
                    row = slice(position, position + 1)
                    keys, values = (side[:, row] for side in states.layer(layer))
                    parts = target.distances(keys, values, position)
                    whole = float(parts.pow(2).mean().sqrt())
                    (right if other == n else wrong).append(whole)
    if len(right) < 4 or len(wrong) < 4:
        raise AttackError(
            f"{len(right)} positions of {len(stored)} prompts are too few to calibrate on",
            "send two prompts or more, of some length",
        )
    return between(right, wrong)


def between(right: Sequence[float], wrong: Sequence[float]) -> Cut:
    """Where the densities of two normals, fitted to the logarithms, meet between their means.

    If the right ones are not the smaller ones there is nothing to cut, and the value is 0.
    """
    low_mean, low_std = _normal(right)
    high_mean, high_std = _normal(wrong)
    if low_mean >= high_mean:
        return Cut(0.0, 1.0, 0.0)

    def gap(x: float) -> float:
        left = -0.5 * ((x - low_mean) / low_std) ** 2 - math.log(low_std)
        return left + 0.5 * ((x - high_mean) / high_std) ** 2 + math.log(high_std)

    low, high = low_mean, high_mean
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gap(middle) > 0 else (low, middle)
    missed = 0.5 * math.erfc((low - low_mean) / low_std / math.sqrt(2))
    mistaken = 0.5 * math.erfc((high_mean - low) / high_std / math.sqrt(2))
    return Cut(math.exp(low), missed, mistaken)


def _normal(values: Sequence[float]) -> tuple[float, float]:
    logs = torch.tensor([math.log(max(value, TINY)) for value in values], dtype=torch.float64)
    return float(logs.mean()), max(float(logs.std()), LEAST_SPREAD)
