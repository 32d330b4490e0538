"""The GPU's plan: cheap cells first, memory that fits, and no GPU is said so."""

from __future__ import annotations

from typing import Any

import pytest

from safekv.bench.serving import gpu
from safekv.bench.serving.gpu import RESERVED_BYTES, TOY, GpuPlan, run
from safekv.errors import ConfigError


class Host:
    modes = ("global", "isolated", "selective")
    block_tokens = 32

    def __init__(self, **about: Any) -> None:
        self.about = {"device": "H", **about}


def played(monkeypatch: pytest.MonkeyPatch, stop_after: int = 10**9) -> list[Any]:
    plans: list[Any] = []

    def serve(host: Any, plan: Any, report: Any, deadline_s: float) -> dict[str, Any]:
        plans.append(plan)
        stopped = "interrupted" if len(plans) == stop_after else None
        return {"stopped": stopped, "workloads": {}, "comparisons": {}, "runs": []}

    monkeypatch.setattr(gpu, "serve", serve)
    return plans


def silent(_done: int, _total: int) -> None:
    return None


def test_lengths_are_paced_and_tenants_come_at_once_the_cheap_ones_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plans = played(monkeypatch)
    block = 32 * 131072
    host = Host(memory_bytes=RESERVED_BYTES + 1000 * block, block_bytes=block)
    result = run(host, GpuPlan(), silent)  # type: ignore[arg-type]
    assert not result["partial"]
    sizes = [plan.tenants * plan.common_words for plan in plans]
    assert sizes == sorted(sizes)
    assert len(plans) == 10
    assert {plan.common_words for plan in plans if plan.phases == ["paced"]} == {
        1024, 2048, 4096, 8192, 16384, 32768,
    }  # fmt: skip
    assert {plan.tenants for plan in plans if plan.phases == ["burst"]} == {4, 16, 64, 256}
    assert {plan.most_blocks for plan in plans} == {1000}


def test_out_of_time_or_interrupted_it_says_what_was_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played(monkeypatch, stop_after=2)
    result = run(Host(), TOY, silent)  # type: ignore[arg-type]
    assert result["stopped"] == "interrupted"
    assert (len(result["cells"]), len(result["not_run"])) == (2, 2)
    late = run(Host(), GpuPlan(limit_s=-1.0), silent)  # type: ignore[arg-type]
    assert late["stopped"] == "out of time"
    assert late["partial"]
    assert len(late["not_run"]) == 10


def test_without_a_gpu_it_refuses_unless_it_is_only_tried_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played(monkeypatch)
    with pytest.raises(ConfigError, match="no CUDA device"):
        run(Host(device="cpu"), GpuPlan(), silent)  # type: ignore[arg-type]
    assert run(Host(device="cpu"), TOY, silent, toy=True)["toy"]  # type: ignore[arg-type]
