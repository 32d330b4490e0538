"""What a classifier's folder holds, who may use it, and whether it is what was exported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from safekv.errors import ModelError

FILE: Final = "manifest.json"
FORMAT: Final = 1
MODEL: Final = "model.onnx"
TOKENIZER: Final = "tokenizer.json"

_HINT: Final = "make it again with `safekv detect train`, or fetch it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One exported token classifier.

    `files` maps names in the same folder to SHA-256 sums. A block whose score reaches
    `private_from` is private, and shareable only below `unsure_from`; both are
    probabilities. `biases` are added to the scores of the labels that they name. `training`
    and `metrics` are a record for people.
    """

    name: str
    version: str
    files: Mapping[str, str]
    labels: tuple[str, ...]
    sensitive: tuple[str, ...]
    private_from: float
    unsure_from: float
    licences: tuple[str, ...]
    biases: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict, repr=False)
    metrics: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Raises `ValueError` for what cannot be a classifier."""
        if not {MODEL, TOKENIZER} <= self.files.keys():
            raise ValueError(f"files must name {MODEL} and {TOKENIZER}")
        if any(Path(name).name != name for name in self.files):
            raise ValueError("files must lie in the folder itself")
        if not self.sensitive or not set(self.sensitive) < set(self.labels):
            raise ValueError("sensitive must be some of the labels, not all")
        if not self.biases.keys() <= set(self.sensitive):
            raise ValueError("biases must name sensitive labels")
        if not all(-20 <= one <= 20 for one in self.biases.values()):
            raise ValueError("biases must lie between -20 and 20")
        if not 0 < self.unsure_from <= self.private_from <= 1:
            raise ValueError("0 < unsure_from <= private_from <= 1 does not hold")


def shipped_folder() -> Path:
    """Where the classifier lies that comes with safekv."""
    return Path(__file__).parent / "model"


def read_model(folder: Path) -> tuple[Manifest, Mapping[str, bytes]]:
    """The manifest of `folder` and the bytes of its files, each compared with its sum.

    The bytes returned are those that were compared, so that nothing can change in between.
    Raises `ModelError`, naming the file that is missing, damaged or of another format.
    """
    manifest = _read_manifest(folder / FILE)
    contents: dict[str, bytes] = {}
    for name, expected in manifest.files.items():
        contents[name] = _read(folder / name)
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise ModelError(
                f"classifier file {folder / name} is damaged: its SHA-256 is not the manifest's",
                _HINT,
            )
    return manifest, contents


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes `manifest` beside its files, whole or not at all."""
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=2, ensure_ascii=False)
    partial = folder / f"{FILE}.partial"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(folder / FILE)


def sums(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The SHA-256 sums of the files `names` of `folder`."""
    return {name: hashlib.sha256(_read(folder / name)).hexdigest() for name in names}


def _read_manifest(path: Path) -> Manifest:
    try:
        said = json.loads(_read(path))
        if said.pop("format") != FORMAT:
            raise ValueError(f"the format is not {FORMAT}")
        for name in ("labels", "sensitive", "licences"):
            said[name] = tuple(said[name])
        return Manifest(**said)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"classifier manifest {path} is not valid ({type(error).__name__})", _HINT
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise ModelError(f"classifier file {path} cannot be read: {reason}", _HINT) from error
