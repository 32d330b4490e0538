from __future__ import annotations

import pytest

from safekv.demo.plan import PLAYED, StoryPlan
from safekv.demo.result import ModeResult
from safekv.types import Mode

from .fake_world import World


@pytest.fixture(scope="session")
def plan() -> StoryPlan:
    return StoryPlan()


@pytest.fixture(scope="session")
def results(plan: StoryPlan) -> dict[Mode, ModeResult]:
    return {mode: World(mode).play(plan) for mode in PLAYED}
