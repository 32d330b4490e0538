"""The general plugin of vLLM: with `SAFEKV=1` every scheduler that vLLM picks isolates tenants."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from safekv.errors import ConfigError

SWITCH: Final = "SAFEKV"
OFF: Final = ("", "0")


def register() -> None:
    """Called by vLLM in each of its processes, before a scheduler is made.

    Does nothing unless `SAFEKV` is `1`. Raises `ConfigError` for another value, since a switch
    that is misspelt must not leave the tenants unprotected.
    """
    if wanted(os.environ):
        wrap_scheduler_choice()


def wanted(env: Mapping[str, str]) -> bool:
    """Whether `SAFEKV` switches the plugin on."""
    value = env.get(SWITCH, "").strip()
    if value in OFF:
        return False
    if value != "1":
        raise ConfigError(f"{SWITCH} is {value!r}", "use 1 to switch safekv on, or leave it out")
    return True


def wrap_scheduler_choice() -> None:
    """Let vLLM's configuration name safekv's scheduler wherever it names its own. Once."""
    from vllm.config.scheduler import SchedulerConfig

    stock = SchedulerConfig.get_scheduler_cls
    if getattr(stock, "safekv", False):
        return

    def get_scheduler_cls(self: Any) -> type:
        return selective(stock(self))

    get_scheduler_cls.safekv = True  # type: ignore[attr-defined]
    SchedulerConfig.get_scheduler_cls = get_scheduler_cls


def selective(chosen: type) -> type:
    """safekv's scheduler in place of `chosen`. Raises `ConfigError` for any but vLLM's two."""
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler as StockAsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler as StockScheduler

    from safekv.engines.vllm.scheduler import SelectiveScheduler
    from safekv.plugins.vllm import scheduler

    if issubclass(chosen, SelectiveScheduler):
        return chosen
    known: dict[type, type] = {
        StockScheduler: scheduler.Scheduler,
        StockAsyncScheduler: scheduler.AsyncScheduler,
    }
    if chosen not in known:
        raise ConfigError(
            f"vllm would use the scheduler {chosen.__module__}.{chosen.__qualname__}",
            "start without --scheduler-cls and without a diffusion model, or without safekv",
        )
    return known[chosen]
