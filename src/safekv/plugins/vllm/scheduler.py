"""`--scheduler-cls safekv.engines.vllm.Scheduler`: vLLM's schedulers with this server's settings.

Here what vLLM's flags and safekv's settings say comes together; the parts know neither.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from vllm.v1.core.sched.async_scheduler import AsyncScheduler as StockAsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler as StockScheduler

from safekv.cache import CacheConfig
from safekv.engines.vllm.claim import load_claim_key
from safekv.engines.vllm.index.client import IndexClient, IndexProcess
from safekv.engines.vllm.keeper import Keeper
from safekv.engines.vllm.scheduler import Deployment, SelectiveScheduler
from safekv.errors import ConfigError
from safekv.plugins.vllm.config import load_settings

SECTION: Final = "safekv"
"""The key of `--additional-config` whose value has settings by dotted name."""

INDEX_MODULE: Final = "safekv.plugins.vllm.index"


def deployment(vllm_config: Any) -> Deployment:
    """What the scheduler needs, from the environment and `--additional-config`.

    Raises `ConfigError` for a setting that is wrong or a key that cannot be trusted.
    """
    extra = _extra(vllm_config)
    settings = load_settings(os.environ, extra)
    model = vllm_config.model_config
    return Deployment(
        mode=settings.warden.mode,
        vllm=settings.vllm,
        cache=settings.cache,
        safeguard=settings.safeguard,
        secret=load_claim_key(os.environ),
        start_index=partial(
            _start_index,
            extra,
            str(model.tokenizer),
            model.tokenizer_revision,
            settings.vllm.queue_prompts,
        ),
    )


def _start_index(
    extra: Mapping[str, object],
    tokenizer: str,
    revision: str | None,
    limit: int,
    keeper: Keeper,
    sizes: CacheConfig,
) -> IndexClient:
    hello = {
        "extra": dict(extra),
        "tokenizer": tokenizer,
        "revision": revision,
        "cache": asdict(sizes),
    }
    process = IndexProcess(INDEX_MODULE, json.dumps(hello).encode())
    client = IndexClient(process, keeper.hear, keeper.lost, limit)
    client.start()
    return client


def _extra(vllm_config: Any) -> Mapping[str, object]:
    extra = (vllm_config.additional_config or {}).get(SECTION, {})
    if not isinstance(extra, dict):
        raise ConfigError(
            f"{SECTION} in --additional-config is no object",
            'write {"safekv": {"warden.mode": "isolated"}}',
        )
    return extra


class Scheduler(SelectiveScheduler, StockScheduler):  # type: ignore[misc]
    """vLLM's `Scheduler`, isolating tenants."""

    deployment = staticmethod(deployment)


class AsyncScheduler(SelectiveScheduler, StockAsyncScheduler):  # type: ignore[misc]
    """vLLM's `AsyncScheduler`, isolating tenants."""

    deployment = staticmethod(deployment)
