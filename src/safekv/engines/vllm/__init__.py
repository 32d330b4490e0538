"""Selective sharing in unmodified vLLM. Importing this package imports neither vLLM nor torch.

The names in `LOADED_BY_VLLM` are for vLLM's command line, which takes them as text and resolves
them while it starts. They live above this package, because they need settings and the gateway;
nothing in `engines` uses them.
"""

from __future__ import annotations

import importlib
from typing import Final

LOADED_BY_VLLM: Final = {
    "AsyncScheduler": "safekv.plugins.vllm.scheduler",
    "Scheduler": "safekv.plugins.vllm.scheduler",
    "TenantMiddleware": "safekv.plugins.vllm.middleware",
}


def __getattr__(name: str) -> object:
    if name in LOADED_BY_VLLM:
        return getattr(importlib.import_module(LOADED_BY_VLLM[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
