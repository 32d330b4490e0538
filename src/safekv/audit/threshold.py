"""What an attacker with many accounts learns from when a text becomes shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from safekv.audit.intervals import Interval, difference
from safekv.audit.world import BLOCK_TOKENS, Prompt, World
from safekv.types import Mode, Profile, TenantId
from safekv.warden import WardenConfig

VICTIM: Final = TenantId("victim")
GUESS: Final[Prompt] = (*range(BLOCK_TOKENS), 7)
"""One block, so one threshold, and a token to compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdPlan:
    """An attacker with `accounts` accounts, `plays` fresh secrets in each world."""

    accounts: int
    plays: int
    low: int = 8
    width: int = 32

    @property
    def bound(self) -> float:
        """What the proof allows: 1/W, and nothing while all contributors stay below L."""
        return 1 / self.width if self.accounts >= self.low else 0.0


@dataclass(frozen=True, slots=True)
class Advantage:
    """How much more often the attacker says "sent" when the victim did, and the bound on it."""

    measured: Interval
    bound: float
    plays: int

    @property
    def holds(self) -> bool:
        """Whether the bound is inside the interval or above it."""
        return self.measured.low <= self.bound


def first_hit(plan: ThresholdPlan, victim_sent: bool) -> int | None:
    """Which account finds the guess first, from 1; each one that does not contributes to it."""
    config = WardenConfig(
        mode=Mode.SELECTIVE,
        profile=Profile.ANONYMOUS,
        threshold_low=plan.low,
        threshold_width=plan.width,
    )
    accounts = [TenantId(f"sybil-{n}") for n in range(plan.accounts)]
    world = World(config, [VICTIM, *accounts], quota_blocks=2, pool_blocks=2)
    if victim_sent:
        world.send(VICTIM, GUESS)
    for n, account in enumerate(accounts, start=1):
        world.tick()
        if world.send(account, GUESS).waited_tokens < len(GUESS):
            return n
    return None


def renewed_hit(plan: ThresholdPlan, victim_sent: bool) -> bool:
    """Whether the last of L accounts finds the guess in a window in which the victim and the first
    L - 2 accounts only used again what they computed in the window before.

    In that earlier window at most L - 1 tenants computed it, so it was private whatever T was.
    """
    config = WardenConfig(
        profile=Profile.ANONYMOUS,
        threshold_low=plan.low,
        threshold_width=plan.width,
        window_epochs=2,
    )
    accounts = [TenantId(f"sybil-{n}") for n in range(plan.low)]
    world = World(config, [VICTIM, *accounts], quota_blocks=2, pool_blocks=2)
    senders = [*((VICTIM,) if victim_sent else ()), *accounts[:-2]]
    for tenant in senders:
        world.send(tenant, GUESS)
    world.tick()
    world.tick()  # a new window
    for tenant in (*senders, accounts[-2]):
        world.send(tenant, GUESS)
    world.tick()
    return world.send(accounts[-1], GUESS).waited_tokens < len(GUESS)


def renewal(plan: ThresholdPlan, report: Callable[[], None]) -> Advantage:
    """The same attack over two windows, on contributions that are renewed by use."""
    says = [0, 0]
    for _ in range(plan.plays):
        for sent in (False, True):
            says[sent] += renewed_hit(plan, sent)
        report()
    measured = difference((says[True], plan.plays), (says[False], plan.plays))
    return Advantage(measured, plan.bound, plan.plays)


def advantage(plan: ThresholdPlan, report: Callable[[], None]) -> Advantage:
    """Play the best attack there is against the real warden, in both worlds.

    With T uniform on L..L+W-1 the first hit comes one account earlier if the victim sent the
    text, so the best test is whether account L finds it: it can only if the victim did and
    T = L. Any other test gains as much or less (SafeKV's notes, proof of the randomised
    threshold), so accounts beyond L need not be played. About 2 ms a play.
    """
    decisive = replace(plan, accounts=min(plan.accounts, plan.low))
    says = [0, 0]
    for _ in range(plan.plays):
        for sent in (False, True):
            says[sent] += first_hit(decisive, sent) is not None
        report()
    measured = difference((says[True], plan.plays), (says[False], plan.plays))
    return Advantage(measured, plan.bound, plan.plays)
