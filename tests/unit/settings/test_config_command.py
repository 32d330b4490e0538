from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from safekv.cli.config import config
from safekv.errors import ConfigError


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(config, arguments, env=env)


def test_show_prints_toml_with_origins_on_request() -> None:
    result = run("show", SAFEKV_CACHE__BLOCK_TOKENS="8")
    assert result.exit_code == 0
    assert tomllib.loads(result.stdout)["cache"]["block_tokens"] == 8
    assert "default" not in result.stdout
    shown = run("show", "--origin", SAFEKV_CACHE__BLOCK_TOKENS="8").stdout
    assert "block_tokens = 8  # SAFEKV_CACHE__BLOCK_TOKENS" in shown
    assert "# keys_file is not set  # default" in shown


def test_show_prints_one_object() -> None:
    Path("mine.toml").write_text('[warden]\nmode = "isolated"\n')
    plain = json.loads(run("show", "--json", "--config", "mine.toml").stdout)
    assert plain["warden"]["mode"] == "isolated"
    told = json.loads(run("show", "--json", "--origin", "--config", "mine.toml").stdout)
    assert told["warden"]["mode"] == {"value": "isolated", "origin": "mine.toml"}


def test_check() -> None:
    Path("good.toml").write_text("[cache]\nblock_tokens = 8\n")
    Path("bad.toml").write_text("[cache]\nblock_tokens = 0\n")
    assert run("check", "good.toml", SAFEKV_CACHE__BLOCK_TOKENS="x").exit_code == 0
    assert json.loads(run("check", "good.toml", "--json").stdout)["ok"] is True
    for name in ("bad.toml", "missing.toml"):
        error = run("check", name).exception
        assert isinstance(error, ConfigError)
        assert error.exit_code == 2
        assert name in error.message
