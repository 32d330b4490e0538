"""Only versions of vLLM that safekv was made for are served with."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from safekv.cli.main import run
from safekv.cli.serve import serve
from safekv.engines.vllm import version
from safekv.errors import ConfigError


def installed(monkeypatch: pytest.MonkeyPatch, found: str | None) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(version, "installed_version", lambda: found)


@pytest.mark.parametrize("found", ["0.32.0", "0.32.7", "0.32.0.post1", "0.32.0+cpu", "0.32.1+cu1"])
def test_its_own_minor_version_is_supported(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    installed(monkeypatch, found)
    assert version.require_supported() == found


@pytest.mark.parametrize(
    "found", ["0.31.9", "0.33.0", "0.320.0", "1.0.32", "0.32.0rc1", "dev", None]
)
def test_any_other_is_refused(monkeypatch: pytest.MonkeyPatch, found: str | None) -> None:
    installed(monkeypatch, found)
    with pytest.raises(ConfigError, match="is not supported") as caught:
        version.require_supported()
    assert (found or "unknown") in caught.value.message
    assert "0.32" in caught.value.hint


def test_a_missing_vllm_ends_serve_with_status_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAFEKV_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run(["serve", "--engine", "vllm", "--port", "0"]) == 2
    assert "vLLM is not installed" in capsys.readouterr().err
    # Refused before anything was made.
    assert list(tmp_path.iterdir()) == []


def test_flags_for_vllm_are_refused_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "x", "--", "--max-model-len", "4096"]) == 2
    assert "'--max-model-len'" in capsys.readouterr().err


def test_the_embedded_engines_size_is_refused_with_vllm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "x", "--engine", "vllm", "--capacity-blocks", "64"]) == 2
    assert "--capacity-blocks" in capsys.readouterr().err


def test_help_says_how_to_pass_flags_on() -> None:
    assert "--engine vllm -- --max-model-len 4096" in CliRunner().invoke(serve, ["--help"]).output
