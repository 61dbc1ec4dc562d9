"""A repository in a local directory (or on a mounted network share).

A file is written under a name of its own in `tmp/`, flushed, renamed to its place, and the directory
flushed: after a crash it is there whole or not at all. Packs are spread over folders named for their first
two letters.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pillarbox.backup.repository.backend import FileInfo, FileKind, check_name, check_range, is_name
from pillarbox.backup.repository.crypto import Entropy, secure_entropy
from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.disk.stream import flush_directory
from pillarbox.store.errors import (
    AlreadyExists,
    DiskFull,
    NoPermission,
    NotFound,
    PillarboxError,
    ReadOnly,
    Retryable,
)

_PUT_TRIES: Final = 4
_READ_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_WRITE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_ERRORS: Final[dict[int, tuple[type[PillarboxError], str]]] = {
    errno.ENOENT: (NotFound, ""),
    errno.ENOTDIR: (NotFound, ""),
    errno.EEXIST: (AlreadyExists, "choose another place for the repository: a file stands in the way"),
    errno.ENOSPC: (DiskFull, "free some disk space and run it again: what the repository holds stays whole"),
    errno.EDQUOT: (DiskFull, "free some disk space and run it again: what the repository holds stays whole"),
    errno.EACCES: (
        NoPermission,
        "look at the owner and mode of the repository's files, and at who runs this",
    ),
    errno.EPERM: (NoPermission, "look at the owner and mode of the repository's files, and at who runs this"),
    errno.ELOOP: (NoPermission, "a repository has no links in it: put files and folders there, or remove it"),
    errno.EROFS: (ReadOnly, "mount the repository's file system for writing"),
}
_UNKNOWN: Final = (Retryable, "look at the disk: the system reported an error; run it again afterwards")


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """The operating system's errors as the project's; one without a class of its own may pass."""
    try:
        yield
    except OSError as error:
        kind, hint = _ERRORS.get(error.errno or 0, _UNKNOWN)
        raise kind(f"{what}: {error.strerror or error}", hint=hint) from error


class DirectoryBackend:
    """Files of a repository below `directory`, which is made when the first file is stored."""

    def __init__(self, directory: PathLike, *, entropy: Entropy = secure_entropy) -> None:
        self._directory = as_path(directory, "directory")
        self._tmp = self._directory / "tmp"
        self._entropy = entropy

    def put(self, kind: FileKind, name: str, data: bytes, *, must_not_exist: bool = False) -> None:
        target = self._path(kind, name)
        with _translated(f"cannot write {target}"):
            self._make_directory(self._tmp)
            self._make_directory(target.parent)
            for _ in range(_PUT_TRIES - 1):
                # A prune clears `tmp/` while others ask for the lock that it holds: once more then.
                with suppress(FileNotFoundError):
                    return self._put_once(kind, target, data, must_not_exist)
            return self._put_once(kind, target, data, must_not_exist)

    def _put_once(self, kind: FileKind, target: Path, data: bytes, must_not_exist: bool) -> None:
        temporary = self._tmp / self._entropy(16).hex()
        try:
            _write(temporary, data, flush=kind is not FileKind.LOCK)
            if must_not_exist:
                os.link(temporary, target)  # unlike rename, fails when the name is taken
            else:
                temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        self._flush(kind, target.parent)

    @staticmethod
    def _flush(kind: FileKind, folder: Path) -> None:
        """Locks need not outlive the machine: who held them is gone with it."""
        if kind is not FileKind.LOCK:
            flush_directory(folder)

    def get(self, kind: FileKind, name: str, offset: int = 0, length: int | None = None) -> bytes:
        path = self._path(kind, name)
        with _translated(f"cannot read {path}"):
            descriptor = os.open(path, _READ_FLAGS)
            try:
                end = os.fstat(descriptor).st_size
                if length is not None:
                    end = min(end, offset + length)
                data = _read_exactly(descriptor, offset, max(end - offset, 0))
            finally:
                os.close(descriptor)
        return check_range(kind, name, data, offset, length)

    def list(self, kind: FileKind) -> Iterator[FileInfo]:
        folder = self._directory / kind
        with _translated(f"cannot list {folder}"):
            folders = [folder] if kind is not FileKind.PACK else [Path(entry) for entry in _scan(folder)]
            for each in folders:
                for entry in _scan(each):
                    try:
                        info = FileInfo(entry.name, entry.stat(follow_symlinks=False).st_size)
                    except FileNotFoundError:  # deleted since the listing began
                        continue
                    if is_name(entry.name) and entry.is_file(follow_symlinks=False):
                        yield info

    def size(self, kind: FileKind, name: str) -> int:
        path = self._path(kind, name)
        with _translated(f"cannot read {path}"):
            return path.lstat().st_size

    def delete(self, kind: FileKind, name: str) -> None:
        path = self._path(kind, name)
        with _translated(f"cannot delete {path}"):
            try:
                path.unlink()
            except FileNotFoundError:
                return
            self._flush(kind, path.parent)

    def remove_leftovers(self) -> None:
        with _translated(f"cannot clear {self._tmp}"):
            for entry in _scan(self._tmp):
                Path(entry).unlink(missing_ok=True)

    def _path(self, kind: FileKind, name: str) -> Path:
        check_name(name)
        folder = self._directory / kind
        return folder / name[:2] / name if kind is FileKind.PACK else folder / name

    def _make_directory(self, path: Path) -> None:
        """Make a directory and its parents; each new one's entry is made durable in its parent."""
        if path != self._directory:
            _refuse_link(path)
        if path.is_dir():
            return
        self._make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        flush_directory(path.parent)


def _refuse_link(path: Path) -> None:
    """A folder of a repository that lies elsewhere is an enemy's: what is cleared there is not ours.

    The repository as a whole may be reached by a link.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link", str(path))


def _scan(path: Path) -> list[os.DirEntry[str]]:
    """The entries of a directory; none when it is not there (yet)."""
    _refuse_link(path)
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _write(path: Path, data: bytes, *, flush: bool) -> None:
    descriptor = os.open(path, _WRITE_FLAGS, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        if flush:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_exactly(descriptor: int, offset: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.pread(descriptor, length, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
