"""Does anything that another tenant observes depend on whether the victim sent its secret?"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from safekv.audit.program import (
    ATTACKER,
    DECLARED,
    TENANTS,
    Act,
    Other,
    Program,
    Step,
    random_program,
    vetoes_secrets,
)
from safekv.audit.world import Judge, Prompt, Seen, World, everything_clean
from safekv.types import Mode, Profile, Release
from safekv.warden import Keys, WardenConfig

Report: TypeAlias = Callable[[], None]
View: TypeAlias = tuple[tuple[Seen | int | bool, ...], ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to run the server, and what the two worlds may differ in there."""

    config: WardenConfig
    judge: Judge
    others: tuple[Other, ...]
    declared: tuple[Prompt, ...] = DECLARED


ALL: Final = tuple(Other)
CONTENT: Final = (Other.CUT, Other.REWRITTEN)
"""Where clean text is shared, the clean part of what the victim wrote is sent in both worlds."""

PAPER: Final = WardenConfig(mode=Mode.SELECTIVE, profile=Profile.PAPER)
CROWD: Final = WardenConfig(
    mode=Mode.SELECTIVE, profile=Profile.ANONYMOUS, threshold_low=2, threshold_width=2
)
MASKED: Final = replace(PAPER, release=Release.MASKED)
FEW: Final = WardenConfig(
    mode=Mode.SELECTIVE,
    profile=Profile.ANONYMOUS,
    threshold_low=len(TENANTS) + 1,
    threshold_width=2,
)

SETTINGS: Final = {
    "isolated": Setting(WardenConfig(mode=Mode.ISOLATED), everything_clean, ALL),
    "declared": Setting(WardenConfig(mode=Mode.DECLARED), everything_clean, CONTENT),
    "vetoed-paper": Setting(PAPER, vetoes_secrets, CONTENT),
    "vetoed-anonymous": Setting(CROWD, vetoes_secrets, CONTENT),
    "masked-paper": Setting(MASKED, everything_clean, ALL, declared=()),
    "anonymous-below-threshold": Setting(FEW, everything_clean, ALL, declared=()),
    "unsafe-global": Setting(WardenConfig(mode=Mode.UNSAFE_GLOBAL), everything_clean, ALL),
}
"""Everything but `unsafe-global`, the positive control, must look the same in both worlds."""

CONTROL: Final = "unsafe-global"


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many programs were run, what the attacker observed in them, and where it differed.

    `promotions` counts programs in which something became shared at all.
    """

    programs: int
    observations: int
    differences: int
    promotions: int


def compare(setting: Setting, programs: int, seed: int, report: Report) -> Comparison:
    """Run `programs` random programs in both worlds. About 2 ms each."""
    observations = differences = promotions = 0
    for n in range(programs):
        rng = random.Random(f"{seed}:{n}")  # noqa: S311 - a test program, not a key
        program, keys = random_program(rng, setting.others), Keys()
        without, promoted = _play(setting, program, program.without, keys)
        with_secret, promoted_too = _play(setting, program, program.with_secret, keys)
        observations += len(without)
        differences += without != with_secret
        promotions += promoted or promoted_too
        report()
    return Comparison(programs, observations, differences, promotions)


def as_isolated(programs: int, seed: int, report: Report) -> Comparison:
    """Run programs with masked release and in `isolated`, and compare all that the attacker
    observes: with the one it must see what it sees in the other."""
    masked = SETTINGS["masked-paper"]
    isolated = replace(SETTINGS["isolated"], declared=masked.declared)
    observations = differences = promotions = 0
    for n in range(programs):
        rng = random.Random(f"alike:{seed}:{n}")  # noqa: S311 - a test program, not a key
        program, keys = random_program(rng, masked.others), Keys()
        view, promoted = _play(masked, program, program.with_secret, keys)
        truth, _ = _play(isolated, program, program.with_secret, keys)
        observations += len(view)
        differences += view != truth
        promotions += promoted
        report()
    return Comparison(programs, observations, differences, promotions)


def _play(
    setting: Setting, program: Program, steps: tuple[Step, ...], keys: Keys
) -> tuple[View, bool]:
    """Everything the attacker observes, in order, and whether anything was promoted."""
    world = World(
        setting.config,
        TENANTS,
        quota_blocks=program.quota_blocks,
        judge=setting.judge,
        delay=program.delay,
        declared=setting.declared,
        keys=keys,
    )
    view, promoted = list[tuple[Seen | int | bool, ...]](), False
    for step in steps:
        match step.act:
            case Act.SEND:
                seen: tuple[Seen | int | bool, ...] = (world.send(step.tenant, *step.prompts),)
            case Act.BURST:
                seen = world.burst(step.tenant, step.prompts)
            case Act.EVICT:
                world.evict(step.tenant, step.n_blocks)
                seen = (world.room(step.tenant),)
            case Act.TICK:
                promoted = bool(world.tick()) or promoted
                continue
            case Act.RESTART:
                world.restart()
                continue
        if step.tenant == ATTACKER:
            view.append(seen)
    world.warden.check()
    return tuple(view), promoted
