"""The worker's half of `safekv bench tree`: build a tree, time one call after another.

A stand-alone script that runs under a contender's own Python, so it imports the standard
library only:  python -P wire.py WORKER_FILE KIND.  Requests and answers are one JSON object a
line, on stdin and stdout. Every contender is timed by the loop in this file, so what the
measuring costs falls on all alike.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import mmap
import os
import sys
import time
import traceback
import tracemalloc
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

TOKEN_BYTES = 4

Item = Any
"""What one call is about: token slices `[[start, stop], ...]` of the file, or a token count."""


@dataclass(frozen=True, slots=True)
class Case:
    """One empty tree to fill: `page` tokens a block, room for `capacity_tokens` tokens."""

    page: int
    capacity_tokens: int
    salt: str | None = None


@dataclass(frozen=True, slots=True)
class Op:
    """One operation in three steps, of which only `call` is timed.

    `ready` makes the argument from an item; `done` undoes locks and returns the tokens that
    were found, stored before, or evicted, which the driver compares with what must be.
    """

    ready: Callable[[Item], Any]
    call: Callable[[Any], Any]
    done: Callable[[Any, Any], int]


class Contender(Protocol):
    """A prefix cache under test. `about` is shown beside its figures."""

    about: dict[str, str]

    def open(self, case: Case, tokens: Tokens) -> None:
        """Drop the old tree and start an empty one. Raises when the case is not supported."""
        ...

    def ops(self) -> dict[str, Op]:
        """Operations on the open tree by name; `insert` also builds trees."""
        ...

    def facts(self) -> dict[str, int]:
        """Sizes of the open tree; `nodes` at least, where the contender has nodes."""
        ...


class Tokens:
    """The token file, little-endian int32, mapped: it costs no anonymous memory."""

    def __init__(self, path: str) -> None:
        with Path(path).open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def packed(self, item: Item) -> bytes:
        """The tokens of `item`'s slices one after the other, 4 bytes each."""
        parts = [self._map[a * TOKEN_BYTES : b * TOKEN_BYTES] for a, b in item]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def ids(self, item: Item) -> array[int]:
        """The same as int32 numbers."""
        numbers = array("i")
        numbers.frombytes(self.packed(item))
        return numbers


class Session:
    """Answers requests about one contender. Errors become answers, so the worker lives on."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._ops: dict[str, Op] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request: `{"ok": true, ...}` or `{"ok": false, "why": ...}`."""
        try:
            return {"ok": True, **getattr(self, f"do_{request['do']}")(request)}
        except Exception as error:  # the driver must hear of anything that goes wrong
            traceback.print_exc()
            return {"ok": False, "why": f"{type(error).__name__}: {error}"[:300]}

    def do_prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """Open the case and insert its `build` items, untimed."""
        self._ops = {}
        self._contender.open(Case(**request["case"]), Tokens(request["tokens"]))
        self._ops = self._contender.ops()
        insert = self._ops["insert"]
        for item in request["build"]:
            argument = insert.ready(item)
            insert.done(argument, insert.call(argument))
        gc.collect()
        (gc.enable if request["gc"] else gc.disable)()
        return {"facts": self._contender.facts(), "ops": sorted(self._ops)}

    def do_run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Call one operation for each item; nanoseconds and results in their order."""
        op = self._ops[request["op"]]
        ns, got = timed(op, request["items"])
        return {"ns": ns, "got": got}

    def do_facts(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sizes of the tree and the memory of this process now."""
        gc.collect()
        traced = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else None
        return {
            "facts": self._contender.facts(),
            "anonymous_bytes": anonymous_bytes(),
            "traced_bytes": traced,
        }

    def do_trace(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start or stop counting the bytes that Python allocates. Slows every call."""
        (tracemalloc.start if request["on"] else tracemalloc.stop)()
        return {}


def timed(op: Op, items: list[Item]) -> tuple[list[int], list[int]]:
    """Wall nanoseconds and result of one call per item; an item repeated is made ready once."""
    clock = time.perf_counter_ns
    ready, call, done = op.ready, op.call, op.done
    ns, got = array("q"), array("q")
    before: Item = None
    argument: Any = None
    for item in items:
        if item != before:
            argument, before = ready(item), item
        began = clock()
        result = call(argument)
        ended = clock()
        ns.append(ended - began)
        got.append(done(argument, result))
    return ns.tolist(), got.tolist()


def anonymous_bytes() -> int | None:
    """Resident memory that belongs to no file; `None` where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
    return next((int(kib) * 1024 for kib in found), None)


def load_contender(path: str, kind: str) -> Contender:
    """The contender that the file at `path` defines for `kind`; imports the peer itself."""
    spec = importlib.util.spec_from_file_location("contender", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a worker")
    module = importlib.util.module_from_spec(spec)
    sys.modules["contender"] = module
    spec.loader.exec_module(module)
    contender: Contender = module.contender(kind, Op)
    return contender


def private_stdout() -> TextIO:
    """Keep stdout for answers: what the peer prints goes to stderr from now on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def main(path: str, kind: str) -> int:
    """Serve until `quit` or the end of stdin. Status 1 when the contender does not load."""
    answers = private_stdout()

    def send(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        contender = load_contender(path, kind)
    except Exception as error:  # whatever the peer's import raises is the reason
        traceback.print_exc()
        send({"ok": False, "why": f"{type(error).__name__}: {error}"[:300]})
        return 1
    send({"ok": True, "about": contender.about})
    session = Session(contender)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        send(session.answer(request))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
