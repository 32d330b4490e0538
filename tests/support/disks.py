"""A file system of a few kilobytes, so that a disk that is full is one, and not a mock of one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


class SmallDisk:
    """What is mounted at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, size_bytes: int) -> None:
        assert _run("mount", "-o", f"remount,size={size_bytes}", str(self.path))


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """A disk of `size_bytes` at `path`. Skips the test where nothing may be mounted."""
    path.mkdir()
    if not _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path)):
        pytest.skip("a small file system needs the right to mount one")
    try:
        yield SmallDisk(path)
    finally:
        _run("umount", "--lazy", str(path))
