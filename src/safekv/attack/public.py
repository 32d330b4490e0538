"""Public knowledge: a model's weights, and what they make of tokens. No secret is in here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch

from safekv.attack.errors import AttackError, UnsupportedError
from safekv.attack.walk import Remembered

ROTARY: Final = ("llama", "mistral", "qwen2")
"""Kinds with separate projections, RMSNorm and rotary positions in the half-split layout."""

LINEAR: Final = ("gpt2", *ROTARY)
"""Kinds whose projections an attack can take apart; others can only be run."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes of a model's cache. `rope_base` is `None` where positions are learned."""

    kind: str
    layers: int
    kv_heads: int
    head_dim: int
    width: int
    vocabulary: int
    rope_base: float | None


@dataclass(frozen=True, slots=True)
class Projection:
    """One layer's way from hidden states to keys and values: norm, weights (out, in), biases.

    `centred` says that the norm subtracts the mean (LayerNorm). Biases may be `None`.
    """

    gain: torch.Tensor
    shift: torch.Tensor | None
    eps: float
    centred: bool
    key: torch.Tensor
    value: torch.Tensor
    key_bias: torch.Tensor | None
    value_bias: torch.Tensor | None

    def normed(self, hidden: torch.Tensor) -> torch.Tensor:
        """`hidden` as the projections see it, but for gain and shift."""
        if self.centred:
            hidden = hidden - hidden.mean(-1, keepdim=True)
        return hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.eps)

    def apply(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys before rotation, and values, of hidden states (..., width)."""
        seen = self.normed(hidden) * self.gain
        if self.shift is not None:
            seen = seen + self.shift
        keys, values = seen @ self.key.T, seen @ self.value.T
        if self.key_bias is not None:
            keys = keys + self.key_bias
        if self.value_bias is not None:
            values = values + self.value_bias
        return keys, values


class _Reached(Exception):  # noqa: N818 - not an error: the layers beyond are not needed
    pass


class PublicModel:
    """A causal language model that anybody can download, in evaluation mode.

    Capture, collision and injection take any that keeps a plain key and value per token and
    layer; what needs its weights taken apart takes the kinds of `LINEAR`. Raises
    `UnsupportedError` for the rest, by name.

    With `remembered` searches keep what candidates would leave, for the next search behind the
    same prefix; it is `None` unless set.
    """

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        self.remembered: Remembered | None = None
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.shapes = _shapes(model)

    @classmethod
    def load(cls, path: Path | str) -> PublicModel:
        """The model in a directory, in float32. Raises `AttackError` if it cannot be loaded."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, local_files_only=True
            )
        except Exception as error:  # transformers raises many kinds for a bad checkpoint
            raise AttackError(
                f"cannot load model {str(path)!r}: {type(error).__name__}",
                "name a directory with a causal language model and its tokenizer",
            ) from error
        return cls(model, tokenizer)

    @cached_property
    def blocks(self) -> Any:
        """The list of the model's layers."""
        for name in ("layers", "h", "blocks"):
            found = getattr(self.model.base_model, name, None)
            if found is not None and len(found) == self.shapes.layers:
                return found
        raise UnsupportedError(f"no layers are found in a model of type {self.shapes.kind!r}")

    def projection(self, layer: int) -> Projection:
        """The weights before the cache of `layer`. Raises `UnsupportedError` for other kinds."""
        if not 0 <= layer < self.shapes.layers:
            raise AttackError(
                f"layer {layer} does not exist: the model has {self.shapes.layers}",
                f"use 0 to {self.shapes.layers - 1}",
            )
        kind, block = self.shapes.kind, self.blocks[layer]
        if kind in ROTARY and not hasattr(block.self_attn, "k_norm"):
            return _separate(block)
        if kind == "gpt2":
            return _joint(block)
        raise UnsupportedError(
            f"the projections of a model of type {kind!r} are not known to this attack",
            f"known are {', '.join(LINEAR)}; collision and injection take others too",
        )

    @cached_property
    def embeddings(self) -> torch.Tensor:
        """What each token enters the first layer as, (vocabulary, width); positions not added."""
        weight: torch.Tensor = self.model.get_input_embeddings().weight.detach()
        return weight

    @cached_property
    def plane_lengths(self) -> torch.Tensor:
        """The lengths of layer 0's rotary planes of every token: no rotation changes them."""
        return plane_lengths(self.split(self.vocabulary[0]))

    @cached_property
    def spread(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and covariance of all tokens' embeddings after the first norm, in float64."""
        normed = self.projection(0).normed(self.embeddings)
        return normed.mean(0).double(), torch.cov(normed.T).double()

    def entering(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The hidden states before layer 0."""
        hidden = self.embeddings[tokens]
        if self.shapes.kind == "gpt2":
            hidden = hidden + self.model.transformer.wpe.weight.detach()[positions]
        return hidden

    @cached_property
    def vocabulary(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Layer 0's keys before rotation and values of every token, (vocabulary, heads * dim).

        For kinds with rotary positions, whose values and unrotated keys depend on the token
        alone. O(vocabulary * width * heads * dim), once.
        """
        if self.shapes.rope_base is None:
            raise UnsupportedError(
                f"a model of type {self.shapes.kind!r} adds positions to its embeddings",
                "its layer 0 is enumerated per position",
            )
        with torch.inference_mode():
            return self.projection(0).apply(self.embeddings)

    def enumerated(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Layer 0's keys as cached at `position`, and values, of every token."""
        with torch.inference_mode():
            if self.shapes.rope_base is None:
                everything = torch.arange(self.shapes.vocabulary)
                place = torch.full_like(everything, position)
                return self.projection(0).apply(self.entering(everything, place))
            keys, values = self.vocabulary
            turned = self.rotate(self.split(keys), torch.tensor([position]))
            return turned.transpose(0, 1).flatten(1), values

    def split(self, flat: torch.Tensor) -> torch.Tensor:
        """(tokens, heads * dim) as (heads, tokens, dim), the layout of a cache."""
        heads, dim = self.shapes.kv_heads, self.shapes.head_dim
        return flat.reshape(-1, heads, dim).transpose(0, 1)

    # -- positions -------------------------------------------------------------------------

    def angles(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines at `positions`, (tokens, dim), as the model scales them."""
        rotary = getattr(self.model.base_model, "rotary_emb", None)
        if rotary is None:
            raise UnsupportedError(f"a model of type {self.shapes.kind!r} has no rotary positions")
        with torch.inference_mode():
            cos, sin = rotary(self.embeddings[:1], positions[None])
        if cos.shape[-1] != self.shapes.head_dim:
            raise UnsupportedError("the model rotates only a part of each head")
        return cos[0], sin[0]

    def rotate(self, keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Keys (..., tokens, dim) as they are cached at `positions`; unchanged without RoPE."""
        if self.shapes.rope_base is None:
            return keys
        cos, sin = (one.to(keys) for one in self.angles(positions))
        return keys * cos + _turned(keys) * sin

    def unrotate(self, keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The inverse of `rotate`, scaled rotations (YaRN) included."""
        if self.shapes.rope_base is None:
            return keys
        cos, sin = (one.to(keys) for one in self.angles(positions))
        return (keys * cos - _turned(keys) * sin) / (cos**2 + sin**2)

    # -- running it ------------------------------------------------------------------------

    @contextmanager
    def ending_at(self, layer: int) -> Iterator[None]:
        """A forward pass within ends quietly once the cache of `layer` was written."""

        def reached(module: Any, inputs: Any, output: Any) -> None:
            raise _Reached

        handle = self.blocks[layer].register_forward_hook(reached)
        try:
            yield
        except _Reached:
            pass
        finally:
            handle.remove()

    def cached(self, tokens: Sequence[int], deepest: int) -> Any:
        """transformers' cache after `tokens`, filled as far as layer `deepest`."""
        from transformers import DynamicCache

        cache = DynamicCache()
        # Not in inference mode: what is captured should be ordinary tensors.
        with torch.no_grad(), self.ending_at(deepest):
            self.model.base_model(
                torch.tensor([list(tokens)]), past_key_values=cache, use_cache=True
            )
        return cache


def _shapes(model: Any) -> Shapes:
    config = model.config.get_text_config()
    kinds = {kind for kind in getattr(config, "layer_types", None) or () if "full" not in kind}
    if kinds:
        raise UnsupportedError(
            f"the model has {', '.join(sorted(kinds))} layers", "use one with full attention only"
        )
    try:
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        rope = getattr(config, "rope_parameters", None) or {}
        base = rope.get("rope_theta")
        return Shapes(
            kind=config.model_type,
            layers=config.num_hidden_layers,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=head_dim,
            width=config.hidden_size,
            vocabulary=model.get_input_embeddings().weight.shape[0],
            rope_base=None if base is None else float(base),
        )
    except AttributeError as error:
        raise UnsupportedError(
            f"a model of type {config.model_type!r} does not tell its {error.name}",
            "use a causal language model with ordinary attention",
        ) from error


def plane_lengths(keys: torch.Tensor) -> torch.Tensor:
    """The length of each rotary plane of keys (heads, n, dim), as (n, heads * dim / 2)."""
    half = keys.shape[-1] // 2
    return torch.hypot(keys[..., :half], keys[..., half:]).transpose(0, 1).flatten(1)


def _turned(keys: torch.Tensor) -> torch.Tensor:
    half = keys.shape[-1] // 2
    return torch.cat((-keys[..., half:], keys[..., :half]), dim=-1)


def _data(parameter: Any) -> torch.Tensor | None:
    return None if parameter is None else parameter.detach()


def _separate(block: Any) -> Projection:
    norm, attention = block.input_layernorm, block.self_attn
    return Projection(
        gain=norm.weight.detach(),
        shift=None,
        eps=norm.variance_epsilon,
        centred=False,
        key=attention.k_proj.weight.detach(),
        value=attention.v_proj.weight.detach(),
        key_bias=_data(attention.k_proj.bias),
        value_bias=_data(attention.v_proj.bias),
    )


def _joint(block: Any) -> Projection:
    """GPT-2: one weight (in, 3 * out) for queries, keys and values."""
    weight, bias = block.attn.c_attn.weight.detach().T, block.attn.c_attn.bias.detach()
    _, key, value = weight.chunk(3)
    _, key_bias, value_bias = bias.chunk(3)
    norm = block.ln_1
    return Projection(
        gain=norm.weight.detach(),
        shift=_data(norm.bias),
        eps=norm.eps,
        centred=True,
        key=key,
        value=value,
        key_bias=key_bias,
        value_bias=value_bias,
    )
