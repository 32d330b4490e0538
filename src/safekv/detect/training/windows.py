"""One epoch of training examples: corpora and made-up texts, mixed as prompts mix genres."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from safekv.detect.encoding import WINDOW_TOKENS, Encoder
from safekv.detect.labelled import LabelledText
from safekv.detect.training.corpora import LABELS, TEMPLATES
from safekv.detect.training.synthetic import MadeUp

IGNORED: Final = -100
RUN_TEXTS: Final = 4
"""Texts of one corpus that stay together, so that windows mix corpora as prompts mix genres."""

LONG_CHARACTERS: Final = 2_000
"""A prompt longer than this is cut to a random piece of that length in each epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """How many made-up texts an epoch has, and how real ones are changed.

    `renamed` is how many copies with other names each sentence with a person has;
    `lower_cased` and `upper_cased` are shares of all texts.
    """

    window_tokens: int = WINDOW_TOKENS
    private_texts: int = 3_000
    report_texts: int = 5_000
    template_texts: int = 1_000
    public_texts: int = 5_000
    renamed: int = 2
    lower_cased: float = 0.15
    upper_cased: float = 0.03


@dataclass(frozen=True, slots=True)
class Window:
    """One training example: piece ids, word shapes and labels, marks included."""

    ids: list[int] = field(repr=False)
    shapes: list[int] = field(repr=False)
    labels: list[int] = field(repr=False)


def epoch_windows(
    texts: Mapping[str, list[LabelledText]], encoder: Encoder, mixture: Mixture, seed: int
) -> list[Window]:
    """All texts in shuffled runs, one behind the other, cut into windows, in a random order."""
    chance = random.Random(seed)  # noqa: S311 - an order of texts, nothing secret
    runs: list[list[LabelledText]] = []
    for source in _sources(texts, mixture, chance, seed):
        shuffled = chance.sample(source, len(source))
        runs += [shuffled[at : at + RUN_TEXTS] for at in range(0, len(shuffled), RUN_TEXTS)]
    chance.shuffle(runs)
    in_order = (text for run in runs for text in run)
    windows = [*_packed(in_order, encoder, mixture, chance)]
    chance.shuffle(windows)
    return windows


def _sources(
    texts: Mapping[str, list[LabelledText]], mixture: Mixture, chance: random.Random, seed: int
) -> Iterator[list[LabelledText]]:
    made_up = MadeUp(seed)
    for file, source in texts.items():
        if file == TEMPLATES:
            yield [*made_up.filled(source, mixture.template_texts)]
            continue
        yield [_piece_of(one, chance) for one in source]
        named = [one for one in source if any(span.kind == "PERSON" for span in one.spans)]
        for _ in range(mixture.renamed if named else 0):
            yield [made_up.renamed(one) for one in named]
    yield [*made_up.private(mixture.private_texts)]
    yield [*made_up.reports(mixture.report_texts)]
    yield [*made_up.public(mixture.public_texts)]


def _piece_of(one: LabelledText, chance: random.Random) -> LabelledText:
    if one.spans or len(one.text) <= LONG_CHARACTERS:
        return one
    start = chance.randrange(len(one.text) - LONG_CHARACTERS)
    return LabelledText(one.text[start : start + LONG_CHARACTERS], (), one.group)


def _packed(
    texts: Iterator[LabelledText], encoder: Encoder, mixture: Mixture, chance: random.Random
) -> Iterator[Window]:
    room = mixture.window_tokens
    window = Window([], [], [])
    for text in texts:
        piece = _labelled_pieces(_recased(text, mixture, chance), encoder)
        for at in range(0, len(piece.ids), room):
            part = Window(*(values[at : at + room] for values in _fields(piece)))
            if len(window.ids) + len(part.ids) > room:
                yield _marked(window, encoder)
                window = Window([], [], [])
            for mine, new in zip(_fields(window), _fields(part), strict=True):
                mine.extend(new)
    if window.ids:
        yield _marked(window, encoder)


def _fields(window: Window) -> tuple[list[int], list[int], list[int]]:
    return window.ids, window.shapes, window.labels


def _recased(text: LabelledText, mixture: Mixture, chance: random.Random) -> LabelledText:
    drawn = chance.random()
    said = text.text
    if drawn < mixture.lower_cased:
        said = said.lower()
    elif drawn > 1 - mixture.upper_cased:
        said = said.upper()
    # A few letters change their length; the labels would then stand in the wrong place.
    return LabelledText(said, text.spans) if len(said) == len(text.text) else text


def _labelled_pieces(text: LabelledText, encoder: Encoder) -> Window:
    pieces = encoder.encode(text.text)
    labels = [0] * len(pieces)
    spans = sorted(text.spans, key=lambda span: span.start)
    at = 0
    for i, (start, end) in enumerate(pieces.offsets):
        while at < len(spans) and spans[at].end <= start:
            at += 1
        if at < len(spans) and spans[at].start < end:
            labels[i] = LABELS.index(spans[at].kind)
    return Window(list(pieces.ids), list(pieces.shapes), labels)


def _marked(window: Window, encoder: Encoder) -> Window:
    return Window(
        [encoder.first_id, *window.ids, encoder.last_id],
        [0, *window.shapes, 0],
        [IGNORED, *window.labels, IGNORED],
    )
