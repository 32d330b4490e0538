"""What safekv touches inside vLLM, and how it looked when this was written.

vLLM's scheduler is no public interface. A name that is missing or takes other arguments may
mean that blocks are filed where safekv does not look, so then the server does not start.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Final

from safekv.engines.vllm.version import require_supported
from safekv.errors import ConfigError

CORE: Final = "vllm.v1.core"
SIGNATURES: Final[Mapping[str, tuple[str, ...]]] = {
    f"{CORE}.sched.scheduler:Scheduler.__init__": (
        "self", "vllm_config", "kv_cache_config", "structured_output_manager", "block_size",
        "hash_block_size", "mm_registry", "include_finished_set", "log_stats",
    ),
    f"{CORE}.sched.scheduler:Scheduler.add_request": ("self", "request"),
    f"{CORE}.sched.scheduler:Scheduler.schedule": ("self", "throttle_prefills"),
    f"{CORE}.sched.scheduler:Scheduler.shutdown": ("self",),
    f"{CORE}.sched.scheduler:Scheduler._update_request_with_output": (
        "self", "request", "new_token_ids", "is_stale",
    ),
    f"{CORE}.sched.async_scheduler:AsyncScheduler._update_request_with_output": (
        "self", "request", "new_token_ids", "is_stale",
    ),
    f"{CORE}.sched.scheduler:Scheduler._get_local_prefix_cache_hit": ("self", "request"),
    f"{CORE}.sched.scheduler:Scheduler._update_request_as_session": ("self", "session", "update"),
    f"{CORE}.kv_cache_manager:KVCacheManager.get_computed_blocks": ("self", "request"),
    f"{CORE}.kv_cache_manager:KVCacheManager.get_computed_blocks_for_connector": (
        "self", "request",
    ),
    f"{CORE}.kv_cache_manager:KVCacheManager.allocate_slots": (
        "self", "request", "num_new_tokens", "num_new_computed_tokens", "new_computed_blocks",
        "num_lookahead_tokens", "num_external_computed_tokens", "delay_cache_blocks",
        "num_encoder_tokens", "full_sequence_must_fit", "reserved_blocks",
        "has_scheduled_reqs", "skip_zeroing_group_ids",
    ),
    f"{CORE}.kv_cache_manager:KVCacheManager.cache_blocks": (
        "self", "request", "num_computed_tokens",
    ),
    f"{CORE}.kv_cache_manager:KVCacheManager.record_prefix_cache_stats": (
        "self", "request", "num_hits",
    ),
    f"{CORE}.block_pool:BlockPool.get_cached_block": (
        "self", "block_hash", "kv_cache_group_ids",
    ),
    f"{CORE}.block_pool:BlockPool.cache_full_blocks": (
        "self", "request", "blocks", "num_cached_blocks", "num_full_blocks", "block_size",
        "kv_cache_group_id", "block_mask",
    ),
    f"{CORE}.block_pool:BlockPool._remove_cached_block_hashes": ("self", "block"),
    f"{CORE}.block_pool:BlockPool._insert_block_hash": (
        "self", "block_hash_with_group_id", "block", "num_tokens",
    ),
    f"{CORE}.block_pool:BlockPool._emit_block_removed_events": ("self", "block_hashes"),
    f"{CORE}.block_pool:BlockPool.get_new_blocks": ("self", "num_blocks"),
    f"{CORE}.block_pool:BlockPool.free_blocks": ("self", "ordered_blocks"),
    f"{CORE}.block_pool:BlockPool.touch": ("self", "blocks"),
    f"{CORE}.block_pool:BlockHashToBlockMap.insert": ("self", "key", "block"),
    f"{CORE}.block_pool:BlockHashToBlockMap.pop": ("self", "key", "block_id"),
    f"{CORE}.kv_cache_utils:FreeKVCacheBlockQueue.remove": ("self", "block"),
    f"{CORE}.kv_cache_utils:FreeKVCacheBlockQueue.prepend_n": ("self", "blocks"),
    f"{CORE}.kv_cache_utils:FreeKVCacheBlockQueue.append_n": ("self", "blocks"),
    f"{CORE}.kv_cache_utils:get_request_block_hasher": ("hash_block_size", "caching_hash_fn"),
    f"{CORE}.kv_cache_utils:generate_block_hash_extra_keys": (
        "request", "start_token_idx", "end_token_idx", "start_mm_idx",
    ),
    f"{CORE}.kv_cache_utils:make_block_hash_with_group_id": ("block_hash", "group_id"),
    f"{CORE}.kv_cache_utils:maybe_convert_block_hash": ("hash_bytes",),
    "vllm.v1.request:Request.update_block_hashes": ("self",),
    "vllm.v1.request:Request.from_engine_core_request": ("request", "block_hasher"),
    "vllm.v1.metrics.stats:PrefillStats.set": (
        "self", "num_prompt_tokens", "num_local_cached_tokens", "num_external_cached_tokens",
    ),
    "vllm.v1.engine.core:EngineCore.preprocess_add_request": ("self", "request"),
    "vllm.config.scheduler:SchedulerConfig.get_scheduler_cls": ("self",),
}  # fmt: skip
"""Every function that is called, replaced or relied upon, with its parameters."""

FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    f"{CORE}.block_pool:BlockPool.__init__": (
        "cached_block_hash_to_block", "cached_block_hashes_by_block", "free_block_queue",
        "kv_event_queue", "enable_kv_cache_events", "hash_block_size", "medium",
    ),
    f"{CORE}.block_pool:BlockHashToBlockMap.__init__": ("_cache",),
    "vllm.v1.request:Request.__init__": (
        "block_hashes", "_block_hasher", "_all_token_ids", "cache_salt", "prefill_stats",
        "sampling_params", "mm_features", "lora_request", "prompt_embeds", "num_preemptions",
    ),
    f"{CORE}.kv_cache_manager:KVCacheManager.__init__": ("block_pool", "enable_caching"),
    f"{CORE}.sched.scheduler:Scheduler.__init__": ("requests", "kv_cache_manager", "connector"),
}  # fmt: skip
"""Attributes that are read, by the function that sets them."""

SETTERS: Final[Mapping[str, tuple[str, ...]]] = {
    "vllm.v1.engine.core:EngineCore.__init__": (
        "get_request_block_hasher(", "self.scheduler: SchedulerInterface = Scheduler(",
    ),
    f"{CORE}.sched.scheduler:Scheduler.schedule": (
        "request.prefill_stats.set(", "self.kv_cache_manager.record_prefix_cache_stats(",
    ),
}  # fmt: skip
"""Calls that must be in a function, since safekv answers them."""


def require_known_vllm() -> None:
    """Raise `ConfigError`, naming all that differs, unless this vLLM is one safekv knows."""
    require_supported()
    differs = differences()
    if differs:
        raise ConfigError(
            f"vllm differs from the one this safekv was written for: {'; '.join(differs)}",
            "install vllm 0.32.0, or a safekv for yours",
        )


@cache
def differences() -> tuple[str, ...]:
    """What is missing or takes other arguments than it did, one sentence each."""
    found = list[str]()
    for name, expected in SIGNATURES.items():
        function = _find(name)
        if function is None:
            found.append(f"{name} is missing")
        elif _parameters(function) != expected:
            found.append(f"{name} takes {', '.join(_parameters(function))}")
    for wanted, prefix, verb in ((FIELDS, "self.", "sets"), (SETTERS, "", "calls")):
        for name, texts in wanted.items():
            source = _source(_find(name))
            found += [f"{name} no longer {verb} {t}" for t in texts if prefix + t not in source]
    return tuple(found)


def _find(name: str) -> object | None:
    module, _, path = name.partition(":")
    try:
        found: object = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found


def _parameters(function: object) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ()


def _source(function: object) -> str:
    try:
        return inspect.getsource(function)  # type: ignore[arg-type]
    except (TypeError, OSError):
        return ""
