"""Logging to stderr, one line per record, without what exceptions may quote."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from types import TracebackType
from typing import TypeAlias

ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)

LEVELS = ("debug", "info", "warning", "error")


def where(error: BaseException) -> str:
    """The type of `error` and the calls that led to it, and never its message.

    Messages of foreign exceptions may quote a prompt; a type and line numbers cannot.
    """
    frames = traceback.StackSummary.extract(
        traceback.walk_tb(error.__traceback__), lookup_lines=False
    )
    road = " < ".join(
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno} in {frame.name}"
        for frame in reversed(frames)
    )
    return f"{type(error).__name__} at {road}" if road else type(error).__name__


class OneLine(logging.Formatter):
    """Formats every record as one line, exceptions included."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)sZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 - the name is logging's
        return where(ei[1]) if ei[1] is not None else ""

    def format(self, record: logging.LogRecord) -> str:
        # A line break in a message would let its writer forge the next record.
        return " ".join(super().format(record).splitlines())


def configure(level: str = "info") -> None:
    """Send all records from `level` up to stderr. Replaces what was configured before.

    Raises `ValueError` for a level that is not in `LEVELS`.
    """
    if level not in LEVELS:
        raise ValueError(f"log level is {level!r}, not one of {', '.join(LEVELS)}")
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setFormatter(OneLine())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(stderr)
    root.setLevel(level.upper())
