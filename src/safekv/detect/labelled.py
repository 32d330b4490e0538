"""Texts in which somebody labelled what is private, and how they are read and divided."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from safekv.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LabelledSpan:
    """Characters `[start, end)` that a person or a generator called `kind`."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, and every span of it that is labelled. `group` is its template, where known."""

    text: str = field(repr=False)
    spans: tuple[LabelledSpan, ...] = ()
    group: str = ""


def read_labelled(path: Path, conll: bool | None = None) -> list[LabelledText]:
    """The texts of `path`: JSON lines or one JSON list with `text` and `spans`, or CoNLL.

    `conll` says which; left out, the name of the file does. Spans have `start`, `end` and
    `type`; the field names of presidio-research are understood as well. Raises
    `ConfigError`, naming the line, for anything else.
    """
    try:
        content = path.read_text(encoding="utf-8")
        if conll or (conll is None and ".conll" in path.name):
            return list(_conll(content))
        return [_record(path, number, item) for number, item in _items(content)]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"labelled file {path} cannot be read ({type(error).__name__})",
            "give JSON lines with text and spans, or a .conll file",
        ) from error


def half_of(texts: Iterable[LabelledText], held_out: bool) -> list[LabelledText]:
    """One half of `texts`; all of one template fall into the same."""
    return [one for one in texts if _is_held_out(one) == held_out]


def _is_held_out(labelled: LabelledText) -> bool:
    return bool(crc32((labelled.group or labelled.text).encode(errors="replace")) & 1)


def _items(content: str) -> Iterator[tuple[int, Any]]:
    if content.lstrip().startswith("["):
        yield from enumerate(json.loads(content), 1)
        return
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            yield number, json.loads(line)


def _record(path: Path, number: int, item: Any) -> LabelledText:
    try:
        text = item["text"] if "text" in item else item["full_text"]
        spans = tuple(_span(text, span) for span in item["spans"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: record {number} is not labelled text ({type(error).__name__})",
            'each record is {"text": "...", "spans": [{"start": 0, "end": 4, "type": "..."}]}',
        ) from error
    return LabelledText(text, spans, str(item.get("template_id", "")))


def _span(text: str, span: Mapping[str, Any]) -> LabelledSpan:
    start = span["start"] if "start" in span else span["start_position"]
    end = span["end"] if "end" in span else span["end_position"]
    if not 0 <= start <= end <= len(text):
        raise ValueError("the span lies outside the text")
    return LabelledSpan(start, end, str(span["type"] if "type" in span else span["entity_type"]))


def _conll(content: str) -> Iterator[LabelledText]:
    words: list[tuple[str, str]] = []
    for line in (*content.splitlines(), ""):
        parts = line.split()
        if len(parts) >= 2:
            words.append((parts[0], parts[-1]))
        elif not parts and words:
            yield _sentence(words)
            words = []


def _sentence(words: Iterable[tuple[str, str]]) -> LabelledText:
    text, spans = "", []
    for word, tag in words:
        start = len(text) + bool(text)
        text = f"{text} {word}" if text else word
        if tag != "O":
            spans.append(LabelledSpan(start, len(text), tag.partition("-")[2] or tag))
    return LabelledText(text, tuple(spans))
