"""Random programs of requests, evictions, epochs and crashes, each in two worlds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from safekv.audit.world import Prompt
from safekv.types import TenantId, Verdict

VICTIM, ATTACKER = TenantId("victim"), TenantId("attacker")
OTHERS = (TenantId("b"), TenantId("c"))
TENANTS: Final = (VICTIM, ATTACKER, *OTHERS)

SECRET: Final = 99
"""The token that makes a block private. The attacker knows it, and guesses what stands by it."""

UNGUESSED: Final = 77
"""Stands in a secret that nobody guesses."""

DECLARED: Final[tuple[Prompt, ...]] = ((1, 1, 3, 3), (2, 1, 3, 3, 1, 2, 3, 3))
"""What the operator declared public in every program."""

Block: TypeAlias = tuple[int, int, int, int]


class Act(Enum):
    """What happens in one step."""

    SEND = "send"
    BURST = "burst"
    EVICT = "evict"
    TICK = "tick"
    RESTART = "restart"


class Other(Enum):
    """How the world without the secret differs: the victim sends nothing, or only what comes
    before the secret, or a secret that nobody guesses in its place."""

    ABSENT = "absent"
    CUT = "cut"
    REWRITTEN = "rewritten"


@dataclass(frozen=True, slots=True)
class Step:
    """One act of one tenant. `prompts` or `n_blocks` say of what."""

    act: Act
    tenant: TenantId = ATTACKER
    prompts: tuple[Prompt, ...] = ()
    n_blocks: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    """The same steps in both worlds, but for the victim's secrets."""

    without: tuple[Step, ...]
    with_secret: tuple[Step, ...]
    quota_blocks: int
    delay: int


def vetoes_secrets(block: Sequence[int]) -> Verdict:
    """A detector that finds every secret."""
    return Verdict.PRIVATE if SECRET in block else Verdict.SHAREABLE


def random_program(rng: random.Random, others: Sequence[Other]) -> Program:
    """A program of 5 to 30 steps. Where the victim writes more in one world than in the other,
    its quota is large: what a full cache of its own costs it is another channel (see the
    threat model)."""
    other = rng.choice(others)
    # A victim with little room that sends more loses more of what it would have contributed.
    tight = other is Other.REWRITTEN or Other.ABSENT in others
    quota = rng.randint(6, 12) if tight and rng.random() < 0.5 else 500
    without, with_secret = list[Step](), list[Step]()
    for _ in range(rng.randint(5, 30)):
        if rng.random() < 0.4:
            secret, instead = _hidden(rng, other)
            with_secret.append(Step(Act.SEND, VICTIM, (secret,)))
            if instead is not None:
                without.append(Step(Act.SEND, VICTIM, (instead,)))
        step = _open_step(rng)
        without.append(step)
        with_secret.append(step)
    return Program(tuple(without), tuple(with_secret), quota, rng.choice((0, 0, 1, 3)))


def _open_step(rng: random.Random) -> Step:
    act = rng.choices(list(Act), weights=(10, 2, 2, 4, 0.3))[0]
    tenant = rng.choice((ATTACKER, ATTACKER, *OTHERS))
    if act in (Act.SEND, Act.BURST):
        n = rng.randint(2, 4) if act is Act.BURST else 1
        return Step(act, tenant, tuple(_open_prompt(rng, tenant) for _ in range(n)))
    return Step(act, tenant, n_blocks=rng.randint(1, 4) if act is Act.EVICT else 0)


def _open_prompt(rng: random.Random, tenant: TenantId) -> Prompt:
    if tenant == ATTACKER and rng.random() < 0.6:
        return _flat([*_clean(rng, 1, 2), _secret(rng), *_clean(rng, 0, 2)])
    return _flat(_clean(rng, 1, 3))


def _hidden(rng: random.Random, other: Other) -> tuple[Prompt, Prompt | None]:
    before, secret, behind = _clean(rng, 1, 2), _secret(rng), _clean(rng, 0, 2)
    prompt = _flat([*before, secret, *behind])
    if other is Other.ABSENT:
        return prompt, None
    if other is Other.CUT:
        return prompt, _flat(before)
    return prompt, _flat([*before, (*secret[:2], SECRET, UNGUESSED), *behind])


def _clean(rng: random.Random, least: int, most: int) -> list[Block]:
    return [(rng.choice((1, 2)), rng.choice((1, 2)), 3, 3) for _ in range(rng.randint(least, most))]


def _secret(rng: random.Random) -> Block:
    return rng.choice((1, 2)), rng.choice((1, 2)), SECRET, 3


def _flat(blocks: Sequence[Block]) -> Prompt:
    return (*(token for block in blocks for token in block), 7)
