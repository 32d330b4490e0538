"""How many secrets colluding accounts confirm before the safeguard stops them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from safekv.audit.world import BLOCK_TOKENS, Prompt, World
from safekv.events import Event, Suspected
from safekv.safeguard import SafeguardConfig
from safekv.types import Mode, Profile, TenantId
from safekv.warden import WardenConfig

VICTIM: Final = TenantId("victim")
TEMPLATE: Final[Prompt] = tuple(range(BLOCK_TOKENS))
ACCOUNTS: Final = (1, 2, 10, 50, 100)


@dataclass(frozen=True, slots=True)
class Collusion:
    """What `accounts` accounts got out of one window, every guess of theirs being right.

    `answers` are hits on blocks that the victim wrote and the detector let pass. With
    `ticks` an epoch ended after every request, otherwise only when the budgets were spent;
    `bound` is what the safeguard allows then.
    """

    profile: str
    accounts: int
    ticks: bool
    answers: int
    bound: int
    demoted: bool


OTHERS = 9
"""Tenants for each account of the attacker, so that its accounts are few among all."""


class _Alarms:
    def __init__(self) -> None:
        self.demoted = False

    def emit(self, event: Event) -> None:
        self.demoted |= isinstance(event, Suspected) and not event.surge


def run(accounts: Sequence[int], report: Callable[[], None]) -> list[Collusion]:
    """Each number of accounts against each profile, patient and in one burst. Seconds."""
    found = []
    for profile in Profile:
        for n in accounts:
            for ticks in (True, False):
                found.append(collude(profile, n, ticks=ticks))
                report()
    return found


def collude(profile: Profile, accounts: int, *, ticks: bool) -> Collusion:
    """Let the accounts ask for one secret of the victim after another, in turns, each once."""
    safeguard, alarms = SafeguardConfig(window_epochs=10**9), _Alarms()
    config = WardenConfig(mode=Mode.SELECTIVE, profile=profile)
    sybils = [TenantId(f"sybil-{n}") for n in range(accounts)]
    others = [TenantId(f"other-{n}") for n in range(OTHERS * accounts)]
    letters = accounts * (safeguard.reads_per_node + 2)
    world = World(
        config,
        [VICTIM, *sybils, *others],
        quota_blocks=letters + 10,
        pool_blocks=letters + 10,
        safeguard=safeguard,
        events=alarms,
    )
    for n in range(letters):
        world.send(VICTIM, _letter(n))
    world.tick()
    answers = 0
    for n in range(letters):
        seen = world.send(sybils[n % accounts], _letter(n))
        answers += len(_letter(n)) - seen.waited_tokens == 2 * BLOCK_TOKENS
        if ticks:
            world.tick()
    world.tick()
    bound = bound_of(safeguard, accounts, ticks=ticks) if profile is Profile.PAPER else 0
    return Collusion(profile.value, accounts, ticks, answers, bound, alarms.demoted)


def bound_of(safeguard: SafeguardConfig, accounts: int, *, ticks: bool) -> int:
    """The most answers of one window: linear in the accounts, and never 0.

    With a tick after each answer c accounts are stopped as soon as there are `armed_reads`
    answers and c / answers falls below `low_diversity`, if they are fewer than that share of all
    tenants; between ticks, and for more accounts, only the budgets count.
    """
    budget = accounts * safeguard.reads_per_node
    if not ticks:
        return budget
    stopped = max(safeguard.armed_reads, int(accounts / safeguard.low_diversity) + 1)
    return min(budget, stopped)


def _letter(n: int) -> Prompt:
    return (*TEMPLATE, *(1000 + n for _ in range(BLOCK_TOKENS)), 7)
