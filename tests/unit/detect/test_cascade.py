"""Every stage may veto, all together clear, and a failure clears nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safekv.detect.base import Document, Finding
from safekv.detect.cascade import Cascade
from safekv.types import Verdict

P, S, U = Verdict.PRIVATE, Verdict.SHAREABLE, Verdict.UNSURE
DOCUMENT = Document("abc", (1, 2, 3))


@dataclass
class Says:
    """A stage with a fixed answer, or an exception to raise."""

    answer: Any
    name: str = "says"
    asked: int = 0

    def judge(self, document: Document) -> Sequence[Finding]:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


def says(*verdicts: Verdict, name: str = "says") -> Says:
    return Says([Finding(v, f"{name}-{v.value}") for v in verdicts], name)


def run(
    *stages: Says, document: Document = DOCUMENT
) -> tuple[list[Finding], list[tuple[str, str]]]:
    failures: list[tuple[str, str]] = []
    cascade = Cascade(stages, lambda stage, error: failures.append((stage, error)))
    return cascade.judge(document), failures


def verdicts(findings: Sequence[Finding]) -> list[Verdict]:
    return [found.verdict for found in findings]


def test_no_stage_clears_nothing() -> None:
    findings, failures = run()
    assert verdicts(findings) == [U, U, U]
    assert {f.rule for f in findings} == {"no-stage"}
    assert failures == []


def test_any_veto_counts_and_the_first_names_the_rule() -> None:
    findings, _ = run(says(P, S, S, name="a"), says(P, P, S, name="b"))
    assert verdicts(findings) == [P, P, S]
    assert [f.rule for f in findings] == ["a-private", "b-private", "a-shareable"]


def test_one_doubt_is_enough() -> None:
    findings, _ = run(says(U, S, U), says(S, U, U))
    assert verdicts(findings) == [U, U, U]


def test_stops_when_all_is_private() -> None:
    later = says(S, S, S)
    run(says(P, P, P), later)
    assert later.asked == 0


def lazily_failing() -> Iterator[Finding]:
    yield Finding(S, "ok")
    raise KeyError("prompt text")


class FindingAlike:
    verdict, rule, confidence = S, "fake", 1.0


BROKEN = {
    "raises": RuntimeError("prompt text"),
    "too few": [Finding(S, "x")] * 2,
    "too many": [Finding(S, "x")] * 4,
    "nothing": None,
    "verdicts": [S, S, S],
    "alike": [FindingAlike()] * 3,
    "text for verdict": [Finding("shareable", "x")] * 3,  # type: ignore[arg-type]
    "half way": lazily_failing(),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("first", [False, True])
def test_a_broken_stage_clears_nothing(answer: Any, first: bool) -> None:
    if isinstance(answer, Iterator):
        answer = lazily_failing()
    broken, fine = Says(answer, "broken"), says(P, S, U, name="fine")
    findings, failures = run(*((broken, fine) if first else (fine, broken)))
    assert verdicts(findings) == [P, U, U]
    assert [f.rule for f in findings] == ["fine-private", "stage-failed", "stage-failed"]
    assert [stage for stage, _ in failures] == ["broken"]


def test_a_failure_is_told_by_type_only() -> None:
    _, failures = run(Says(RuntimeError("my card is 4111"), "broken"))
    assert failures == [("broken", "RuntimeError")]


def test_no_blocks_no_findings() -> None:
    assert run(says(), document=Document("abc", ()))[0] == []
    assert run(document=Document("", ()))[0] == []


ANSWERS = st.lists(st.sampled_from(list(Verdict)), min_size=3, max_size=3)


@given(st.lists(st.one_of(ANSWERS, st.none()), max_size=5))
def test_shareable_means_that_every_stage_said_so(answers: list[list[Verdict] | None]) -> None:
    stages = [Says(OSError()) if a is None else says(*a) for a in answers]
    findings, _ = run(*stages)
    for i, found in enumerate(findings):
        said = [None if a is None else a[i] for a in answers]
        assert (found.verdict is S) == (bool(said) and all(v is S for v in said))
        assert (found.verdict is P) == (P in said)
