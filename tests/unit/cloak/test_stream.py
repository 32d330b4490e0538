from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from safekv.cloak import Stream
from safekv.errors import CloakError
from safekv.types import BlockId

BLOCK = BlockId(7)


def obfuscated(stream: Stream, plain: bytes, block: BlockId = BLOCK) -> bytes:
    out = bytearray(len(plain))
    stream.obfuscate_into(block, plain, out)
    return bytes(out)


def deobfuscated(stream: Stream, stored: bytes, block: BlockId = BLOCK) -> bytes:
    out = bytearray(len(stored))
    stream.deobfuscate_into(block, stored, out)
    return bytes(out)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3).map(BlockId), st.binary(max_size=100)), max_size=20))
def test_whatever_is_written_comes_back(writes: list[tuple[BlockId, bytes]]) -> None:
    """A model of blocks: the last write of each is what is read, however often it was written."""
    stream, stored, truth = Stream(), {}, {}
    for block, plain in writes:
        stored[block], truth[block] = obfuscated(stream, plain, block), plain
    for block, plain in truth.items():
        assert deobfuscated(stream, stored[block], block) == plain


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "float64"])
def test_arrays_in_place_and_from_one_to_another(dtype: str) -> None:
    plain = np.frombuffer(os.urandom(1024), dtype=dtype).reshape(4, -1).copy()
    stored, back, stream = np.empty_like(plain), np.empty_like(plain), Stream()
    kept = plain.tobytes()
    stream.obfuscate_into(BLOCK, plain, stored)
    assert plain.tobytes() == kept
    stream.deobfuscate_into(BLOCK, stored, back)
    assert back.tobytes() == kept


def test_equal_blocks_look_different() -> None:
    stream, plain = Stream(), bytes(64)
    looks = {obfuscated(stream, plain, BlockId(block)) for block in range(50)}
    looks |= {obfuscated(stream, plain) for _ in range(50)}
    looks.add(obfuscated(Stream(), plain))
    assert len(looks) == 101


def keystreams(stream: Stream, writes: int) -> set[bytes]:
    return {obfuscated(stream, bytes(16), BlockId(at % 3)) for at in range(writes)}


def test_no_keystream_comes_twice_from_many_threads() -> None:
    stream, seen = Stream(), []

    def work(block: int) -> None:
        seen.extend([obfuscated(stream, bytes(16), BlockId(block)) for _ in range(200)])

    threads = [threading.Thread(target=work, args=(block,)) for block in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 800


def test_versions_are_not_the_callers() -> None:
    """Forgetting, failing and rewriting never bring an old keystream back."""
    stream = Stream()
    first = obfuscated(stream, bytes(32))
    assert (stream.forget(BLOCK), stream.forget(BLOCK)) == (True, False)
    with pytest.raises(CloakError):
        stream.obfuscate_into(BLOCK, bytes(32), bytearray(31))
    assert obfuscated(stream, bytes(32)) != first
    assert len(keystreams(stream, 30)) == 30


def test_what_was_overwritten_or_forgotten_is_gone() -> None:
    stream = Stream()
    old = obfuscated(stream, b"the first content")
    obfuscated(stream, b"the later content")
    assert deobfuscated(stream, old) != b"the first content"
    stream.forget(BLOCK)
    with pytest.raises(CloakError, match="block 7 holds nothing"):
        deobfuscated(stream, old)


def test_a_failed_write_leaves_nothing_to_read() -> None:
    stream = Stream()
    stored = obfuscated(stream, b"content")
    with pytest.raises(CloakError, match="read-only"):
        stream.obfuscate_into(BLOCK, b"content", bytes(7))
    with pytest.raises(CloakError, match="holds nothing"):
        deobfuscated(stream, stored)


def test_a_block_does_not_read_as_another() -> None:
    stream = Stream()
    stored = obfuscated(stream, b"content!")
    obfuscated(stream, b"content?", BlockId(8))
    assert deobfuscated(stream, stored, BlockId(8)) != b"content!"


def test_there_is_no_integrity() -> None:
    """Said in the docstring, so that nobody takes it for a vault."""
    stream = Stream()
    stored = bytearray(obfuscated(stream, b"content"))
    stored[0] ^= 1
    assert deobfuscated(stream, bytes(stored)) == b"bontent"


def test_a_fork_cannot_repeat_versions() -> None:
    stream = Stream()
    stored = obfuscated(stream, b"content")
    child = os.fork()
    if child == 0:
        try:
            obfuscated(stream, b"content")
        except CloakError:
            os._exit(0 if deobfuscated(stream, stored) == b"content" else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_gaps_are_refused_untouched() -> None:
    stream = Stream()
    views: list[Any] = [np.zeros((4, 4))[:, 1], memoryview(b"12345678")[::2]]
    for view in views:
        with pytest.raises(CloakError, match="gaps"):
            stream.obfuscate_into(BLOCK, view, view)


def test_empty_blocks_are_blocks() -> None:
    stream = Stream()
    empty = np.zeros((0, 4), np.float32)
    stream.obfuscate_into(BLOCK, empty, bytearray())
    assert deobfuscated(stream, b"") == b""


def test_it_is_aes_ctr() -> None:
    """The keystream by hand, from the description alone; the first version is 0."""
    stream = Stream()
    nonce = (7).to_bytes(4) + bytes(8) + bytes(4)
    by_hand = Cipher(algorithms.AES(stream._key.key), modes.CTR(nonce)).encryptor()
    assert obfuscated(stream, bytes(100)) == by_hand.update(bytes(100))


def test_no_key_in_its_repr() -> None:
    stream = Stream()
    assert stream._key.key.hex() not in repr(stream)
    assert "redacted" in repr(stream)
