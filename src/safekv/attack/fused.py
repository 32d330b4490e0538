"""Fused weights beside the public checkpoint give M away: W_k' = Mᵀ·W_k, and W_k is public."""

from __future__ import annotations

import torch

from safekv.attack.errors import MismatchError
from safekv.attack.public import PublicModel


def feature_of(public: PublicModel, fused: PublicModel, layer: int) -> torch.Tensor:
    """M of one layer's keys, complex (heads, dim / 2), from both checkpoints' weights.

    Least squares per rotary plane. Raises `MismatchError` unless the two models are alike.
    """
    if public.shapes != fused.shapes:
        raise MismatchError("the fused model is not of the public one's shapes")
    plain, mixed = (_planes(model, layer) for model in (public, fused))
    return (plain.conj() * mixed).sum(-1) / plain.abs().pow(2).sum(-1)


def _planes(model: PublicModel, layer: int) -> torch.Tensor:
    """W_k as complex numbers (heads, dim / 2, width)."""
    shapes = model.shapes
    weight = model.projection(layer).key.double().view(shapes.kv_heads, shapes.head_dim, -1)
    half = shapes.head_dim // 2
    return torch.complex(weight[:, :half].contiguous(), weight[:, half:].contiguous())
