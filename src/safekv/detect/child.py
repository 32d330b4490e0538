"""The detector process: builds the stages once, then answers what it is asked, until EOF."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from typing import Any, Final

from safekv.clock import SystemClock
from safekv.detect.cascade import Cascade
from safekv.detect.registry import build_cascade
from safekv.detect.wire import (
    Channel,
    config_from_wire,
    documents_from_wire,
    findings_to_wire,
)
from safekv.errors import SafeKVError

NICENESS: Final = 10
"""How far a process stands back that may not starve: requests come first, verdicts can wait."""


def main(descriptor: int, idle: bool) -> None:
    """Serve the socket `descriptor` until its other end is closed.

    With `idle` only in the time that nobody else wants a core, where the system can do that.
    """
    # Ctrl-C reaches the whole group; the server says when to stop, by closing its end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _stand_back(idle)
    channel = Channel(socket.socket(fileno=descriptor), SystemClock())
    with contextlib.suppress(EOFError):
        serve(channel)


def _stand_back(idle: bool) -> None:
    """Before any thread is started: each takes after the one that starts it."""
    if idle and hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return
    with contextlib.suppress(OSError):
        os.nice(NICENESS)


def serve(channel: Channel) -> None:
    """Read the settings, say whether the stages could be built, then answer each question."""
    failures: list[tuple[str, str]] = []
    try:
        cascade = build_cascade(
            config_from_wire(channel.receive()),
            lambda stage, reason: failures.append((stage, reason)),
        )
    except SafeKVError as error:  # these name settings and files, never a prompt
        channel.send({"refused": [error.message, error.hint]})
        return
    channel.send({"ready": True})
    while True:
        channel.send(_answer(channel.receive(), cascade, failures))


def _answer(
    question: dict[str, Any], cascade: Cascade, failures: list[tuple[str, str]]
) -> dict[str, Any]:
    failures.clear()
    try:
        findings = cascade.judge_all(documents_from_wire(question["documents"]))
    except Exception as error:  # its text may quote a prompt
        return {"id": question["id"], "failed": type(error).__name__}
    return {
        "id": question["id"],
        "findings": findings_to_wire(findings),
        "failures": failures,
    }


if __name__ == "__main__":
    main(int(sys.argv[1]), idle="idle" in sys.argv[2:])
