"""How far a slow step of the model store has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """The steps of fetching a model; the value is what a person reads."""

    WAIT = "waiting for another process"
    DOWNLOAD = "downloading"
    EXTRACT = "checking and extracting"
    CONVERT = "converting to float32 (half a minute)"
    SEAL = "writing checksums"
    VERIFY = "verifying"


@dataclass(frozen=True, slots=True)
class Progress:
    """`done_bytes` of `total_bytes` of a phase are done; a total of 0 means unknown."""

    phase: Phase
    done_bytes: int = 0
    total_bytes: int = 0


Report = Callable[[Progress], None]
"""Hears of progress on the calling thread, often. Must be quick; may raise to stop the work."""


def silent(progress: Progress) -> None:
    """Shows nothing of `progress`."""
