"""Finding a rule's candidates: one scan for which rules hit, then exact spans of those."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import re2

from safekv.detect.disguise import DISGUISES, NAMES
from safekv.detect.folding import exotic_class, mark_class
from safekv.detect.validators import Finder, Validator
from safekv.errors import DetectorError

SCAN_MEMORY_BYTES: Final = 256 << 20
RULE_MEMORY_BYTES: Final = 16 << 20
"""Bounds, not reservations: RE2 fills its cache of states as texts need them."""

MAX_REJECTED: Final = 20_000
"""Candidates that one rule rejects in one text before it gives up and calls the rest private.

Only tables of hundreds of kilobytes of numbers get there, and texts made to keep it busy."""

ByteSpan = tuple[int, int]


class Reach(Enum):
    """How much a rule that fires makes private.

    `MESSAGE` is all text from the document's beginning to the end of the message.
    """

    SPAN = "span"
    MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Rule:
    """A shape, and what must also hold where the shape is found.

    The pattern's group `value`, where it has one, is what is validated and reported;
    otherwise the whole match is. A rule that has `find` instead of `validate` reports
    what that finds inside the value. `context` must match, if given, within
    `context_bytes` of UTF-8 before or behind the longest such value.
    """

    id: str
    pattern: str
    reach: Reach = Reach.SPAN
    validate: Validator | None = None
    find: Finder | None = None
    context: Any = None
    context_bytes: int = 48
    examples: tuple[str, ...] = ()
    counter_examples: tuple[str, ...] = ()
    _regex: Any = field(init=False, repr=False, compare=False)
    _group: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        regex = compile_pattern(self.pattern)
        object.__setattr__(self, "_regex", regex)
        object.__setattr__(self, "_group", regex.groupindex.get(b"value", 0))

    def spans(self, data: bytes) -> Iterator[ByteSpan]:
        """Where the rule fires in UTF-8 `data`, from left to right, not overlapping.

        A candidate that the validator rejects hides neither a shorter one at the same
        start nor one that starts later. After `MAX_REJECTED` of them the rest of the text
        counts as one hit. Linear in `data` when the pattern's length is bounded.
        """
        if self.context is not None and self.context.search(data) is None:
            return
        if self.find is not None:
            yield from self._found(data, self.find)
            return
        at = rejected = 0
        while (found := self._regex.search(data, at)) is not None:
            span, tried = self._accepted(data, found)
            rejected += tried
            if rejected > MAX_REJECTED:
                yield found.start(), len(data)
                return
            if span is not None:
                yield span
            at = found.start() + 1 if span is None else found.end()

    @property
    def confidence(self) -> float:
        """How sure a hit is: a shape alone 0.7, more if it is validated, or has its context."""
        checked = self.validate is not None or self.find is not None
        return 0.7 + 0.15 * checked + 0.15 * (self.context is not None)

    @property
    def whole_message(self) -> bool:
        return self.reach is Reach.MESSAGE

    def matches_nothing(self) -> bool:
        """Whether the empty text matches, as it must not: such a rule would fire everywhere."""
        return self._regex.search(b"") is not None

    def _accepted(self, data: bytes, found: Any) -> tuple[ByteSpan | None, int]:
        """The longest good candidate that starts where `found` does, and how many were bad."""
        start = found.start()
        if self.context is not None and not self._in_context(data, *found.span(self._group)):
            return None, 1
        if self.validate is None:
            return found.span(self._group), 0
        rejected = 0
        while found is not None:
            span: ByteSpan = found.span(self._group)
            if self.validate(data[slice(*span)].decode()):
                return span, rejected
            rejected += 1
            found = self._regex.match(data, start, found.end() - 1)
        return None, rejected

    def _found(self, data: bytes, find: Finder) -> Iterator[ByteSpan]:
        for found in self._regex.finditer(data):
            start, end = found.span(self._group)
            if self.context is not None and not self._in_context(data, start, end):
                continue
            value = data[start:end]
            if value.isascii():
                yield from ((start + a, start + b) for a, b in find(value.decode()))
            elif any(True for _ in find(value.decode())):
                yield start, end  # characters are not bytes here, and the whole is not too much

    def _in_context(self, data: bytes, start: int, end: int) -> bool:
        before = self.context.search(data, max(0, start - self.context_bytes), start)
        return bool(before or self.context.search(data, end, end + self.context_bytes))


def compile_pattern(pattern: str) -> Any:
    """`pattern` for UTF-8 bytes, longest match first. Raises `re2.error` when it is not RE2."""
    return re2.compile(pattern.encode(), _options(RULE_MEMORY_BYTES, longest_match=True))


def context_pattern(words: Iterable[str]) -> Any:
    """Matches any of `words` as whole words in any case, spaces being any run of them."""
    return compile_pattern("(?i)" + "|".join(_whole(word) for word in words))


def _whole(word: str) -> str:
    # RE2's \b knows ASCII only: beside any other script it would never match.
    left, right = (r"\b" if c.isascii() and c.isalnum() else "" for c in (word[0], word[-1]))
    return left + r"\s+".join(re2.escape(part) for part in word.split()) + right


@dataclass(frozen=True, slots=True)
class Hits:
    """What one scan of a text said: indices of patterns, ascending, and names of disguises."""

    patterns: list[int]
    disguises: list[str]

    def __bool__(self) -> bool:
        return bool(self.patterns or self.disguises)


NO_HITS: Final = Hits([], [])


class Gate:
    """Says in one pass over a text which of many patterns occur in it."""

    def __init__(self, patterns: Sequence[str], max_mem_bytes: int = SCAN_MEMORY_BYTES) -> None:
        """Raises `re2.error` when the patterns do not fit in `max_mem_bytes`."""
        self._set = re2.Set.SearchSet(_options(max_mem_bytes))
        for pattern in patterns:
            self._set.Add(pattern.encode())
        self._exotic = self._set.Add(_exotic_pattern().encode())
        for disguise in DISGUISES.values():
            self._set.Add(disguise.hint.encode())
        # RE2 gives the same answer for "no pattern occurs" and "out of memory". The end
        # of the text always occurs, so an answer without it is not an answer.
        self._proof = self._set.Add(rb"\z")
        self._set.Compile()

    def hits(self, data: bytes) -> Hits:
        """Which patterns occur in `data`, and which disguises may.

        Raises `DetectorError` when the scan ran out of memory, as nothing is known then.
        """
        return self._told(self._scan(data))

    def hits_if_plain(self, data: bytes) -> Hits | None:
        """`hits(data)`, or None when `data` must be read fully before it can be matched.

        Raises `DetectorError` as `hits` does.
        """
        found = self._scan(data)
        return None if self._exotic in found else self._told(found)

    def _told(self, found: Sequence[int]) -> Hits:
        if len(found) == 1:  # the proof alone, as in most texts
            return NO_HITS
        first = self._exotic + 1
        return Hits(
            sorted(index for index in found if index < self._exotic),
            [NAMES[index - first] for index in sorted(found) if first <= index < self._proof],
        )

    def _scan(self, data: bytes) -> Sequence[int]:
        found: Sequence[int] = self._set.Match(data) or ()
        if self._proof not in found:
            raise DetectorError(
                "the scan for private text ran out of memory", "simplify or drop rules"
            )
        return found


def _exotic_pattern() -> str:
    """Matches what keeps a text that was read lightly from being read fully; see `normalise`."""
    code_point = r"\x{{{:x}}}"
    return f"[{exotic_class(code_point)}]|[{mark_class(code_point)}]{{2}}"


def _options(max_mem_bytes: int, longest_match: bool = False) -> Any:
    options = re2.Options()
    options.max_mem = max_mem_bytes
    options.longest_match = longest_match
    options.log_errors = False  # its log quotes what it was matching
    return options
