"""Names, directories and the cache of models: what is whole is served, the rest is named."""

from __future__ import annotations

import fcntl
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from safekv.engines.hf.store import (
    DEFAULT_MODEL,
    KNOWN_MODELS,
    ModelLibrary,
    ModelState,
    Phase,
    Progress,
    check_checkpoint,
    default_root,
    model_id,
    resolve_model,
)
from safekv.engines.hf.store.manifest import seal_directory
from safekv.engines.hf.store.progress import silent
from safekv.errors import ModelError

MODEL = KNOWN_MODELS[DEFAULT_MODEL]


def save_tensors(path: Path, *names: str) -> None:
    save_file({name: np.arange(64, dtype=np.float32) for name in names}, path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "my-model"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "tokenizer.json").write_text("{}")
    save_tensors(directory / "model.safetensors", "a", "b")
    return directory


@pytest.fixture
def sharded(checkpoint: Path) -> Path:
    (checkpoint / "model.safetensors").unlink()
    save_tensors(checkpoint / "one.safetensors", "a")
    save_tensors(checkpoint / "two.safetensors", "b")
    write_index(checkpoint, {"a": "one.safetensors", "b": "two.safetensors"})
    return checkpoint


def write_index(directory: Path, weight_map: object) -> None:
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


def truncate(path: Path, size_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:size_bytes])


def refusal(directory: Path) -> str:
    """The message with which `directory` is refused; checks that nothing was written there."""
    before = sorted(directory.iterdir()) if directory.is_dir() else []
    with pytest.raises(ModelError) as caught:
        resolve_model(str(directory))
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert before == (sorted(directory.iterdir()) if directory.is_dir() else [])
    return caught.value.message


class TestNames:
    def test_an_existing_directory_is_returned_as_it_is(self, checkpoint: Path) -> None:
        assert resolve_model(str(checkpoint)) == checkpoint

    def test_an_existing_path_wins_over_an_alias(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoint.rename(checkpoint.parent / DEFAULT_MODEL)
        monkeypatch.chdir(checkpoint.parent)
        assert resolve_model(DEFAULT_MODEL) == Path(DEFAULT_MODEL)

    def test_an_existing_path_wins_over_a_hub_id(
        self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(checkpoint.parent.parent)
        name = f"{checkpoint.parent.name}/{checkpoint.name}"
        assert resolve_model(name) == Path(name)

    def test_a_hub_id_is_returned_untouched(self) -> None:
        assert resolve_model("some-org/Some.Model-1B") == "some-org/Some.Model-1B"

    @pytest.mark.parametrize("name", ["/no/such/model", "./no-such", "a/b/c", "~/no-such-model"])
    def test_a_path_that_does_not_exist_is_no_hub_id(self, name: str) -> None:
        with pytest.raises(ModelError, match="does not exist"):
            resolve_model(name)

    def test_an_unknown_name_suggests_the_nearest_alias(self) -> None:
        with pytest.raises(ModelError, match="smolm2-135m") as caught:
            resolve_model("smolm2-135m-instruct")
        assert f"did you mean {DEFAULT_MODEL}?" in caught.value.hint

    @pytest.mark.parametrize("name", ["", "zzz"])
    def test_an_unknown_name_lists_what_is_known(self, name: str) -> None:
        with pytest.raises(ModelError) as caught:
            resolve_model(name)
        assert DEFAULT_MODEL in caught.value.hint
        assert "did you mean" not in caught.value.hint

    def test_an_alias_is_known_in_any_case_of_letters(self, tmp_path: Path) -> None:
        path = install(ModelLibrary(tmp_path))
        assert resolve_model("SmolLM2-135M-Instruct", cache_dir=tmp_path) == path

    def test_model_id(self, checkpoint: Path) -> None:
        assert model_id(DEFAULT_MODEL) == "SmolLM2-135M-Instruct"
        assert model_id(f"{checkpoint}/") == "my-model"
        assert model_id("org/name") == "org/name"


class TestDirectory:
    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
    def test_a_missing_file_is_named(self, checkpoint: Path, name: str) -> None:
        (checkpoint / name).unlink()
        message = refusal(checkpoint)
        assert str(checkpoint) in message
        assert name in message

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
    @pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b""])
    def test_damaged_json_is_named(self, checkpoint: Path, name: str, content: bytes) -> None:
        (checkpoint / name).write_bytes(content)
        assert f"{checkpoint / name} is damaged" in refusal(checkpoint)

    @pytest.mark.parametrize("kept", [0, 4, 40, -1])
    def test_cut_off_weights_are_found(self, checkpoint: Path, kept: int) -> None:
        truncate(checkpoint / "model.safetensors", kept)
        assert f"{checkpoint / 'model.safetensors'} is damaged" in refusal(checkpoint)

    def test_a_dangling_link_is_missing(self, checkpoint: Path) -> None:
        (checkpoint / "model.safetensors").unlink()
        (checkpoint / "model.safetensors").symlink_to(checkpoint / "gone")
        assert "has no model.safetensors" in refusal(checkpoint)

    def test_pickled_weights_are_refused(self, checkpoint: Path) -> None:
        (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
        assert "has no model.safetensors" in refusal(checkpoint)

    def test_a_file_is_no_directory(self, checkpoint: Path) -> None:
        assert "not a model directory" in refusal(checkpoint / "config.json")

    def test_whole_shards_pass(self, sharded: Path) -> None:
        check_checkpoint(sharded)

    def test_a_missing_shard_is_named(self, sharded: Path) -> None:
        (sharded / "two.safetensors").unlink()
        assert "has no two.safetensors" in refusal(sharded)

    def test_a_cut_off_shard_is_named(self, sharded: Path) -> None:
        truncate(sharded / "two.safetensors", 100)
        assert "two.safetensors is damaged" in refusal(sharded)

    def test_a_shard_without_its_tensor_is_named(self, sharded: Path) -> None:
        save_tensors(sharded / "two.safetensors", "another")
        assert "two.safetensors is damaged: it lacks 1 tensors" in refusal(sharded)

    @pytest.mark.parametrize("weight_map", [None, {}, {"a": "../a.safetensors"}, {"a": 1}])
    def test_a_bad_index_is_refused(self, sharded: Path, weight_map: object) -> None:
        write_index(sharded, weight_map)
        assert "model.safetensors.index.json is damaged" in refusal(sharded)


def install(library: ModelLibrary) -> Path:
    """A sealed stand-in for the converted model: two small files with a true manifest."""
    path = library.path_of(MODEL)
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(bytes(1000))
    seal_directory(path, {}, silent)
    return path


class TestLibrary:
    @pytest.fixture
    def library(self, tmp_path: Path) -> ModelLibrary:
        return ModelLibrary(tmp_path)

    def test_a_sealed_directory_is_ready_and_used(self, library: ModelLibrary) -> None:
        path = install(library)
        assert library.state(MODEL) is ModelState.READY
        assert library.fetch(MODEL) == library.verify(MODEL) == path

    def test_nothing_there_is_absent(self, library: ModelLibrary) -> None:
        assert library.state(MODEL) is ModelState.ABSENT
        with pytest.raises(ModelError, match="has not been fetched"):
            library.verify(MODEL)

    def test_a_directory_without_manifest_is_absent(self, library: ModelLibrary) -> None:
        (install(library) / "manifest.json").unlink()
        assert library.state(MODEL) is ModelState.ABSENT

    def test_another_source_has_another_directory(self, library: ModelLibrary) -> None:
        assert library.path_of(MODEL) != library.path_of(replace(MODEL, gguf_sha256="00"))

    @pytest.mark.parametrize(
        ("harm", "said"),
        [
            (lambda path: (path / "config.json").unlink(), "config.json is missing"),
            (lambda path: truncate(path / "model.safetensors", 10), "has 10 bytes, expected 1000"),
            (lambda path: truncate(path / "manifest.json", 30), "not a readable manifest"),
            (lambda path: (path / "manifest.json").write_text('{"files": {}}'), "not a readable"),
        ],
    )
    def test_damage_is_named_and_not_repaired_silently(
        self, library: ModelLibrary, harm: Callable[[Path], object], said: str
    ) -> None:
        path = install(library)
        harm(path)
        before = sorted(path.iterdir())
        assert library.state(MODEL) is ModelState.DAMAGED
        with pytest.raises(ModelError, match=said) as caught:
            library.fetch(MODEL)
        assert "fetch --force" in caught.value.hint
        assert sorted(path.iterdir()) == before

    def test_a_flipped_bit_is_found_by_verify_alone(self, library: ModelLibrary) -> None:
        path = install(library)
        (path / "model.safetensors").write_bytes(bytes(999) + b"\1")
        assert library.fetch(MODEL) == path
        with pytest.raises(ModelError, match=r"model\.safetensors does not have the checksum"):
            library.verify(MODEL)

    def test_a_full_disk_is_refused_before_anything_is_written(
        self, library: ModelLibrary, tmp_path: Path
    ) -> None:
        with pytest.raises(ModelError, match="MB free"):
            library.fetch(replace(MODEL, peak_bytes=10**18))
        assert [path.name for path in (tmp_path / "models").iterdir()] == [".lock"]

    def test_a_cache_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ModelError, match=f"cannot use {tmp_path / 'file'}") as caught:
            ModelLibrary(tmp_path / "file").fetch(MODEL)
        assert "SAFEKV_CACHE" in caught.value.hint

    def test_a_second_writer_waits_and_uses_what_the_first_made(
        self, library: ModelLibrary, tmp_path: Path
    ) -> None:
        waiting = threading.Event()
        phases: list[Phase] = []
        paths: list[Path] = []

        def report(progress: Progress) -> None:
            phases.append(progress.phase)
            waiting.set()

        writer = threading.Thread(target=lambda: paths.append(library.fetch(MODEL, report=report)))
        (tmp_path / "models").mkdir()
        with (tmp_path / "models" / ".lock").open("w") as first:
            fcntl.flock(first, fcntl.LOCK_EX)
            writer.start()
            assert waiting.wait(timeout=30)
            path = install(library)
        writer.join(timeout=30)
        assert paths == [path]
        assert phases == [Phase.WAIT]


class TestRoot:
    @pytest.fixture(autouse=True)
    def no_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SAFEKV_CACHE", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", "/home/somebody")

    def test_the_default_lies_under_home(self) -> None:
        assert default_root() == Path("/home/somebody/.cache/safekv")

    def test_xdg_cache_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/var/caches")
        assert default_root() == Path("/var/caches/safekv")

    def test_a_relative_xdg_cache_home_is_ignored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "caches")
        assert default_root() == Path("/home/somebody/.cache/safekv")

    def test_our_own_variable_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/var/caches")
        monkeypatch.setenv("SAFEKV_CACHE", "~/models")
        assert default_root() == Path("/home/somebody/models")
