from __future__ import annotations

from dataclasses import replace

import pytest

from safekv.demo.plan import PLAYED, StoryPlan
from safekv.demo.result import ModeResult
from safekv.demo.story import (
    ATTACKER,
    LEAST_GUESSES,
    LEAST_TARGETS,
    VICTIM,
    Script,
    Stage,
    Story,
    cast_names,
)
from safekv.demo.texts import Form, Letter
from safekv.errors import ConfigError
from safekv.types import Mode

from .fake_world import World

Results = dict[Mode, ModeResult]


def test_a_leaky_cache_gives_the_secrets_away(results: Results) -> None:
    leaky = results[Mode.UNSAFE_GLOBAL]
    assert leaky.times.auc == 1.0
    assert leaky.card.recovered
    assert leaky.project.recovered
    assert not leaky.wrong_claims


@pytest.mark.parametrize("mode", [Mode.ISOLATED, Mode.SELECTIVE])
def test_a_tight_cache_gives_nothing_away(results: Results, mode: Mode, plan: StoryPlan) -> None:
    tight = results[mode]
    assert abs(tight.times.auc - 0.5) < 3 * tight.times.auc_noise
    assert tight.times.control_auc == 1.0
    assert not tight.recovered_any
    assert not tight.wrong_claims
    assert tight.guesses >= plan.card_candidates + plan.project_candidates


def test_sharing_speeds_up_first_turns_of_tenants_after_the_first(results: Results) -> None:
    alone, chosen, everything = (
        results[mode].first_turn_median_s
        for mode in (Mode.ISOLATED, Mode.SELECTIVE, Mode.UNSAFE_GLOBAL)
    )
    assert chosen == pytest.approx(everything, rel=0.05)
    assert chosen < alone / 2


def test_hit_rate_is_of_honest_tenants_only(results: Results) -> None:
    rates = [results[mode].honest.hit_rate for mode in (Mode.ISOLATED, Mode.SELECTIVE)]
    assert 0.3 < rates[0] < rates[1] < 1.0


def test_every_mode_sees_the_same_requests_until_the_attacker_stops_early(
    plan: StoryPlan,
) -> None:
    worlds = {mode: World(mode) for mode in PLAYED}
    for world in worlds.values():
        world.play(plan)
    spoken = [[line for line in world.sent if line[0] != ATTACKER] for world in worlds.values()]
    assert spoken[0] == spoken[1] == spoken[2]


def test_the_victim_sends_no_decoy_and_the_attacker_never_asks_twice(plan: StoryPlan) -> None:
    world = World(Mode.ISOLATED)
    world.play(plan)
    by_victim = "".join(text for name, text in world.sent if name == VICTIM)
    by_attacker = [text for name, text in world.sent if name == ATTACKER]
    for form in Form:
        script = Script.draw(form, plan)
        assert all(secret not in by_victim for secret in (*script.decoys, *script.fresh))
        assert all(secret in by_victim for secret in (*script.targets, script.truth))
        for secret in (*script.targets, *script.decoys, *script.candidates):
            ends = Letter(form, secret).short
            assert sum(text.endswith(ends) for text in by_attacker) == 1


def test_secrets_of_a_script_do_not_overlap(plan: StoryPlan) -> None:
    for form in Form:
        script = Script.draw(form, plan)
        groups = ((script.opener,), script.fresh, script.targets, script.decoys)
        groups += (script.candidates, script.controls)
        everything = [secret for group in groups for secret in group]
        assert len(set(everything)) == len(everything)
        assert script.truth in script.candidates


def test_the_seed_decides(plan: StoryPlan) -> None:
    assert Script.draw(Form.CARD, plan) == Script.draw(Form.CARD, plan)
    assert Script.draw(Form.CARD, plan) != Script.draw(Form.CARD, replace(plan, seed=99))


def test_all_modes_pause_equally_unless_selective_waits_for_promotion(plan: StoryPlan) -> None:
    pauses = []
    for mode in PLAYED:
        world = World(mode)
        world.play(plan)
        pauses.append(world.pauses)
    assert pauses[0] == pauses[1] == pauses[2] == [plan.settle_s, plan.settle_s]


def test_without_promotion_selective_waits_and_goes_on(plan: StoryPlan) -> None:
    world = World(Mode.SELECTIVE)
    world._store = lambda name, prefixes: world.own[name].update(prefixes)  # type: ignore[method-assign]
    result = world.play(plan)
    assert sum(world.pauses) >= plan.promotion_wait_s
    assert result.honest.promoted_blocks == 0


def _effort(result: ModeResult) -> int:
    return len(result.times.target_s) + result.card.candidates + result.project.candidates


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("slowness", [1.0, 1.5, 2.0])
def test_a_slow_machine_plays_a_shorter_story_in_time(
    plan: StoryPlan, mode: Mode, slowness: float
) -> None:
    whole = World(mode, slowness=slowness)
    planned = whole.play(plan)
    short = World(mode, slowness=slowness)
    result = short.play(plan, deadline=0.9 * whole.clock_s)
    assert short.clock_s <= 0.96 * whole.clock_s
    assert len(result.times.target_s) == len(result.times.decoy_s)
    assert len(result.times.target_s) >= 2 * LEAST_TARGETS
    assert _effort(result) < _effort(planned)
    assert result.card.recovered == result.project.recovered == (mode is Mode.UNSAFE_GLOBAL)


def test_a_machine_too_slow_for_the_shortest_story_still_plays_that(plan: StoryPlan) -> None:
    result = World(Mode.ISOLATED).play(plan, deadline=0.0)
    assert len(result.times.target_s) == 2 * LEAST_TARGETS
    assert result.card.candidates == result.project.candidates == LEAST_GUESSES


@pytest.mark.parametrize("count", [1, 2, 5, 9, 10, 11])
def test_a_shorter_list_of_candidates_still_holds_the_truth(plan: StoryPlan, count: int) -> None:
    whole = Script.draw(Form.CARD, plan)
    short = whole.with_candidates(count)
    assert short.truth in short.candidates
    assert len(set(short.candidates)) == min(count, len(whole.candidates))
    assert set(short.candidates) <= set(whole.candidates)


def test_a_differing_output_is_reported() -> None:
    assert World(Mode.ISOLATED).play(StoryPlan.quick()).honest.outputs_equal
    odd = World(Mode.ISOLATED, differing=frozenset({"second-reader"}))
    assert not odd.play(StoryPlan.quick()).honest.outputs_equal


def test_progress_stays_within_its_bounds_and_meets_every_stage(plan: StoryPlan) -> None:
    heard: list[tuple[Stage, int, int]] = []
    world = World(Mode.UNSAFE_GLOBAL)
    hear = lambda *what: heard.append(what)  # noqa: E731
    Story(Mode.UNSAFE_GLOBAL, plan, world.speak, world, hear, world.pause).play()
    assert all(0 <= done < of for _, done, of in heard)
    assert {stage for stage, _, _ in heard} == set(Stage) - {Stage.START}


def test_everybody_who_speaks_has_a_key(plan: StoryPlan) -> None:
    world = World(Mode.ISOLATED)
    world.play(plan)
    assert {name for name, _ in world.sent} == set(cast_names(plan))


@pytest.mark.parametrize(
    "wrong", [{"honest_tenants": 1}, {"follow_ups": 9}, {"targets": 0}, {"mode_s": 0}]
)
def test_impossible_plans_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        replace(StoryPlan(), **wrong)
