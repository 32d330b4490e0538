from __future__ import annotations

from dataclasses import replace

import pytest

from safekv.demo.findings import Finding, findings
from safekv.demo.result import ModeResult
from safekv.types import Mode

Results = dict[Mode, ModeResult]


def unexpected(results: Results) -> list[Finding]:
    return [found for found in findings(results) if not found.expected]


def test_the_expected_story_has_nothing_unexpected(results: Results) -> None:
    assert len(findings(results)) == 5
    assert unexpected(results) == []


def changed(results: Results, mode: Mode, **parts: object) -> Results:
    result = results[mode]
    for name, part in parts.items():
        old = getattr(result, name)
        result = replace(result, **{name: replace(old, **part)})  # type: ignore[arg-type]
    return {**results, mode: result}


@pytest.mark.parametrize("mode", [Mode.ISOLATED, Mode.SELECTIVE])
def test_a_recovered_secret_is_unexpected_even_with_an_auc_of_chance(
    results: Results, mode: Mode
) -> None:
    for secret in ("card", "project"):
        (found,) = unexpected(changed(results, mode, **{secret: {"recovered": True}}))
        assert found.sentence.startswith(f"{mode.value} was expected not to leak")


def test_a_clear_auc_is_unexpected_even_without_a_recovered_secret(results: Results) -> None:
    leaky = results[Mode.UNSAFE_GLOBAL].times
    times = {"target_s": leaky.target_s, "decoy_s": leaky.decoy_s}
    (found,) = unexpected(changed(results, Mode.SELECTIVE, times=times))
    assert "AUC 1.00" in found.sentence


def test_an_unsafe_mode_that_does_not_leak_is_unexpected(results: Results) -> None:
    (found,) = unexpected(changed(results, Mode.UNSAFE_GLOBAL, card={"recovered": False}))
    assert found.sentence.startswith("unsafe-global was expected to leak")


def test_without_the_positive_control_nothing_is_shown(results: Results) -> None:
    times = {"hit_s": (1.0, 2.0, 3.0), "miss_s": (1.0, 2.0, 3.0)}
    (found,) = unexpected(changed(results, Mode.ISOLATED, times=times))
    assert "inconclusive" in found.sentence


def test_a_slow_selective_mode_is_unexpected(results: Results) -> None:
    slow = {"first_turn_ttft_s": results[Mode.ISOLATED].honest.first_turn_ttft_s}
    (found,) = unexpected(changed(results, Mode.SELECTIVE, honest=slow))
    assert found.sentence.startswith("selective was expected to be nearly as quick")


def test_sharing_that_saves_nothing_is_unexpected(results: Results) -> None:
    flat = {"first_turn_ttft_s": (0.2,) * 5}
    (found,) = unexpected(changed(results, Mode.UNSAFE_GLOBAL, honest=flat))
    assert "did not" in found.sentence


def test_a_machine_that_slows_down_between_modes_changes_no_speed_finding(
    results: Results,
) -> None:
    slower = tuple(3 * time_s for time_s in results[Mode.SELECTIVE].honest.first_turn_ttft_s)
    drifted = changed(results, Mode.SELECTIVE, honest={"first_turn_ttft_s": slower})
    assert unexpected(drifted) == []


def test_differing_outputs_are_unexpected(results: Results) -> None:
    (found,) = unexpected(changed(results, Mode.SELECTIVE, honest={"outputs_equal": False}))
    assert "selective" in found.sentence


def test_speed_is_compared_only_when_all_modes_were_played(results: Results) -> None:
    two = {mode: results[mode] for mode in (Mode.ISOLATED, Mode.SELECTIVE)}
    assert len(findings(two)) == 3
