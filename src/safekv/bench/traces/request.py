"""One request of a trace, and all of them with what was odd about the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

from safekv.types import pack_tokens

Run = tuple[int, int]
"""`length` consecutive block numbers from `start` on."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt by the full blocks it begins with.

    A block's number stands for its content *and* all that comes before it, so equal numbers
    mean equal prefixes. `tenant`, `conversation` and `sensitive` are what the trace says,
    `None` where it says nothing. `public_blocks` lead every request of an application and
    are nobody's secret (tools, system prompt), as far as the trace tells. `cleared_blocks` are
    those a detector cleared that was asked about the text, `None` where none was.
    """

    time_s: float
    input_tokens: int
    output_tokens: int
    runs: tuple[Run, ...]
    tenant: str | None = None
    conversation: str | None = None
    sensitive: bool | None = None
    public_blocks: int = 0
    cleared_blocks: int | None = None

    def numbers(self) -> Iterator[int]:
        """The block numbers, first to last."""
        return chain.from_iterable(range(start, start + length) for start, length in self.runs)

    @property
    def blocks(self) -> bytes:
        """The block numbers as int32 bytes, as the tree takes tokens. O(blocks)."""
        return pack_tokens(self.numbers())

    @property
    def n_blocks(self) -> int:
        return sum(length for _, length in self.runs)


@dataclass(slots=True)
class Trace:
    """All requests in order of time. `notes` counts what was skipped or put right."""

    name: str
    format: str
    block_tokens: int
    requests: list[Request]
    notes: Counter[str] = field(default_factory=Counter)

    def labelled(self, tenants: Iterable[str]) -> Trace:
        """The same requests, each with the tenant given for it."""
        pairs = zip(self.requests, tenants, strict=True)
        requests = [replace(request, tenant=tenant) for request, tenant in pairs]
        return Trace(self.name, self.format, self.block_tokens, requests, self.notes)


def runs_of(numbers: Iterable[int]) -> tuple[Run, ...]:
    """`numbers` as runs of consecutive ones."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    return tuple((start, length) for start, length in runs)
