"""The user's cache directory of converted models: fetched once, whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import safekv
from safekv.engines.hf.store.checkpoint import check_checkpoint
from safekv.engines.hf.store.convert import convert, require_converter
from safekv.engines.hf.store.manifest import MANIFEST, find_damage, seal_directory, sync
from safekv.engines.hf.store.packaged import PackagedModel, obtain_gguf
from safekv.engines.hf.store.progress import Phase, Progress, Report, silent
from safekv.errors import ModelError

CONVERSION = "dequantised-float32-1"
"""Part of every directory's name: change it when `convert` writes something else."""

STAGING = ".staging-"


class ModelState(Enum):
    """What the cache holds of a model: `DAMAGED` means it was whole once and is not now."""

    ABSENT = "absent"
    READY = "ready"
    DAMAGED = "damaged"


def default_root() -> Path:
    """`$SAFEKV_CACHE`, else `$XDG_CACHE_HOME/safekv`, else `~/.cache/safekv`."""
    if own := os.environ.get("SAFEKV_CACHE"):
        return Path(own).expanduser().absolute()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification: a relative path is invalid and must be ignored.
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "safekv"


class ModelLibrary:
    """Converted models under `root/models`, one directory each.

    A directory is written elsewhere and renamed into place with its manifest, so it is there
    whole or not at all. One lock file serialises the writers of all processes; readers
    take no lock. All mutable state is on the disk.
    """

    def __init__(self, root: Path | None = None) -> None:
        self._models = (root or default_root()) / "models"

    def path_of(self, model: PackagedModel) -> Path:
        """Where `model` lies or would lie. A new source or conversion gives a new path."""
        version = hashlib.sha256(f"{model.gguf_sha256} {CONVERSION}".encode()).hexdigest()
        return self._models / f"{model.alias}-{version[:12]}"

    def state(self, model: PackagedModel) -> ModelState:
        """The state of `model` by presence and sizes: cheap, never raises for damage."""
        path = self.path_of(model)
        with self._disk_errors():
            if not (path / MANIFEST).exists():
                return ModelState.ABSENT
            damage = find_damage(path, full=False, report=silent)
            return ModelState.DAMAGED if damage else ModelState.READY

    def verify(self, model: PackagedModel, report: Report = silent) -> Path:
        """The path of `model` if every byte is as it was written, else `ModelError`."""
        if self.state(model) is ModelState.ABSENT:
            raise ModelError(
                f"model {model.alias} has not been fetched", "run `safekv models fetch`"
            )
        return self._checked(model, full=True, report=report)

    def fetch(self, model: PackagedModel, *, force: bool = False, report: Report = silent) -> Path:
        """The path of `model`, fetched and converted first if it is absent or if `force`.

        Damage is never repaired silently: it raises `ModelError` unless `force`. A directory
        without a manifest counts as absent. Cheap when ready, else about a minute.
        """
        if not force and self.state(model) is not ModelState.ABSENT:
            return self._checked(model, full=False, report=report)
        require_converter()
        with self._disk_errors(), self._locked(report):
            if not force and self.state(model) is not ModelState.ABSENT:
                return self._checked(model, full=False, report=report)
            return self._build(model, report)

    def _checked(self, model: PackagedModel, *, full: bool, report: Report) -> Path:
        path = self.path_of(model)
        with self._disk_errors():
            damage = find_damage(path, full=full, report=report)
        if damage:
            raise ModelError(
                f"model {model.alias} is damaged: {damage}", "run `safekv models fetch --force`"
            )
        return path

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turn what the disk refuses into a `ModelError` that says what to do."""
        try:
            yield
        except OSError as error:
            raise ModelError(
                f"cannot use {error.filename or self._models}: {error.strerror or error}",
                "free some space or set SAFEKV_CACHE to a directory you may write to",
            ) from error

    @contextmanager
    def _locked(self, report: Report) -> Iterator[None]:
        """Hold the only writer's lock. The kernel frees it when a process dies."""
        self._models.mkdir(parents=True, exist_ok=True)
        with (self._models / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(Progress(Phase.WAIT))
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _build(self, model: PackagedModel, report: Report) -> Path:
        """Fetch and convert `model` in a staging directory; needs the lock."""
        # Only the holder of the lock makes staging directories: these are of dead processes.
        for leftover in self._models.glob(f"{STAGING}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._require_space(model)
        staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=self._models))
        try:
            source, fresh = staging / "source", staging / "model"
            source.mkdir()
            convert(obtain_gguf(model, source, report), fresh, report)
            check_checkpoint(fresh)
            seal_directory(fresh, _facts(model), report)
            return self._install(fresh, self.path_of(model), staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _install(self, fresh: Path, path: Path, staging: Path) -> Path:
        """Move `fresh` to `path`; what lay there goes to `staging`, still open to its readers."""
        if path.exists():
            path.rename(staging / "replaced")
        fresh.rename(path)
        sync(self._models)
        return path

    def _require_space(self, model: PackagedModel) -> None:
        free = shutil.disk_usage(self._models).free
        if free < model.peak_bytes:
            raise ModelError(
                f"{self._models} has {free // 10**6} MB free, "
                f"{model.alias} needs {model.peak_bytes // 10**6} MB",
                "free some space or set SAFEKV_CACHE to a directory on a larger disk",
            )


def _facts(model: PackagedModel) -> dict[str, str]:
    return {
        "model_id": model.model_id,
        "conversion": CONVERSION,
        "source": f"{model.requirement}:{model.member}",
        "source_sha256": model.gguf_sha256,
        "safekv": safekv.__version__,
        "transformers": importlib.metadata.version("transformers"),
    }
