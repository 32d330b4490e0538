from __future__ import annotations

import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from safekv.errors import ConfigError
from safekv.gateway.tenants import TenantStore, default_keys_file


def test_a_key_finds_its_record_and_no_other(store: TenantStore) -> None:
    alice, bob = store.add("alice"), store.add("bob", operator=True)
    found = store.find(alice), store.find(bob)
    assert [(one.tenant, one.role) for one in found if one] == [
        ("alice", "tenant"),
        ("bob", "operator"),
    ]
    _, key_id, tail = alice.split("_", 2)
    assert store.find(f"skv_{key_id}_{tail[::-1]}") is None
    assert store.find(f"skv_{bob.split('_')[1]}_{tail}") is None
    for wrong in ("", alice + "x", alice[:-1], f" {alice}", f"skv_{'0' * 12}_{tail}", "é" * 60):
        assert store.find(wrong) is None


def test_only_tenants_with_a_key_in_force_are_served(store: TenantStore) -> None:
    store.add("alice")
    store.add("alice")
    store.add("ops", operator=True)
    gone = store.find(store.add("bob"))
    assert gone is not None
    store.revoke(gone.key_id)
    assert store.served() == {"alice"}


def test_the_file_holds_no_secret_and_is_private(store: TenantStore) -> None:
    key = store.add("alice")
    text = store.path.read_text()
    assert key not in text
    assert key.rsplit("_", 1)[1] not in text
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert os.listdir(store.path.parent).count("tenants.json") == 1
    (record,) = store.list()
    assert record.hash not in repr(record)
    assert "hash" not in record.public()


def test_the_same_secret_hashes_differently_in_each_file(tmp_path: Path) -> None:
    one, two = TenantStore(tmp_path / "one.json"), TenantStore(tmp_path / "two.json")
    key = one.add("alice")
    two.add("alice")
    data = json.loads(two.path.read_text())
    data["keys"] = json.loads(one.path.read_text())["keys"]
    two.path.write_text(json.dumps(data))
    assert one.find(key) is not None
    assert two.find(key) is None


def test_a_running_store_sees_what_another_process_did(store: TenantStore) -> None:
    other = TenantStore(store.path)
    assert store.usable()
    key = other.add("alice")
    second = other.add("alice")
    record = store.find(key)
    assert record is not None
    other.revoke(record.key_id)
    assert store.find(key) is None
    assert store.find(second) is not None
    assert len(other.revoke("alice")) == 2
    assert store.find(second) is None
    assert len(other.revoke("alice")) == 2, "revoking twice is no error"


def test_revoking_nobody_is_an_error(store: TenantStore) -> None:
    store.add("alice")
    with pytest.raises(ConfigError, match="no tenant or key is named 'bob'"):
        store.revoke("bob")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o601])
def test_loose_permissions_are_refused_with_the_remedy(store: TenantStore, mode: int) -> None:
    key = store.add("alice")
    assert store.find(key)
    store.path.chmod(mode)
    for call in (lambda: store.find(key), store.check, store.list, lambda: store.add("bob")):
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.hint == f"chmod 600 {store.path}"
        assert caught.value.exit_code == 2
    assert not store.usable()
    store.path.chmod(0o600)
    assert store.find(key), "mended, it serves again"


def test_another_users_file_is_refused(store: TenantStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add("alice")
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(ConfigError, match="belongs to user"):
        store.check()


DAMAGE = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "not an object": lambda text: "[]",
    "newer": lambda text: text.replace('"version": 1', '"version": 2'),
    "no salt": lambda text: text.replace('"salt"', '"pepper"'),
    "role": lambda text: text.replace('"tenant"', '"admin"'),
    "name": lambda text: text.replace("alice", "Alice!"),
    "revoked": lambda text: text.replace("false", "null"),
    "extra field": lambda text: text.replace('"created"', '"x": 1, "created"'),
    "deep": lambda text: "[" * 100_000,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_named_and_nobody_is_served_from_memory(
    store: TenantStore, kind: str
) -> None:
    key = store.add("alice")
    assert store.find(key)
    store.path.write_text(DAMAGE[kind](store.path.read_text()))
    with pytest.raises(ConfigError, match=r"tenants\.json is damaged") as caught:
        store.find(key)
    assert caught.value.__cause__ is None
    with pytest.raises(ConfigError):
        store.find(key)
    with pytest.raises(ConfigError):
        store.add("bob")


def test_a_file_that_is_gone_knows_nobody(store: TenantStore) -> None:
    key = store.add("alice")
    assert store.find(key)
    store.path.unlink()
    assert store.find(key) is None


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (pipe, tmp_path):
        with pytest.raises(ConfigError):
            TenantStore(path).check()


@pytest.mark.parametrize("name", ["", "Alice", "-a", "a b", "a/b", "é", "a" * 65, "a\n", "0" * 12])
def test_bad_names_are_refused_and_nothing_is_written(store: TenantStore, name: str) -> None:
    with pytest.raises(ConfigError, match="tenant name"):
        store.add(name)
    assert not store.path.exists()


def test_a_failed_write_leaves_the_old_file(
    store: TenantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = store.add("alice")

    def fail(*_: object) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ConfigError, match="cannot write key file"):
        store.add("bob")
    assert store.find(key)
    assert sorted(os.listdir(store.path.parent)) == ["tenants.json", "tenants.json.lock"]


def _add_some(path: Path, prefix: str) -> None:
    for index in range(5):
        TenantStore(path).add(f"{prefix}{index}")


def test_two_processes_lose_no_record(tmp_path: Path) -> None:
    path = tmp_path / "tenants.json"
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_add_some, args=(path, name)) for name in ("a", "b")]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(TenantStore(path).list()) == 10


def test_where_the_file_lies() -> None:
    assert default_keys_file({"SAFEKV_HOME": "/h"}) == Path("/h/tenants.json")
    assert default_keys_file({"XDG_CONFIG_HOME": "/c"}) == Path("/c/safekv/tenants.json")
    assert default_keys_file({}) == Path.home() / ".config" / "safekv" / "tenants.json"
