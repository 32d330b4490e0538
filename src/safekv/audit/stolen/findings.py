"""What a report is expected to show, and whether this one does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

READ: Final = 0.95
"""From this share of tokens on a prompt counts as read back."""

MARGIN: Final = 0.05
"""How far above the random baseline an attack may be that got nothing."""

GUESSERS: Final = ("injection", "inverter")
"""What they say with nothing to go by is right now and then: common words are common."""

PUBLISHED: Final = ("inversion", "collision", "injection")
EXACT: Final = ("stream", "vault")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence, whether it holds, and the numbers it rests on."""

    sentence: str
    holds: bool
    evidence: str


def findings(rows: Sequence[Row]) -> list[Finding]:
    """The findings that `rows` can decide; those without a number are left out."""
    checks = (
        (
            "Plain caches are read back at the first layer, whatever the dtype",
            lambda r: _is(r, "collision", ("none", "quantised"), "first"),
            lambda r: r["token_recovery"] >= READ,
        ),
        (
            "KV-Cloak stops the published attacks",
            lambda r: r["attack"] in PUBLISHED and r["protection"] == "cloak",
            _nothing,
        ),
        (
            "KV-Cloak in float32 falls to an attacker who knows the chat template",
            lambda r: _is(r, "template", ("cloak",), "first") and r["dtype"] == "fp32",
            lambda r: r["token_recovery"] >= READ,
        ),
        (
            "A secret order of channels falls to the same attacker",
            lambda r: _is(r, "template", ("permute",), "first"),
            lambda r: r["token_recovery"] >= READ,
        ),
        (
            "The stream and the vault leave every attack at the random baseline",
            lambda r: r["protection"] in EXACT and r["attack"] != "swap",
            _nothing,
        ),
        (
            "With another instance's secrets nothing is read",
            lambda r: r["attack"] in ("template", "chosen", "membership", "fused"),
            lambda r: r["wrong_key_control"] <= max(0.15, r["random_baseline"] + 0.1),
        ),
        (
            "Only the vault notices two exchanged blocks",
            lambda r: r["attack"] == "swap",
            lambda r: (r["token_recovery"] == 0.0) == (r["protection"] == "vault"),
        ),
    )
    found = (_finding(sentence, [r for r in rows if of(r)], ok) for sentence, of, ok in checks)
    return [one for one in found if one is not None]


def _is(row: Row, attack: str, protections: Iterable[str], layer: str) -> bool:
    told = row["attack"] == attack and row["layer"] == layer
    return told and row["protection"] in protections


def _nothing(row: Row) -> bool:
    """No more than chance: within the margin, or an interval that reaches down to chance.

    Any text has words in common with any other, so for injection the control, another victim's
    prompt, counts as chance too, and the margin is twice as wide. What an inverter makes of a
    keystream are the most frequent words: its chance is the control too, but with no wider margin.
    """
    talks = row["attack"] == "injection"
    chance = row["wrong_key_control"] if row["attack"] in GUESSERS else 0.0
    baseline = max(row["random_baseline"], chance)
    near = row["token_recovery"] <= baseline + (2 * MARGIN if talks else MARGIN)
    return bool(near or row["token_recovery_ci"][0] <= baseline)


def _finding(sentence: str, rows: Sequence[Row], holds: Callable[[Row], bool]) -> Finding | None:
    if not rows:
        return None
    wrong = [row for row in rows if not holds(row)]
    shown = [float(row["token_recovery"]) for row in rows]
    evidence = f"{len(rows)} numbers, {min(shown):.3f} to {max(shown):.3f}"
    if wrong:
        named = ", ".join(
            f"{row['attack']}/{row['protection']}/{row['layer']}/{row['dtype']}"
            f" {row['token_recovery']:.3f}"
            for row in wrong[:4]
        )
        evidence += f"; not {named}" + (" …" if len(wrong) > 4 else "")
    return Finding(sentence, not wrong, evidence)
