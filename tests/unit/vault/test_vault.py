from __future__ import annotations

import gc
import json
import os
import threading
import tracemalloc
from array import array
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from safekv.errors import ConfigError, VaultError
from safekv.types import Scope, TenantId
from safekv.vault import (
    FileKeyring,
    FixedMasters,
    Holder,
    LocalMaster,
    MasterFile,
    MemoryKeyring,
    Vault,
)
from safekv.vault import seal as sealing
from safekv.vault import vault as vault_module
from safekv.vault.cipher import Cipher, _has_aes, preferred_cipher
from safekv.vault.seal import Session, key_version_of

ALICE, BOB = TenantId("alice"), TenantId("bob")
PAYLOAD = b"the patient has a rare disease" * 20


def sealed_by(vault: Vault, holder: Holder = ALICE, payload: bytes = PAYLOAD) -> bytes:
    out = bytearray(Vault.sealed_bytes(len(payload)))
    vault.seal_into(holder, b"ctx", payload, memoryview(out))
    return bytes(out)


def opened(vault: Vault, sealed: bytes, holder: Holder = ALICE) -> bytes:
    out = bytearray(len(sealed))
    return bytes(out[: vault.open_into(holder, b"ctx", sealed, memoryview(out))])


def refuses(vault: Vault, sealed: bytes, holder: Holder = ALICE) -> None:
    with pytest.raises(VaultError, match=r"^a sealed object could not be opened$"):
        opened(vault, sealed, holder)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    MasterFile(tmp_path / "master.json").create()
    return tmp_path / "keys.json", tmp_path / "master.json"


def at(files: tuple[Path, Path]) -> Vault:
    return Vault.from_files({}, *files)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vault looks at the file on every call."""
    monkeypatch.setattr(vault_module, "FOLLOW_S", -1.0)


def test_forgetting_makes_everything_of_that_tenant_unreadable_and_nothing_else() -> None:
    vault = Vault.ephemeral()
    alices, bobs, shared = (sealed_by(vault, one) for one in (ALICE, BOB, Scope.SHARED))
    assert vault.forget(ALICE) is True
    refuses(vault, alices)
    assert opened(vault, bobs, BOB) == PAYLOAD
    assert opened(vault, shared, Scope.SHARED) == PAYLOAD
    assert vault.forget(ALICE) is False
    # A returning tenant gets a new key, of a new version.
    again = sealed_by(vault)
    assert opened(vault, again) == PAYLOAD
    assert key_version_of(again) > max(map(key_version_of, (alices, bobs, shared)))
    refuses(vault, alices)


def test_another_process_forgets(files: tuple[Path, Path], impatient: None) -> None:
    server, operator = at(files), at(files)
    sealed = sealed_by(server)
    assert opened(server, sealed) == PAYLOAD
    assert b"alice" in files[0].read_bytes()
    assert operator.forget(ALICE)
    refuses(server, sealed)
    assert b"alice" not in files[0].read_bytes()
    assert opened(server, sealed_by(server)) == PAYLOAD


def test_sealed_objects_survive_a_restart(files: tuple[Path, Path]) -> None:
    sealed = sealed_by(at(files))
    assert opened(at(files), sealed) == PAYLOAD
    refuses(Vault.ephemeral(), sealed)


def test_a_vault_in_memory_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAFEKV_HOME", str(tmp_path))
    sealed_by(Vault.ephemeral())
    assert list(tmp_path.iterdir()) == []


def test_rotation_with_lazy_resealing() -> None:
    vault = Vault.ephemeral()
    old = sealed_by(vault)
    assert not vault.is_stale(ALICE, old)
    version = vault.rotate(ALICE)
    new = sealed_by(vault)
    assert (key_version_of(old), key_version_of(new)) == (version - 1, version)
    assert (vault.is_stale(ALICE, old), vault.is_stale(ALICE, new)) == (True, False)
    assert opened(vault, old) == opened(vault, new) == PAYLOAD
    assert (vault.retire(ALICE), vault.retire(ALICE)) == (1, 0)
    refuses(vault, old)
    assert opened(vault, new) == PAYLOAD


def test_rotating_the_master_touches_no_payload(files: tuple[Path, Path]) -> None:
    vault, masters = at(files), MasterFile(files[1])
    sealed = sealed_by(vault)
    before = files[0].read_bytes(), files[1].read_bytes()
    with masters.replacing() as new:
        assert at(files).rotate_master() == 1
    assert masters.current().key_id == new.key_id
    assert opened(vault, sealed) == opened(at(files), sealed) == PAYLOAD
    # The old key file is worthless without the old master key.
    files[0].write_bytes(before[0])
    with pytest.raises(ConfigError, match="is not there"):
        at(files)
    files[1].write_bytes(before[1])
    assert opened(at(files), sealed) == PAYLOAD


def test_a_lost_master_changes_nothing_on_rotation() -> None:
    keyring = MemoryKeyring()
    sealed = sealed_by(Vault(keyring, FixedMasters(master := LocalMaster.generate())))
    stranger = Vault(keyring, FixedMasters(LocalMaster.generate()))
    before = keyring.read()
    with pytest.raises(VaultError):
        stranger.rotate_master()
    refuses(stranger, sealed)
    assert keyring.read() == before
    assert opened(Vault(keyring, FixedMasters(master)), sealed) == PAYLOAD


def _rotate_and_fail(vault: Vault) -> None:
    vault.rotate_master()
    raise OSError("disk")


def test_a_rotation_that_fails_keeps_all_master_keys(files: tuple[Path, Path]) -> None:
    sealed = sealed_by(at(files))
    with pytest.raises(OSError, match="disk"), MasterFile(files[1]).replacing():
        _rotate_and_fail(at(files))
    assert opened(at(files), sealed) == PAYLOAD


@pytest.mark.parametrize("field", ["version", "holder", "wrapped"])
def test_wrapped_keys_cannot_change_places(files: tuple[Path, Path], field: str) -> None:
    """Bob's wrapped key under alice's name, or another version's, unwraps to nothing."""
    sealed = [sealed_by(at(files), one) for one in (ALICE, BOB)]
    data = json.loads(files[0].read_text())
    one, two = data["keys"]
    one[field], two[field] = two[field], one[field]
    files[0].write_text(json.dumps(data))
    for holder, its in zip((ALICE, BOB), sealed, strict=True):
        refuses(at(files), its, holder)


def test_without_its_master_key_a_running_vault_opens_nothing_new(
    files: tuple[Path, Path],
) -> None:
    sealed = sealed_by(at(files))
    vault = at(files)
    files[1].unlink()
    refuses(vault, sealed)
    with pytest.raises(VaultError, match="nothing is sealed"):
        sealed_by(vault)


@pytest.mark.parametrize("harm", ["loose", "damaged", "truncated"])
def test_an_untrusted_key_file_closes_the_vault(
    files: tuple[Path, Path], impatient: None, harm: str
) -> None:
    vault = at(files)
    sealed = sealed_by(vault)
    content = files[0].read_bytes()
    if harm == "loose":
        files[0].chmod(0o640)
    else:
        files[0].write_bytes(b"{}" if harm == "damaged" else content[:40])
    refuses(vault, sealed)
    with pytest.raises(VaultError, match="nothing is sealed"):
        sealed_by(vault)
    with pytest.raises(ConfigError):
        at(files)
    files[0].chmod(0o600)
    files[0].write_bytes(content)
    assert opened(vault, sealed) == PAYLOAD


def test_nobody_has_no_vault() -> None:
    vault = Vault.ephemeral()
    for nobody in (TenantId(""), None):
        with pytest.raises(VaultError, match="no tenant"):
            sealed_by(vault, nobody)  # type: ignore[arg-type]
    assert vault.list() == ()


def test_opening_makes_no_key() -> None:
    vault = Vault.ephemeral()
    refuses(vault, sealed_by(Vault.ephemeral()))
    assert vault.list() == ()


def test_too_small_buffers_are_refused_untouched() -> None:
    vault = Vault.ephemeral()
    small = bytearray(Vault.sealed_bytes(len(PAYLOAD)) - 1)
    with pytest.raises(VaultError, match="do not fit"):
        vault.seal_into(ALICE, b"", PAYLOAD, memoryview(small))
    with pytest.raises(VaultError, match="read-only"):
        vault.seal_into(ALICE, b"", b"", memoryview(bytes(100)))
    assert not any(small)
    sealed = sealed_by(vault)
    small = bytearray(len(PAYLOAD) - 1)
    with pytest.raises(VaultError, match=r"^a sealed object could not be opened$"):
        vault.open_into(ALICE, b"ctx", sealed, memoryview(small))
    assert not any(small)


def test_any_contiguous_buffer_goes_in_and_out() -> None:
    vault = Vault.ephemeral()
    numbers = array("d", range(100))
    sealed = array("h", bytes(Vault.sealed_bytes(800)))
    vault.seal_into(ALICE, b"", numbers, memoryview(sealed))
    back = array("d", bytes(800))
    assert vault.open_into(ALICE, b"", sealed, memoryview(back)) == 800
    assert back == numbers
    with pytest.raises(VaultError, match="gaps"):
        vault.seal_into(ALICE, b"", memoryview(PAYLOAD)[::2], memoryview(bytearray(5000)))
    with pytest.raises(VaultError, match="gaps"):
        vault.seal_into(ALICE, b"", memoryview(numbers)[::2], memoryview(bytearray(5000)))


def test_no_second_copy_of_the_payload() -> None:
    """32 MiB in, 32 MiB out, and less than 64 KiB of memory in between."""
    vault = Vault.ephemeral()
    size = 32 << 20
    payload, result = bytearray(size), bytearray(size)
    sealed = bytearray(Vault.sealed_bytes(size))
    vault.seal_into(ALICE, b"", b"", memoryview(sealed))
    gc.collect()
    tracemalloc.start()
    try:
        vault.seal_into(ALICE, b"", payload, memoryview(sealed))
        vault.open_into(ALICE, b"", sealed, memoryview(result))
        sealed[-1] ^= 1
        with pytest.raises(VaultError):
            vault.open_into(ALICE, b"", sealed, memoryview(result))
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def nonce_of(sealed: bytes) -> tuple[bytes, bytes]:
    """What must never come twice: the session and the nonce in it."""
    return sealed[:32], sealed[32:44]


def test_no_nonce_comes_twice_from_many_threads() -> None:
    vault = Vault.ephemeral()
    seen: list[tuple[bytes, bytes]] = []

    def work() -> None:
        seen.extend([nonce_of(sealed_by(vault, payload=b"")) for _ in range(300)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The counter alone tells them apart; the clock is not needed for it.
    assert len({(session, nonce[:4]) for session, nonce in seen}) == len(seen) == 1200


def test_a_spent_session_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "SESSION_OBJECTS", 3)
    vault = Vault.ephemeral()
    sealed = [sealed_by(vault) for _ in range(7)]
    assert len({one[:32] for one in sealed}) == 3
    assert len(set(map(nonce_of, sealed))) == 7
    assert {opened(vault, one) for one in sealed} == {PAYLOAD}


def test_a_forked_child_has_sessions_of_its_own() -> None:
    vault = Vault.ephemeral()
    first = sealed_by(vault)
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(send, sealed_by(vault, payload=b"from the child"))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(receive, 1000)
    os.close(receive)
    os.close(send)
    mine = sealed_by(vault)
    assert mine[:32] == first[:32] != theirs[:32]
    assert opened(vault, theirs) == b"from the child"


def test_a_restart_begins_another_session(files: tuple[Path, Path]) -> None:
    assert sealed_by(at(files))[:32] != sealed_by(at(files))[:32]


def test_the_format_is_what_the_documentation_says() -> None:
    """Opened by hand, from the description alone."""
    secret, holder = os.urandom(32), b"tenant:alice"
    out = bytearray(5 + 64)
    Session(secret, Cipher.AES_256_GCM, 7, holder).seal_into(b"ctx", b"hello", memoryview(out))
    assert out[:8] == b"\1\1\0\0\0\0\0\7"
    assert out[44:48] == bytes(4)
    key = HKDFExpand(SHA256(), 32, b"safekv vault session" + bytes(out[:32])).derive(secret)
    bound = bytes(out[:48]) + b"\0\0\0\x0c" + holder + b"\0\0\0\3ctx"
    assert AESGCM(key).decrypt(bytes(out[32:44]), bytes(out[48:]), bound) == b"hello"


def test_no_secret_in_any_repr(files: tuple[Path, Path]) -> None:
    vault = at(files)
    sealed_by(vault)
    master = MasterFile(files[1]).current()
    (wrapped,) = vault.list()
    key = vault._data_keys[wrapped]
    told = " ".join(
        map(repr, (vault, master, wrapped, key, MasterFile(files[1]), FileKeyring(files[0])))
    )
    for secret in (master.encode(), key._secret.hex(), repr(key._secret), repr(wrapped.wrapped)):
        assert secret not in told
    assert "redacted" in told


def test_the_cipher_follows_the_processor(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    for line, expected in (
        ("flags\t: fpu aes avx", True),
        ("Features : fp aes", True),
        ("flags : fpu avx", False),
    ):
        cpuinfo.write_text(f"model name : aes\n{line}\n")
        assert _has_aes(cpuinfo) is expected
    assert preferred_cipher() in Cipher
