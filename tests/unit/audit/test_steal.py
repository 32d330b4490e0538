"""Thefts over HTTP, from an endpoint whose leaks are known because they are set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from safekv.attack.cloze import Cloze, Gap, by_order, by_time
from safekv.audit.endpoint.canary import Canary
from safekv.audit.endpoint.line import Place
from safekv.audit.endpoint.observation import Content
from safekv.audit.endpoint.prior import unordered
from safekv.audit.endpoint.steal import Road, StealPlan, Theft, Thief, Verdict, chance
from safekv.cli.main import run
from safekv.errors import SafeKVError
from support.leaky_endpoint import Behaviour, endpoint

PLAN = StealPlan(gaps=3, candidates=6, copies=3, after_tokens=40, settle_s=0, rate_per_s=0)
LEAKY = Behaviour(group=lambda tenant: "all", prefix_words=8, miss_s=0.1, noise_s=0.0005)
ISOLATED = replace(LEAKY, group=lambda tenant: tenant)


def fresh(behaviour: Behaviour) -> Behaviour:
    return replace(behaviour, bodies=[], cache=set())


def stolen(behaviour: Behaviour, plan: StealPlan = PLAN) -> Theft:
    behaviour = fresh(behaviour)
    with endpoint(behaviour) as url:
        place = Place(url, "mock", timeout_s=10)
        clock = behaviour.clock
        thief = Thief(
            place, "key-a", "key-b", plan, unordered, lambda a, b: None, clock.advance, clock
        )
        return thief.run()


def test_a_shared_cache_gives_the_words_away() -> None:
    theft = stolen(LEAKY)
    assert theft.verdict is Verdict.RECOVERED, theft.reason
    assert theft.target is not None
    assert theft.target.right == theft.target.leading == PLAN.gaps
    assert theft.target.guess == theft.target.truth
    assert theft.environment["recovered_tokens"] == PLAN.gaps
    assert theft.environment["requests_per_token"] > 1


@pytest.mark.parametrize("seed", range(3))
def test_an_isolated_cache_gives_nothing(seed: int) -> None:
    theft = stolen(ISOLATED, replace(PLAN, seed=seed))
    assert theft.verdict is Verdict.NOTHING, theft.reason
    assert theft.control is not None
    assert theft.control.right == PLAN.gaps, "the control must see the own cache"


def test_the_order_of_service_is_enough() -> None:
    plan = replace(PLAN, road=Road.ORDER)
    slow = replace(LEAKY, queue=6, hit_s=0.05, miss_s=0.05)
    assert stolen(slow, plan).verdict is Verdict.RECOVERED
    isolated = replace(slow, group=lambda tenant: tenant)
    assert stolen(isolated, replace(plan, seed=1)).verdict is Verdict.NOTHING


def test_one_copy_is_enough_where_the_cache_can_be_flushed() -> None:
    plan = replace(PLAN, copies=1, flush=2)
    theft = stolen(LEAKY, plan)
    assert theft.control is not None
    assert theft.control.requests > PLAN.gaps * (plan.flush + 1), "it flushed and planted again"


def test_without_a_cache_nothing_is_concluded() -> None:
    theft = stolen(replace(LEAKY, caching=False))
    assert theft.verdict is Verdict.INCONCLUSIVE
    assert theft.target is None


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (replace(LEAKY, garbage="<html>"), "not JSON"),
        (replace(LEAKY, fail_every=9), "500"),
        (replace(LEAKY, limit_every=1), "429"),
    ],
)
def test_a_broken_endpoint_is_never_called_safe(behaviour: Behaviour, says: str) -> None:
    with pytest.raises(SafeKVError, match=says) as raised:
        stolen(behaviour)
    assert raised.value.exit_code == 3


# -- the roads themselves, without an endpoint -------------------------------------------------

GAPS = tuple(Gap(f"gap {n}", ". behind", tuple("abcdef")) for n in range(3))
COPIES = [Cloze(f"copy {n}", GAPS) for n in range(3)]
TRUTH = "cfa"


def seconds(prompt: str) -> float:
    """A noiseless cache that knows the victim's prompt up to each gap."""
    right = sum(f"gap {n} {word}." in prompt for n, word in enumerate(TRUTH))
    return 1.0 - 0.3 * (right == prompt.count("gap"))


def test_words_are_read_one_by_one_and_a_wrong_end_is_noticed() -> None:
    decoys = (f"w{n}" for n in range(1000))
    assert by_time(COPIES, seconds, 0.8, decoys) == list(TRUTH)
    assert by_time(COPIES, lambda prompt: 1.0, 0.8, decoys) == []


def test_who_is_served_first_is_taken() -> None:
    def ranks(prompts: list[str]) -> list[int]:
        order = sorted(range(len(prompts)), key=lambda n: seconds(prompts[n]))
        return [order.index(n) + 1 for n in range(len(prompts))]

    assert by_order(COPIES, ranks) == list(TRUTH)  # type: ignore[arg-type]
    assert len(by_order(COPIES, lambda prompts: None)) == len(GAPS), "chance still names words"


def test_blind_guesses_have_their_chance() -> None:
    assert chance(0, 3, 6) == 1.0
    assert chance(3, 3, 6) == pytest.approx(6**-3)
    with pytest.raises(SafeKVError, match="guessed blindly"):
        StealPlan(gaps=1, candidates=4)


def test_a_canary_hides_its_words_from_the_attackers_view() -> None:
    canary = Canary(
        5, Content.PERSONAL, gaps=4, candidates=8, copies=3, opening_words=20, after_words=30
    )
    view = canary.attackers_view(lambda before, words: sorted(words))
    assert len({cloze.opening for cloze in view}) == 3
    assert all(len(gap.candidates) == 8 for gap in view[0].gaps)
    assert all(
        truth in gap.candidates for truth, gap in zip(canary.truth, view[0].gaps, strict=True)
    )
    decoys = canary.decoys()
    drawn = {next(decoys) for _ in range(50)}
    assert len(drawn) == 50
    assert not drawn & {word for gap in view[0].gaps for word in gap.candidates}


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> list[str]:
    (tmp_path / "a").write_text("key-a\n")
    (tmp_path / "b").write_text("key-b\n")
    return ["--key", str(tmp_path / "a"), "--other-key", str(tmp_path / "b")]


SMALL = ["--words", "3", "--candidates", "6", "--copies", "3", "--settle", "0", "--rate", "0"]


def test_the_command_wants_leave_to_attack(
    keys: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["audit", "steal", "http://127.0.0.1:9/v1", *keys]) == 2
    assert "--i-am-authorised" in capsys.readouterr().err
    elsewhere = ["audit", "steal", "http://llm.example/v1", *keys, "--i-am-authorised"]
    assert run(elsewhere) == 2
    assert "--allow-host llm.example" in capsys.readouterr().err


def test_a_dry_run_sends_nothing(keys: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", "steal", "http://127.0.0.1:9/v1", *keys, "--dry-run", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {
        *("requests_at_most", "seconds_at_least", "example_prompt")
    }


def test_the_command_tells_what_was_read(
    keys: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with endpoint(Behaviour(caching=False)) as url:
        order = ["--channel", "served-order", "--price", "3", "--show", "--json"]
        status = run(["audit", "steal", url, *keys, *SMALL, *order, "--i-am-authorised"])
    told = capsys.readouterr()
    record = json.loads(told.out)
    assert (status, record["verdict"]) == (3, "inconclusive"), "there is no cache to show"
    assert len(record["control"]["planted"]) == len(record["control"]["read"]) == 3
    assert record["target"] is None
    assert record["environment"]["cost"] > 0
    assert "key-a" not in told.out + told.err
