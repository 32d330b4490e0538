from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from safekv.cli.main import cli
from safekv.errors import ConfigError, VaultError
from safekv.types import TenantId
from safekv.vault import Vault
from safekv.vault.master import VARIABLE

ALICE = TenantId("alice")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAFEKV_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path / "home"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def vault(home: Path) -> Vault:
    return Vault.from_files({"SAFEKV_HOME": str(home)})


def sealed_by(vault: Vault) -> bytearray:
    out = bytearray(Vault.sealed_bytes(5))
    vault.seal_into(ALICE, b"", b"hello", memoryview(out))
    return out


def opened(vault: Vault, sealed: bytearray) -> bytes:
    out = bytearray(5)
    vault.open_into(ALICE, b"", sealed, memoryview(out))
    return bytes(out)


def test_keygen_list_and_rotate(home: Path) -> None:
    made = json.loads(run("vault", "keygen", "--json").stdout)
    file = Path(made["file"])
    assert file.stat().st_mode & 0o777 == 0o600
    sealed = sealed_by(vault(home))
    listed = run("vault", "list", "--json")
    (key,) = json.loads(listed.stdout)["keys"]
    assert (key["holder"], key["master_key_id"]) == ("tenant:alice", made["master_key_id"])
    assert "wrapped" not in key
    assert "tenant:alice" in run("vault", "list").stdout
    rotated = json.loads(run("vault", "rotate", "--json").stdout)
    assert rotated["rewrapped_keys"] == 1
    assert rotated["master_key_id"] != made["master_key_id"]
    assert made["master_key_id"] not in run("vault", "list").stdout
    assert opened(vault(home), sealed) == b"hello"


def test_a_master_key_is_never_replaced(home: Path) -> None:
    assert run("vault", "keygen").exit_code == 0
    before = (home / "vault-master.json").read_bytes()
    assert isinstance(run("vault", "keygen").exception, ConfigError)
    assert (home / "vault-master.json").read_bytes() == before


def test_keygen_prints_a_key_for_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (run("vault", "keygen", "--print").stdout.strip() for _ in range(2))
    assert len(base64.urlsafe_b64decode(old)) == 32
    assert not home.exists()
    env = {"SAFEKV_HOME": str(home)}
    sealed = sealed_by(Vault.from_files({**env, VARIABLE: old}))
    monkeypatch.setenv(VARIABLE, f"{new}, {old}")
    assert run("vault", "rotate").stdout == "1 data keys wrapped again\n"
    assert opened(Vault.from_files({**env, VARIABLE: new}), sealed) == b"hello"
    with pytest.raises(ConfigError):
        Vault.from_files({**env, VARIABLE: old})


@pytest.mark.parametrize("text", ["x", "AAAA", "é" * 43, base64.b64encode(bytes(31)).decode()])
def test_a_malformed_variable_is_refused_without_quoting_it(home: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Vault.from_files({"SAFEKV_HOME": str(home), VARIABLE: text})
    assert text not in caught.value.message + caught.value.hint


def test_forgetting_a_tenant(home: Path) -> None:
    run("vault", "keygen")
    its = vault(home)
    sealed = sealed_by(its)
    assert json.loads(run("tenant", "forget", "alice", "--json").stdout)["forgotten"] is True
    with pytest.raises(VaultError):
        opened(vault(home), sealed)
    assert isinstance(run("tenant", "forget", "alice").exception, ConfigError)
    assert "forgotten: alice" in _after_sealing(home)


def _after_sealing(home: Path) -> str:
    sealed_by(vault(home))
    return run("tenant", "forget", "alice").stdout


def test_a_missing_or_loose_master_key_stops_everything(home: Path) -> None:
    with pytest.raises(ConfigError, match="no master key"):
        vault(home)
    run("vault", "keygen")
    (home / "vault-master.json").chmod(0o644)
    with pytest.raises(ConfigError, match="others may use it"):
        vault(home)
    assert isinstance(run("vault", "rotate").exception, ConfigError)
