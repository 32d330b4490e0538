from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from safekv.attack.prompt_recovery import Recovery, recover


@dataclass
class Oracle:
    """Answers early (0.1 s) for what is cached, late (0.3 s) otherwise, unless told otherwise."""

    cached: set[str]
    odd_probe: dict[str, float] = field(default_factory=dict)
    odd_confirm: dict[str, float] = field(default_factory=dict)
    controls_s: list[float] = field(default_factory=list)
    later_s: float = 0.3
    asked: list[tuple[str, str]] = field(default_factory=list)

    def probe(self, candidate: str) -> float:
        self.asked.append(("probe", candidate))
        return self.odd_probe.get(candidate, self._true(candidate))

    def confirm(self, candidate: str) -> float:
        self.asked.append(("confirm", candidate))
        return self.odd_confirm.get(candidate, self._true(candidate))

    def control(self) -> float:
        self.asked.append(("control", str(len(self.asked))))
        return self.controls_s.pop(0) if self.controls_s else self.later_s

    def _true(self, candidate: str) -> float:
        return 0.1 if candidate in self.cached else 0.3

    def attack(self, candidates: str, second_looks: int = 3) -> Recovery[str]:
        return recover(
            list(candidates),
            self.probe,
            0.67,
            self.confirm,
            self.control,
            second_looks=second_looks,
        )


def test_it_stops_at_the_cached_candidate() -> None:
    oracle = Oracle({"c"})
    outcome = oracle.attack("abcdef")
    assert outcome.found == "c"
    assert outcome.guesses == len(oracle.asked) == 3 + 3 + 1 + 2
    assert outcome.ttfts_s == (0.3, 0.3, 0.1)
    assert [what for what, _ in oracle.asked[3:]] == ["probe"] * 3 + ["confirm"] + ["control"] * 2


def test_without_a_leak_it_goes_through_all_and_claims_nothing() -> None:
    oracle = Oracle(set())
    outcome = oracle.attack("abcdef")
    assert outcome.found is None
    assert len(outcome.ttfts_s) == 6
    assert outcome.guesses == len(oracle.asked) == 3 + 6 + 3 * 2


def test_a_fluke_is_not_confirmed() -> None:
    oracle = Oracle({"e"}, odd_probe={"b": 0.05})
    outcome = oracle.attack("abcdef")
    assert outcome.found == "e"
    assert outcome.guesses == 3 + 5 + (1 + 1) + (1 + 2)


def test_a_slowed_hit_is_found_at_second_look() -> None:
    oracle = Oracle({"d"}, odd_probe={"d": 0.25})
    outcome = oracle.attack("abcdef")
    assert outcome.found == "d"
    assert outcome.guesses == 3 + 6 + 1 + 2


def test_a_fluke_in_both_looks_is_a_claim_and_a_slow_control_alone_is_not() -> None:
    assert Oracle(set(), odd_probe={"b": 0.05}, odd_confirm={"b": 0.05}).attack("abc").found == "b"
    slow_once = Oracle(set(), controls_s=[0.3, 0.3, 0.3, 9.0])
    assert slow_once.attack("abc").found is None


def test_a_server_that_became_quick_for_everything_gives_no_claim() -> None:
    quick = dict.fromkeys("abcdef", 0.05)
    oracle = Oracle(set(), odd_probe=quick, odd_confirm=quick, controls_s=[0.3] * 3, later_s=0.05)
    assert oracle.attack("abcdef").found is None


@pytest.mark.parametrize("speed", [0.3, 3.0])
def test_a_hit_is_found_after_the_servers_speed_changed(speed: float) -> None:
    everything = dict.fromkeys("abcdefgh", 0.3 * speed) | {"g": 0.1 * speed}
    oracle = Oracle(
        set(), odd_probe=everything, odd_confirm=everything,
        controls_s=[0.3] * 3, later_s=0.3 * speed,
    )  # fmt: skip
    assert oracle.attack("abcdefgh").found == "g"


def test_no_candidate_is_probed_twice_or_confirmed_twice() -> None:
    oracle = Oracle(set(), odd_probe={"a": 0.01, "b": 0.02})
    outcome = oracle.attack("abcd")
    assert len(oracle.asked) == len(set(oracle.asked)) == outcome.guesses
    assert outcome.guesses <= 4 * 4 + 3


def test_what_was_found_is_not_in_the_repr() -> None:
    assert "SECRET" not in repr(Recovery("SECRET", 1, (0.1,)))
