"""What every detector stage is: a judge of blocks that may veto, clear or abstain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Protocol, runtime_checkable

from safekv.types import Verdict


@dataclass(frozen=True, slots=True)
class Document:
    """One prompt as text, cut where its blocks end.

    `block_ends[i]` is the offset in characters just after block `i`; text behind
    the last one belongs to no full block and serves as look-ahead. `message_starts`
    are the offsets at which a chat message begins (always including 0), so that a
    rule can veto everything up to the end of the message in which it fires.
    """

    text: str = field(repr=False)
    block_ends: tuple[int, ...]
    message_starts: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        ends = self.block_ends
        if any(a > b for a, b in pairwise(ends)):
            raise ValueError("block_ends must not decrease")
        if ends and not 0 <= ends[-1] <= len(self.text):
            raise ValueError(
                f"block_ends reach {ends[-1]}, the text has {len(self.text)} characters"
            )


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict on one block and why. `rule` names what fired, never the text it fired on."""

    verdict: Verdict
    rule: str
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Located:
    """Characters `[start, end)` in which a stage found something of `kind`; never the text."""

    start: int
    end: int
    kind: str
    stage: str
    confidence: float = 1.0


class Detector(Protocol):
    """Judges which blocks of a document may be shared between tenants.

    The contract that `safekv.testing.DetectorContract` runs on every one:

    * one finding per block, in order;
    * no memory between calls: the same document gives the same findings;
    * findings depend on the document alone, so what other tenants sent never moves them;
    * a block is cleared only after a fixed look-ahead behind it was seen; text further
      behind may turn it `PRIVATE`, and the other way only in a stage that weighs words by
      what surrounds them, as the token classifier does;
    * `SHAREABLE` only after everything it looks for was looked for; when in doubt `UNSURE`;
    * an exception means no opinion, and the blocks stay private.
    """

    name: str

    def judge(self, document: Document) -> Sequence[Finding]: ...


@runtime_checkable
class BatchDetector(Detector, Protocol):
    """A detector that judges several documents sooner together than one by one.

    Each gets the findings that it would get alone, to within rounding.
    """

    def judge_all(self, documents: Sequence[Document]) -> Sequence[Sequence[Finding]]: ...


@runtime_checkable
class Arbiter(Detector, Protocol):
    """A stage that decides blocks which the stages before it are in doubt of, and no others."""

    def decide(
        self, documents: Sequence[Document], doubtful: Sequence[Sequence[int]]
    ) -> Sequence[Mapping[int, Finding]]:
        """For each document a finding for each of its blocks `doubtful`, by number.

        `SHAREABLE` clears such a block. What is left out or `UNSURE` stays in doubt.
        """
        ...


@runtime_checkable
class Living(Protocol):
    """A detector that must be started before it judges, and stopped in the end."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def state(self) -> str:
        """A sentence for operators that says the same to everybody: `running`, or what is amiss."""
        ...


@runtime_checkable
class Locator(Protocol):
    """A detector that can also say where: for people who look at what it finds."""

    def locate(self, text: str) -> Sequence[Located]: ...


LOOK_AHEAD: Final = Finding(Verdict.UNSURE, rule="look-ahead")
UNREADABLE: Final = Finding(Verdict.UNSURE, rule="undecodable")

NOT_LOOKED: Final = frozenset({"look-ahead", "undecodable", "stage-failed", "no-stage"})
"""Rules of `UNSURE` that say that a block was not looked at: nobody may decide it for that."""


def is_doubt(finding: Finding) -> bool:
    """Whether a stage looked at the block and could not say what it is."""
    return finding.verdict is Verdict.UNSURE and finding.rule not in NOT_LOOKED
