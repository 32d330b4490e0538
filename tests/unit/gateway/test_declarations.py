"""What operators declare: signed, listed without text, revocable, and refused if tampered with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from safekv.cli.declare import declare
from safekv.engines.base import DeclaredText
from safekv.errors import ConfigError
from safekv.gateway.declarations import DeclarationStore


@pytest.fixture
def store(tmp_path: Path) -> DeclarationStore:
    return DeclarationStore(tmp_path / "declared.json", tmp_path / "deployment.key")


def test_declared_texts_are_listed_oldest_first_and_once(store: DeclarationStore) -> None:
    assert store.list() == ()
    first, second = store.add("You are a helper."), store.add("Rules", system=True)
    assert store.add("You are a helper.") == first
    assert store.list() == (first, second)
    assert "helper" not in repr(store.list())
    assert store.add("Rules").id != second.id, "a system message is not a prompt"


def test_revoking_removes_one(store: DeclarationStore) -> None:
    first, second = store.add("one"), store.add("two")
    assert store.revoke(first.id) == first
    assert store.list() == (second,)
    with pytest.raises(ConfigError, match=first.id):
        store.revoke(first.id)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data["declared"][0].update(text="a client's own"),
        lambda data: data["declared"].append({**data["declared"][0], "text": "mine"}),
        lambda data: data.update(hmac="0" * 64),
        lambda data: data.pop("hmac"),
        lambda data: data.update(version=2),
    ],
)
def test_what_the_key_did_not_sign_is_refused_as_a_whole(
    store: DeclarationStore, damage: object
) -> None:
    store.add("one")
    data = json.loads(store.path.read_text())
    damage(data)  # type: ignore[operator]
    store.path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="not signed"):
        store.list()
    with pytest.raises(ConfigError):
        store.add("two")
    assert store.changed() == [], "nothing is declared while the file cannot be trusted"


def test_another_key_signs_nothing_here(store: DeclarationStore, tmp_path: Path) -> None:
    store.add("one")
    other = DeclarationStore(tmp_path / "other.json", tmp_path / "other.key")
    other.add("mine")
    store.path.write_bytes(other.path.read_bytes())
    with pytest.raises(ConfigError, match="not signed"):
        store.list()


def test_a_key_that_others_may_read_is_refused(store: DeclarationStore) -> None:
    store.add("one")
    assert store.key_path.stat().st_mode & 0o777 == 0o600
    store.key_path.chmod(0o644)
    with pytest.raises(ConfigError, match="0644"):
        store.list()


def test_a_server_hears_of_changes_once(store: DeclarationStore) -> None:
    assert store.changed() == []
    assert store.changed() is None
    one = store.add("one", system=True)
    assert store.changed() == [DeclaredText("one", system=True)]
    assert store.changed() is None
    store.revoke(one.id)
    assert store.changed() == []


def run(*arguments: str, home: Path) -> Result:
    return CliRunner().invoke(declare, arguments, env={"SAFEKV_HOME": str(home)})


def test_the_command_declares_lists_and_revokes(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("SECRET-ISH prompt\n")
    first = run(str(file), home=tmp_path).stdout.strip()
    second = json.loads(run("--text", "x", "--system", "--json", home=tmp_path).stdout)
    assert second["system"] is True
    listed = run("list", home=tmp_path).stdout
    assert first in listed
    assert "SECRET-ISH" not in listed
    assert DeclarationStore.default({"SAFEKV_HOME": str(tmp_path)}).list()[0].text.endswith("\n")
    assert run("revoke", first, home=tmp_path).exit_code == 0
    assert [
        one["id"] for one in json.loads(run("list", "--json", home=tmp_path).stdout)["declared"]
    ] == [second["id"]]


def test_the_command_refuses_what_is_no_text(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\xff\xfe")
    for arguments in ([], ["--text", " "], [str(broken)], [str(tmp_path / "missing")]):
        result = run("add", *arguments, home=tmp_path)
        assert result.exit_code != 0
    assert not (tmp_path / "declared.json").exists()
