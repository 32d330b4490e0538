"""Frames between the engine core and its index."""

from __future__ import annotations

import socket
import threading

import pytest

from safekv.engines.vllm.index.wire import (
    Kind,
    Link,
    NamedBlock,
    Run,
    pack_prompt,
    pack_run,
    unpack_names,
    unpack_prompt,
)
from safekv.types import TenantId, pack_tokens


def names(n: int, letter: str) -> list[bytes]:
    return [f"{letter}{i:031}".encode() for i in range(n)]


def test_a_prompt_arrives_as_it_was_sent() -> None:
    tokens = pack_tokens(range(9))
    assert unpack_prompt(pack_prompt(TenantId("ä b"), tokens)) == ("ä b", tokens)


@pytest.mark.parametrize("payload", [b"", b"\0", b"\0\0", b"\0\5abc", b"\0\1axyz", b"\0\1\xff"])
def test_what_is_no_prompt_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - UnicodeDecodeError is one
        unpack_prompt(payload)


@pytest.mark.parametrize("holders", [0, 1, 3])
def test_a_run_arrives_block_by_block(holders: int) -> None:
    public, tokens = names(5, "p"), pack_tokens(range(20))
    private = [names(5, chr(97 + n)) for n in range(holders)]
    run = Run(pack_run(4, b"r" * 32, public, tokens, private))
    assert len(run) == 5
    assert list(run.names()) == public
    for n in range(5):
        assert run.block(n) == NamedBlock(
            public[n],
            public[n - 1] if n else b"r" * 32,
            tokens[16 * n : 16 * n + 16],
            tuple(one[n] for one in private),
        )


def test_a_run_that_is_cut_short_is_refused() -> None:
    whole = pack_run(4, b"r" * 32, names(2, "p"), pack_tokens(range(8)), [names(2, "a")])
    for size in range(len(whole)):
        with pytest.raises(ValueError, match="not a run"):
            Run(whole[:size])
    with pytest.raises(ValueError, match="not whole names"):
        unpack_names(b"x" * 33)


def test_names_do_not_show() -> None:
    run = Run(pack_run(4, b"r" * 32, names(1, "p"), pack_tokens(range(4)), [names(1, "a")]))
    assert repr(run.block(0)) == "NamedBlock()"


def test_frames_arrive_in_order_until_the_other_end_is_gone() -> None:
    ours, theirs = map(Link, socket.socketpair())
    sender = threading.Thread(
        target=lambda: [ours.send(Kind.TICK), ours.send(Kind.PROMPT, b"x" * 3_000_000)]
    )
    sender.start()
    assert theirs.receive() == (Kind.TICK, b"")
    assert theirs.receive() == (Kind.PROMPT, b"x" * 3_000_000)
    sender.join()
    ours.close()
    ours.close()
    with pytest.raises(EOFError):
        theirs.receive()
    with pytest.raises(EOFError):
        theirs.send(Kind.TICK, b"x" * 1_000_000)
