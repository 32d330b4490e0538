"""Tests beside the real vLLM. `make test-vllm` makes an environment for them."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# Tests are imported one by one, so the helpers beside them have to be findable.
sys.path.append(str(HERE))

# Before anything imports vLLM: no reports, no hub, no compilers.
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

if importlib.util.find_spec("vllm") is None:
    # The modules import vLLM, so they cannot even be collected here.
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """The default model, which `make model` fetched."""
    from safekv.engines.hf.store import DEFAULT_MODEL, ModelLibrary, known_model

    path = ModelLibrary().path_of(known_model(DEFAULT_MODEL))
    if not path.is_dir():
        pytest.skip(f"the default model is not in {path}: make model")
    return path
