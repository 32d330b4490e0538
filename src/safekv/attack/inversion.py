"""Linear inversion: undo rotation, projection and norm, and look for the nearest embedding.

KV-Cloak paper (arXiv 2508.09442), section 3, with each layer's own weights (its artifact uses
layer 0's everywhere). With as many KV heads as the model is wide, one of W_k and W_v suffices and
the result is exact. With grouped queries there are fewer equations than unknowns; then keys and
values are stacked, and of all solutions the one is taken that is likeliest under the covariance
of the public vocabulary. Deeper layers hold no embeddings any more, so little is expected there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from time import perf_counter
from typing import Final

import torch

from safekv.attack.capture import Captured
from safekv.attack.public import Projection, PublicModel
from safekv.attack.recovered import Recovered

RIDGE: Final = 1e-4
"""Added to the equations' own covariance, relative to its mean: what rounding leaves of it."""


class Method(Enum):
    """`SEPARATE` is the published one: minimum norm through W_k and W_v each, then the mean."""

    STACKED = "stacked"
    SEPARATE = "separate"


@dataclass(frozen=True, slots=True)
class _System:
    """key · normed = right hand side, before gain and shift were applied."""

    key: torch.Tensor
    value: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


def hidden_states(
    public: PublicModel, captured: Captured, layer: int, method: Method = Method.STACKED
) -> torch.Tensor:
    """The normed hidden states (tokens, width) that `layer` projected. O(width³)."""
    captured.require_match(public.shapes)
    projection = public.projection(layer)
    keys, values = captured.layer(layer)
    keys = public.unrotate(keys, captured.positions)
    system = _system(projection, keys, values)
    with torch.inference_mode():
        if method is Method.SEPARATE:
            from_keys = _shortest(system.key, system.keys)
            return (from_keys + _shortest(system.value, system.values)) / 2
        weight = torch.cat([system.key, system.value]).double()
        right = torch.cat([system.keys, system.values], dim=1).double()
        if weight.shape[0] >= weight.shape[1]:
            return _shortest(weight, right).float()
        return _likeliest(public, weight, right)


def _shortest(weight: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Least squares, of minimum norm where there are more unknowns than equations."""
    solved: torch.Tensor = torch.linalg.lstsq(weight, right.T, driver="gelsd").solution
    return solved.T


def _system(projection: Projection, keys: torch.Tensor, values: torch.Tensor) -> _System:
    flat = [one.transpose(0, 1).flatten(1) for one in (keys, values)]
    weights = (projection.key, projection.value)
    biases = (projection.key_bias, projection.value_bias)
    for n, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if bias is not None:
            flat[n] = flat[n] - bias
        if projection.shift is not None:
            flat[n] = flat[n] - weight @ projection.shift
    return _System(weights[0] * projection.gain, weights[1] * projection.gain, *flat)


def _likeliest(public: PublicModel, weight: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The conditional mean of a normal with the vocabulary's mean and covariance."""
    mean, spread = public.spread
    seen = weight @ spread @ weight.T
    seen.diagonal().add_(RIDGE * seen.diagonal().mean())
    gap = right - mean @ weight.T
    found: torch.Tensor = mean + torch.linalg.solve(seen, gap.T).T @ weight @ spread
    return found.float()


def invert(
    public: PublicModel, captured: Captured, layer: int, method: Method = Method.STACKED
) -> Recovered:
    """The token whose embedding points the same way as each inverted state."""
    started = perf_counter()
    states = hidden_states(public, captured, layer, method)
    with torch.inference_mode():
        tokens = _similarity(public, captured, layer, states).argmax(1).tolist()
    tried = captured.tokens * public.shapes.vocabulary
    return Recovered(tuple(tokens), captured.start, tried=tried, wall_s=perf_counter() - started)


def _similarity(
    public: PublicModel, captured: Captured, layer: int, states: torch.Tensor
) -> torch.Tensor:
    """Cosines (tokens, vocabulary) with what each token's embedding is after the norm."""
    projection, table = public.projection(layer), public.embeddings
    if projection.centred:
        table = table - table.mean(-1, keepdim=True)
    if layer or public.shapes.rope_base is not None:
        return states @ torch.nn.functional.normalize(table, dim=-1).T
    # Learned positions are part of what enters layer 0: |e + p|² by its three terms.
    nothing = torch.zeros_like(captured.positions)
    places = public.entering(nothing, captured.positions) - public.embeddings[:1]
    places = places - places.mean(-1, keepdim=True)
    lengths = table.pow(2).sum(1) + 2 * places @ table.T + places.pow(2).sum(1, keepdim=True)
    scores = states @ table.T + (states * places).sum(1, keepdim=True)
    return scores / lengths.clamp_min(1e-12).sqrt()
