"""Captured KV: what an attacker holds, wherever it came from, and whether it fits a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from safekv.attack.errors import AttackError, MismatchError
from safekv.attack.public import PublicModel, Shapes

LARGEST = 1e4
"""No cached key or value is larger; what is came out of bits that were no number."""


@dataclass(frozen=True, slots=True)
class Captured:
    """Keys and values of some layers, each (KV heads, tokens, head dimension).

    Row n is taken for position `start + n`, unless an attack says that rows have no order.
    `claims` is what the source says of the model it came from, if it says anything.
    """

    keys: Mapping[int, torch.Tensor] = field(repr=False)
    values: Mapping[int, torch.Tensor] = field(repr=False)
    start: int = 0
    claims: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.keys or set(self.keys) != set(self.values):
            raise AttackError("a cache needs keys and values of the same layers, at least one")
        shapes = {tuple(one.shape) for one in (*self.keys.values(), *self.values.values())}
        if len(shapes) != 1 or len(next(iter(shapes))) != 3:
            told = ", ".join(str(shape) for shape in sorted(shapes))
            raise AttackError(
                f"the tensors of a cache have the shapes {told}",
                "pass (KV heads, tokens, head dimension), the same for all layers",
            )

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that were captured, in order."""
        return tuple(sorted(self.keys))

    @property
    def tokens(self) -> int:
        """How many rows each tensor has."""
        return int(self.keys[self.layers[0]].shape[1])

    @property
    def positions(self) -> torch.Tensor:
        """The positions of the rows."""
        return torch.arange(self.start, self.start + self.tokens)

    def layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of one layer in float32, without what is no number."""
        if layer not in self.keys:
            have = ", ".join(str(one) for one in self.layers)
            raise AttackError(f"layer {layer} was not captured", f"captured are: {have}")
        return _sane(self.keys[layer]), _sane(self.values[layer])

    def only(self, layers: Sequence[int]) -> Captured:
        """The same without the other layers."""
        return replace(
            self,
            keys={layer: self.keys[layer] for layer in layers},
            values={layer: self.values[layer] for layer in layers},
        )

    def require_match(self, shapes: Shapes) -> None:
        """Raise `MismatchError` unless a model of `shapes` can have made this cache."""
        heads, _, dim = self.keys[self.layers[0]].shape
        told = {name: self.claims.get(name) for name in ("kind", "layers", "rope_base")}
        found = [
            ("the cache has", "KV heads", heads, shapes.kv_heads),
            ("the cache has a head dimension of", "", dim, shapes.head_dim),
        ]
        if self.layers[-1] >= shapes.layers:
            found.append(("the cache reaches", "layers", self.layers[-1] + 1, shapes.layers))
        if told["layers"] is not None:
            found.append(("the cache has", "layers", int(told["layers"]), shapes.layers))
        for what, unit, own, model in found:
            if own != model:
                raise MismatchError(
                    f"{what} {own} {unit}".rstrip() + f", and the model {model}",
                    "attack it with the model that made it",
                )
        if told["kind"] not in (None, shapes.kind):
            raise MismatchError(
                f"the cache is of a model of type {told['kind']!r}, not {shapes.kind!r}"
            )
        if told["rope_base"] is not None and _number(told["rope_base"]) != shapes.rope_base:
            raise MismatchError(
                f"the cache was rotated with base {told['rope_base']}, "
                f"and the model uses {shapes.rope_base}",
                "attack it with the model that made it, or mend its rope_theta",
            )


def _number(text: str) -> float | None:
    return None if text == "none" else float(text)


def _sane(tensor: torch.Tensor) -> torch.Tensor:
    numbers = tensor.float().nan_to_num(0.0, LARGEST, -LARGEST)
    return numbers.clamp(-LARGEST, LARGEST)


def claims_of(shapes: Shapes) -> dict[str, str]:
    """What a dump says of the model it came from."""
    base = "none" if shapes.rope_base is None else str(shapes.rope_base)
    return {"kind": shapes.kind, "layers": str(shapes.layers), "rope_base": base}


def capture(
    public: PublicModel, tokens: Sequence[int], layers: Sequence[int] | None = None
) -> Captured:
    """What a server that runs `public` has in its cache after `tokens`. One forward pass.

    Raises `AttackError` for no tokens, and `UnsupportedError` for a model with another cache.
    """
    if not tokens:
        raise AttackError("there is nothing to capture", "pass at least one token")
    wanted = range(public.shapes.layers) if layers is None else layers
    return from_cache(public.cached(tokens, max(wanted)), wanted, public.shapes)


def from_cache(
    cache: Any, layers: Sequence[int] | None = None, shapes: Shapes | None = None
) -> Captured:
    """One sequence of a cache of transformers (`past_key_values`), its own tensors, not copies.

    Raises `AttackError` unless it has a key and a value per token, for one sequence.
    """
    kept = getattr(cache, "layers", None)
    if kept is None or not all(hasattr(one, "keys") for one in kept):
        raise AttackError(f"a {type(cache).__name__} holds no plain keys and values")
    wanted = range(len(kept)) if layers is None else layers
    keys = {layer: kept[layer].keys for layer in wanted}
    if any(one is None or one.dim() != 4 or one.shape[0] != 1 for one in keys.values()):
        raise AttackError("a cache is captured one sequence at a time", "pass a batch of one")
    return Captured(
        {layer: one[0] for layer, one in keys.items()},
        {layer: kept[layer].values[0] for layer in wanted},
        claims={} if shapes is None else claims_of(shapes),
    )
