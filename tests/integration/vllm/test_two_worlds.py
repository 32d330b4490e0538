"""The programs of `safekv verify`, run against vLLM's own scheduler and block pool."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from safekv.audit.program import ATTACKER, TENANTS, Act, Program, Step, random_program
from safekv.audit.two_world import CONTROL, SETTINGS, Setting
from safekv.bench.vllm.rig import Rig, RigPlan
from safekv.cache import CacheConfig
from safekv.types import Mode, TenantId, pack_tokens
from safekv.warden import Keys

PROGRAMS = 30
POOL_BLOCKS = 500
BLOCKS = 1500


class VllmWorld:
    """One run of vLLM's scheduler. A restart forgets everything."""

    def __init__(self, setting: Setting, program: Program, keys: Keys, blocks: int) -> None:
        quota = program.quota_blocks
        self._setting = setting
        self._plan = RigPlan(
            warden=setting.config,
            block_tokens=4,
            blocks=blocks,
            prompt_tokens=256,
            delay=program.delay,
            keys=keys,
            index=CacheConfig(
                block_tokens=4,
                capacity_blocks=(len(TENANTS) + 1) * quota + POOL_BLOCKS,
                shared_blocks=POOL_BLOCKS,
                quota_blocks=quota,
            ),
        )
        self.restart()

    def restart(self) -> None:
        self.rig = Rig(self._plan, self._setting.judge)
        self._promotes = self._setting.config.mode in (Mode.SELECTIVE, Mode.DECLARED)
        if self._promotes:
            self.rig.book.warden.open(TENANTS)
            self.rig.book.declare([pack_tokens(prompt) for prompt in self._setting.declared])

    def burst(self, tenant: TenantId, prompts: tuple[tuple[int, ...], ...]) -> tuple[Any, ...]:
        """Requests at once; of each what was computed, what was told, and in which step it ended.

        Two tokens are generated, so that later requests of a burst meet running ones.
        """
        rig, seen, step = self.rig, dict[str, tuple[int, int, int]](), 0
        names = [
            rig.add(rig.request(tenant, prompt, max_tokens=2)).request_id for prompt in prompts
        ]
        while rig.scheduler.has_unfinished_requests():
            step += 1
            for name, stats in rig.step().items():
                prompt = prompts[names.index(name)]
                seen[name] = len(prompt) - rig.hits[name], stats.num_cached_tokens, step
        return tuple(seen[name] for name in names)

    def tick(self) -> int:
        return self.rig.tick() if self._promotes else 0


def play(
    setting: Setting, program: Program, steps: tuple[Step, ...], keys: Keys, blocks: int
) -> tuple[list[Any], bool]:
    """What the attacker observes, and whether anything was promoted."""
    world, view, promoted = VllmWorld(setting, program, keys, blocks), list[Any](), False
    for step in steps:
        seen: Any = None
        match step.act:
            case Act.SEND | Act.BURST:
                seen = world.burst(step.tenant, step.prompts)
            case Act.EVICT:
                continue  # no tenant can ask vLLM for that; pressure is another channel
            case Act.TICK:
                promoted = bool(world.tick()) or promoted
                continue
            case Act.RESTART:
                world.restart()
                continue
        if step.tenant == ATTACKER:
            view.append(seen)
    return view, promoted


def compare(name: str, programs: int) -> tuple[int, int, int]:
    """Differences, observations, and programs in which something was promoted."""
    differences = observations = promotions = 0
    setting = SETTINGS[name]
    for n in range(programs):
        program, keys = random_program(random.Random(f"vllm:{n}"), setting.others), Keys()
        without, once = play(setting, program, program.without, keys, BLOCKS)
        with_secret, again = play(setting, program, program.with_secret, keys, BLOCKS)
        differences += without != with_secret
        observations += len(without)
        promotions += once or again
    return differences, observations, promotions


# Masked release is the embedded engine's: vLLM's front and scheduler refuse it at start.
@pytest.mark.parametrize("name", [n for n in SETTINGS if n not in (CONTROL, "masked-paper")])
def test_nothing_an_attacker_observes_depends_on_the_secret(name: str) -> None:
    differences, observations, promotions = compare(name, PROGRAMS)
    assert differences == 0
    assert observations > PROGRAMS
    sharing = {"declared", "vetoed-paper", "vetoed-anonymous"}
    assert (promotions > PROGRAMS // 4) == (name in sharing)


def test_the_same_programs_find_the_leak_of_unsafe_global() -> None:
    differences, _, _ = compare(CONTROL, PROGRAMS)
    assert differences > PROGRAMS // 4


def test_a_detector_that_clears_the_secret_would_be_noticed() -> None:
    """The comparison itself: with the worst detector the profile `paper` differs."""
    setting = SETTINGS["vetoed-paper"]
    worst = replace(setting, judge=SETTINGS["isolated"].judge)
    differences = 0
    for n in range(PROGRAMS):
        program, keys = random_program(random.Random(f"vllm:{n}"), worst.others), Keys()
        views = [
            play(worst, program, steps, keys, BLOCKS)[0]
            for steps in (program.without, program.with_secret)
        ]
        differences += views[0] != views[1]
    assert differences
