"""How a channel is read from paired observations, and tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from safekv.audit.endpoint.discrete import category_p, different_p, larger_p
from safekv.audit.endpoint.observation import Channel, Observation, Pair
from safekv.audit.endpoint.randomisation import paired_p

Floats = NDArray[np.float64]
Reader = Callable[[Observation], float | None]

TIMED: Final[dict[Channel, Reader]] = {
    Channel.TTFT: lambda seen: seen.ttft_s,
    Channel.TOTAL: lambda seen: seen.total_s,
    Channel.PACE: lambda seen: seen.inter_token_s,
    Channel.ORDER: lambda seen: seen.rank,
}
CACHED_FIELDS: Final = frozenset(
    {"cached_tokens", "cache_read_input_tokens", "prompt_cache_hit_tokens", "cached_content_tokens"}
)
OWN_HEADERS: Final = frozenset({"date", "content-length", "set-cookie", "etag"})
"""Headers that differ by themselves; whatever depends on the cache shows elsewhere."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One channel of one set of pairs. `p` decides; arrays are empty where nothing is ordered.

    In the arrays smaller means more like a hit, for counts too (they are negated).
    """

    p: float
    primed: Floats
    control: Floats
    pairs: int
    counted: bool = False


def read(channel: Channel, pairs: Sequence[Pair], *, draws: int, seed: int) -> Reading | None:
    """Test one channel. `None` when the endpoint shows nothing there."""
    if channel in TIMED:
        return _timed(TIMED[channel], pairs, draws=draws, seed=seed)
    if channel is Channel.CACHED:
        return _cached(pairs)
    if channel is Channel.USAGE:
        return _usage(pairs)
    if channel is Channel.DRIFT:
        return _drift(pairs)
    if channel is Channel.HEADERS:
        return _headers(pairs, seed=seed)
    primed, control = zip(*((p.primed.outcome, p.control.outcome) for p in pairs), strict=True)
    return _unordered(category_p(primed, control, seed=seed), len(pairs))


def _timed(reader: Reader, pairs: Sequence[Pair], *, draws: int, seed: int) -> Reading | None:
    primed, control = _arms(reader, pairs)
    if not primed.size:
        return None
    p = paired_p(primed, control, draws=draws, seed=seed)
    return Reading(p, primed, control, primed.size)


def _arms(reader: Reader, pairs: Sequence[Pair]) -> tuple[Floats, Floats]:
    """Both arms of the pairs in which both have a value."""
    values = [(reader(pair.primed), reader(pair.control)) for pair in pairs]
    kept = [pair for pair in values if None not in pair]
    arms = np.array(kept, dtype=np.float64).reshape(-1, 2)
    return arms[:, 0], arms[:, 1]


def cached_tokens(seen: Observation) -> float | None:
    """What the endpoint says it found in a cache, in tokens; `None` if it says nothing."""
    told = [value for path, value in seen.usage.items() if path.rsplit(".", 1)[-1] in CACHED_FIELDS]
    return max(told) if told else None


def _cached(pairs: Sequence[Pair]) -> Reading | None:
    primed, control = _arms(cached_tokens, pairs)
    if not primed.size:
        return None
    return Reading(larger_p(primed, control), -primed, -control, primed.size, counted=True)


def _drift(pairs: Sequence[Pair]) -> Reading | None:
    """Does a primed prompt's first answer already read like the answers from a cache?"""
    primed, control = _arms(lambda seen: seen.changed, pairs)
    if not primed.size:
        return None
    return Reading(larger_p(control, primed), primed, control, primed.size, counted=True)


def _usage(pairs: Sequence[Pair]) -> Reading | None:
    paths = {path for pair in pairs for seen in (pair.primed, pair.control) for path in seen.usage}
    others = [path for path in paths if path.rsplit(".", 1)[-1] not in CACHED_FIELDS]
    tests = [
        different_p(*_arms(lambda seen, path=path: seen.usage.get(path), pairs))  # type: ignore[misc]
        for path in others
    ]
    return _smallest(tests, len(pairs))


def _headers(pairs: Sequence[Pair], *, seed: int) -> Reading | None:
    names = {
        name for pair in pairs for seen in (pair.primed, pair.control) for name in seen.headers
    }
    tests = [_header_p(name, pairs, seed) for name in sorted(names - OWN_HEADERS)]
    return _smallest(tests, len(pairs))


def _header_p(name: str, pairs: Sequence[Pair], seed: int) -> float:
    primed = [pair.primed.headers.get(name, "") for pair in pairs]
    control = [pair.control.headers.get(name, "") for pair in pairs]
    try:
        numbers = [[float(value) for value in arm] for arm in (primed, control)]
    except ValueError:
        return category_p(primed, control, seed=seed)
    return different_p(np.array(numbers[0]), np.array(numbers[1]))


def _smallest(tests: Sequence[float], pairs: int) -> Reading | None:
    """The smallest of several p-values, corrected for their number."""
    return _unordered(min(1.0, len(tests) * min(tests)), pairs) if tests else None


def _unordered(p: float, pairs: int) -> Reading:
    empty = np.empty(0)
    return Reading(p, empty, empty, pairs, counted=True)
