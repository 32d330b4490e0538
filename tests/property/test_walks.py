"""Long random walks through the tree, the same on every run, in step with the model.

They reach crowded trees that a search for short counterexamples seldom visits.
"""

from __future__ import annotations

from random import Random

import pytest

from support.blocks import LETTERS
from support.lockstep import A, B, C, Lockstep, small

WEIGHTS = {
    "put": 6.0,
    "hit": 6.0,
    "release": 5.0,
    "promote": 4.0,
    "hold": 2.0,
    "match": 2.0,
    "insert": 2.0,
    "adopt": 2.0,
    "evict": 2.0,
    "end_epoch": 2.0,
    "demote": 1.0,
    "compact": 1.0,
    "forget": 0.2,
    "open": 0.2,
}


def walk(seed: int, steps: int = 60) -> None:
    """One program, its size and habits chosen by `seed`; then everything is drained."""
    dice = Random(seed)
    capacity = dice.randint(6, 30)
    both = Lockstep(
        small(
            capacity_blocks=capacity,
            shared_blocks=min(dice.choice([0, 2, 3, 4, 6, 8]), capacity - 3),
            overcommit=dice.choice([1.0, 1.0, 1.5, 3.0]),
            reused_floor=dice.choice([0.0, 0.25, 0.5, 1.0]),
        )
    )
    letters = LETTERS[: dice.choice([1, 2, 2, 3, 4])]
    tenants = [A, B, C][: dice.choice([1, 2, 3, 3])]
    weights = {name: weight * dice.choice([0.2, 1, 1, 2]) for name, weight in WEIGHTS.items()}
    for _ in range(steps):
        name = dice.choices(list(weights), list(weights.values()))[0]
        step(both, name, dice, dice.choice(tenants), letters)
    both.drain(ticked=dice.random() < 0.5)


def text_for(both: Lockstep, dice: Random, letters: str) -> str:
    """Mostly a stored text, up to somewhere, and perhaps on from there."""
    stored, text = sorted(both.model.block), ""
    if stored and dice.random() < 0.75:
        text = dice.choice(stored)
        text = text[: dice.randint(0, len(text))] if dice.random() < 0.4 else text
        if dice.random() < 0.5:
            return text
    return text + "".join(dice.choices(letters, k=dice.randint(0, 4)))


def step(both: Lockstep, name: str, dice: Random, tenant: str, letters: str) -> None:
    if name in ("put", "hit", "hold", "match") and tenant not in both.model.quota:
        name = "open"
    if name in ("insert", "adopt", "release"):
        if not both.leases:
            return
        n = dice.randrange(len(both.leases))
        more = "".join(dice.choices(letters, k=dice.randint(0, 3)))
        arguments: tuple[object, ...] = (n, more) if name == "insert" else (n,)
    else:
        text = text_for(both, dice, letters)
        arguments = {
            "match": (tenant, text, dice.choice([None, None, 2])),
            "promote": (tenant, text, dice.randint(0, 8)),
            "demote": (text, dice.randint(0, 3)),
            "evict": (dice.randint(0, 5), dice.choice([None, tenant, tenant, tenant])),
            "open": (tenant, dice.choice([None, None, 3, 6])),
            "compact": (dice.choice([None, 1]),),
            "end_epoch": (),
            "forget": (tenant,),
        }.get(name, (tenant, text))
    getattr(both, name)(*arguments)


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_fifty_walks(first: int) -> None:
    for seed in range(first, first + 50):
        walk(seed)
