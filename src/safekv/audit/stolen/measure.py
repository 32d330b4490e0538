"""One cell of the report: the attack, its score over the victims, and both controls beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from safekv.attack import similarity
from safekv.attack.metrics import (
    Estimate,
    aligned_recovery,
    mean_of,
    rouge_l,
    spans_recovered,
    token_recovery,
)
from safekv.attack.prompts import Tokens
from safekv.attack.recovered import Recovered
from safekv.audit.stolen.attacks import ATTACK, Job, best_variant, end_of
from safekv.audit.stolen.plan import SOLVING, Cell
from safekv.audit.stolen.session import Session

GAP = "▯"
"""Stands for a token that an attack did not name."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One prompt's reading and what it is worth. `pii` is `None` where no span was in reach."""

    found: str = field(repr=False)
    true: str = field(repr=False)
    tokens: float
    rouge: float
    pii: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What became of a cell. `row` has exactly the keys of the report, `details` the rest."""

    cell: Cell
    row: dict[str, Any]
    details: dict[str, Any]
    texts: list[tuple[str, str]] = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """One line of the journal."""
        return {
            "cell": self.cell.name,
            "row": self.row,
            "details": self.details,
            "texts": [list(pair) for pair in self.texts],
        }


def measure(session: Session, cell: Cell) -> Measured:
    """Run one cell. Seconds to minutes, most of it in deep collisions."""
    if cell.attack == "swap":
        return _swap(session, cell)
    readings = ATTACK[cell.attack](_job(session, cell))
    scored = [_score(session, cell, *pair) for pair in zip(readings, session.victims, strict=True)]
    control = _control(session, cell, readings)
    baseline = _baseline(session, cell)
    estimate = mean_of([one.tokens for one in scored])
    rouge = mean_of([one.rouge for one in scored])
    spans = [one.pii for one in scored if one.pii is not None]
    pii = mean_of(spans) if spans else None
    wall_s = sum(one.wall_s for one in readings)
    right = sum(one.tokens * _length(session, cell, t) for one, t in _both(scored, session))
    row = _row(
        session,
        cell,
        estimate,
        rouge_l=rouge.value,
        pii=None if pii is None else pii.value,
        baseline=baseline,
        control=control,
        per_s=right / wall_s if wall_s else 0.0,
    )
    details = {
        "rouge_l_ci": [rouge.low, rouge.high],
        "pii_recovered_ci": None if pii is None else [pii.low, pii.high],
        "pii_prompts": len(spans),
        "candidates_tried": sum(one.tried for one in readings),
        "wall_s": wall_s,
        "tokens_attacked": sum(_length(session, cell, one) for one in session.victims),
        "control_prompts": min(session.plan.controls, len(session.victims)),
        **_likeness(scored),
    }
    if cell.attack == "injection":
        details["variant"] = best_variant(session).name
    texts = [(one.true, one.found) for one in scored[:3]]
    return Measured(cell, row, details, texts)


def _row(
    session: Session,
    cell: Cell,
    estimate: Estimate,
    *,
    rouge_l: float,
    pii: float | None,
    baseline: float,
    control: float,
    per_s: float,
) -> dict[str, Any]:
    return {
        "attack": cell.attack,
        "protection": cell.protection,
        "layer": cell.layer,
        "dtype": cell.dtype.value,
        "prompts": len(session.victims),
        "token_recovery": estimate.value,
        "token_recovery_ci": [estimate.low, estimate.high],
        "rouge_l": rouge_l,
        "pii_recovered": pii,
        "random_baseline": baseline,
        "wrong_key_control": control,
        "tokens_per_s": per_s,
    }


def _job(session: Session, cell: Cell) -> Job:
    hidden = session.hidden
    caches = hidden(cell.protection, cell.layer, cell.dtype, False, 0)
    own = hidden(cell.protection, cell.layer, cell.dtype, True, 0)
    return Job(session, cell, session.victims, caches, caches, own)


def _control(session: Session, cell: Cell, readings: Sequence[Recovered]) -> float:
    """What the attack scores without the right key.

    Attacks that solve for secrets read caches of another instance with them. The others know no
    key: there, what they read of one victim is scored against another.
    """
    n = min(session.plan.controls, len(session.victims))
    victims = session.victims[:n]
    if cell.attack in SOLVING:
        job = _job(session, cell)
        other = session.hidden(cell.protection, cell.layer, cell.dtype, False, 1)[:n]
        wrong = Job(session, cell, victims, other, job.caches[:n], job.own)
        readings = ATTACK[cell.attack](wrong)
    else:
        others = [*session.victims[1:], session.own[0]]
        victims = others[: len(readings)]
    pairs = zip(readings, victims, strict=True)
    return fmean(_score(session, cell, one, tokens).tokens for one, tokens in pairs)


def _baseline(session: Session, cell: Cell) -> float:
    """The same attack on random numbers with the plain caches' moments. Once per attack."""
    protection = cell.protection if cell.attack in SOLVING else "none"
    key = (cell.attack, protection, cell.layer)
    if key not in session.baselines:
        n = min(session.plan.controls, len(session.victims))
        caches, victims = session.noise(cell.layer)[:n], session.victims[:n]
        own = _job(session, cell).own
        # As if no own request helped: what is solved is solved on noise too.
        solved = [*caches, *caches][: len(own)] if cell.attack == "chosen" else own
        job = Job(session, cell, victims, caches, caches, solved)
        if cell.attack == "chosen" and cell.protection == "permute":
            job = Job(session, cell, victims, caches, caches, own)
        readings = ATTACK[cell.attack](job)
        session.baselines[key] = fmean(
            _score(session, cell, one, tokens).tokens
            for one, tokens in zip(readings, victims, strict=True)
        )
    return session.baselines[key]


def _score(session: Session, cell: Cell, reading: Recovered, tokens: Tokens) -> Scored:
    decode = session.public.tokenizer.decode
    end = end_of(session, cell.layer, cell.attack, tokens)
    true_ids = list(tokens.ids[tokens.first : end])
    true = decode(true_ids)
    if reading.text is not None:
        found = reading.text
        said = session.public.tokenizer(found, add_special_tokens=False)["input_ids"]
        share = aligned_recovery(said, true_ids)
    else:
        ids = reading.at(range(tokens.first, end))
        share = token_recovery(ids, true_ids)
        found = _text(decode, ids)
    spans = [span for span in tokens.prompt.pii if span in true]
    pii = spans_recovered(found, spans) if spans else None
    return Scored(found, true, share, rouge_l(found, true), pii)


def _text(decode: Any, ids: Sequence[int | None]) -> str:
    """Tokens as text, each run of gaps as one sign."""
    parts: list[str] = []
    run: list[int] = []
    for one in [*ids, None]:
        if one is not None:
            run.append(one)
            continue
        if run:
            parts.append(decode(run))
            run = []
        if not parts or parts[-1] != GAP:
            parts.append(GAP)
    text = "".join(parts)
    return text[: -len(GAP)] if ids and ids[-1] is not None else text


def _length(session: Session, cell: Cell, tokens: Tokens) -> int:
    return end_of(session, cell.layer, cell.attack, tokens) - tokens.first


def _both(scored: Sequence[Scored], session: Session) -> list[tuple[Scored, Tokens]]:
    return list(zip(scored, session.victims, strict=True))


def _likeness(scored: Sequence[Scored]) -> dict[str, Any]:
    if not similarity.available():
        return {"bert_score_f1": None, "sentence_cosine": None}
    pairs = [similarity.likeness(one.found, one.true) for one in scored]
    told = [one for one in pairs if one is not None]
    means = {
        "bert_score_f1": mean_of([one.bert_score_f1 for one in told]),
        "sentence_cosine": mean_of([one.sentence_cosine for one in told]),
    }
    return {name: {"value": one.value, "ci": [one.low, one.high]} for name, one in means.items()}


def _swap(session: Session, cell: Cell) -> Measured:
    """Two blocks exchanged in memory: the share that the defence takes without an alarm.

    Recovers nothing; `token_recovery` is the share of foreign tokens accepted.
    """
    protection = session.protection(cell.protection, 0)
    taken = [float(protection.accepts_swap()) for _ in session.victims]
    estimate = mean_of(taken)
    row = _row(
        session,
        cell,
        estimate,
        rouge_l=0.0,
        pii=None,
        baseline=0.0,
        control=0.0,
        per_s=0.0,
    )
    return Measured(cell, row, {"accepted": estimate.value}, [])
