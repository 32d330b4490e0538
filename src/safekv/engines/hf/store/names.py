"""What a model's name on the command line means."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from safekv.engines.hf.store.checkpoint import check_checkpoint
from safekv.engines.hf.store.library import ModelLibrary
from safekv.engines.hf.store.packaged import KNOWN_MODELS, PackagedModel
from safekv.engines.hf.store.progress import Report, silent
from safekv.errors import ModelError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve_model(
    name: str, *, cache_dir: Path | None = None, progress: Report | None = None
) -> Path | str:
    """The directory to load the model `name` from, checked, or `name` itself if it is a hub id.

    In this order: an existing path; a known alias, fetched and converted on first use into
    `cache_dir` (default: `default_root()`); a hub id `owner/name`, which is not looked up here.
    Raises `ModelError` for anything missing or damaged. Imports neither torch nor transformers.
    """
    path = Path(name).expanduser()
    if name and path.exists():
        check_checkpoint(path)
        return path
    model = KNOWN_MODELS.get(name.lower())
    if model is not None:
        return ModelLibrary(cache_dir).fetch(model, report=progress or silent)
    if HUB_ID.fullmatch(name):
        return name
    if "/" in name:
        raise ModelError(f"model directory {name} does not exist", "check the path")
    raise unknown_model(name)


def model_id(name: str) -> str:
    """What clients call the model `name`: a known model's own id, a directory's name, a hub id."""
    path = Path(name).expanduser()
    if name and path.exists():
        return path.resolve().name
    model = KNOWN_MODELS.get(name.lower())
    return model.model_id if model else name


def known_model(name: str) -> PackagedModel:
    """The known model with the alias `name`, in any case of letters, or `ModelError`."""
    model = KNOWN_MODELS.get(name.lower())
    if model is None:
        raise unknown_model(name)
    return model


def unknown_model(name: str) -> ModelError:
    """The error for a bare `name` that is no alias, with the nearest alias as a suggestion."""
    near = difflib.get_close_matches(name.lower(), KNOWN_MODELS, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return ModelError(
        f"unknown model {name!r}",
        f"{guess}known models: {', '.join(KNOWN_MODELS)}; a local directory or a hub id "
        "(owner/name) works as well",
    )
