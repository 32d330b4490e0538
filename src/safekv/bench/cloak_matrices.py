"""KV-Cloak's matrices in torch on the CPU: speed, and what a round trip costs in precision."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from time import perf_counter
from typing import Any

import torch

from safekv.cloak.config import CloakConfig, Part
from safekv.cloak.keys import CloakKey
from safekv.cloak.transform import Cloak

BLOCK = b"bench"


@dataclass(frozen=True, slots=True)
class MatricesPlan:
    """The shapes that are measured; `size_bytes` decides how many heads a call has."""

    block_tokens: tuple[int, ...] = (16, 32, 64, 128)
    head_dims: tuple[int, ...] = (64, 128)
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    size_bytes: int = 1 << 18
    rounds: int = 30


def run(plan: MatricesPlan) -> list[dict[str, Any]]:
    """One row per shape, dtype and direction, with M in the weights (fused). One thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shapes = product(plan.block_tokens, plan.head_dims, plan.dtypes)
        return [row for shape in shapes for row in _measured(*shape, plan)]
    finally:
        torch.set_num_threads(threads)


def _measured(tokens: int, dim: int, dtype: str, plan: MatricesPlan) -> list[dict[str, Any]]:
    kind: torch.dtype = getattr(torch, dtype)
    heads = max(1, plan.size_bytes // (tokens * dim * kind.itemsize))
    # Normal numbers, as keys roughly are: none in 2**40 is beyond 8.
    config = CloakConfig(block_tokens=tokens, head_dim=dim, kv_heads=heads, limit=8.0)
    rows = torch.randn(heads, tokens, dim, generator=torch.Generator().manual_seed(0)).to(kind)
    cloak = Cloak(CloakKey.generate(), config, fused=True)
    bare = Cloak(CloakKey.generate(), replace(config, beacon=False), fused=True)
    errors = {
        "round_trip_relative_error": _round_trip_error(cloak, rows),
        "round_trip_relative_error_without_beacon": _round_trip_error(bare, rows),
    }
    stored = cloak.obfuscate(0, Part.KEYS, BLOCK, rows)
    calls: dict[str, Callable[[], object]] = {
        "cloak_obfuscate": lambda: cloak.obfuscate(0, Part.KEYS, BLOCK, rows),
        "cloak_deobfuscate": lambda: cloak.deobfuscate(0, Part.KEYS, BLOCK, stored),
    }
    times_s: dict[str, list[float]] = {what: [] for what in calls}
    for _ in range(plan.rounds):
        for what, call in calls.items():
            start = perf_counter()
            call()
            times_s[what].append(perf_counter() - start)
    size_bytes = rows.numel() * kind.itemsize
    return [
        {
            "what": what,
            "backend": "torch",
            "dtype": dtype,
            "block_size": tokens,
            "head_dim": dim,
            "size_bytes": size_bytes,
            "gb_per_s": size_bytes / statistics.median(own_s) / 1e9,
            "gb_per_s_best": size_bytes / min(own_s) / 1e9,
            "rounds": plan.rounds,
            **errors,
        }
        for what, own_s in times_s.items()
    ]


def _round_trip_error(cloak: Cloak, rows: torch.Tensor) -> float:
    """The norm of what a round trip changes, relative to the norm of `rows`."""
    stored = cloak.obfuscate(0, Part.KEYS, BLOCK, rows)
    back: Any = cloak.deobfuscate(0, Part.KEYS, BLOCK, stored)
    return float((back.double() - rows.double()).norm() / rows.double().norm())
