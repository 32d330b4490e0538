"""The manifest: which files a converted model consists of, with sizes and checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safekv.engines.hf.store.progress import Phase, Progress, Report

MANIFEST = "manifest.json"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What one file must be. `sha256` is in hex."""

    size_bytes: int
    sha256: str


def seal_directory(directory: Path, facts: Mapping[str, str], report: Report) -> None:
    """Write the manifest of every file in `directory`, and bring all of it to the disk.

    `facts` (source, versions) are kept for people. On return everything has been synced, so
    that a rename afterwards cannot outrun the content. Reads and hashes every byte.
    """
    paths = sorted(path for path in directory.iterdir() if path.is_file())
    total = sum(path.stat().st_size for path in paths)
    done = 0
    files: dict[str, dict[str, object]] = {}
    for path in paths:
        report(Progress(Phase.SEAL, done, total))
        sync(path)
        files[path.name] = asdict(entry_of(path))
        done += path.stat().st_size
    manifest = directory / MANIFEST
    manifest.write_text(json.dumps({"format": 1, **facts, "files": files}, indent=2) + "\n")
    sync(manifest)
    sync(directory)


def entry_of(path: Path) -> FileEntry:
    """The size and checksum `path` has now. Reads it all."""
    with path.open("rb") as file:
        return FileEntry(
            os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
        )


def find_damage(directory: Path, *, full: bool, report: Report) -> str | None:
    """The first thing wrong with the sealed `directory`, in words, or `None`.

    Presence and sizes always; checksums only if `full`, which reads every byte.
    """
    try:
        entries = _read_entries(directory)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{directory / MANIFEST} is not a readable manifest"
    total = sum(entry.size_bytes for entry in entries.values())
    done = 0
    for name, entry in entries.items():
        path = directory / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != entry.size_bytes:
            return f"{path} has {path.stat().st_size} bytes, expected {entry.size_bytes}"
        if full and entry_of(path) != entry:
            return f"{path} does not have the checksum it was written with"
        done += entry.size_bytes
        if full:
            report(Progress(Phase.VERIFY, done, total))
    return None


def _read_entries(directory: Path) -> dict[str, FileEntry]:
    files = json.loads((directory / MANIFEST).read_bytes())["files"]
    entries = {str(name): FileEntry(**entry) for name, entry in files.items()}
    if not entries:
        raise ValueError("a manifest without files")
    return entries


def sync(path: Path) -> None:
    """Bring `path`, a file or a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
