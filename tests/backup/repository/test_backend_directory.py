"""What a repository in a directory promises beyond the contract: its files, and the errors of a disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from random import Random

import pytest

from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.backend_directory import DirectoryBackend
from pillarbox.store.errors import DiskFull, NoPermission, Retryable


def files_below(path: Path) -> set[str]:
    return {str(each.relative_to(path)) for each in path.rglob("*") if each.is_file()}


@pytest.fixture
def backend(tmp_path: Path) -> DirectoryBackend:
    return DirectoryBackend(tmp_path, entropy=Random(1).randbytes)


def test_where_files_lie(backend: DirectoryBackend, tmp_path: Path) -> None:
    backend.put(FileKind.PACK, "abcd", b"x")
    backend.put(FileKind.CONFIG, "config", b"x", must_not_exist=True)
    assert files_below(tmp_path) == {"packs/ab/abcd", "config/config"}


def test_only_the_owner_may_read(backend: DirectoryBackend, tmp_path: Path) -> None:
    backend.put(FileKind.KEY, "abcd", b"x")
    assert (tmp_path / "keys" / "abcd").stat().st_mode & 0o077 == 0
    assert (tmp_path / "keys").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EIO, Retryable),
        (errno.EACCES, NoPermission),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_put_that_fails_leaves_nothing(
    backend: DirectoryBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    expected: type[Exception],
) -> None:
    backend.put(FileKind.PACK, "abcd", b"before")

    def fail(*args: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch, pytest.raises(expected):
        patch.setattr(*((Path, call) if call == "replace" else (os, call)), fail)
        backend.put(FileKind.PACK, "abcd", b"after")
    assert files_below(tmp_path) == {"packs/ab/abcd"}
    assert backend.get(FileKind.PACK, "abcd") == b"before"


def test_short_writes_are_carried_on(backend: DirectoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    backend.put(FileKind.PACK, "abcd", b"0123456789")
    assert backend.get(FileKind.PACK, "abcd") == b"0123456789"


def test_file_and_directory_are_flushed_before_put_returns(
    backend: DirectoryBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to see which file is flushed")
    monkeypatch.setattr(os, "fsync", record)
    backend.put(FileKind.PACK, "abcd", b"x")
    assert flushed[-2].startswith(f"{tmp_path}/tmp/")
    assert flushed[-1] == f"{tmp_path}/packs/ab"
    assert {str(tmp_path), f"{tmp_path}/packs"} <= set(flushed)


def test_leftovers_of_the_killed_are_not_listed_and_can_be_removed(
    backend: DirectoryBackend, tmp_path: Path
) -> None:
    backend.put(FileKind.PACK, "abcd", b"x")
    (tmp_path / "tmp" / "left").write_bytes(b"half")
    assert [each.name for each in backend.list(FileKind.PACK)] == ["abcd"]
    backend.remove_leftovers()
    assert files_below(tmp_path) == {"packs/ab/abcd"}


def test_strangers_files_are_not_ours(backend: DirectoryBackend, tmp_path: Path) -> None:
    backend.put(FileKind.SNAPSHOT, "abcd", b"x")
    (tmp_path / "snapshots" / "README.txt").write_text("hello")
    (tmp_path / "snapshots" / "folder").mkdir()
    assert [each.name for each in backend.list(FileKind.SNAPSHOT)] == ["abcd"]


def test_a_link_that_leads_out_is_not_followed(backend: DirectoryBackend, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    backend.put(FileKind.SNAPSHOT, "abcd", b"x")
    (tmp_path / "snapshots" / "linked").symlink_to(secret)
    assert [each.name for each in backend.list(FileKind.SNAPSHOT)] == ["abcd"]
    with pytest.raises(NoPermission):
        backend.get(FileKind.SNAPSHOT, "linked")


def test_a_file_whose_leftover_a_prune_took_is_written_again(
    backend: DirectoryBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others write while a prune clears `tmp/`: they ask for the lock that it holds."""
    cleared: list[int] = []
    original = os.fsync

    def flush(descriptor: int) -> None:
        original(descriptor)
        if not cleared:
            cleared.append(descriptor)
            backend.remove_leftovers()

    backend.put(FileKind.SNAPSHOT, "cc", b"so that the folders are there")
    monkeypatch.setattr(os, "fsync", flush)
    backend.put(FileKind.SNAPSHOT, "aa", b"x")
    assert cleared
    assert backend.get(FileKind.SNAPSHOT, "aa") == b"x"


def test_locks_are_not_flushed(backend: DirectoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.put(FileKind.LOCK, "aa", b"so that the folders are there")

    def refuse(descriptor: int) -> None:
        pytest.fail("a lock was flushed")

    monkeypatch.setattr(os, "fsync", refuse)
    backend.put(FileKind.LOCK, "bb", b"x")
    backend.delete(FileKind.LOCK, "aa")
    assert [each.name for each in backend.list(FileKind.LOCK)] == ["bb"]


@pytest.mark.parametrize("place", ["tmp", "snapshots", "packs", "packs/aa"])
def test_a_folder_that_a_link_leads_out_of_the_repository_is_neither_filled_nor_cleared(
    tmp_path: Path, place: str
) -> None:
    backend = DirectoryBackend(tmp_path / "repository")
    backend.put(FileKind.CONFIG, "config", b"ours")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "aa11").write_bytes(b"not ours")
    link = tmp_path / "repository" / place
    link.parent.mkdir(exist_ok=True)
    if link.is_dir():
        link.rmdir()
    link.symlink_to(outside)
    works = {
        "tmp": [backend.remove_leftovers, lambda: backend.put(FileKind.CONFIG, "config", b"new")],
        "snapshots": [
            lambda: list(backend.list(FileKind.SNAPSHOT)),
            lambda: backend.put(FileKind.SNAPSHOT, "bb22", b"new"),
        ],
    }
    for work in works.get(
        place,
        [lambda: list(backend.list(FileKind.PACK)), lambda: backend.put(FileKind.PACK, "aa22", b"new")],
    ):
        with pytest.raises(NoPermission) as refused:
            work()
        assert "links" in refused.value.hint
    assert {each.name: each.read_bytes() for each in outside.iterdir()} == {"aa11": b"not ours"}


def test_a_repository_may_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    backend = DirectoryBackend(tmp_path / "link")
    backend.put(FileKind.PACK, "aa11", b"ours")
    assert [each.name for each in backend.list(FileKind.PACK)] == ["aa11"]
