"""vLLM is the one that safekv was written for, and any other is refused."""

from __future__ import annotations

import pytest
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_manager import KVCacheManager

from safekv.bench.vllm.rig import Rig, RigPlan
from safekv.engines.vllm import drift, version
from safekv.errors import ConfigError
from safekv.warden import WardenConfig


@pytest.fixture(autouse=True)
def _looked_at_anew() -> object:
    drift.differences.cache_clear()
    yield
    drift.differences.cache_clear()


def test_this_vllm_is_the_one_that_safekv_knows() -> None:
    assert drift.differences() == ()
    drift.require_known_vllm()


def test_a_function_with_other_arguments_stops_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KVCacheManager, "cache_blocks", lambda self, request: None)
    with pytest.raises(ConfigError, match=r"KVCacheManager.cache_blocks takes self, request"):
        Rig(RigPlan(warden=WardenConfig()))


def test_a_missing_function_stops_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(BlockPool, "_insert_block_hash")
    with pytest.raises(ConfigError, match=r"_insert_block_hash is missing"):
        drift.require_known_vllm()


def test_a_call_that_is_no_longer_made_stops_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.engine import core

    def __init__(self: object) -> None: ...  # noqa: N807

    monkeypatch.setattr(core.EngineCore, "__init__", __init__)
    with pytest.raises(ConfigError, match="no longer calls get_request_block_hasher"):
        drift.require_known_vllm()


def test_another_version_stops_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "installed_version", lambda: "0.33.0")
    with pytest.raises(ConfigError, match=r"0\.33\.0 is not supported"):
        drift.require_known_vllm()
