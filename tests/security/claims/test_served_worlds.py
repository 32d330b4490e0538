"""The engine's own scheduler in two worlds: what an attacker sees of its requests is the same."""

from __future__ import annotations

import pytest

from safekv.audit import scheduling
from safekv.warden import ReleaseSchedule

pytest.importorskip("torch", reason="the embedded engine is not installed")

PROGRAMS = 5


@pytest.mark.parametrize("name", scheduling.MODES)
def test_nothing_a_victim_wrote_shows_in_the_batch(name: str) -> None:
    found = scheduling.compare(name, PROGRAMS, 7, lambda: None)
    assert found.observations > PROGRAMS
    assert found.differences == 0


def test_the_comparison_finds_the_leak_of_unsafe_global() -> None:
    found = scheduling.compare(scheduling.CONTROL, PROGRAMS, 7, lambda: None)
    assert found.differences > 0


def test_a_schedule_for_each_request_by_itself_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then when a second request is scheduled tells how much was computed for the first."""

    def alone(self: ReleaseSchedule, tenant: object, began_s: float, new: int, old: int) -> float:
        return began_s + self.hold_s(new, old)

    monkeypatch.setattr(ReleaseSchedule, "due_s", alone)
    assert scheduling.compare("masked-paper", 3 * PROGRAMS, 7, lambda: None).differences > 0


def test_times_without_masks_tell_a_shared_hit() -> None:
    """The positive control of masked release: the same programs with immediate release differ."""
    found = scheduling.compare("unmasked-paper", 3 * PROGRAMS, 7, lambda: None)
    assert found.differences > 0
