"""Made-up private text, and text that only looks like it: templates filled in by Faker."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterator
from importlib import resources
from typing import Final

from safekv.detect.labelled import LabelledSpan, LabelledText
from safekv.detect.training.values import LOCALES, Values

_PLACE: Final = re.compile(r"\{\{|\}\}|\{([a-z_]+)\}")

PUBLIC_LABELS: Final = ("LOCATION", "ORGANIZATION")
"""What is labelled in text that holds nothing private; names in it are not."""


class MadeUp:
    """Fills templates with values of many locales; the same seed gives the same texts."""

    def __init__(self, seed: int) -> None:
        """Raises `ModuleNotFoundError` without the package `faker`."""
        self._random = random.Random(seed)  # noqa: S311 - sample text, nothing secret
        folder = resources.files("safekv.detect.training")
        self._tables = tomllib.loads((folder / "templates.toml").read_text(encoding="utf-8"))
        self._values = Values(self._tables, self._random, seed)

    def private(self, count: int) -> Iterator[LabelledText]:
        """`count` texts that hold private values, in nine languages, most in English."""
        languages = list(self._tables["private"])
        weights = [20 if language == "en" else 1 for language in languages]
        for language in self._random.choices(languages, weights, k=count):
            template = self._random.choice(self._tables["private"][language])
            own = [locale for locale in LOCALES if locale.startswith(language)]
            locale = self._random.choice(own if self._random.random() < 0.5 else LOCALES)
            yield self._filled(template, locale, private=True)

    def reports(self, count: int) -> Iterator[LabelledText]:
        """`count` sentences as newspapers and encyclopaedias write them, persons labelled."""
        for _ in range(count):
            template = self._random.choice(self._tables["reports"]["en"])
            yield self._filled(template, self._random.choice(LOCALES), private=True)

    def public(self, count: int) -> Iterator[LabelledText]:
        """`count` texts that hold no private value, though many hold names."""
        for _ in range(count):
            template = self._random.choice(self._tables["public"]["texts"])
            english = self._random.random() < 0.6
            locale = "en_US" if english else self._random.choice(LOCALES)
            yield self._filled(template, locale, private=False)

    def filled(self, templates: list[LabelledText], count: int) -> Iterator[LabelledText]:
        """`count` texts made of others' `templates`, whose places stand in double braces."""
        for _ in range(count if templates else 0):
            chosen = self._random.choice(templates)
            single = chosen.text.replace("{{", "{").replace("}}", "}")
            one = self._filled(single, self._random.choice(LOCALES), private=True)
            yield LabelledText(one.text, one.spans, chosen.group)

    def renamed(self, one: LabelledText) -> LabelledText:
        """`one` with another name for each person in it, as long and cased as before."""
        names = [span for span in _joined(one) if span.kind == "PERSON"]
        others = [span for span in one.spans if span.kind != "PERSON"]
        text, behind = "", 0
        spans: list[LabelledSpan] = []
        moved: list[tuple[int, int]] = []
        locale = self._random.choice(LOCALES)
        for span in names:
            text += one.text[behind : span.start]
            old = one.text[span.start : span.end]
            new = self._values.name_like(old, locale)
            spans.append(LabelledSpan(len(text), len(text) + len(new), "PERSON"))
            moved.append((span.end, len(new) - len(old)))
            text += new
            behind = span.end
        for span in others:
            by = sum(change for end, change in moved if end <= span.start)
            spans.append(LabelledSpan(span.start + by, span.end + by, span.kind))
        return LabelledText(
            text + one.text[behind:], tuple(sorted(spans, key=lambda s: s.start)), one.group
        )

    def _filled(self, template: str, locale: str, private: bool) -> LabelledText:
        text, behind = "", 0
        spans: list[LabelledSpan] = []
        for place in _PLACE.finditer(template):
            text += template[behind : place.start()]
            behind = place.end()
            name = place[1]
            value = self._values.of(name, locale) if name else place[0][0]
            label = self._values.label(name) if name else None
            if label is not None and (private or label in PUBLIC_LABELS):
                spans.append(LabelledSpan(len(text), len(text) + len(value), label))
            text += value
        return LabelledText(text + template[behind:], tuple(spans), template)


def _joined(one: LabelledText) -> Iterator[LabelledSpan]:
    """Spans of neighbouring words of one kind as one: CoNLL labels each word by itself."""
    last: LabelledSpan | None = None
    for span in sorted(one.spans, key=lambda s: s.start):
        near = last is not None and one.text[last.end : span.start].strip(" .-'") == ""
        if last is not None and near and last.kind == span.kind and span.start - last.end <= 2:
            last = LabelledSpan(last.start, span.end, last.kind)
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last
