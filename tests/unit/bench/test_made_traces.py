"""Traces made up here: what they have in common, and that they are the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from safekv.bench.traces import read_trace
from safekv.bench.traces.made import APPLICATION_BLOCKS, CONVERSATIONS, DOCUMENT_BLOCKS, MAKERS
from safekv.errors import ConfigError


@pytest.mark.parametrize("name", list(MAKERS))
def test_a_made_trace_is_the_same_each_time_and_in_order(name: str) -> None:
    first, second = (read_trace(Path(f"made:{name}")) for _ in range(2))
    assert first.requests == second.requests
    times = [request.time_s for request in first.requests]
    assert times == sorted(times)
    assert len({request.conversation for request in first.requests}) == CONVERSATIONS


def test_an_application_has_one_prompt_and_its_own_text_behind() -> None:
    requests = read_trace(Path("made:application")).requests
    openings = {tuple(request.numbers())[:APPLICATION_BLOCKS] for request in requests}
    assert openings == {tuple(range(APPLICATION_BLOCKS))}
    own: dict[int, str | None] = {}
    for request in requests:
        for number in list(request.numbers())[APPLICATION_BLOCKS:]:
            assert own.setdefault(number, request.conversation) == request.conversation


def test_some_documents_are_asked_about_more_than_others() -> None:
    asked: dict[int, set[str | None]] = {}
    for request in read_trace(Path("made:documents")).requests:
        numbers = list(request.numbers())
        assert numbers[request.public_blocks + DOCUMENT_BLOCKS] >= 1_000_000
        asked.setdefault(numbers[request.public_blocks], set()).add(request.conversation)
    counts = sorted(map(len, asked.values()))
    assert counts[-1] > 10 * counts[len(counts) // 2] > 0


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no trace"):
        read_trace(Path("made:nothing"))
