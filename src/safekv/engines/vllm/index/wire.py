"""Frames between an engine core and its index: bytes at fixed places, never code."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from safekv.engines.vllm.keys import NAME_BYTES
from safekv.types import TOKEN_BYTES, TenantId

MAX_FRAME_BYTES: Final = 256 << 20
FRAME_BLOCKS: Final = 256
"""Blocks in one frame of names at most; a longer run travels in several."""

_HEAD: Final = struct.Struct(">IB")
_PROMPT: Final = struct.Struct(">H")
_RUN: Final = struct.Struct(">HIH")


class Kind(IntEnum):
    """What a frame says. To the index: `HELLO`, `PROMPT`. From it: the others."""

    HELLO = 1
    PROMPT = 2
    READY = 3
    REFUSED = 4
    SHARED = 5
    PRIVATE = 6
    DECLARED = 7
    TICK = 8
    STATE = 9


class Link:
    """One end of a socket pair. Raises `EOFError` when the other end is gone, and
    `ValueError` for a frame that is none."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send one frame. Blocks while the other end does not read."""
        if len(payload) > MAX_FRAME_BYTES:
            raise ValueError("the frame is too long")
        try:
            self._socket.sendall(_HEAD.pack(len(payload), kind))
            self._socket.sendall(payload)
        except OSError as error:
            raise EOFError from error

    def receive(self) -> tuple[Kind, bytes]:
        """Wait for the next frame."""
        size, kind = _HEAD.unpack(self._exactly(_HEAD.size))
        if size > MAX_FRAME_BYTES:
            raise ValueError("the frame is too long")
        return Kind(kind), self._exactly(size)

    def close(self) -> None:
        """End the connection, also for a thread that waits in it. Safe to call twice."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                piece = self._socket.recv(min(size - len(data), 1 << 20))
            except OSError as error:
                raise EOFError from error
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)


def pack_prompt(tenant: TenantId, tokens: bytes) -> bytes:
    """A prompt that `tenant` computed."""
    name = tenant.encode()
    return _PROMPT.pack(len(name)) + name + tokens


def unpack_prompt(payload: bytes) -> tuple[TenantId, bytes]:
    """What `pack_prompt` made. Raises `ValueError` for anything else."""
    try:
        (length,) = _PROMPT.unpack_from(payload)
    except struct.error:
        raise ValueError("not a prompt") from None
    name, tokens = payload[_PROMPT.size :][:length], payload[_PROMPT.size + length :]
    if len(name) != length or not name or len(tokens) % TOKEN_BYTES:
        raise ValueError("not a prompt")
    return TenantId(name.decode()), tokens


@dataclass(frozen=True, slots=True)
class NamedBlock:
    """A block by its public name, that of the block before it, its tokens, and the private
    names its holders have for it."""

    public: bytes = field(repr=False)
    parent: bytes = field(repr=False)
    tokens: bytes = field(repr=False)
    private: tuple[bytes, ...] = field(repr=False)


def pack_run(
    block_tokens: int,
    parent: bytes,
    public: Sequence[bytes],
    tokens: bytes,
    private: Sequence[Sequence[bytes]],
) -> bytes:
    """Consecutive blocks, at most `FRAME_BLOCKS`: the first lies behind the one named `parent`.

    `private` has, for each holder, its names of all blocks.
    """
    width = block_tokens * TOKEN_BYTES
    parts = [_RUN.pack(block_tokens, len(public), len(private)), parent]
    for n, name in enumerate(public):
        parts += (name, tokens[n * width : (n + 1) * width])
        parts += (names[n] for names in private)
    return b"".join(parts)


class Run:
    """A frame of blocks, read one by one: nothing is unpacked before its turn."""

    __slots__ = ("_blocks", "_holders", "_payload", "_width")

    def __init__(self, payload: bytes) -> None:
        try:
            block_tokens, self._blocks, self._holders = _RUN.unpack_from(payload)
        except struct.error:
            raise ValueError("not a run of blocks") from None
        self._payload = payload
        self._width = block_tokens * TOKEN_BYTES
        if len(payload) != _RUN.size + NAME_BYTES + self._blocks * self._step:
            raise ValueError("not a run of blocks")

    def __len__(self) -> int:
        return int(self._blocks)

    @property
    def _step(self) -> int:
        return int(NAME_BYTES + self._width + self._holders * NAME_BYTES)

    def _at(self, n: int) -> int:
        return _RUN.size + NAME_BYTES + n * self._step

    def name(self, n: int) -> bytes:
        """The public name of block `n`; of the one before the first for -1."""
        at = self._at(n) if n >= 0 else _RUN.size
        return self._payload[at : at + NAME_BYTES]

    def names(self) -> Iterator[bytes]:
        """The public names, first to last."""
        return (self.name(n) for n in range(self._blocks))

    def block(self, n: int) -> NamedBlock:
        """Block `n`. O(holders)."""
        at = self._at(n) + NAME_BYTES
        tokens = self._payload[at : at + self._width]
        at += self._width
        ends = range(at, at + self._holders * NAME_BYTES, NAME_BYTES)
        private = tuple(self._payload[one : one + NAME_BYTES] for one in ends)
        return NamedBlock(self.name(n), self.name(n - 1), tokens, private)


def pack_names(names: Sequence[bytes]) -> bytes:
    """Public names, one after another."""
    return b"".join(names)


def unpack_names(payload: bytes) -> list[bytes]:
    """What `pack_names` made. Raises `ValueError` for anything else."""
    if len(payload) % NAME_BYTES:
        raise ValueError("not whole names")
    return [payload[at : at + NAME_BYTES] for at in range(0, len(payload), NAME_BYTES)]
