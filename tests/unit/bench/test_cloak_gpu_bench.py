"""The GPU's benchmark, tiny, on a CPU with Triton interpreted: every row is there and right."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from safekv.errors import ConfigError, SafeKVError

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from safekv.bench import cloak_gpu, cloak_gpu_decode  # noqa: E402
from safekv.cli.bench_cloak import _show_gpu, cloak  # noqa: E402

needs_interpreter = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1"
)


@needs_interpreter
def test_every_operation_is_timed_judged_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    record = cloak_gpu.run(
        cloak_gpu.TINY, lambda done, total: told.append((done, total)), device="cpu"
    )
    assert record["device"] == "cpu"
    whats = [row["what"] for row in record["rows"]]
    assert whats == [
        "copy", "cloak_obfuscate", "cloak_deobfuscate",
        "copy", "cloak_whole_obfuscate", "cloak_whole_deobfuscate",
        "copy", "copy_to_host", "copy_to_device", "chacha8",
    ]  # fmt: skip
    for row in record["rows"]:
        assert row["gb_per_s"] > 0
        assert row["rounds"] == cloak_gpu.TINY.rounds
        if row["what"].startswith("cloak"):
            # bfloat16 keeps 8 bits; a wrong kernel is off by 1 or more.
            assert 0 < row["relative_error"] < 0.01
            assert 0 < row["round_trip_relative_error"] < 0.1
    assert [bar["met"] for bar in record["bars"]] == [False] * 3
    assert told[-1] == (3, 3)
    decode = cloak_gpu_decode.run(cloak_gpu_decode.TINY, "cpu")
    _show_gpu({**record, "decode": decode})
    shown = capsys.readouterr().out
    assert shown.count("cloak_obfuscate") == 2  # its row, its bar
    assert "chacha8 / copy to host >= 5.0: not met" in shown
    assert f"{decode['fused_over_plain']['value']:.3f}" in shown


@needs_interpreter
def test_a_kernel_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from safekv.cloak.hazmat import triton_ops

    right = triton_ops.obfuscate_blocks

    def wrong(rows, secrets, orders, beacon_at, **options):  # type: ignore[no-untyped-def]
        return right(rows, secrets, orders.flip(1), beacon_at, **options)

    monkeypatch.setattr(triton_ops, "obfuscate_blocks", wrong)
    with pytest.raises(SafeKVError, match="the kernel is off by"):
        cloak_gpu.run(cloak_gpu.TINY, device="cpu")


def test_bars_count_the_rows_that_meet_them() -> None:
    rows = [
        {"what": "cloak_obfuscate", "share_of_copy": {"value": value}} for value in (0.69, 0.7, 0.9)
    ]
    rows += [{"what": "cloak_deobfuscate", "share_of_copy": {"value": 0.8}}]
    rows += [{"what": "chacha20", "times_to_host": {"value": 24.0}}]
    one, two, three = cloak_gpu.judged(rows)
    assert (one["met"], one["worst"], one["rows_met"]) == (False, 0.69, 2)
    assert (two["met"], three["met"]) == (True, True)


def test_a_fused_model_decodes_beside_the_plain_one() -> None:
    result = cloak_gpu_decode.run(cloak_gpu_decode.TINY, "cpu")
    assert set(result["step_s"]) == {"plain", "fused"}
    assert result["fused_over_plain"]["value"] > 0
    assert result["bar"]["met"] == (result["fused_over_plain"]["value"] <= 1.01)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        cloak_gpu.run(cloak_gpu.TINY)
    assert CliRunner().invoke(cloak, ["--gpu", "--engine"]).exit_code == 2
    assert isinstance(CliRunner().invoke(cloak, ["--gpu", "--quick"]).exception, ConfigError)
