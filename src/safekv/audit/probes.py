"""Small experiments on the real warden, one per claim that needs no statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from safekv.audit.collusion import TEMPLATE, VICTIM
from safekv.audit.world import BLOCK_TOKENS, Judge, Prompt, World, everything_clean
from safekv.errors import CacheError
from safekv.events import Event
from safekv.safeguard import SafeguardConfig
from safekv.types import Mode, Profile, TenantId, Verdict, pack_tokens
from safekv.warden import WardenConfig

READER: Final = TenantId("reader")
CROWD: Final = tuple(TenantId(f"tenant-{n}") for n in range(12))
TEXT: Final[Prompt] = (*range(100, 112), 7)
FULL: Final = 3 * BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a claim held, and by what that was seen."""

    holds: bool
    evidence: str


def _world(
    config: WardenConfig, judge: Judge = everything_clean, safeguard: SafeguardConfig | None = None
) -> World:
    return World(config, [VICTIM, READER, *CROWD], judge=judge, safeguard=safeguard)


def _anonymous(contributions_per_window: int = 4096) -> WardenConfig:
    return WardenConfig(
        profile=Profile.ANONYMOUS,
        threshold_low=3,
        threshold_width=2,
        contributions_per_window=contributions_per_window,
    )


def _found(world: World, prompt: Prompt = TEXT, tenant: TenantId = READER) -> int:
    """How many tokens of `prompt` the tenant finds; computes nothing."""
    running, seen = world.start(tenant, prompt)
    world.warden.release(running.lease)
    return len(prompt) - seen.waited_tokens


def only_at_ticks() -> Outcome:
    """Between ticks nothing becomes visible; at the tick it does."""
    seen = []
    for config in (WardenConfig(), _anonymous()):
        world = _world(config)
        for tenant in CROWD:
            world.send(tenant, TEXT)
        seen.append((_found(world), world.tick() and _found(world)))
    return Outcome(seen == [(0, FULL)] * 2, f"tokens found before and after the tick: {seen}")


def failing_detectors() -> Outcome:
    """Dead, slow, and short of answers: nothing is shared."""
    silent = _world(WardenConfig(), judge=lambda block: None)
    unsure = _world(WardenConfig(), judge=lambda block: Verdict.UNSURE)
    slow = World(WardenConfig(), [VICTIM, READER, *CROWD], delay=100)
    short = _world(WardenConfig(), judge=lambda block: None)
    for world in (silent, unsure, slow, short):
        world.send(VICTIM, TEXT)
    running, _ = short.start(READER, TEXT)
    job = short.warden.computed(READER, running.lease, pack_tokens(TEXT))
    if job is not None:
        short.warden.settle(job, [Verdict.SHAREABLE])
    found = {}
    for name, world in {"dead": silent, "unsure": unsure, "slow": slow, "short": short}.items():
        world.tick()
        found[name] = _found(world, tenant=CROWD[0])
    return Outcome(not any(found.values()), f"tokens another tenant found: {found}")


def readers_do_not_count() -> Outcome:
    """Twelve tenants read a shared run; demoted, it is not promoted by them (defect D4)."""
    world = _world(_anonymous())
    for tenant in CROWD[:5]:
        world.send(tenant, TEXT)
    world.tick()
    read = [_found(world, tenant=tenant) for tenant in CROWD[5:]]
    for tenant in CROWD[5:]:
        world.send(tenant, TEXT)
    world.warden.set_mode(Mode.SELECTIVE)
    for tenant in CROWD[5:]:
        world.send(tenant, TEXT)
    world.tick()
    found = _found(world)
    return Outcome(read == [FULL] * 7 and found == 0, f"7 readers, {found} tokens shared again")


def eviction_resets_nothing() -> Outcome:
    """Every contributor's copy is evicted at once: the text is shared all the same."""
    world = _world(_anonymous())
    for tenant in CROWD:
        world.send(tenant, TEXT)
        world.evict(tenant, 3)
    world.send(VICTIM, TEXT)
    world.tick()
    found = _found(world)
    return Outcome(found == FULL, f"{found} tokens shared on evidence whose blocks were evicted")


def quota_of_contributions() -> Outcome:
    """Beyond its quota a tenant is no contributor."""
    world = _world(_anonymous(contributions_per_window=3))
    other: Prompt = (*range(200, 212), 7)
    for tenant in CROWD:
        world.send(tenant, other)
        world.send(tenant, TEXT)
    world.tick()
    found = _found(world, other), _found(world)
    return Outcome(found == (FULL, 0), f"tokens shared within and beyond the quota: {found}")


def quarantine_is_sticky() -> Outcome:
    """After a demotion on suspicion others send and clear the text again, in vain."""
    world = _world(WardenConfig())
    letters: list[Prompt] = [
        (*TEMPLATE, *(1000 + n for _ in range(BLOCK_TOKENS)), 7) for n in range(30)
    ]
    for letter in letters:
        world.send(VICTIM, letter)
    world.tick()
    for letter in letters:
        world.send(READER, letter)
        world.tick()
    for tenant in CROWD[:6]:
        world.send(tenant, letters[-1])
        world.evict(tenant, 2)
        world.tick()
    found = _found(world, letters[-1], CROWD[-1])
    return Outcome(found == len(TEMPLATE), f"{found} tokens found, the template's {len(TEMPLATE)}")


def budgets_are_ones_own() -> Outcome:
    """The reader's answers are the same whether the victim read much or nothing (defect D5)."""
    views = []
    for victim_reads in (0, 14):
        world = _world(WardenConfig(), safeguard=SafeguardConfig(low_diversity=0.0))
        letters: list[Prompt] = [(*TEMPLATE, *(1000 + n for _ in range(4)), 7) for n in range(40)]
        for letter in letters:
            world.send(CROWD[0], letter)
        world.tick()
        for letter in letters[40 - victim_reads :]:
            world.send(VICTIM, letter)
        views.append([world.send(READER, letter).waited_tokens for letter in letters])
    same = views[0] == views[1]
    answered = sum(waited == 1 for waited in views[0])
    return Outcome(same and answered == 16, f"{answered} of 40 answered, equal: {same}")


def usage_shows_own_blocks() -> Outcome:
    """A shared hit saves time and does not show in `cached_tokens`."""
    world = _world(WardenConfig())
    world.send(VICTIM, TEXT)
    world.tick()
    first, second = world.send(READER, TEXT), world.send(READER, TEXT)
    told = first.cached_tokens, second.cached_tokens
    return Outcome(
        told == (0, FULL) and first.waited_tokens == 1,
        f"{len(TEXT) - first.waited_tokens} tokens found, told of {told[0]}, then of {told[1]}",
    )


def stricter_at_once() -> Outcome:
    """Whatever the stricter mode is, the next request finds nothing shared."""
    found = {}
    for mode, profile in (
        (Mode.ISOLATED, Profile.PAPER),
        (Mode.DECLARED, Profile.PAPER),
        (Mode.SELECTIVE, Profile.ANONYMOUS),
    ):
        world = _world(WardenConfig())
        world.send(VICTIM, TEXT)
        world.tick()
        world.warden.set_mode(mode, profile)
        found[mode.value] = _found(world)
    return Outcome(not any(found.values()), f"tokens found: {found}")


def tokens_are_compared() -> Outcome:
    """One other token anywhere in a block is a miss, whatever hashes say (defect D2)."""
    world = _world(WardenConfig(mode=Mode.UNSAFE_GLOBAL))
    world.send(VICTIM, TEXT)
    found = []
    for place in range(FULL):
        changed = (*TEXT[:place], 999, *TEXT[place + 1 :])
        found.append(_found(world, changed) == place // BLOCK_TOKENS * BLOCK_TOKENS)
    return Outcome(all(found), f"{sum(found)} of {len(found)} changed tokens end the match")


def nobody_is_nobody() -> Outcome:
    """A request without a tenant is refused (defect D3)."""
    world = _world(WardenConfig())
    refused = 0
    names: Sequence[object] = (None, "", 0, b"a")
    for name in names:
        try:
            world.warden.admit(name, pack_tokens(TEXT))  # type: ignore[arg-type]
        except CacheError:
            refused += 1
    return Outcome(refused == len(names), f"{refused} of {len(names)} refused")


def alarms_hold_no_text() -> Outcome:
    """Events name tenants and counts; no token of the text stands in any of them."""
    heard = _Heard()
    world = World(WardenConfig(), [VICTIM, READER], events=heard)
    letters: list[Prompt] = [(*TEMPLATE, *(7_654_321 + n for _ in range(4)), 7) for n in range(20)]
    for letter in letters:
        world.send(VICTIM, letter)
    world.tick()
    for letter in letters:
        world.send(READER, letter)
    world.tick()
    said = repr(heard.events)
    return Outcome("76543" not in said and "Suspected" in said, f"{len(heard.events)} events read")


class _Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)
