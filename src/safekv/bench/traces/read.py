"""Reads a trace. Its format is known by the fields of its first line.

* `mooncake`: `timestamp` (ms), `input_length`, `output_length`, `hash_ids` of 512-token blocks.
* `hashes` (Qwen-Bailian, and labelled traces of that kind): the same with `timestamp` in seconds,
  16-token blocks, `chat_id`, and if known `parent_chat_id`, `user_id`, `sensitive`.
* `claude-code` (kv-cache-tester, run-length coded): one conversation a line.
* `text`: `text`, and if known `timestamp`, `tenant`, `conversation`, `sensitive`. A character
  counts as a token, and 64 make a block.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from safekv.bench.traces import claude_code
from safekv.bench.traces.lines import Fields, Row, Rows, rows
from safekv.bench.traces.made import PREFIX, make_trace
from safekv.bench.traces.request import Request, Trace, runs_of
from safekv.errors import ConfigError

TEXT_BLOCK: Final = 64
MOONCAKE_BLOCK: Final = 512
BAILIAN_BLOCK: Final = 16
LABELS: Final = ("chat_id", "parent_chat_id", "turn", "type", "user_id", "task_id", "sensitive")
KNOWN: Final = frozenset(("timestamp", "input_length", "output_length", "hash_ids", *LABELS))
KNOWN_TEXT: Final = frozenset(("text", "timestamp", "tenant", "conversation", "sensitive"))
LONG_GAP_S: Final = 3600.0

Judge = Callable[[str, Sequence[int]], int]
"""How many of the blocks that end at these characters of a text a detector clears, from the
first on."""


def read_trace(path: Path, seed: int = 5, judge: Judge | None = None) -> Trace:
    """All requests of the trace with a full block, in order of time.

    `seed` spreads conversations that have no time of their own over a day. `judge` is asked about
    every text, which is not kept. Raises `ConfigError` for a file that cannot be read, or has no
    text to judge, and names the first line that cannot be used. A path `made:NAME` is a trace of
    `safekv.bench.traces.made`.
    """
    if str(path).startswith(PREFIX) and judge is not None:
        raise ConfigError(f"{path} has no text that a detector could judge", "judge nothing")
    if str(path).startswith(PREFIX):
        return make_trace(str(path), seed)
    lines = rows(path)
    first = next(lines, None)
    if first is None:
        raise ConfigError(f"{path} has no requests", "pass a trace file")
    name, notes = _format(path, first[1]), Counter[str]()
    if judge is not None and name != "text":
        raise ConfigError(
            f"{path} has no text that a detector could judge",
            "pass lines with text, or say which share of texts is sensitive",
        )
    requests, block = _read(name, path, _again(first, lines), notes, seed, judge)
    if not requests:
        raise ConfigError(f"{path} has no request with a full block", "pass a longer trace")
    if name != "claude-code":  # its conversations overlap in time as a matter of course
        notes["out_of_order"] = sum(a.time_s > b.time_s for a, b in pairwise(requests))
    requests.sort(key=lambda request: request.time_s)
    times = pairwise(request.time_s for request in requests)
    notes["gaps_over_an_hour"] = sum(b - a > LONG_GAP_S for a, b in times)
    return Trace(path.name, name, block, requests, +notes)


def _format(path: Path, row: Row) -> str:
    if "requests" in row and "block_size" in row:
        return "claude-code"
    if "text" in row:
        return "text"
    if "hash_ids" in row:
        return "hashes" if "chat_id" in row else "mooncake"
    names = ", ".join(sorted(row))[:200]
    raise ConfigError(
        f"{path} has no known format: its first line has the fields {names}",
        "pass lines with hash_ids and input_length, with requests and block_size, or with text",
    )


def _read(
    name: str, path: Path, lines: Rows, notes: Counter[str], seed: int, judge: Judge | None
) -> tuple[list[Request], int]:
    if name == "claude-code":
        return claude_code.read(path, lines, notes, seed)
    if name == "text":
        found = _present(_text(path, lines, notes, judge), notes)
        return found, TEXT_BLOCK
    block = BAILIAN_BLOCK if name == "hashes" else MOONCAKE_BLOCK
    return _present(_hashes(path, lines, block, notes), notes), block


def _again(first: tuple[int, Row], rest: Rows) -> Rows:
    yield first
    yield from rest


def _present(requests: Iterable[Request], notes: Counter[str]) -> list[Request]:
    """Those with a full block; the others are counted."""
    found = []
    for request in requests:
        if request.runs:
            found.append(request)
        else:
            notes["shorter_than_a_block"] += 1
    return found


class Chain:
    """Numbers blocks so that equal numbers mean equal prefixes."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, object], int] = {}

    def numbers(self, contents: Iterable[object]) -> Iterator[int]:
        """The numbers of blocks with these contents, one behind the other."""
        above = -1
        for content in contents:
            above = self._numbers.setdefault((above, content), len(self._numbers))
            yield above


def _hashes(path: Path, lines: Rows, block: int, notes: Counter[str]) -> Iterator[Request]:
    chain, roots = Chain(), dict[str, str]()
    seconds = 1.0 if block == BAILIAN_BLOCK else 1000.0
    for number, row in lines:
        fields = Fields(path, number, row)
        notes["lines_with_unknown_fields"] += not KNOWN.issuperset(row)
        tokens, ids = fields.count("input_length"), fields.ids("hash_ids")
        if len(ids) < tokens // block:
            raise fields.error(f"{len(ids)} hash_ids do not cover {tokens} tokens")
        chat = fields.label("chat_id")
        if chat is not None:
            # A turn belongs to the conversation of its first turn.
            chat = roots.setdefault(chat, roots.get(fields.label("parent_chat_id") or "", chat))
        yield Request(
            fields.number("timestamp") / seconds,
            tokens,
            fields.count("output_length"),
            runs_of(chain.numbers(ids[: tokens // block])),
            fields.label("user_id"),
            chat,
            fields.flag("sensitive"),
        )


def _text(path: Path, lines: Rows, notes: Counter[str], judge: Judge | None) -> Iterator[Request]:
    chain = Chain()
    for number, row in lines:
        fields = Fields(path, number, row)
        notes["lines_with_unknown_fields"] += not KNOWN_TEXT.issuperset(row)
        text = row.get("text")
        if not isinstance(text, str):
            raise fields.error("text is not a text")
        ends = range(TEXT_BLOCK, len(text) + 1, TEXT_BLOCK)
        parts = (text[end - TEXT_BLOCK : end] for end in ends)
        # A digest, not the text: a trace in memory or in a crash dump should not hold prompts.
        digests = (hashlib.blake2b(part.encode(), digest_size=16).digest() for part in parts)
        yield Request(
            fields.number("timestamp") if "timestamp" in row else float(number),
            len(text),
            0,
            runs_of(chain.numbers(digests)),
            fields.label("tenant"),
            fields.label("conversation"),
            fields.flag("sensitive"),
            cleared_blocks=None if judge is None else judge(text, ends),
        )
