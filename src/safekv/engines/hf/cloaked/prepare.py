"""From settings and a loaded model to what obfuscates its pages."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch

from safekv.engines.hf.cloaked.pages import Layout, Pages
from safekv.engines.hf.cloaked.stream import StreamPages
from safekv.engines.hf.config import CloakProfile, CloakSettings
from safekv.errors import ConfigError, ModelError

Cloaking: TypeAlias = Callable[[Any], Pages]
"""Makes the pages of one of transformers' allocators for full attention."""

CALIBRATION_TOKENS: Final = 256


def prepare(settings: CloakSettings, source: object, model: Any, tokenizer: Any) -> Cloaking | None:
    """What obfuscates the blocks of `model`, if anything; for `matrix` M is fused into it here.

    `source` is where it was loaded from, and no path for a model that others have too: that one
    is not fused. The stream takes no time, `matrix` about a second per 100 M parameters. Raises
    `ConfigError` for a device on which this was never run, `ModelError` for a model that cannot
    be fused.
    """
    if settings.profile is CloakProfile.OFF:
        return None
    if model.device.type != "cpu":
        raise ConfigError(
            f"cloak.profile is {settings.profile.value!r}, but the model is on {model.device}",
            "use engine.device = cpu, or cloak.profile = off",
        )
    if settings.profile is CloakProfile.STREAM:
        return lambda allocator: StreamPages(Layout.of(allocator), allocator._copy_view)
    if not isinstance(source, str | Path):
        raise ConfigError(
            "cloak.profile is 'matrix', but the model was loaded by somebody else",
            "name its directory: fusing changes the weights",
        )
    return _matrix(settings, source, model, tokenizer)


def _matrix(settings: CloakSettings, source: Path | str, model: Any, tokenizer: Any) -> Cloaking:
    from safekv.cloak.calibrate import limits_of
    from safekv.cloak.config import CloakConfig
    from safekv.cloak.fusion import MARKER, attention_of, fuse_model, read_marker
    from safekv.cloak.keys import CloakKey, CloakKeyFile, default_cloak_file
    from safekv.cloak.transform import Cloak
    from safekv.cloak.verify import manual_text
    from safekv.engines.hf.cloaked.matrix import MatrixPages

    shapes = attention_of(model)
    file, scale = settings.key_file, settings.scale
    if (Path(source) / MARKER).is_file():
        version, scale = read_marker(Path(source))
        key = CloakKeyFile(file or default_cloak_file(os.environ)).key(version)
    else:
        key = CloakKeyFile(file).key() if file is not None else CloakKey.generate()
        fuse_model(model, key, scale, lambda done, total: None)
    ids = tokenizer(manual_text()[: 16 * CALIBRATION_TOKENS], return_tensors="pt").input_ids
    if not ids.numel():
        raise ModelError("the tokenizer makes no tokens of English text")
    limits = limits_of(model, ids[:, :CALIBRATION_TOKENS].to(model.device))

    def pages(allocator: Any) -> Pages:
        layout = Layout.of(allocator)
        config = CloakConfig(
            block_tokens=layout.tokens,
            head_dim=layout.dim,
            kv_heads=layout.heads,
            limit=max(limits.values()),
            condition=settings.condition,
            scale=scale,
            beacon=settings.beacon,
            rope=shapes.rope,
        )
        cloak = Cloak(key, config, fused=True, limits=limits)
        with torch.inference_mode(False):
            return MatrixPages(layout, allocator._copy_view, allocator, cloak)

    return pages
