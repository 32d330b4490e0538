"""KV-Cloak's matrices in torch on the CPU: speed, and what a round trip costs in precision.

Beside it the formula as it is written, S·(P·(K + A)) with P a matrix and A a whole block: what our
form, which only reorders rows and adds to one, must not be slower than.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from time import perf_counter
from typing import Any, Final

import torch

from safekv.bench.stats import paired_ratio, rates
from safekv.cloak.config import CloakConfig, Part
from safekv.cloak.keys import CloakKey
from safekv.cloak.transform import Cloak, Places

KIB: Final = 1024
HEADS: Final = 8
ERROR_BYTES: Final = 256 * KIB
CPU: Final = torch.device("cpu")
PEERS: Final = {"cloak_obfuscate": "matmul_obfuscate", "cloak_deobfuscate": "matmul_deobfuscate"}


@dataclass(frozen=True, slots=True)
class MatricesPlan:
    """The shapes that are measured. `budget_bytes` per operation and size decides the rounds."""

    block_tokens: tuple[int, ...] = (16, 32, 64, 128)
    head_dims: tuple[int, ...] = (64, 128)
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    sizes_bytes: tuple[int, ...] = tuple(size * KIB for size in (8, 64, 256, 1024, 4096, 32768))
    budget_bytes: int = 1 << 26
    rounds: tuple[int, int] = (5, 60)
    seed: int = 0

    def rounds_at(self, size_bytes: int) -> int:
        fewest, most = self.rounds
        return max(fewest, min(most, self.budget_bytes // size_bytes))


def run(
    plan: MatricesPlan, report: Callable[[int, int], None] = lambda done, total: None
) -> list[dict[str, Any]]:
    """One row per shape, dtype, size and operation, with M in the weights (fused). One thread.

    A size below that of one head of one block is left out.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        shapes = list(product(plan.block_tokens, plan.head_dims, plan.dtypes))
        rows = list[dict[str, Any]]()
        for done, (tokens, dim, dtype) in enumerate(shapes):
            report(done, len(shapes))
            errors = _round_trip_errors(tokens, dim, getattr(torch, dtype))
            for size in plan.sizes_bytes:
                if size >= tokens * dim * getattr(torch, dtype).itemsize:
                    rows += _measured(tokens, dim, dtype, size, errors, plan)
        return rows
    finally:
        torch.set_num_threads(threads)


def judged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The bar: at every shape, dtype and size at least as fast as the formula as it is written."""
    found = []
    for what in PEERS:
        worst = min((row["ratio"]["value"] for row in rows if row["what"] == what), default=None)
        met = worst is not None and worst >= 1
        found.append(
            {"what": what, "least": 1.0, "from_bytes": 0, "worst_ratio": worst, "met": met}
        )
    return found


def _case(
    tokens: int, dim: int, kind: torch.dtype, size_bytes: int
) -> tuple[CloakConfig, torch.Tensor, list[bytes]]:
    one = tokens * dim * kind.itemsize
    heads = min(HEADS, max(1, size_bytes // one))
    n = max(1, size_bytes // (heads * one))
    # Normal numbers, as keys roughly are: none in 2**40 is beyond 8.
    config = CloakConfig(block_tokens=tokens, head_dim=dim, kv_heads=heads, limit=8.0)
    rows = torch.randn(n, heads, tokens, dim, generator=torch.Generator().manual_seed(0)).to(kind)
    return config, rows, [at.to_bytes(8) for at in range(n)]


def _round_trip_errors(tokens: int, dim: int, kind: torch.dtype) -> dict[str, float]:
    """The norm of what a round trip changes, relative to that of the rows."""
    config, rows, names = _case(tokens, dim, kind, ERROR_BYTES)
    errors = {}
    for name, beacon in (("", True), ("_without_beacon", False)):
        cloak = Cloak(CloakKey.generate(), replace(config, beacon=beacon), fused=True)
        places = cloak.places(0, names, CPU)
        stored = cloak.obfuscate_blocks(0, Part.KEYS, places, rows)
        back = cloak.deobfuscate_blocks(0, Part.KEYS, places, stored)
        error = (back.double() - rows.double()).norm() / rows.double().norm()
        errors[f"round_trip_relative_error{name}"] = float(error)
    return errors


def _measured(
    tokens: int, dim: int, dtype: str, size: int, errors: dict[str, float], plan: MatricesPlan
) -> list[dict[str, Any]]:
    config, rows, names = _case(tokens, dim, getattr(torch, dtype), size)
    cloak = Cloak(CloakKey.generate(), config, fused=True)
    places = cloak.places(0, names, CPU)
    stored = cloak.obfuscate_blocks(0, Part.KEYS, places, rows)
    calls: dict[str, Callable[[], object]] = {
        "cloak_obfuscate": lambda: cloak.obfuscate_blocks(0, Part.KEYS, places, rows, strict=False),
        "cloak_deobfuscate": lambda: cloak.deobfuscate_blocks(0, Part.KEYS, places, stored),
        **_as_written(cloak, places, rows, stored),
    }
    times_s: dict[str, list[float]] = {what: [] for what in calls}
    size_bytes = rows.numel() * rows.dtype.itemsize
    order = random.Random(plan.seed)  # noqa: S311 - a schedule, not a secret
    for _ in range(plan.rounds_at(size_bytes)):
        for what in order.sample(list(calls), len(calls)):
            start = perf_counter()
            calls[what]()
            times_s[what].append(perf_counter() - start)
    return list(_rows(times_s, (tokens, dim, dtype, size_bytes), errors))


def _as_written(
    cloak: Cloak, places: Places, rows: torch.Tensor, stored: torch.Tensor
) -> dict[str, Callable[[], object]]:
    """The formula with full matrices, batched alike; they are made beforehand."""
    secrets = cloak.secrets(0, Part.KEYS, torch.float32, CPU)
    n, tokens = len(rows), rows.shape[2]
    p = torch.eye(tokens)[places.orders][:, None]
    # Row `beacon_at` of P·A is the beacon, so A has it in row `orders[beacon_at]`.
    marked = torch.zeros(n, tokens)
    marked[torch.arange(n), places.orders[torch.arange(n), places.beacon_at]] = 1
    a = marked[:, None, :, None] * secrets.beacon[None, :, None, :]
    back = p.transpose(2, 3).contiguous()
    kind = rows.dtype

    def obfuscate() -> torch.Tensor:
        return (secrets.mix @ (p @ (rows.float() + a))).to(kind)

    def deobfuscate() -> torch.Tensor:
        return (back @ (secrets.unmix @ stored.float()) - a).to(kind)

    torch.testing.assert_close(obfuscate(), stored, rtol=1e-2, atol=1e-2)
    return {"matmul_obfuscate": obfuscate, "matmul_deobfuscate": deobfuscate}


def _rows(
    times_s: dict[str, list[float]],
    shape: tuple[int, int, str, int],
    errors: dict[str, float],
) -> Iterator[dict[str, Any]]:
    tokens, dim, dtype, size_bytes = shape
    for what, own_s in times_s.items():
        row: dict[str, Any] = {
            "what": what,
            "backend": "torch",
            "dtype": dtype,
            "block_size": tokens,
            "head_dim": dim,
            **rates(own_s, size_bytes),
        }
        if peer := PEERS.get(what):
            ratio = asdict(paired_ratio(times_s[peer], own_s))
            row |= {"peer": peer, "ratio": ratio, **errors}
        yield row
