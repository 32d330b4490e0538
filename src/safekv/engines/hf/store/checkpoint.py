"""Whether a local directory holds a whole model: configuration, weights and tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from safekv.errors import ModelError

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


def check_checkpoint(directory: Path) -> None:
    """Raise `ModelError`, naming what is missing or damaged, unless `directory` can be served.

    Reads headers, not weights: a cut-off file is found, a flipped bit in a tensor is not.
    Writes nothing. Cost: one open per shard.
    """
    if not directory.exists():
        raise ModelError(f"model directory {directory} does not exist", "check the path")
    if not directory.is_dir():
        raise ModelError(
            f"{directory} is a file, not a model directory",
            "give the directory that holds config.json and the weights",
        )
    try:
        _read_object(directory / "config.json")
        for shard, names in _shards(directory).items():
            _check_shard(directory / shard, names)
        _check_tokenizer(directory)
    except PermissionError as error:
        raise ModelError(
            f"cannot read {error.filename}", "check the permissions of the model directory"
        ) from error


def _read_object(path: Path) -> dict[str, object]:
    """The JSON object in `path`."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _missing(path.parent, path.name) from None
    except (ValueError, IsADirectoryError) as error:
        raise _damaged(path, "it is not valid JSON") from error
    if not isinstance(content, dict):
        raise _damaged(path, "it holds no JSON object")
    return content


def _shards(directory: Path) -> dict[str, set[str]]:
    """Each weight file's name with the tensors that the index says lie in it."""
    if (directory / WEIGHTS).is_file():
        return {WEIGHTS: set()}
    index = directory / WEIGHTS_INDEX
    if not index.is_file():
        raise _missing(directory, f"{WEIGHTS} or {WEIGHTS_INDEX}")
    weight_map = _read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _damaged(index, "it names no weights")
    shards: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise _damaged(index, "it names a file outside the directory")
        shards.setdefault(shard, set()).add(tensor)
    return shards


def _check_shard(path: Path, names: set[str]) -> None:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ModelError(
            "cannot check a model: the package 'safetensors' is not installed",
            "install the embedded engine: pip install 'safekv[hf]'",
        ) from error

    if not path.is_file():
        raise _missing(path.parent, path.name)
    try:
        with safe_open(path, framework="numpy") as tensors:
            present = set(tensors.keys())
    except PermissionError:
        raise PermissionError(13, "permission denied", str(path)) from None
    except (SafetensorError, OSError) as error:
        raise _damaged(path, "it is cut off or not a safetensors file") from error
    if not present or not names <= present:
        raise _damaged(path, f"it lacks {max(1, len(names - present))} tensors")


def _check_tokenizer(directory: Path) -> None:
    found = [directory / name for name in TOKENIZERS if (directory / name).is_file()]
    if not found:
        raise _missing(directory, "tokenizer.json (or another tokenizer file)")
    for path in found:
        if path.suffix == ".json":
            _read_object(path)


def _missing(directory: Path, name: str) -> ModelError:
    return ModelError(
        f"model directory {directory} has no {name}",
        "copy or download the whole model again; only safetensors weights are supported",
    )


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(
        f"model file {path} is damaged: {why}", "copy or download the whole model again"
    )
