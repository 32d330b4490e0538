"""Each format is read as it says, and each way it can be wrong has a name and a line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from safekv.bench.traces import Trace, read_trace, synthetic
from safekv.errors import ConfigError


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def mooncake(**changes: Any) -> dict[str, Any]:
    row = {"timestamp": 0, "input_length": 1100, "output_length": 7, "hash_ids": [5, 9, 11]}
    return row | changes


def numbers(trace: Trace) -> list[list[int]]:
    return [list(request.numbers()) for request in trace.requests]


def test_mooncake_keeps_full_blocks_and_milliseconds(tmp_path: Path) -> None:
    later = mooncake(timestamp=2500, hash_ids=[5, 8], input_length=1024)
    trace = read_trace(written(tmp_path / "t.jsonl", [mooncake(), later]))
    assert (trace.format, trace.block_tokens) == ("mooncake", 512)
    assert numbers(trace) == [[0, 1], [0, 2]]
    assert [request.time_s for request in trace.requests] == [0, 2.5]
    assert trace.requests[0].output_tokens == 7


def test_equal_ids_behind_different_prefixes_are_different_blocks(tmp_path: Path) -> None:
    rows = [mooncake(hash_ids=[1, 2]), mooncake(hash_ids=[3, 2])]
    first, second = numbers(read_trace(written(tmp_path / "t.jsonl", rows)))
    assert first[1] != second[1]


def test_labelled_traces_follow_a_conversation_to_its_first_turn(tmp_path: Path) -> None:
    one = {"input_length": 16, "output_length": 1, "hash_ids": [1], "user_id": 4}
    rows = [
        {**one, "timestamp": 0, "chat_id": 10, "parent_chat_id": -1},
        {**one, "timestamp": 1, "chat_id": 11, "parent_chat_id": 10, "sensitive": True},
        {**one, "timestamp": 2, "chat_id": 12, "parent_chat_id": 11},
        {**one, "timestamp": 3, "chat_id": 13, "parent_chat_id": -1, "user_id": None},
    ]
    trace = read_trace(written(tmp_path / "t.jsonl", rows))
    assert [request.conversation for request in trace.requests] == ["10", "10", "10", "13"]
    assert [request.tenant for request in trace.requests] == ["4", "4", "4", None]
    assert [request.sensitive for request in trace.requests] == [None, True, None, None]
    assert trace.block_tokens == 16


def claude(name: str, *requests: dict[str, Any]) -> dict[str, Any]:
    return {
        **{"id": name, "block_size": 64, "tool_tokens": 100, "system_tokens": 60},
        "requests": list(requests),
    }


def turn(at: float, tokens: int, *runs: list[int]) -> dict[str, Any]:
    return {"t": at, "in": tokens, "out": 1, "h": list(runs)}


def test_claude_code_shares_tools_and_system_prompt_and_nothing_else(tmp_path: Path) -> None:
    rows = [
        claude("a", turn(0, 320, [1, 5]), turn(9, 390, [1, 4], [7, 2])),
        claude("b", turn(0, 320, [1, 5])),
    ]
    trace = read_trace(written(tmp_path / "t.jsonl", rows))
    by_name: dict[str, list[list[int]]] = {"a": [], "b": []}
    for request in trace.requests:
        by_name[str(request.conversation)].append(list(request.numbers()))
        assert request.public_blocks == 2
    first, second = by_name["a"]
    assert first[:4] == second[:4]
    assert not set(second[4:]) & set(first)
    assert by_name["b"][0][:2] == first[:2]
    assert not set(by_name["b"][0][2:]) & set(first + second)


def test_a_sub_agent_begins_when_it_was_called_and_shares_no_system_prompt(tmp_path: Path) -> None:
    agent = {"type": "subagent", "t": 5.0, "requests": [turn(2, 128, [900, 2])]}
    trace = read_trace(written(tmp_path / "t.jsonl", [claude("a", turn(0, 320, [1, 5]), agent)]))
    main, sub = trace.requests
    assert sub.time_s - main.time_s == pytest.approx(7)
    assert sub.public_blocks == 0
    assert not set(sub.numbers()) & set(main.numbers())


def test_text_is_cut_into_blocks_and_not_kept(tmp_path: Path) -> None:
    rows = [
        {"text": "x" * 64 + "y" * 64, "tenant": "acme", "sensitive": False},
        {"text": "x" * 64 + "z" * 100, "conversation": 3},
    ]
    trace = read_trace(written(tmp_path / "t.jsonl", rows))
    assert numbers(trace) == [[0, 1], [0, 2]]
    assert "xxx" not in repr(trace)
    assert [request.tenant for request in trace.requests] == ["acme", None]


def test_what_is_odd_is_counted_and_put_right(tmp_path: Path) -> None:
    rows = [
        mooncake(timestamp=9000),
        mooncake(timestamp=1000, shoe_size=43),
        mooncake(input_length=300),
    ]
    trace = read_trace(written(tmp_path / "t.jsonl", rows))
    assert [request.time_s for request in trace.requests] == [1, 9]
    assert trace.notes == {
        "out_of_order": 1,
        "lines_with_unknown_fields": 1,
        "shorter_than_a_block": 1,
    }
    texts = [{"text": "x" * 64}, {"text": "y" * 70, "timestamp": 9000, "colour": "red"}]
    assert read_trace(written(tmp_path / "x.jsonl", texts)).notes == {
        "lines_with_unknown_fields": 1,
        "gaps_over_an_hour": 1,
    }


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (mooncake(input_length=-5), "line 2: input_length is -5"),
        (mooncake(input_length="many"), "line 2: input_length is not a number"),
        (mooncake(input_length=10.5), "line 2: input_length is 10.5, use a whole number"),
        (mooncake(timestamp=float("nan")), "line 2: timestamp is nan"),
        (mooncake(hash_ids=[1]), "line 2: 1 hash_ids do not cover 1100 tokens"),
        (mooncake(hash_ids=[1, "x", 3]), "line 2: hash_ids is not a list of whole numbers"),
        (mooncake(sensitive="yes"), "line 2: sensitive is not true or false"),
        ([1, 2], "line 2: not a JSON object"),
        ({k: v for k, v in mooncake().items() if k != "timestamp"}, "line 2: timestamp is not a"),
        (mooncake(timestamp=-1), "line 2: timestamp is -1, use 0 or more"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, bad: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_trace(written(tmp_path / "t.jsonl", [mooncake(), bad]))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (claude("b", turn(0, 320, [1, 0])), r"h has the run \[1, 0\]"),
        (claude("b", {"t": 0, "in": 320, "out": 1, "h": [[1]]}), "not a list of"),
        (claude("b", {"t": 0, "in": -1, "out": 1, "h": [[1, 5]]}), "in is -1"),
        ({**claude("b"), "block_size": 32}, "block_size is 32, and was 64 before"),
        ({**claude("b"), "requests": 5}, "requests is not a list"),
    ],
)
def test_a_wrong_conversation_is_named(tmp_path: Path, bad: Any, message: str) -> None:
    path = written(tmp_path / "t.jsonl", [claude("a", turn(0, 320, [1, 5])), bad])
    with pytest.raises(ConfigError, match=f"line 2: .*{message}"):
        read_trace(path)


def test_a_file_that_is_no_trace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with pytest.raises(ConfigError, match="cannot read"):
        read_trace(path)
    for text, message in (
        ("", "has no requests"),
        ('{"a": 1}\n', "has no known format: its first line has the fields a"),
        ("nonsense\n", "line 1: not a JSON object"),
        ("{", "line 1: not a JSON object"),
        ("[1]", "line 1: not a JSON object"),
        ('{"hash_ids": [1]}', "line 1: input_length is not a number"),
        (json.dumps(mooncake(input_length=3)) + "\n", "no request with a full block"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_trace(path)


def test_a_truncated_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    whole = gzip.compress("".join(json.dumps(mooncake()) + "\n" for _ in range(500)).encode())
    path.write_bytes(whole)
    assert len(read_trace(path).requests) == 500
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"line \d+: the gzip file ends too early"):
        read_trace(path)
    plain = tmp_path / "odd.jsonl"
    plain.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"odd\.jsonl, line 1: not a JSON object"):
        read_trace(plain)
    path.write_bytes(b"no gzip at all")
    with pytest.raises(ConfigError, match="not a readable gzip file"):
        read_trace(path)


@pytest.mark.parametrize(
    ("name", "public", "common"), [("documents", 44, 4), ("system", 16, 16), ("agents", 0, 0)]
)
def test_a_made_up_trace_has_its_shape_and_is_the_same_again(
    name: str, public: int, common: int
) -> None:
    trace, again = synthetic(name, 10, 200), synthetic(name, 10, 200)
    assert trace.requests == again.requests != synthetic(name, 10, 200, seed=2).requests
    assert len(trace.requests) >= 200
    times = [request.time_s for request in trace.requests]
    assert times == sorted(times)
    starts = {tuple(each)[:common] for each in numbers(trace)}
    assert len(starts) == 1, "all begin alike"
    longest: dict[str | None, list[int]] = {}
    for request, ids in zip(trace.requests, numbers(trace), strict=True):
        assert request.public_blocks == public
        before = longest.setdefault(request.conversation, ids)
        assert ids[: len(before)] == before, "a turn continues the one before"
        longest[request.conversation] = ids


def test_a_shape_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no synthetic trace nothing"):
        synthetic("nothing", 1)
