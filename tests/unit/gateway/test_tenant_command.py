from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from safekv.cli.tenant import tenant
from safekv.errors import SafeKVError
from safekv.gateway.tenants import TenantStore


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAFEKV_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "tenants.json"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(tenant, arguments)


def test_a_key_is_printed_alone_once_and_works(keys: Path) -> None:
    result = run("add", "alice")
    assert result.exit_code == 0
    record = TenantStore(keys).find(result.stdout.strip())
    assert record is not None
    assert record.tenant == "alice"
    listed = run("list")
    assert "alice" in listed.stdout
    assert "active" in listed.stdout
    assert result.stdout.strip().rsplit("_", 1)[1] not in listed.stdout


def test_programs_get_one_object(keys: Path) -> None:
    added = json.loads(run("add", "ops", "--operator", "--json").stdout)
    assert (added["tenant"], added["role"]) == ("ops", "operator")
    assert added["key"].startswith(f"skv_{added['key_id']}_")
    (listed,) = json.loads(run("list", "--json").stdout)["keys"]
    assert (listed["key_id"], listed["revoked"]) == (added["key_id"], False)
    assert "hash" not in listed
    (revoked,) = json.loads(run("revoke", added["key_id"], "--json").stdout)["revoked"]
    assert revoked["revoked"] is True
    assert "revoked" in run("list").stdout
    assert TenantStore(keys).find(added["key"]) is None


def test_the_file_comes_from_the_flag_else_the_settings(keys: Path, tmp_path: Path) -> None:
    Path("safekv.toml").write_text('[server]\nkeys_file = "of-settings.json"\n')
    assert run("add", "alice").exit_code == 0
    assert Path("of-settings.json").exists()
    assert run("add", "bob", "--keys", "of-flag.json").exit_code == 0
    assert [one.tenant for one in TenantStore(tmp_path / "of-flag.json").list()] == ["bob"]
    assert not keys.exists()


def test_errors_reach_the_one_place_that_prints_them(keys: Path) -> None:
    assert run("add", "alice").exit_code == 0
    for arguments in (("add", "No Name"), ("revoke", "nobody")):
        error = run(*arguments).exception
        assert isinstance(error, SafeKVError)
        assert error.exit_code == 2
    keys.chmod(0o644)
    error = run("list").exception
    assert isinstance(error, SafeKVError)
    assert error.hint == f"chmod 600 {keys}"


def test_help_says_the_exit_status() -> None:
    for command in ("add", "list", "revoke"):
        assert "Exit status: 0" in run(command, "--help").output
