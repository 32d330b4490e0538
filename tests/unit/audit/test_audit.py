"""The audit's own arithmetic, its attack simulations, and its command."""

from __future__ import annotations

import json
import random

import pytest
from click.testing import CliRunner

from safekv.audit import collusion, runner
from safekv.audit.intervals import clopper_pearson, difference
from safekv.audit.program import Act, Other, random_program
from safekv.audit.threshold import ThresholdPlan, first_hit
from safekv.audit.two_world import SETTINGS
from safekv.cli.bench_collusion import collusion as collusion_command
from safekv.cli.verify import verify
from safekv.safeguard import SafeguardConfig
from safekv.types import Profile


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        (0, 10, 0.0, 0.30850),
        (5, 10, 0.18709, 0.81291),
        (10, 10, 0.69150, 1.0),
        (50, 1000, 0.03735, 0.06539),
    ],
)
def test_exact_intervals_are_those_of_the_tables(
    hits: int, trials: int, low: float, high: float
) -> None:
    found = clopper_pearson(hits, trials)
    assert found.value == hits / trials
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("hits", "trials"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(hits: int, trials: int) -> None:
    with pytest.raises(ValueError, match="hits"):
        clopper_pearson(hits, trials)


def test_a_difference_has_an_interval_around_it() -> None:
    found = difference((60, 100), (40, 100))
    assert found.value == pytest.approx(0.2)
    assert found.low < 0.2 < found.high


def test_the_first_hit_is_one_account_earlier_if_the_victim_sent_the_text() -> None:
    plan = ThresholdPlan(accounts=6, plays=1, low=3, width=2)
    hits = {sent: {first_hit(plan, sent) for _ in range(40)} for sent in (False, True)}
    assert hits == {False: {4, 5}, True: {3, 4}}


def test_below_the_threshold_nobody_ever_finds_anything() -> None:
    plan = ThresholdPlan(accounts=7, plays=1)
    assert {first_hit(plan, sent) for sent in (False, True) for _ in range(10)} == {None}


@pytest.mark.parametrize("accounts", [1, 2, 5])
def test_answers_stay_within_the_bound_and_reach_it(accounts: int) -> None:
    """Linear in the accounts: what RDR bounds, and what it does not."""
    for ticks in (True, False):
        paper = collusion.collude(Profile.PAPER, accounts, ticks=ticks)
        assert paper.answers == paper.bound
        assert paper.demoted
        assert collusion.collude(Profile.ANONYMOUS, accounts, ticks=ticks).answers == 0
    bounds = [collusion.bound_of(SafeguardConfig(), n, ticks=True) for n in (1, 2, 10, 50, 100)]
    assert bounds == [10, 11, 51, 251, 501]


def test_programs_do_all_kinds_of_things() -> None:
    acts = {
        step.act
        for n in range(50)
        for step in random_program(random.Random(n), tuple(Other)).with_secret
    }
    assert acts == set(Act)


def test_without_its_positive_control_an_audit_does_not_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SETTINGS, "unsafe-global", SETTINGS["isolated"])  # type: ignore[arg-type]
    monkeypatch.setattr("safekv.audit.scheduling.available", lambda: False)
    audit = runner.run(runner.AuditPlan(programs=20, plays=100, accounts=(1,)), lambda a, b: None)
    assert [one.claim.id for one in audit.checked if not one.outcome.holds] == ["control"]
    assert audit.skipped == ("scheduler",), "what could not be checked is neither held nor failed"
    assert not audit.holds


def test_the_command_prints_claims_and_exits_with_the_finding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("safekv.audit.scheduling.available", lambda: False)
    result = CliRunner().invoke(verify, ["--json", "--programs", "20", "--plays", "100"])
    assert result.exit_code == 0
    assert "not checked here: scheduler" not in result.stdout
    data = json.loads(result.stdout)
    keys = {"claims", "two_world", "scheduler", "skipped", "threshold", "environment"}
    assert set(data) == keys
    assert all(one["holds"] for one in data["claims"])
    monkeypatch.setitem(SETTINGS, "unsafe-global", SETTINGS["isolated"])  # type: ignore[arg-type]
    failed = CliRunner().invoke(verify, ["--programs", "20", "--plays", "100"])
    assert failed.exit_code == 1
    assert "not checked here: scheduler" in failed.stderr
    assert "does not hold: control" in failed.stderr


def test_the_command_measures_collusion() -> None:
    result = CliRunner().invoke(collusion_command, ["--accounts", "1,2", "--plays", "60", "--json"])
    assert result.exit_code == 0
    rows = json.loads(result.stdout)["rows"]
    assert [(row["profile"], row["accounts"]) for row in rows[:4]] == [("paper", 1)] * 2 + [
        ("paper", 2)
    ] * 2
    assert CliRunner().invoke(collusion_command, ["--accounts", "x"]).exit_code == 2
