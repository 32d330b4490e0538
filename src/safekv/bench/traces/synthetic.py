"""Traces made up: three shapes of reuse that public traces do not show, drawn from a seed."""

from __future__ import annotations

import random
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from safekv.bench.traces.request import Request, Run, Trace
from safekv.errors import ConfigError

BLOCK_TOKENS: Final = 64
SPAN_S: Final = 3600.0
PAUSE_S: Final = 45.0
DOCUMENTS: Final = 500


@dataclass(frozen=True, slots=True)
class Shape:
    """Blocks of the system prompt of all, of a document, of a tenant's own prompt, and of a turn;
    `more_turns` is the mean number of turns after the first one."""

    system: int = 0
    document: int = 0
    own: int = 0
    turn: int = 5
    more_turns: float = 4.0


SHAPES: Final = {
    "documents": Shape(system=4, document=40, turn=3, more_turns=1.5),
    "system": Shape(system=16),
    "agents": Shape(own=30, more_turns=8.0),
}
"""Questions about popular documents; one system prompt and private conversations; and agents, each
tenant with a prompt of its own and long conversations."""


def synthetic(name: str, n_tenants: int, n_requests: int = 1200, seed: int = 1) -> Trace:
    """At least `n_requests` requests, most in one hour, of the shape `name`. O(requests).

    Documents are popular by Zipf's law with exponent 1, tenants busy with exponent 0.8, turns 45
    seconds apart on average. Raises `ConfigError` for a shape that there is not.
    """
    if name not in SHAPES:
        raise ConfigError(f"there is no synthetic trace {name}", f"use {', '.join(SHAPES)}")
    maker = _Maker(n_tenants, SHAPES[name], seed)
    requests: list[Request] = []
    while len(requests) < n_requests:
        requests += maker.conversation()
    requests.sort(key=lambda request: request.time_s)
    return Trace(name, "synthetic", BLOCK_TOKENS, requests)


class _Maker:
    """Makes one conversation after the other."""

    def __init__(self, n_tenants: int, shape: Shape, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - a workload, not a secret
        self._shape, self._next, self._made = shape, 0, 0
        self._system = self._fresh(shape.system)
        self._documents = [self._fresh(shape.document) for _ in range(DOCUMENTS)]
        self._own = [self._fresh(shape.own) for _ in range(n_tenants)]
        self._popular, self._busy = _zipf(DOCUMENTS, 1.0), _zipf(n_tenants, 0.8)

    def _fresh(self, n_blocks: int) -> Run:
        self._next += n_blocks
        return self._next - n_blocks, n_blocks

    def _draw(self, weights: list[float]) -> int:
        return bisect_left(weights, self._rng.random() * weights[-1])

    def conversation(self) -> list[Request]:
        rng, shape = self._rng, self._shape
        self._made += 1
        time_s, tenant = rng.random() * SPAN_S, self._draw(self._busy)
        base = [self._system, self._documents[self._draw(self._popular)], self._own[tenant]]
        runs = [run for run in base if run[1]]
        public = shape.system + shape.document
        requests = []
        for _ in range(1 + int(rng.expovariate(1 / shape.more_turns))):
            runs = [*runs, self._fresh(shape.turn)]
            requests.append(
                Request(
                    time_s,
                    sum(length for _, length in runs) * BLOCK_TOKENS + 10,
                    60,
                    tuple(runs),
                    tenant=f"t{tenant}",
                    conversation=f"c{self._made}",
                    public_blocks=public,
                )
            )
            time_s += rng.expovariate(1 / PAUSE_S)
        return requests


def _zipf(n: int, exponent: float) -> list[float]:
    """Cumulative weights of `n` ranks."""
    return list(accumulate(1 / (rank + 1) ** exponent for rank in range(n)))
