"""Where a measurement was made: kept with every number that is published."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import safekv

PACKAGE = Path(safekv.__file__).resolve().parent


def environment() -> dict[str, object]:
    """Versions, processor, load and time, as JSON types. Imports neither torch nor the hub.

    `commit` is there only when this very package lies in a git checkout of its own; it ends
    in `-dirty` when tracked files differ from it. What cannot be found out is `None`.
    """
    return {
        "safekv": safekv.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "transformers": _version("transformers"),
        "cpu": _cpu_model(),
        "cores": _cores(),
        "load_average": _load_average(),
        "platform": platform.platform(),
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    root = PACKAGE.parent.parent
    # A virtual environment inside some other checkout must not borrow that one's commit.
    if PACKAGE.parent.name != "src" or not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        done = subprocess.run(  # noqa: S603 - fixed command, no shell
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or None)


def _cores() -> int:
    """The cores this process may use, not those the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load_average() -> list[float] | None:
    try:
        return [round(load, 2) for load in os.getloadavg()]
    except OSError:
        return None
