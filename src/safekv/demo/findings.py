"""What the numbers say, in sentences, and whether that is what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from safekv.demo.plan import PLAYED
from safekv.demo.result import ModeResult
from safekv.types import Mode

LEAK_AUC: Final = 0.9
CONTROL_AUC: Final = 0.9
NOISE_DEVIATIONS: Final = 3.0
NEARLY: Final = 0.6
LEAST_SAVING: Final = 0.2

Results = Mapping[Mode, ModeResult]


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about the results, and whether it is the expected one."""

    expected: bool
    sentence: str


def findings(results: Results) -> list[Finding]:
    """What `results` show, one sentence per expectation that they can speak to."""
    found = [leak_of(result) for result in results.values()]
    found += _speed(results)
    return [*found, _outputs(results)]


def leak_of(result: ModeResult) -> Finding:
    """Whether the mode leaked: expected of `unsafe-global`, and of no other.

    Never as expected without the positive control: an attack that sees nothing proves nothing.
    """
    if result.times.control_auc < CONTROL_AUC:
        return Finding(
            False,
            f"{result.mode.value} is inconclusive: the attacker could not even tell its own hits"
            f" from its own misses (AUC {result.times.control_auc:.2f}). Is the machine busy with"
            " something else?",
        )
    if result.mode is Mode.UNSAFE_GLOBAL:
        return _must_leak(result)
    return _must_not_leak(result)


def _must_leak(result: ModeResult) -> Finding:
    name = result.mode.value
    if result.times.auc >= LEAK_AUC and result.card.recovered:
        return Finding(True, f"{name} leaks: {_told(result)}.")
    return Finding(False, f"{name} was expected to leak, but: {_told(result)}.")


def _must_not_leak(result: ModeResult) -> Finding:
    noise = NOISE_DEVIATIONS * result.times.auc_noise
    chance = f"chance alone gives 0.50 ± {noise:.2f} with this many probes"
    name = result.mode.value
    if abs(result.times.auc - 0.5) <= noise and not result.recovered_any:
        return Finding(
            True,
            f"{name} does not leak: the attacker could not tell the victim's letters from others"
            f" (AUC {result.times.auc:.2f}; {chance}) and {recovery(result)}.",
        )
    return Finding(False, f"{name} was expected not to leak, but: {_told(result)} ({chance}).")


def _told(result: ModeResult) -> str:
    return (
        f"from response times alone the attacker told the victim's letters from others with AUC"
        f" {result.times.auc:.2f} and {recovery(result)}"
    )


def recovery(result: ModeResult) -> str:
    """What came of guessing, in half a sentence."""
    won = [
        f"the {name} after {guess.guesses} requests"
        for name, guess in (("card number", result.card), ("project", result.project))
        if guess.recovered
    ]
    if not won:
        wrong = f" (wrong claims: {result.wrong_claims})" if result.wrong_claims else ""
        return f"found neither secret in {result.guesses} requests{wrong}"
    return "found " + " and ".join(won)


def _speed(results: Results) -> list[Finding]:
    """Each mode is compared with its own cold first turn: a machine's speed drifts meanwhile."""
    if set(results) != set(PLAYED):
        return []
    alone, chosen, everything = (results[mode].honest.saving for mode in PLAYED)
    numbers = (
        f"tenants after the first had their first token {chosen:.0%} sooner than it;"
        f" {everything:.0%} in unsafe-global, {alone:.0%} in isolated"
    )
    if everything < LEAST_SAVING or alone > everything / 2:
        return [Finding(False, f"sharing was expected to save time and did not: {numbers}.")]
    if chosen < NEARLY * everything:
        return [Finding(False, f"selective was expected to be nearly as quick: {numbers}.")]
    return [Finding(True, f"selective is nearly as quick as unsafe-global: {numbers}.")]


def _outputs(results: Results) -> Finding:
    differ = [mode.value for mode, result in results.items() if not result.honest.outputs_equal]
    if differ:
        return Finding(False, f"A second tenant's output differed in {', '.join(differ)}.")
    return Finding(True, "A second tenant got byte-equal output for the same prompt in every mode.")
