"""Sealed files of blocks: what was written comes back, and nothing else is ever read."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from safekv.engines.hf.tiers.files import NO_PARENT, About, BlockFiles, DamagedFile
from safekv.engines.hf.tiers.queue import DiskQueue, Read, Write
from safekv.engines.hf.tiers.restore import paths
from safekv.types import BlockId, TenantId
from safekv.vault import Vault
from support.disks import small_disk

A, B = TenantId("a"), TenantId("../b")
KV, TOKENS = bytes(range(64)), b"tokens of a block"
MODEL = "ab" * 32
VAULT = Vault.ephemeral()


def about(n: int = 1, position: int = 0, parent: bytes = NO_PARENT) -> About:
    return About(bytes([n]) * 16, position, parent, TOKENS)


def files(path: Path, model: str = MODEL, sealer: Vault = VAULT) -> BlockFiles:
    return BlockFiles(path, model, sealer, len(KV), len(TOKENS))


def read(it: BlockFiles, tenant: TenantId, what: About) -> bytes:
    out = bytearray(len(KV))
    it.read(tenant, what, memoryview(out))
    return bytes(out)


def only_file(path: Path) -> Path:
    (file,) = (each for each in path.rglob("*") if each.is_file())
    return file


def test_what_was_written_comes_back_and_lies_sealed(tmp_path: Path) -> None:
    it = files(tmp_path)
    for tenant in (A, B):
        it.write(tenant, about(), KV)
        assert read(it, tenant, about()) == KV
        ((_, found),), damaged = it.scan(tenant)
        assert (found, damaged) == (about(), 0)
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or (KV not in file.read_bytes() and TOKENS not in file.read_bytes())
        assert tmp_path in file.resolve().parents


@pytest.mark.parametrize("at", [0, 5, 12, 40, 150, -1])
def test_any_changed_byte_is_a_miss(tmp_path: Path, at: int) -> None:
    it = files(tmp_path)
    it.write(A, about(), KV)
    content = bytearray(only_file(tmp_path).read_bytes())
    content[at] ^= 1
    only_file(tmp_path).write_bytes(content)
    found, damaged = [], 0
    try:
        assert read(it, A, about()) == KV
        found, damaged = it.scan(A)
    except DamagedFile:
        return
    assert (found, damaged) == ([], 1), "a changed head is found when the index is built"


def test_torn_missing_exchanged_and_foreign_files_are_misses(tmp_path: Path) -> None:
    it = files(tmp_path)
    it.write(A, about(1), KV)
    file = only_file(tmp_path)
    torn = file.read_bytes()[:-1]
    with pytest.raises(DamagedFile):
        read(it, A, about(2))
    with pytest.raises(DamagedFile):
        read(it, A, about(1, position=1))
    with pytest.raises(DamagedFile):
        read(it, B, about(1))
    file.rename(file.with_name(about(2).name.hex()))
    with pytest.raises(DamagedFile):
        read(it, A, about(2))
    file.write_bytes(torn)
    with pytest.raises(DamagedFile):
        read(it, A, about(1))
    other_key = files(tmp_path, sealer=Vault.ephemeral())
    assert other_key.scan(A) == ([], 2)


def test_other_models_and_unfinished_files_are_not_seen(tmp_path: Path) -> None:
    it = files(tmp_path)
    it.write(A, about(), KV)
    only_file(tmp_path).with_suffix(".new").write_bytes(b"half")
    assert files(tmp_path, "cd" * 32).scan(A) == ([], 0)
    found, damaged = it.scan(A)
    assert (len(found), damaged) == (1, 0)
    assert only_file(tmp_path).name == about().name.hex()


def test_forget_deletes_the_files_of_all_models(tmp_path: Path) -> None:
    sealer = Vault.ephemeral()
    for model in (MODEL, "cd" * 32):
        for tenant in (A, B):
            files(tmp_path, model, sealer).write(tenant, about(), KV)
    files(tmp_path, MODEL, sealer).forget(A)
    assert [key.holder for key in sealer.list()] == [f"tenant:{B}"]
    assert files(tmp_path).scan(A) == ([], 0)
    assert sum(each.is_file() for each in tmp_path.rglob("*")) == 2


def test_paths_are_whole_and_the_newest_come_last() -> None:
    root, left, right = about(1), about(2, 1, about(1).name), about(3, 1, about(1).name)
    orphan, misplaced = about(4, 1, bytes(15) + b"x"), about(5, 3, about(1).name)
    found = [(5.0, root), (9.0, left), (7.0, right), (1.0, orphan), (1.0, misplaced)]
    assert paths(found) == [[root, right], [root, left]]


def test_a_read_waits_for_the_write_of_the_same_file(tmp_path: Path) -> None:
    it, woken = files(tmp_path), threading.Event()
    queue = DiskQueue(it, 8, woken.set)
    out = bytearray(len(KV))
    with queue._io:
        for n in range(1, 4):
            assert queue.write(Write(A, BlockId(n), about(n), KV), 1)
        queue.read(Read(A, [(about(3), BlockId(3), memoryview(out))]))
    assert woken.wait(10)
    (done,) = queue.take_finished()
    assert (done.arrived, bytes(out)) == ({BlockId(3)}, KV)
    queue.stop()


def test_each_tenant_has_its_part_of_the_queue(tmp_path: Path) -> None:
    queue = DiskQueue(files(tmp_path), 4, lambda: None)
    with queue._io:
        taken = [queue.write(Write(A, BlockId(n), about(n), KV), 2) for n in range(4)]
        assert taken.count(True) in (2, 3)  # one may be in the writer's hands
        assert queue.write(Write(B, BlockId(9), about(9), KV), 2)
    queue.stop()
    assert len(files(tmp_path).scan(B)[0]) == 1


def test_a_write_that_fails_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    it = files(tmp_path)
    it._of(A).touch()
    queue = DiskQueue(it, 4, lambda: None)
    queue.write(Write(A, BlockId(1), about(), KV), 1)
    queue.stop()
    (failed,) = queue.take_failed()
    assert failed.block == BlockId(1)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [it._of(A)]


def test_a_full_disk_keeps_what_it_has_and_nothing_half_written(tmp_path: Path) -> None:
    kv = bytes(16 * 1024)
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        it = BlockFiles(disk.path, MODEL, VAULT, len(kv), len(TOKENS))
        refused = list[int | None]()
        for n in range(1, 9):
            try:
                it.write(A, about(n), kv)
            except OSError as error:
                refused.append(error.errno)
        assert set(refused) == {errno.ENOSPC}
        written = [found for _, found in it.scan(A)[0]]
        assert 1 <= len(written) < 8
        assert len([file for file in disk.path.rglob("*") if file.is_file()]) == len(written)
        out = bytearray(len(kv))
        for found in written:
            it.read(A, found, memoryview(out))
        it.remove(A, written[0].name)
        it.write(A, about(9), kv)
        it.read(A, about(9), memoryview(out))
