"""Ways to run vLLM that would reuse KV behind safekv's back are refused when the server starts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.v1.core.sched import async_scheduler, scheduler
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    SlidingWindowSpec,
)

from safekv.engines.vllm.refusals import require_supported
from safekv.errors import ConfigError
from safekv.plugins.vllm.plugin import register, selective, wanted
from safekv.plugins.vllm.scheduler import AsyncScheduler, Scheduler


def config(**changes: Any) -> Any:
    flat = {
        "enable_prefix_caching": True,
        "supports_multimodal_inputs": False,
        "kv_transfer_config": None,
        "ec_transfer_config": None,
        "decode_context_parallel_size": 1,
        "prefill_context_parallel_size": 1,
        **changes,
    }
    one = SimpleNamespace(**flat)
    return SimpleNamespace(
        cache_config=one,
        model_config=one,
        parallel_config=one,
        kv_transfer_config=one.kv_transfer_config,
        ec_transfer_config=one.ec_transfer_config,
    )


def caches(*kinds: str) -> KVCacheConfig:
    common = {"block_size": 16, "num_kv_heads": 1, "head_size": 1, "dtype": torch.float32}
    specs = {
        "full": FullAttentionSpec(**common),
        "window": SlidingWindowSpec(**common, sliding_window=32),
    }
    groups = [KVCacheGroupSpec([f"layer{n}"], specs[kind]) for n, kind in enumerate(kinds)]
    return KVCacheConfig(num_blocks=10, kv_cache_tensors=[], kv_cache_groups=groups)


def test_what_safekv_covers_starts() -> None:
    require_supported(config(), caches("full"))


@pytest.mark.parametrize(
    ("changes", "kinds", "says"),
    [
        ({"enable_prefix_caching": False}, ["full"], "prefix caching is off"),
        ({}, ["full", "window"], "2 groups of KV caches"),
        ({}, ["window"], "of kind SlidingWindowSpec"),
        ({}, [], "0 groups of KV caches"),
        ({"supports_multimodal_inputs": True}, ["full"], "images or audio"),
        ({"ec_transfer_config": object()}, ["full"], "encoder-cache connector"),
        ({"decode_context_parallel_size": 2}, ["full"], "decode_context_parallel_size is 2"),
        *(
            ({"kv_transfer_config": SimpleNamespace(kv_connector=name)}, ["full"], name)
            for name in ("ExampleConnector", "LMCacheConnectorV1", "LMCacheMPConnector",
                         "OffloadingConnector", "NixlConnector", "MultiConnector")
        ),
    ],
)  # fmt: skip
def test_what_it_does_not_cover_is_refused_by_name(
    changes: dict[str, Any], kinds: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        require_supported(config(**changes), caches(*kinds))


def test_the_plugin_takes_the_place_of_vllms_schedulers_and_of_no_other() -> None:
    assert selective(scheduler.Scheduler) is Scheduler
    assert selective(async_scheduler.AsyncScheduler) is AsyncScheduler
    assert selective(Scheduler) is Scheduler

    class Other(scheduler.Scheduler):
        pass

    with pytest.raises(ConfigError, match="Other"):
        selective(Other)


def test_the_switch_must_be_spelt_right() -> None:
    assert wanted({"SAFEKV": "1"})
    assert not wanted({})
    assert not wanted({"SAFEKV": "0"})
    with pytest.raises(ConfigError, match="SAFEKV is 'yes'"):
        wanted({"SAFEKV": "yes"})


def test_switched_on_vllm_picks_safekvs_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.config.scheduler import SchedulerConfig

    stock = SchedulerConfig.get_scheduler_cls
    monkeypatch.setattr(SchedulerConfig, "get_scheduler_cls", stock)
    made = SchedulerConfig(max_model_len=128, max_num_batched_tokens=128, is_encoder_decoder=False)
    made.async_scheduling = True
    monkeypatch.delenv("SAFEKV", raising=False)
    register()
    assert made.get_scheduler_cls() is async_scheduler.AsyncScheduler
    monkeypatch.setenv("SAFEKV", "1")
    register()
    register()
    assert made.get_scheduler_cls() is AsyncScheduler
    made.async_scheduling = False
    assert made.get_scheduler_cls() is Scheduler
