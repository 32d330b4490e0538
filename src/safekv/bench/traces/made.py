"""Traces made up here, for workloads of which there is no public one: `made:NAME`.

* `made:application`: every conversation begins with one application's prompt.
* `made:documents`: the same, shorter, and behind it one of 200 documents, of which some are asked
  about much more often than others.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import accumulate, count
from typing import Final

from safekv.bench.traces.request import Request, Trace, runs_of
from safekv.errors import ConfigError

BLOCK: Final = 64
CONVERSATIONS: Final = 1500
TURNS: Final = 3
HOURS_S: Final = 7200.0
APPLICATION_BLOCKS: Final = 16
DOCUMENTS: Final = 200
DOCUMENT_BLOCKS: Final = 24
PREFIX: Final = "made:"


def make_trace(name: str, seed: int = 5) -> Trace:
    """The trace `made:NAME`, the same for the same seed. Raises `ConfigError` for others."""
    try:
        openings = MAKERS[name.removeprefix(PREFIX)]
    except KeyError:
        known = ", ".join(PREFIX + one for one in MAKERS)
        raise ConfigError(f"there is no trace {name}", f"use {known}, or a file") from None
    rng = random.Random(seed)  # noqa: S311 - a workload, not a secret
    opening, fresh, requests = openings(rng), count(1_000_000), list[Request]()
    for conversation in range(CONVERSATIONS):
        public, blocks = opening()
        at_s = rng.uniform(0, HOURS_S)
        for _ in range(rng.randint(1, TURNS)):
            blocks = [*blocks, *(next(fresh) for _ in range(rng.randint(1, 3)))]
            tokens = len(blocks) * BLOCK + rng.randrange(BLOCK)
            requests.append(
                Request(
                    at_s,
                    tokens,
                    BLOCK,
                    runs_of(blocks),
                    conversation=str(conversation),
                    public_blocks=public,
                )
            )
            at_s += rng.uniform(10, 120)
    requests.sort(key=lambda request: request.time_s)
    return Trace(name, "made", BLOCK, requests)


Opening = Callable[[], tuple[int, list[int]]]
"""Draws how a conversation begins: how many blocks are in general use, and the blocks."""


def _application(rng: random.Random) -> Opening:
    prompt = list(range(APPLICATION_BLOCKS))
    return lambda: (len(prompt), prompt)


def _documents(rng: random.Random) -> Opening:
    prompt = list(range(APPLICATION_BLOCKS // 4))
    weights = list(accumulate(1 / rank for rank in range(1, DOCUMENTS + 1)))

    def draw() -> tuple[int, list[int]]:
        (document,) = rng.choices(range(DOCUMENTS), cum_weights=weights)
        start = 1000 + document * DOCUMENT_BLOCKS
        return len(prompt), [*prompt, *range(start, start + DOCUMENT_BLOCKS)]

    return draw


MAKERS: Final[dict[str, Callable[[random.Random], Opening]]] = {
    "application": _application,
    "documents": _documents,
}
