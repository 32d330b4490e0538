from __future__ import annotations

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from safekv.events import (
    Admitted,
    DetectionFailed,
    Event,
    Evicted,
    Judged,
    Promoted,
    Stored,
)
from safekv.telemetry.prometheus import CONTENT_TYPE, PrometheusSink
from safekv.types import TenantId

A, B = TenantId("a"), TenantId("b")


def samples(sink: PrometheusSink) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(sink.render().decode())
        for sample in family.samples
    }


def test_events_are_counted_under_their_names() -> None:
    sink = PrometheusSink()
    events: list[Event] = [
        Admitted(A, prompt_tokens=100, hit_tokens=64, own_tokens=32),
        Admitted(A, prompt_tokens=10, hit_tokens=0, own_tokens=0),
        Admitted(B, prompt_tokens=5, hit_tokens=0, own_tokens=0),
        Stored(A, new_blocks=3, duplicate_blocks=1),
        Judged(A, shareable_blocks=2, private_blocks=1, unsure_blocks=4, seconds=0.02),
        Promoted(2),
        Evicted(5),
        DetectionFailed("rules", "queue-full"),
    ]
    for event in events:
        sink.emit(event)
    found = samples(sink)
    expected = {
        ("safekv_prompt_tokens_total", ("a",)): 110,
        ("safekv_prompt_tokens_total", ("b",)): 5,
        ("safekv_hit_tokens_total", ("a",)): 64,
        ("safekv_own_hit_tokens_total", ("a",)): 32,
        ("safekv_stored_blocks_total", ()): 3,
        ("safekv_duplicate_blocks_total", ()): 1,
        ("safekv_judged_blocks_total", ("shareable",)): 2,
        ("safekv_judged_blocks_total", ("private",)): 1,
        ("safekv_judged_blocks_total", ("unsure",)): 4,
        ("safekv_promoted_blocks_total", ()): 2,
        ("safekv_evicted_blocks_total", ()): 5,
        ("safekv_detection_seconds_count", ()): 1,
        ("safekv_detection_seconds_sum", ()): 0.02,
        ("safekv_detection_failures_total", ("queue-full", "rules")): 1,
    }
    assert {key: found[key] for key in expected} == expected


def test_gauges_are_read_when_shown_and_may_fail() -> None:
    sink, blocks = PrometheusSink(), [3.0]
    sink.gauge("used_blocks", "Blocks in use.", lambda: blocks[0])
    sink.gauge("broken", "Always fails.", lambda: {}["x"])
    assert samples(sink)["safekv_used_blocks", ()] == 3
    blocks[0] = 4
    found = samples(sink)
    assert found["safekv_used_blocks", ()] == 4
    assert found["safekv_broken", ()] != found["safekv_broken", ()], "NaN"
    with pytest.raises(ValueError, match="used_blocks"):
        sink.gauge("used_blocks", "Again.", lambda: 0)


def test_sinks_share_nothing() -> None:
    one, two = PrometheusSink(), PrometheusSink()
    one.emit(Promoted(1))
    assert samples(two)["safekv_promoted_blocks_total", ()] == 0
    assert not [name for name in REGISTRY._names_to_collectors if name.startswith("safekv")]
    assert CONTENT_TYPE.startswith("text/plain")
