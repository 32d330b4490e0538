"""The kv-cache-tester format: one Claude Code conversation a line, run-length coded."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from safekv.bench.traces.lines import Fields, Row, Rows
from safekv.bench.traces.request import Request, Run

DAY_S: Final = 86_400.0


class Numbering:
    """Global block numbers for ids that are local to a conversation.

    Equal sizes of tools and system prompt are taken for equal content, since the trace names
    neither. That overstates what can be shared.
    """

    def __init__(self) -> None:
        self._next = 0
        self._heads: dict[tuple[int, int], int] = {}
        self._base = self._highest = 0

    def open(self, head: tuple[int, int], public_blocks: int) -> None:
        """Begin a conversation with tools and system prompt of these sizes in tokens."""
        self._next += self._highest + 1
        if head not in self._heads:
            self._heads[head] = self._next
            self._next += public_blocks
        self._head, self._base, self._highest = self._heads[head], self._next, 0

    def runs(self, local: list[Run], n_blocks: int, public_blocks: int) -> tuple[Run, ...]:
        """The first `n_blocks` blocks of a request, of which `public_blocks` are the head's."""
        found: list[Run] = [(self._head, public_blocks)] if public_blocks else []
        passed = 0
        for start, length in local:
            self._highest = max(self._highest, start + length)
            skip = max(0, public_blocks - passed)
            keep = min(length, n_blocks - passed)
            if keep > skip:
                found.append((self._base + start + skip, keep - skip))
            passed += length
        return tuple(found)


def read(path: Path, lines: Rows, notes: Counter[str], seed: int) -> tuple[list[Request], int]:
    """All requests and the block size in tokens. Conversations start at random times of a day."""
    rng = random.Random(seed)  # noqa: S311 - a workload, not a key
    numbering, requests, size = Numbering(), list[Request](), 0
    for number, row in lines:
        fields = Fields(path, number, row)
        block = fields.count("block_size")
        if block < 1 or (size and block != size):
            raise fields.error(f"block_size is {block}, and was {size or 'never'} before")
        size = block
        requests += _conversation(fields, row, size, numbering, rng.uniform(0, DAY_S), notes)
    return requests, size


def _conversation(
    fields: Fields,
    row: Row,
    size: int,
    numbering: Numbering,
    start_s: float,
    notes: Counter[str],
) -> Iterator[Request]:
    head = (fields.count("tool_tokens"), fields.count("system_tokens"))
    public = sum(head) // size
    numbering.open(head, public)
    name = fields.label("id") or f"line {fields.line}"
    for entry, is_sub in _nested(fields, row):
        one = Fields(fields.path, fields.line, entry)
        local = _local_runs(one, entry)
        full = min(one.count("in") // size, sum(length for _, length in local))
        if not full:
            notes["shorter_than_a_block"] += 1
            continue
        shared = 0 if is_sub else min(public, full)
        runs = numbering.runs(local, full, shared)
        at = start_s + one.number("t")
        yield Request(
            at, one.count("in"), one.count("out"), runs, conversation=name, public_blocks=shared
        )


def _nested(fields: Fields, row: Row) -> Iterator[tuple[Row, bool]]:
    """The requests of a conversation, and whether each is a sub-agent's, at its own time."""
    entries = row.get("requests")
    if not isinstance(entries, list):
        raise fields.error("requests is not a list")
    for entry in entries:
        if not isinstance(entry, dict):
            raise fields.error("a request is not an object")
        if "requests" not in entry:
            yield entry, False
            continue
        begin_s = Fields(fields.path, fields.line, entry).number("t")
        for inner, _ in _nested(fields, entry):
            after_s = Fields(fields.path, fields.line, inner).number("t")
            yield {**inner, "t": begin_s + after_s}, True


def _local_runs(fields: Fields, row: Row) -> list[Run]:
    coded = row.get("h")
    if not isinstance(coded, list):
        raise fields.error("h is not a list of runs")
    for run in coded:
        if not (isinstance(run, list) and len(run) == 2 and all(type(n) is int for n in run)):
            raise fields.error("h is not a list of [start, length] runs")
        if run[0] < 0 or run[1] < 1:
            raise fields.error(f"h has the run {run}")
    return [(start, length) for start, length in coded]
