"""The Triton kernels on a GPU: speed beside a copy of as many bytes, and beside the way out.

Every operation reads and writes its payload once, as a copy does; so the share of a copy's speed
is the share of the memory bandwidth that can be had.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from time import perf_counter
from typing import Any, Final

import torch

from safekv.bench.stats import paired_ratio, rates
from safekv.cloak.config import CloakConfig, Part
from safekv.cloak.keys import CloakKey
from safekv.cloak.transform import Cloak
from safekv.errors import ConfigError, SafeKVError

HEADS: Final = 8
COPY: Final = "copy"
TO_HOST, TO_DEVICE = "copy_to_host", "copy_to_device"
MAX_ERROR: Final = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-1}
"""Largest relative error of a block against NumPy's float64; above it nothing is timed."""

OBFUSCATE_SHARE: Final = 0.7
CHACHA_TIMES: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCloakPlan:
    """`repeats` calls are timed together, so that the launch of each hides behind the one before.

    `size_bytes` should be several times the device's cache.
    """

    block_tokens: tuple[int, ...] = (16, 32, 64, 128)
    head_dims: tuple[int, ...] = (64, 128)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    fused: tuple[bool, ...] = (True, False)
    rounds_of_chacha: tuple[int, ...] = (8, 12, 20)
    chacha_block_bytes: tuple[int, ...] = (1 << 14, 1 << 17, 1 << 21)
    size_bytes: int = 1 << 28
    rounds: int = 15
    repeats: int = 10
    seed: int = 0


TINY: Final = GpuCloakPlan(
    block_tokens=(16,),
    head_dims=(16,),
    dtypes=("bfloat16",),
    rounds_of_chacha=(8,),
    chacha_block_bytes=(1 << 12,),
    size_bytes=1 << 15,
    rounds=3,
    repeats=1,
)
"""Shows that everything works, on a CPU too, where Triton is interpreted; measures nothing."""

Calls = dict[str, Callable[[], object]]


def run(
    plan: GpuCloakPlan,
    report: Callable[[int, int], None] = lambda done, total: None,
    device: str = "cuda",
) -> dict[str, Any]:
    """All rows, and the bars. Raises `ConfigError` without a GPU, `SafeKVError` for wrong results.

    With the device `cpu` Triton must be interpreted (`TRITON_INTERPRET=1`).
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device", "leave --gpu out, or run it where there is")
    where = torch.device(device)
    shapes = list(product(plan.block_tokens, plan.head_dims, plan.dtypes, plan.fused))
    total = len(shapes) + len(plan.chacha_block_bytes)
    rows = list[dict[str, Any]]()
    for done, (tokens, dim, dtype, fused) in enumerate(shapes):
        report(done, total)
        rows += _matrices(plan, where, tokens, dim, dtype, fused)
    for done, block_bytes in enumerate(plan.chacha_block_bytes):
        report(len(shapes) + done, total)
        rows += _chacha(plan, where, block_bytes)
    report(total, total)
    return {"plan": asdict(plan), "device": _name(where), "rows": rows, "bars": judged(rows)}


def judged(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The bars of the kernels with the worst row of each: M fused, and each number of rounds."""
    found = []
    for what in ("cloak_obfuscate", "cloak_deobfuscate"):
        shares = [one["share_of_copy"]["value"] for one in rows if one["what"] == what]
        found.append(_bar(f"{what} / copy", OBFUSCATE_SHARE, shares))
    names = sorted({one["what"] for one in rows if one["what"].startswith("chacha")})
    for what in names:
        times = [one["times_to_host"]["value"] for one in rows if one["what"] == what]
        found.append(_bar(f"{what} / copy to host", CHACHA_TIMES, times))
    return found


def _bar(what: str, least: float, values: list[float]) -> dict[str, Any]:
    worst = min(values, default=None)
    met = worst is not None and worst >= least
    shares = sum(value >= least for value in values)
    return {"what": what, "least": least, "worst": worst, "met": met, "rows_met": shares}


def _matrices(
    plan: GpuCloakPlan, where: torch.device, tokens: int, dim: int, dtype: str, fused: bool
) -> Iterator[dict[str, Any]]:
    from safekv.cloak.hazmat import triton_ops

    kind = getattr(torch, dtype)
    n = max(1, plan.size_bytes // (HEADS * tokens * dim * kind.itemsize))
    config = CloakConfig(block_tokens=tokens, head_dim=dim, kv_heads=HEADS, limit=8.0)
    cloak = Cloak(CloakKey.generate(), config, fused=fused)
    # Rows as the engines' pools have them: by token, then head.
    rows = torch.randn(n, tokens, HEADS, dim, device=where).to(kind).transpose(1, 2)
    secrets = cloak.secrets(0, Part.KEYS, torch.float32, where)
    # Names are drawn 20 µs each: a few are enough, taken in turn.
    few = cloak.places(0, [at.to_bytes(8) for at in range(min(n, 512))], where)
    turn = torch.arange(n, device=where) % len(few.orders)
    orders, beacon_at = few.orders[turn], few.beacon_at[turn]
    stored, back, target = (torch.empty_like(rows) for _ in range(3))

    def obfuscate() -> object:
        return triton_ops.obfuscate_blocks(
            rows, secrets, orders, beacon_at, fused=fused, out=stored
        )

    def deobfuscate() -> object:
        return triton_ops.deobfuscate_blocks(
            stored, secrets, orders, beacon_at, fused=fused, out=back
        )

    obfuscate()
    deobfuscate()
    error = _error(cloak, rows, stored)
    if not error <= MAX_ERROR[dtype]:
        raise SafeKVError(f"the kernel is off by {error:.1e} ({tokens}, {dim}, {dtype}, {fused=})")
    calls: Calls = {
        COPY: lambda: target.copy_(rows),
        "obfuscate": obfuscate,
        "deobfuscate": deobfuscate,
    }
    times_s = _timed(calls, plan, where)
    shape = {"dtype": dtype, "block_size": tokens, "head_dim": dim, "relative_error": error}
    shape["round_trip_relative_error"] = float(
        (back.double() - rows.double()).norm() / rows.double().norm()
    )
    size = rows.numel() * kind.itemsize
    part = "cloak" if fused else "cloak_whole"
    yield _row(COPY, "torch", size, times_s[COPY], shape)
    for act in ("obfuscate", "deobfuscate"):
        row = _row(f"{part}_{act}", "triton", size, times_s[act], shape)
        yield row | {"share_of_copy": asdict(paired_ratio(times_s[COPY], times_s[act]))}


def _error(cloak: Cloak, rows: torch.Tensor, stored: torch.Tensor) -> float:
    """The first and the last of the named blocks beside NumPy's float64, in the norm."""
    last = min(len(rows), 512) - 1
    worst = 0.0
    for at in (0, last):
        name = at.to_bytes(8)
        truth = cloak.obfuscate(0, Part.KEYS, name, rows[at].double().cpu().numpy())
        mine = stored[at].double().cpu()
        truth_tensor = torch.from_numpy(truth)
        worst = max(worst, float((mine - truth_tensor).norm() / truth_tensor.norm()))
    return worst


def _chacha(plan: GpuCloakPlan, where: torch.device, block_bytes: int) -> Iterator[dict[str, Any]]:
    from safekv.cloak.hazmat import triton_ops

    n = max(1, plan.size_bytes // block_bytes)
    data = torch.randint(-(2**31), 2**31, (n, block_bytes // 4), device=where).to(torch.int32)
    target, kept = torch.empty_like(data), data[-1].clone()
    host = torch.empty(data.shape, dtype=data.dtype, pin_memory=where.type == "cuda")
    key = torch.tensor(triton_ops.key_words(os.urandom(32)), dtype=torch.int32, device=where)
    nonces = torch.randint(-(2**31), 2**31, (n, 3), device=where).to(torch.int32)
    calls: Calls = {
        COPY: lambda: target.copy_(data),
        TO_HOST: lambda: host.copy_(data, non_blocking=True),
        TO_DEVICE: lambda: target.copy_(host, non_blocking=True),
    }
    for rounds in plan.rounds_of_chacha:
        calls[f"chacha{rounds}"] = _xor(data, key, nonces, rounds)
        calls[f"chacha{rounds}"]()
        if torch.equal(data[-1], kept):
            raise SafeKVError(f"chacha with {rounds} rounds changed nothing")
        calls[f"chacha{rounds}"]()
        if not torch.equal(data[-1], kept):
            raise SafeKVError(f"chacha with {rounds} rounds does not undo itself")
    times_s = _timed(calls, plan, where)
    size = data.numel() * data.element_size()
    shape = {"dtype": "bytes", "block_size": None, "head_dim": None, "block_bytes": block_bytes}
    for what, own_s in times_s.items():
        row = _row(what, "triton" if what.startswith("chacha") else "torch", size, own_s, shape)
        if what.startswith("chacha"):
            row["share_of_copy"] = asdict(paired_ratio(times_s[COPY], own_s))
            row["times_to_host"] = asdict(paired_ratio(times_s[TO_HOST], own_s))
        yield row


def _xor(
    data: torch.Tensor, key: torch.Tensor, nonces: torch.Tensor, rounds: int
) -> Callable[[], object]:
    from safekv.cloak.hazmat import triton_ops

    return lambda: triton_ops.chacha_xor(data, key, nonces, rounds=rounds)


def _timed(calls: Calls, plan: GpuCloakPlan, where: torch.device) -> dict[str, list[float]]:
    """Seconds a call, by operation, all in turns; the first round warms up."""
    times_s: dict[str, list[float]] = {what: [] for what in calls}
    order = random.Random(plan.seed)  # noqa: S311 - a schedule, not a secret
    for n in range(-1, plan.rounds):
        for what in order.sample(list(calls), len(calls)):
            one_s = took_s(calls[what], plan.repeats, where)
            if n >= 0:
                times_s[what].append(one_s)
    return times_s


def took_s(call: Callable[[], object], repeats: int, where: torch.device) -> float:
    """Seconds of one of `repeats` calls, on the device's own clock where it has one."""
    if where.type != "cuda":
        start = perf_counter()
        for _ in range(repeats):
            call()
        return (perf_counter() - start) / repeats
    before, behind = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    call()  # behind it the next launches wait
    before.record()
    for _ in range(repeats):
        call()
    behind.record()
    behind.synchronize()
    return float(before.elapsed_time(behind)) / 1e3 / repeats


def _row(
    what: str, backend: str, size_bytes: int, own_s: list[float], shape: dict[str, Any]
) -> dict[str, Any]:
    return {
        "what": what,
        "backend": backend,
        **shape,
        **rates(own_s, size_bytes),
    }


def _name(where: torch.device) -> str:
    return torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
