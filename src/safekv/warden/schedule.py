"""When a first token goes out, whatever was found: the schedule behind masked release.

Every answer of a server with masked release follows it, hit or miss, so a miss tells itself apart
only when it takes longer than the schedule allows (Askarov, Zhang, Myers, CCS 2010, predict in the
same way and count what each new prediction gives away).
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

from safekv.errors import ConfigError
from safekv.types import TenantId

GRID: Final = 2 ** (1 / 8)
"""Neighbouring speeds of the schedule differ by this factor."""
KEPT: Final = 256
"""Measurements of each size that count, the latest ones."""
PER_TENANT: Final = 8
"""Measurements of each size that one tenant contributes between two looks."""
ENOUGH: Final = 32
START_MARGIN: Final = 1.25
TERMS: Final = 3


@dataclass(frozen=True, slots=True)
class Prefill:
    """The first token came `seconds` after `new_tokens` behind `cached_tokens` were scheduled."""

    new_tokens: int
    cached_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ReleaseCounts:
    """For the operator: answers on the schedule, and those ready only after it."""

    answers: int
    late: int


@dataclass(slots=True)
class _Size:
    """What is known of prefills with a number of new tokens in one octave."""

    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    level: int = 0
    seen: Counter[TenantId] = field(default_factory=Counter)


@dataclass(slots=True)
class _Busy:
    """A tenant's prompts that were scheduled one before the others' answers were due."""

    began_s: float
    new_tokens: int = 0
    cached_tokens: int = 0
    due_s: float = 0.0


class ReleaseSchedule:
    """A time for the first token, by visible lengths alone, that `tail` of the misses exceed.

    `calibrate` fits the shape, an overhead and a price per token and per pair of tokens, to
    prefills of the server's own, before it serves anybody. How far the machine is off that shape
    now is learnt from *every* answer by what was computed for it, a hit as a short prefill, so
    that nothing depends on whether it was one; at most `PER_TENANT` of each size per tenant and
    look, and used at looks only (`look`, an epoch tick), on a grid, down by one step at most.
    So all that others can feel is a step of the grid when the machine's speed has changed.

    Never shorter for more of the same prompt to compute. One thread measures, another looks,
    any asks: one lock.
    """

    def __init__(self, tail: float) -> None:
        self._tail = tail
        self._terms: tuple[float, ...] | None = None
        self._sizes: dict[int, _Size] = {}
        self._start_level = 0
        self._busy: dict[TenantId, _Busy] = {}
        self._answers = self._late = 0
        self._lock = threading.Lock()

    def calibrate(self, measured: Sequence[Prefill]) -> None:
        """Fit the shape to prefills of an idle server. Raises `ConfigError` without any."""
        if not measured:
            raise ConfigError(
                "nothing was measured to release answers by", "start the server again"
            )
        terms = fit(measured)
        worst = max(
            one.seconds / _seconds(terms, one.new_tokens, one.cached_tokens) for one in measured
        )
        with self._lock:
            self._terms, self._start_level = terms, _level(worst * START_MARGIN)

    @property
    def ready(self) -> bool:
        """Whether answers can be scheduled."""
        return self._terms is not None

    def hold_s(self, new_tokens: int, cached_tokens: int) -> float:
        """Seconds from being scheduled to the first token, for what the tenant may know of.

        For ever before `calibrate`: nothing goes out that cannot be masked.
        """
        with self._lock:
            return self._hold_s(new_tokens, cached_tokens)

    def _hold_s(self, new_tokens: int, cached_tokens: int) -> float:
        if self._terms is None:
            return math.inf
        hold, last = 0.0, _octave(new_tokens)
        for octave in range(last + 1):
            level = self._sizes[octave].level if octave in self._sizes else self._start_level
            tokens = min(new_tokens, (1 << octave + 1) - 1)
            found = cached_tokens + new_tokens - tokens
            hold = max(hold, _seconds(self._terms, tokens, found) * GRID**level)
        return hold

    def due_s(self, tenant: TenantId, began_s: float, new_tokens: int, cached_tokens: int) -> float:
        """When the first token of a request goes out that was scheduled at `began_s`.

        A tenant's requests that are scheduled before its others are out count as one long prompt:
        otherwise the second would tell by when it was scheduled how much was computed for the
        first. Called in the order of scheduling, once for each.
        """
        with self._lock:
            busy = self._busy.get(tenant)
            if busy is None or began_s >= busy.due_s:
                busy = self._busy[tenant] = _Busy(began_s)
            busy.new_tokens += new_tokens
            busy.cached_tokens = max(busy.cached_tokens, cached_tokens)
            hold_s = self._hold_s(busy.new_tokens, busy.cached_tokens)
            busy.due_s = max(busy.due_s, busy.began_s + hold_s)
            return busy.due_s

    def measure(self, tenant: TenantId, computed: Prefill, *, late: bool) -> None:
        """Count an answer whose first token is there, by what was computed for it; `late` if that
        was after it was due."""
        with self._lock:
            self._answers += 1
            self._late += late
            if self._terms is not None:
                size = self._size(_octave(computed.new_tokens))
                size.seen[tenant] += 1
                if size.seen[tenant] <= PER_TENANT:
                    fitted = _seconds(self._terms, computed.new_tokens, computed.cached_tokens)
                    size.ratios.append(computed.seconds / fitted)

    def look(self) -> None:
        """Let what was measured since the last look count."""
        with self._lock:
            for size in self._sizes.values():
                if size.seen and len(size.ratios) >= ENOUGH:
                    ordered = sorted(size.ratios)
                    at = min(len(ordered) - 1, math.ceil(len(ordered) * (1 - self._tail)))
                    size.level = max(_level(ordered[at]), size.level - 1)
                size.seen.clear()

    def counts(self) -> ReleaseCounts:
        """How many answers went out, and how many were late."""
        with self._lock:
            return ReleaseCounts(self._answers, self._late)

    def _size(self, octave: int) -> _Size:
        if octave not in self._sizes:
            self._sizes[octave] = _Size(level=self._start_level)
        return self._sizes[octave]


def fit(measured: Sequence[Prefill]) -> tuple[float, ...]:
    """Overhead, seconds per token and per pair of tokens, none below 0, by least relative error."""
    rows = [
        ([term / one.seconds for term in _terms(one.new_tokens, one.cached_tokens)], 1.0)
        for one in measured
    ]
    best, least = tuple([0.0] * TERMS), math.inf
    for n in range(1, TERMS + 1):
        for used in combinations(range(TERMS), n):
            solved = _least_squares(rows, used)
            if solved is None or min(solved) < 0:
                continue
            found = [0.0] * TERMS
            for term, value in zip(used, solved, strict=True):
                found[term] = value
            error = sum(
                (sum(a * b for a, b in zip(row, found, strict=True)) - want) ** 2
                for row, want in rows
            )
            if error < least:
                best, least = tuple(found), error
    return best


def _least_squares(
    rows: Sequence[tuple[Sequence[float], float]], used: Sequence[int]
) -> list[float] | None:
    """The normal equations for the terms `used`, by elimination; `None` where they have none."""
    n = len(used)
    table = [
        [sum(row[i] * row[j] for row, _ in rows) for j in used]
        + [sum(row[i] * want for row, want in rows)]
        for i in used
    ]
    for at in range(n):
        pivot = max(range(at, n), key=lambda row: abs(table[row][at]))
        table[at], table[pivot] = table[pivot], table[at]
        if abs(table[at][at]) < 1e-12 * max(1e-300, max(map(abs, table[at]))):
            return None
        for row in range(n):
            if row != at:
                factor = table[row][at] / table[at][at]
                table[row] = [a - factor * b for a, b in zip(table[row], table[at], strict=True)]
    return [table[at][n] / table[at][at] for at in range(n)]


def _terms(new_tokens: int, cached_tokens: int) -> tuple[float, float, float]:
    return 1.0, float(new_tokens), new_tokens * (cached_tokens + new_tokens / 2)


def _seconds(terms: Sequence[float], new_tokens: int, cached_tokens: int) -> float:
    values = zip(terms, _terms(new_tokens, cached_tokens), strict=True)
    return sum(price * amount for price, amount in values)


def _octave(tokens: int) -> int:
    return max(1, tokens).bit_length() - 1


def _level(ratio: float) -> int:
    """The least step of the grid that is not below `ratio`."""
    return math.ceil(math.log(max(ratio, 1e-9)) / math.log(GRID) - 1e-9)
