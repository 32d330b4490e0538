"""Between the server and its detector process: frames of JSON that hold text and verdicts only."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

from safekv.clock import Clock
from safekv.detect.base import Document, Finding
from safekv.detect.config import DetectConfig
from safekv.types import Verdict

MAX_FRAME_BYTES: Final = 256 << 20
_LENGTH_BYTES: Final = 4


class Channel:
    """One end of a socket pair. JSON, so that no end can make the other run anything.

    Every call raises `TimeoutError` behind its deadline, `EOFError` when the other end is
    gone, and `ValueError` for a frame that is none.
    """

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._socket = sock
        self._clock = clock

    def send(self, message: object, deadline_s: float | None = None) -> None:
        data = json.dumps(message).encode()
        if len(data) > MAX_FRAME_BYTES:
            raise ValueError("the frame is too long")
        try:
            self._wait_until(deadline_s)
            self._socket.sendall(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        except (BrokenPipeError, ConnectionError) as error:
            raise EOFError from error

    def receive(self, deadline_s: float | None = None) -> Any:
        size = int.from_bytes(self._exactly(_LENGTH_BYTES, deadline_s), "big")
        if size > MAX_FRAME_BYTES:
            raise ValueError("the frame is too long")
        return json.loads(self._exactly(size, deadline_s))

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, size: int, deadline_s: float | None) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait_until(deadline_s)
            try:
                piece = self._socket.recv(min(size - len(data), 1 << 20))
            except ConnectionError as error:
                raise EOFError from error
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def _wait_until(self, deadline_s: float | None) -> None:
        if deadline_s is None:
            self._socket.settimeout(None)
            return
        left_s = deadline_s - self._clock.now_s()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)


def config_to_wire(config: DetectConfig) -> dict[str, Any]:
    """`config` as JSON can hold it."""
    return {
        name: _plain(value) if not isinstance(value, tuple) else [_plain(one) for one in value]
        for name, value in asdict(config).items()
    }


def config_from_wire(said: dict[str, Any]) -> DetectConfig:
    """What `config_to_wire` made, as it was."""
    known = {one.name: said[one.name] for one in fields(DetectConfig)}
    known["stages"] = tuple(known["stages"])
    known["extra_rulesets"] = tuple(map(Path, known["extra_rulesets"]))
    for name in ("classifier", "judge_key_file", "judge_record"):
        if known[name] is not None:
            known[name] = Path(known[name])
    return DetectConfig(**known)


def documents_to_wire(documents: Sequence[Document]) -> list[Any]:
    """Text, block ends and message starts of each."""
    return [[one.text, one.block_ends, one.message_starts] for one in documents]


def documents_from_wire(said: Any) -> list[Document]:
    """What `documents_to_wire` made, as it was."""
    return [Document(text, tuple(ends), tuple(starts)) for text, ends, starts in said]


def findings_to_wire(answers: Sequence[Sequence[Finding]]) -> list[Any]:
    """Verdict, rule and confidence of each block of each document."""
    return [[[f.verdict.value, f.rule, f.confidence] for f in answer] for answer in answers]


def findings_from_wire(said: Any, documents: Sequence[Document]) -> list[list[Finding]]:
    """The findings of `documents`. Raises `ValueError` or `TypeError` for a wrong answer."""
    answers = [
        [
            Finding(Verdict(verdict), str(rule), float(confidence))
            for verdict, rule, confidence in one
        ]
        for one in said
    ]
    blocks = [len(document.block_ends) for document in documents]
    if [len(answer) for answer in answers] != blocks:
        raise ValueError("not one finding per block")
    return answers


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
