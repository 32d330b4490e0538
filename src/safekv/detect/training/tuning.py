"""A bias for each sensitive label: as much recall as a share of false flags buys."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from safekv.detect.evaluate import CHARACTERS_PER_TOKEN
from safekv.detect.labelled import LabelledText

if TYPE_CHECKING:
    from safekv.detect.classifier import TokenClassifier

BLOCK_TOKENS: Final = 64
MAX_FLAGGED: Final[Mapping[str, float]] = {
    "PERSON": 0.04,
    "ADDRESS": 0.003,
    "NUMBER": 0.003,
    "CONTACT": 0.003,
}
"""Share of 64-token blocks of public text that each label may hold back by itself."""

BOUNDS: Final = (-2.0, 3.0)
"""Biases lie between these: beyond, a network says more about its training than about text."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """One label's bias, and what it does on the texts that it was chosen on."""

    bias: float
    flagged: float
    found: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def tune(
    classifier: TokenClassifier,
    public: Sequence[LabelledText],
    private: Sequence[LabelledText],
    unsure_from: float,
) -> dict[str, Tuned]:
    """The largest bias of each label with which `public` is flagged no more than it may be.

    `classifier` has no bias of its own. `found` is the share of word pieces of that label in
    `private` whose own odds then reach `unsure_from`.
    """
    labels = classifier.manifest.sensitive
    odds_of_doubt = math.log(unsure_from / (1 - unsure_from))
    blocks = np.array([row for one in public for row in _block_odds(classifier, one.text)])
    pieces = _piece_odds(classifier, private)
    tuned: dict[str, Tuned] = {}
    for column, label in enumerate(labels):
        highest = np.sort(blocks[:, column])
        at = math.ceil(len(highest) * (1 - MAX_FLAGGED[label])) - 1
        # Just so far that the block at this place, and none below it, stays unflagged.
        bias = float(np.clip(odds_of_doubt - highest[at] - 1e-3, *BOUNDS))
        own = pieces.get(label, np.zeros(0))
        tuned[label] = Tuned(
            round(bias, 3),
            round(float((highest + bias >= odds_of_doubt).mean()), 4),
            round(float((own + bias >= odds_of_doubt).mean()), 4) if len(own) else math.nan,
        )
    return tuned


def _log_odds(scores: Any) -> Any:
    clipped = np.clip(scores.astype(np.float64), 1e-9, 1 - 1e-9)
    return np.log(clipped) - np.log1p(-clipped)


def _block_odds(classifier: TokenClassifier, text: str) -> Iterable[Any]:
    """For each whole block of `text` the highest log-odds of each label."""
    (reading,) = classifier.read([text])
    odds = _log_odds(reading.scores)
    size = BLOCK_TOKENS * CHARACTERS_PER_TOKEN
    for start in range(0, max(1, len(text) - size + 1), size):
        inside = (reading.starts < start + size) & (reading.ends > start)
        if inside.any():
            yield odds[inside].max(axis=0)


def _piece_odds(
    classifier: TokenClassifier, texts: Sequence[LabelledText]
) -> dict[str, np.ndarray[Any, Any]]:
    """For each label the log-odds of it at the pieces that bear it."""
    labels = classifier.manifest.sensitive
    found: dict[str, list[float]] = {label: [] for label in labels}
    readings = classifier.read([one.text for one in texts])
    for one, reading in zip(texts, readings, strict=True):
        odds = _log_odds(reading.scores)
        for span in one.spans:
            if span.kind in found:
                inside = (reading.starts < span.end) & (reading.ends > span.start)
                found[span.kind] += odds[inside, labels.index(span.kind)].tolist()
    return {label: np.array(values) for label, values in found.items() if values}
