"""Fold M into a model's weights, so that its keys and values come out obfuscated by M.

With column vectors and per KV head: W_k <- M_kᵀ·W_k, W_v <- M_vᵀ·W_v, and for each query head of
its group W_q <- M_k⁻¹·W_q, W_o <- W_o·M_v⁻ᵀ; biases likewise. Scores and outputs stay what they
were: (M⁻¹q)·(Mᵀk) = q·k. Computed in float64, stored in the checkpoint's dtype.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from safekv.cloak.config import CloakConfig, Part
from safekv.cloak.hazmat.reference import Matrix, draw_feature
from safekv.cloak.keys import CloakKey
from safekv.errors import CloakError, ModelError

MARKER: Final = "safekv-cloak.json"
"""Beside the weights: that M is in them, and of which key version. Nothing secret."""

ROTARY: Final = ("llama", "mistral", "qwen2")
REPLACED: Final = (
    *("*.safetensors", "*.safetensors.index.json", "*.bin", "*.gguf", "*.pt"),
    "manifest.json",  # the checksums of the plain weights
)


@dataclass(frozen=True, slots=True)
class Attention:
    """The shapes of a model's attention, and whether its keys carry rotary positions."""

    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    rope: bool

    @property
    def group(self) -> int:
        """How many query heads read one KV head."""
        return self.query_heads // self.kv_heads

    def cloak_config(self, scale: float) -> CloakConfig:
        """What M is drawn for. Fusion uses neither S nor the beacon, so their settings are free."""
        return CloakConfig(
            head_dim=self.head_dim, kv_heads=self.kv_heads, limit=1.0, scale=scale, rope=self.rope
        )


def attention_of(model: Any) -> Attention:
    """The attention of a loaded model. Raises `ModelError` for what cannot be fused, and why."""
    config = model.config
    kind = config.model_type
    normed = [name for name, _ in model.named_modules() if name.endswith(("q_norm", "k_norm"))]
    if normed:
        raise ModelError(
            f"a model of type {kind!r} normalises queries and keys ({normed[0]}): M would not "
            "pass through the norm",
            "protect its blocks with the stream profile or the vault",
        )
    if kind == "gpt2":
        heads = config.n_head
        return Attention(config.n_layer, heads, heads, config.n_embd // heads, rope=False)
    if kind not in ROTARY:
        raise ModelError(
            f"models of type {kind!r} cannot be fused", f"known are gpt2, {', '.join(ROTARY)}"
        )
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ModelError(f"a model of type {kind!r} rotates only a part of each head")
    kv_heads = config.num_key_value_heads or heads
    return Attention(config.num_hidden_layers, heads, kv_heads, head_dim, rope=True)


def fuse_model(
    model: Any, key: CloakKey, scale: float, report: Callable[[int, int], None]
) -> Attention:
    """Fold M into a loaded model's weights, in place. O(parameters of attention).

    Raises `ModelError` before anything was changed if the model cannot be fused.
    """
    attention = attention_of(model)
    config = attention.cloak_config(scale)
    blocks = model.transformer.h if not attention.rope else model.model.layers
    for parameter in model.parameters():
        if not parameter.dtype.is_floating_point or parameter.dtype.itemsize < 2:
            raise ModelError(
                f"the weights are quantised ({parameter.dtype})", "fuse first, then quantise"
            )
    for layer, block in enumerate(blocks):
        report(layer, attention.layers)
        keys = draw_feature(key, config, layer, Part.KEYS)
        values = draw_feature(key, config, layer, Part.VALUES)
        with torch.no_grad():
            if attention.rope:
                _fuse_linear(block.self_attn, attention, keys, values)
            else:
                _fuse_conv(block.attn, attention, keys, values)
    return attention


Pair = tuple[Matrix, Matrix]
"""M and its inverse, for each KV head."""


def _fuse_linear(attn: Any, attention: Attention, keys: Pair, values: Pair) -> None:
    """Separate projections with weights (out, in): Llama, Mistral, Qwen2."""
    group = attention.group
    _left(attn.k_proj, np.swapaxes(keys[0], 1, 2))
    _left(attn.v_proj, np.swapaxes(values[0], 1, 2))
    _left(attn.q_proj, np.repeat(keys[1], group, axis=0))
    undo = torch.from_numpy(np.repeat(np.swapaxes(values[1], 1, 2), group, axis=0))
    weight = attn.o_proj.weight
    wide = weight.double().view(weight.shape[0], len(undo), -1)
    weight.copy_(torch.einsum("ohd,hde->ohe", wide, undo.to(wide.device)).reshape(weight.shape))


def _left(linear: Any, factors: Matrix) -> None:
    """Multiply each head's rows of a weight (and bias) by its factor from the left."""
    heads = torch.from_numpy(np.ascontiguousarray(factors)).to(linear.weight.device)
    for parameter in (linear.weight, linear.bias):
        if parameter is not None:
            wide = parameter.double().view(len(heads), heads.shape[1], -1)
            parameter.copy_((heads @ wide).reshape(parameter.shape))


def _fuse_conv(attn: Any, attention: Attention, keys: Pair, values: Pair) -> None:
    """One projection with a weight (in, 3·out) for queries, keys and values: GPT-2."""
    width = attention.kv_heads * attention.head_dim
    factors = (np.swapaxes(keys[1], 1, 2), keys[0], values[0])
    for parameter in (attn.c_attn.weight, attn.c_attn.bias):
        for at, factor in enumerate(factors):
            part = parameter[..., at * width : (at + 1) * width]
            heads = torch.from_numpy(np.ascontiguousarray(factor)).to(part.device)
            wide = part.double().reshape(-1, len(heads), heads.shape[1])
            part.copy_(torch.einsum("ihd,hde->ihe", wide, heads).reshape(part.shape))
    weight = attn.c_proj.weight
    undo = torch.from_numpy(values[1]).to(weight.device)
    wide = weight.double().view(len(undo), attention.head_dim, -1)
    weight.copy_((undo @ wide).reshape(weight.shape))


def read_marker(checkpoint: Path) -> tuple[int, float]:
    """The key version that a checkpoint was fused with, and the scale of M.

    Raises `ModelError` for one that was not fused, or whose marker is damaged.
    """
    try:
        told = json.loads((checkpoint / MARKER).read_text())
        return int(told["key_version"]), float(told["scale"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{checkpoint} is no fused checkpoint", "make one with `safekv cloak fuse`"
        ) from error


def fuse_checkpoint(
    source: Path, out: Path, key: CloakKey, scale: float, report: Callable[[int, int], None]
) -> Attention:
    """Write to `out` the checkpoint in `source` with M folded in: a normal one, same architecture.

    All other files of `source` (tokenizer, templates) are copied. `out` appears in one step, or
    not at all. Raises `CloakError` if it exists, `ModelError` if the model cannot be fused.
    """
    from transformers import AutoModelForCausalLM

    if out.exists():
        raise CloakError(f"{out} exists", "name a directory that does not")
    if (source / MARKER).exists():
        raise ModelError(f"{source} is fused already", "fuse the original")
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    except (OSError, ValueError) as error:
        raise ModelError(f"{source} is no model that can be loaded", str(error)) from error
    attention = fuse_model(model, key, scale, report)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        fresh = Path(scratch) / "fused"
        shutil.copytree(source, fresh, ignore=shutil.ignore_patterns(*REPLACED))
        model.save_pretrained(fresh)
        told = {"format": 1, "fused": "M", "key_version": key.version, "scale": scale}
        (fresh / MARKER).write_text(json.dumps(told) + "\n")
        fresh.rename(out)
    return attention
