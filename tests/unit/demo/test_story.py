from __future__ import annotations

from dataclasses import replace

import pytest

from safekv.demo.plan import StoryPlan
from safekv.demo.result import ModeResult
from safekv.demo.story import ATTACKER, VICTIM, Script, Stage, Story, cast_names
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
    worlds = {mode: World(mode) for mode in Mode}
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
    for mode in Mode:
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


@pytest.mark.parametrize("wrong", [{"honest_tenants": 1}, {"follow_ups": 9}, {"targets": 0}])
def test_impossible_plans_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        replace(StoryPlan(), **wrong)
