"""The settings of a vLLM server's processes: a file and variables, as for any safekv server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from safekv.engines.vllm.refusals import require_settings
from safekv.settings.load import load
from safekv.settings.model import Settings

CONFIG_VARIABLE: Final = "SAFEKV_CONFIG"


def load_settings(env: Mapping[str, str], extra: Mapping[str, object] | None = None) -> Settings:
    """The settings of this server: defaults, the file, `env`, then `extra` by dotted names.

    The file is the one that `$SAFEKV_CONFIG` names, else `./safekv.toml` if there is one. Raises
    `ConfigError` naming the setting and its source, also for one that vLLM cannot keep.
    """
    named = env.get(CONFIG_VARIABLE)
    settings = load(Path(named).expanduser() if named else None, env, dict(extra or {}))[0]
    require_settings(settings.warden, settings.tiers)
    return settings
