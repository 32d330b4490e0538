"""The two-world comparison against the engine's own scheduler: order, places in the batch, times.

`run` says `None` where torch is not installed: this module imports without it.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from safekv.audit.program import ATTACKER, TENANTS, Act, Other, Program, Step, random_program
from safekv.audit.two_world import SETTINGS, Comparison, Setting
from safekv.types import Release
from safekv.warden import Keys

MODES: Final = ("isolated", "declared", "vetoed-paper", "vetoed-anonymous", "masked-paper")
CONTROL: Final = "unsafe-global"
SAME_LOAD: Final = (Other.REWRITTEN,)
"""The victim sends as much in both worlds, so that what differs is not its load."""
SERVED_QUOTA: Final = 16
UNMASKED: Final = replace(
    SETTINGS["masked-paper"],
    config=replace(SETTINGS["masked-paper"].config, release=Release.IMMEDIATE),
)
"""What masks must hide: the control of `masked-paper`."""
NEEDS: Final = ("torch", "transformers")

Row: TypeAlias = tuple[object, ...]


def available() -> bool:
    """Whether the embedded engine can be driven here."""
    return all(importlib.util.find_spec(name) is not None for name in NEEDS)


def compare(name: str, programs: int, seed: int, report: Callable[[], None]) -> Comparison:
    """Run `programs` programs in both worlds, by the setting called `name`. Some 0.3 s each."""
    setting = UNMASKED if name == "unmasked-paper" else SETTINGS[name]
    if name != CONTROL:
        # With masked release what the victim computes can be felt as load, though not as text.
        setting = replace(setting, others=SAME_LOAD)
    observations = differences = promotions = 0
    for n in range(programs):
        rng = random.Random(f"served:{seed}:{n}")  # noqa: S311 - a test program, not a key
        program, keys = random_program(rng, setting.others), Keys()
        without, promoted = _play(setting, program, program.without, keys)
        with_secret, promoted_too = _play(setting, program, program.with_secret, keys)
        observations += len(without)
        differences += without != with_secret
        promotions += promoted or promoted_too
        report()
    return Comparison(programs, observations, differences, promotions)


def _play(
    setting: Setting, program: Program, steps: tuple[Step, ...], keys: Keys
) -> tuple[tuple[Row, ...], bool]:
    """What the attacker observes; requests between two ticks arrive together, so they share
    batches."""
    from safekv.audit.served import ServedWorld

    world = ServedWorld(
        setting.config,
        TENANTS,
        quota_blocks=max(SERVED_QUOTA, min(program.quota_blocks, 64)),
        pool_blocks=64,
        judge=setting.judge,
        declared=setting.declared,
        keys=keys,
    )
    seen, promoted = list[Row](), False
    for step in (*steps, Step(Act.TICK)):
        if step.act in (Act.SEND, Act.BURST):
            for prompt in step.prompts:
                world.send(step.tenant, prompt)
        elif step.act is Act.TICK:
            world.run()
            seen += world.take(ATTACKER)
            promoted = bool(world.tick()) or promoted
    return tuple(seen), promoted


def run(programs: int, seed: int, report: Callable[[], None]) -> Mapping[str, Comparison] | None:
    """All modes and the control, or `None` where the engine's packages are missing."""
    if not available():
        return None
    return {name: compare(name, programs, seed, report) for name in (*MODES, CONTROL)}
