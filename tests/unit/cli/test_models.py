"""`safekv models`: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safekv.cli.main import run
from safekv.cli.progress import model_progress
from safekv.engines.hf.store import DEFAULT_MODEL, KNOWN_MODELS, ModelLibrary, Phase, Progress
from safekv.engines.hf.store.manifest import seal_directory
from safekv.engines.hf.store.progress import silent


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFEKV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fetched(root: Path) -> Path:
    path = ModelLibrary(root).path_of(KNOWN_MODELS[DEFAULT_MODEL])
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(bytes(1000))
    seal_directory(path, {}, silent)
    return path


def test_list_says_what_is_absent(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    assert run(["models", "list", "--json"]) == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)["models"]
    assert (row["name"], row["state"], row["default"]) == (DEFAULT_MODEL, "absent", True)
    assert captured.err == ""
    assert not root.exists()


def test_list_says_what_is_ready(capsys: pytest.CaptureFixture[str], fetched: Path) -> None:
    assert run(["models", "list"]) == 0
    assert capsys.readouterr().out == f"{DEFAULT_MODEL} (default)  ready  {fetched}\n"


def test_fetch_of_what_is_there_prints_only_its_path(
    capsys: pytest.CaptureFixture[str], fetched: Path
) -> None:
    assert run(["models", "fetch"]) == 0
    assert capsys.readouterr() == (f"{fetched}\n", "")
    assert run(["models", "fetch", DEFAULT_MODEL, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"name": DEFAULT_MODEL, "path": str(fetched), "fetched": False}


def test_damage_is_an_error_with_a_remedy(
    capsys: pytest.CaptureFixture[str], fetched: Path
) -> None:
    (fetched / "model.safetensors").unlink()
    for command in ("fetch", "verify"):
        assert run(["models", command]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "model.safetensors is missing" in captured.err
        assert "safekv models fetch --force" in captured.err


def test_verify_reads_every_byte(capsys: pytest.CaptureFixture[str], fetched: Path) -> None:
    assert run(["models", "verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    (fetched / "model.safetensors").write_bytes(bytes(999) + b"\1")
    assert run(["models", "verify", "--json"]) == 2
    assert "checksum" in capsys.readouterr().err


def test_verify_of_a_directory_names_what_is_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["models", "verify", str(tmp_path)]) == 2
    assert f"{tmp_path} has no config.json" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fetch", "verify"])
def test_an_unknown_model_is_wrong_usage(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", command, "smollm"]) == 2
    assert DEFAULT_MODEL in capsys.readouterr().err


def test_progress_off_a_terminal_is_a_line_per_phase(capsys: pytest.CaptureFixture[str]) -> None:
    with model_progress("toy") as report:
        for done in (0, 5, 10):
            report(Progress(Phase.DOWNLOAD, done, 10))
        report(Progress(Phase.CONVERT))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"toy: {phase.value}" for phase in (Phase.DOWNLOAD, Phase.CONVERT)]


def test_progress_on_a_terminal_shows_bars_and_nothing_before_the_first_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with model_progress("toy") as report:
        pass
    assert "toy" not in capsys.readouterr().err
    with model_progress("toy") as report:
        report(Progress(Phase.DOWNLOAD, 10, 10))
        report(Progress(Phase.CONVERT))
        report(Progress(Phase.SEAL, 1, 2))
    out, err = capsys.readouterr()
    assert out == ""
    assert all(phase.value in err for phase in (Phase.DOWNLOAD, Phase.CONVERT, Phase.SEAL))
