"""Tests against unmodified vLLM. Without it they are skipped, and say so."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

if find_spec("vllm") is None:
    pytest.skip(
        "vLLM is not installed here: run `make test-vllm`, which has an environment of its own",
        allow_module_level=True,
    )
