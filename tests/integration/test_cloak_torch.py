"""The cloak on torch tensors: bit for bit in the stream, as NumPy in the matrices."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from safekv.bench.cloak import CloakPlan
from safekv.bench.cloak_engine import CloakEnginePlan
from safekv.bench.cloak_engine import run as run_engine
from safekv.bench.cloak_matrices import MatricesPlan, judged
from safekv.bench.cloak_matrices import run as matrices
from safekv.cli.main import cli
from safekv.cloak import Cloak, CloakConfig, CloakKey, Part, Stream, bits_of
from safekv.errors import CloakError
from safekv.types import BlockId
from safekv.vault import Vault

BLOCK = BlockId(7)
CONFIG = CloakConfig(head_dim=8, kv_heads=2, limit=4.0, condition=10.0, scale=1.5)
DTYPES = ["float32", "float16", "bfloat16", "int8", "uint8", "int32", "float8_e4m3fn", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_of_any_dtype_come_back_bit_for_bit(dtype: str) -> None:
    raw = torch.frombuffer(bytearray(os.urandom(2 * 16 * 8 * 4)), dtype=torch.uint8)
    if dtype == "bool":
        raw = raw & 1
    tensor = raw.view(getattr(torch, dtype)).reshape(2, 16, -1)
    before, stream = bits_of(tensor).tobytes(), Stream()
    stream.obfuscate_into(BLOCK, tensor, tensor)
    assert bits_of(tensor).tobytes() != before
    stream.deobfuscate_into(BLOCK, tensor, tensor)
    # NaNs too, whatever their payload.
    assert bits_of(tensor).tobytes() == before


def test_tensors_with_gaps_or_elsewhere_are_refused() -> None:
    view = torch.zeros(4, 4).T
    with pytest.raises(CloakError, match="gaps"):
        Stream().obfuscate_into(BLOCK, view, view)
    with pytest.raises(CloakError, match="meta"):
        Stream().obfuscate_into(BLOCK, torch.zeros(4, device="meta"), bytearray(16))


@pytest.mark.parametrize("tokens", [1, 5, 16])
@pytest.mark.parametrize("fused", [True, False])
def test_torch_and_numpy_agree(tokens: int, fused: bool) -> None:
    cloak = Cloak(CloakKey.generate(), CONFIG, fused=fused)
    plain = np.random.default_rng(0).uniform(-4, 4, (2, tokens, 8))
    tensor = torch.from_numpy(plain.copy())
    ours = cloak.obfuscate(0, Part.KEYS, b"b", plain)
    theirs: Any = cloak.obfuscate(0, Part.KEYS, b"b", tensor)
    np.testing.assert_allclose(theirs.numpy(), ours, rtol=0, atol=1e-10)
    assert (tensor.numpy() == plain).all()
    back: Any = cloak.deobfuscate(0, Part.KEYS, b"b", theirs, tokens)
    np.testing.assert_allclose(back.numpy(), plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "float8_e4m3fn", "bool", "complex64"])
def test_integers_and_fp8_are_refused(dtype: str) -> None:
    cloak = Cloak(CloakKey.generate(), CONFIG, fused=False)
    block = torch.zeros(2, 16, 8).to(getattr(torch, dtype))
    for act in (cloak.obfuscate, cloak.deobfuscate):
        with pytest.raises(CloakError, match=f"blocks of {dtype} cannot"):
            act(0, Part.KEYS, b"b", block)


@pytest.mark.parametrize("bad", [4.001, -4.001, float("nan")])
def test_out_of_range_tensors_are_refused(bad: float) -> None:
    plain = torch.zeros(2, 16, 8)
    plain[1, 3, 2] = bad
    with pytest.raises(CloakError, match="above the limit 4"):
        Cloak(CloakKey.generate(), CONFIG, fused=False).obfuscate(0, Part.KEYS, b"b", plain)


def test_matrices_are_timed_and_their_round_trip_is_as_exact_as_the_dtype() -> None:
    plan = MatricesPlan(
        block_tokens=(16, 128), head_dims=(64,), sizes_bytes=(8192, 32768), rounds=(1, 2)
    )
    every = matrices(plan)
    # A block of 128 x 64 is larger than 8 KiB in each dtype, and just 32 KiB in float32.
    assert len(every) == 4 * 3 * (2 + 1)
    assert {row["size_bytes"] for row in every} == {8192, 32768}
    assert [bar["what"] for bar in judged(every)] == ["cloak_obfuscate", "cloak_deobfuscate"]
    rows = [row for row in every if "peer" in row and row["block_size"] == 16]
    errors = {row["dtype"]: row["round_trip_relative_error"] for row in rows}
    assert list(errors) == ["float32", "float16", "bfloat16"]
    assert 0 < errors["float32"] < 1e-5 < errors["float16"] < errors["bfloat16"] < 0.2
    # The beacon is larger than the rest, so it costs the rest its last bits.
    for row in rows:
        assert row["round_trip_relative_error_without_beacon"] < row["round_trip_relative_error"]


@pytest.mark.parametrize("flags", [["--json"], []])
def test_the_command(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = CloakPlan(sizes_bytes=(8192, 262144), budget_bytes=1 << 18, rounds=(3, 5))
    monkeypatch.setattr("safekv.bench.cloak.CloakPlan", lambda **_: plan)
    result = CliRunner().invoke(cli, ["bench", "cloak", "--quick", *flags])
    assert result.exit_code == 0, result.output
    if flags:
        record = json.loads(result.stdout)
        assert {"what", "backend", "dtype", "block_size", "head_dim", "size_bytes", "gb_per_s"} <= (
            record["rows"][0].keys()
        )
        assert record["environment"]["cores"] >= 1
    else:
        assert "stream_obfuscate >= 90% from 256 KiB" in result.stdout


async def test_the_engine_is_measured_on_all_sides(tiny_dir: Path, tmp_path: Path) -> None:
    plan = CloakEnginePlan(
        rounds=2,
        prompt_tokens=65,
        batch_requests=2,
        batch_prompt_tokens=40,
        batch_new_tokens=2,
    )
    heard: list[tuple[int, int]] = []
    told = await run_engine(
        "tiny",
        tiny_dir,
        plan,
        (tmp_path, Vault.ephemeral()),
        lambda done, total: heard.append((done, total)),
    )
    assert heard == [(0, 2), (1, 2), (2, 2)]
    assert list(told["median"]) == ["plain", "stream", "matrix", "vaulted_disk"]
    assert list(told["percent_of_plain"]) == ["stream", "matrix", "vaulted_disk"]
    for side, samples in told["samples"].items():
        for values in samples.values():
            assert len(values) == 2, side
            assert min(values) > 0, side
