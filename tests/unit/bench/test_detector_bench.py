"""The load of `safekv bench detector`: busy when it should be, idle when it should be."""

from __future__ import annotations

import asyncio
import time

import pytest

pytest.importorskip("re2")
pytest.importorskip("transformers")

from safekv.bench.detector import FULL_PROMPTS, Load
from safekv.detect.config import DetectConfig
from safekv.errors import DetectorError


def test_a_saturated_load_never_runs_dry_and_is_judged_to_the_last_prompt_afterwards() -> None:
    load = Load(DetectConfig(stages=("rules",)))
    load.start()
    try:
        assert load.waiting() == load.judged == 0
        with load.saturated():
            assert 0 < load.waiting() <= FULL_PROMPTS
            asyncio.run(load.until_judged(10 * FULL_PROMPTS))
            assert 0 < load.waiting() <= FULL_PROMPTS
        asyncio.run(load.until_idle())
        judged = load.judged
        time.sleep(0.2)
        assert (load.waiting(), load.judged) == (0, judged)
        assert load.judged > 10 * FULL_PROMPTS
    finally:
        load.stop()
    assert not load.failures


def test_a_load_that_judges_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safekv.bench.detector.QUIET_S", 0.05)
    with pytest.raises(DetectorError, match="judges nothing"):
        asyncio.run(Load(DetectConfig(stages=("rules",))).until_judged(1))
