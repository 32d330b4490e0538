from __future__ import annotations

from safekv.demo.operator import MetricText
from safekv.events import Admitted, Promoted
from safekv.telemetry.prometheus import PrometheusSink
from safekv.types import TenantId


def test_counters_are_read_as_the_server_writes_them() -> None:
    sink = PrometheusSink()
    sink.emit(Admitted(TenantId("a"), 100, 64, 32))
    sink.emit(Admitted(TenantId("a"), 50, 32, 32))
    sink.emit(Admitted(TenantId("b"), 10, 0, 0))
    sink.emit(Promoted(5))
    counters = MetricText(sink.render().decode())
    assert counters.prompt_tokens(["a"]) == 150
    assert counters.hit_tokens(["a"]) == 96
    assert counters.prompt_tokens(["a", "b", "nobody"]) == 160
    assert counters.promoted_blocks() == 5


def test_a_counter_that_never_moved_is_zero() -> None:
    counters = MetricText(PrometheusSink().render().decode())
    assert counters.prompt_tokens(["a"]) == counters.promoted_blocks() == 0
