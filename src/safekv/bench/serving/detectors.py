"""Ways a detector can be: looking at everything, at nothing, drowned, or dead."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

from safekv.bench.serving.prose import prose
from safekv.detect.base import Detector, Document, Finding
from safekv.detect.config import DetectConfig
from safekv.detect.process import DetectorProcess
from safekv.types import TOKEN_BYTES, TenantId, Verdict, pack_tokens
from safekv.warden import PromptJob

FLOOD_TENANTS: Final = 4
FLOOD_WORDS: Final = 6_000
FLOOD_GAP_S: Final = 0.05
KILL_GAP_S: Final = 0.1


class State(Enum):
    """`off` clears everything unseen, so that beside `on` it shows what looking costs.
    `saturated` has a queue that is never empty. `dead` is killed as often as it starts."""

    ON = "on"
    OFF = "off"
    SATURATED = "saturated"
    DEAD = "dead"


class ClearAll:
    """Clears every block without looking: measures what detection costs, and protects nobody."""

    name = "clear-all"

    def judge(self, document: Document) -> Sequence[Finding]:
        """A clean verdict for each block."""
        return [Finding(Verdict.SHAREABLE, "unseen")] * len(document.block_ends)


def build(state: State) -> Detector:
    """The detector that an engine in `state` starts with."""
    if state is State.OFF:
        return ClearAll()
    return DetectorProcess(DetectConfig(), lambda stage, reason: None)


class Trouble:
    """Keeps a detector in trouble until it is stopped: floods its queue, or kills its process."""

    def __init__(self, act: Callable[[], None], gap_s: float) -> None:
        self._act, self._gap_s = act, gap_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bench-trouble", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(self._gap_s):
            self._act()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=10)


def flood(
    submit: Callable[[PromptJob], None], encode: Callable[[str], list[int]], block_tokens: int
) -> Trouble:
    """Long prompts of tenants that nobody serves, more of them than can be judged.

    Each is new, so that no verdict is remembered. They are in no cache, so nothing is promoted.
    """
    tokens = encode(prose("flood", FLOOD_WORDS))
    turn = iter(range(1 << 62))

    def act() -> None:
        number = next(turn)
        rotated = tokens[number % len(tokens) :] + tokens[: number % len(tokens)]
        packed = pack_tokens(rotated)
        full = len(packed) // TOKEN_BYTES // block_tokens
        submit(PromptJob(TenantId(f"flood-{number % FLOOD_TENANTS}"), packed, full))

    return Trouble(act, FLOOD_GAP_S)


def killing(process: DetectorProcess) -> Trouble:
    """Kill `process`'s child whenever there is one."""

    def act() -> None:
        pid = process.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    return Trouble(act, KILL_GAP_S)
