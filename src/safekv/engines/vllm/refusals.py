"""Ways to run vLLM that safekv does not cover, each refused by name when the server starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from safekv.cache import TiersConfig
from safekv.errors import ConfigError
from safekv.types import Release
from safekv.warden.config import WardenConfig

SUPPORTED_SPEC: Final = "FullAttentionSpec"


def require_settings(warden: WardenConfig, tiers: TiersConfig) -> None:
    """Raise `ConfigError` for a setting that promises what safekv does not do beside vLLM."""
    if warden.release is Release.MASKED:
        raise ConfigError(
            "warden.release is masked, which the embedded engine alone can do",
            "use release immediate with vLLM, or mode isolated",
        )
    if tiers.host_blocks:
        raise ConfigError(
            f"tiers.host_blocks is {tiers.host_blocks}, but these tiers are the embedded engine's",
            "leave [tiers] out with vLLM",
        )


def require_supported(vllm_config: Any, kv_cache_config: Any) -> None:
    """Raise `ConfigError` for the first thing that would reuse KV behind safekv's back."""
    for message, hint in _reasons(vllm_config, kv_cache_config):
        raise ConfigError(f"safekv cannot isolate tenants here: {message}", hint)


def _reasons(vllm_config: Any, kv_cache_config: Any) -> Iterator[tuple[str, str]]:
    if not vllm_config.cache_config.enable_prefix_caching:
        yield "prefix caching is off", "start vLLM with --enable-prefix-caching, or without safekv"
    yield from _layers(kv_cache_config)
    yield from _connectors(vllm_config)
    if vllm_config.model_config.supports_multimodal_inputs:
        yield (
            "the model takes images or audio, whose encodings vLLM shares between all requests",
            "serve a text model, or start with --language-model-only",
        )
    parallel = vllm_config.parallel_config
    for name in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, name) > 1:
            yield f"{name} is {getattr(parallel, name)}", "use 1; nobody has tested more"


def _layers(kv_cache_config: Any) -> Iterator[tuple[str, str]]:
    groups = kv_cache_config.kv_cache_groups
    hint = "serve a model with full attention in all layers"
    if len(groups) != 1:
        yield f"the model has {len(groups)} groups of KV caches", hint
        return
    kind = type(groups[0].kv_cache_spec).__name__
    if kind != SUPPORTED_SPEC:
        yield f"the model's KV caches are of kind {kind}", hint


def _connectors(vllm_config: Any) -> Iterator[tuple[str, str]]:
    transfer = vllm_config.kv_transfer_config
    if transfer is not None and transfer.kv_connector is not None:
        yield (
            f"the KV connector {transfer.kv_connector} keeps copies of KV under names of its own",
            "start without --kv-transfer-config",
        )
    if vllm_config.ec_transfer_config is not None:
        yield "an encoder-cache connector is set", "start without --ec-transfer-config"
