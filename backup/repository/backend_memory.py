"""A repository in memory: for tests, an embedding program's too, with a plan of faults."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Literal

from pillarbox.backup.repository.backend import FileInfo, FileKind, check_name, check_range
from pillarbox.store.errors import AlreadyExists, NotFound

Operation = Literal["put", "get", "list", "size", "delete"]
FaultPlan = Callable[[Operation, FileKind, str], None]


def _no_faults(operation: Operation, kind: FileKind, name: str) -> None:
    pass


class MemoryBackend:
    """Files of a repository in a dictionary, `files`, that a test may look into and damage.

    `before` and `after` are called around what each operation does, with operation, kind and name, and may
    raise: an error from `before` means that it did not happen, one from `after` that it did and the answer
    was lost.
    """

    def __init__(self, *, before: FaultPlan = _no_faults, after: FaultPlan = _no_faults) -> None:
        self.files: dict[tuple[FileKind, str], bytes] = {}
        self.before = before
        self.after = after
        self._lock = threading.Lock()

    def put(self, kind: FileKind, name: str, data: bytes, *, must_not_exist: bool = False) -> None:
        check_name(name)
        self.before("put", kind, name)
        with self._lock:
            if must_not_exist and (kind, name) in self.files:
                raise AlreadyExists(f"{kind}/{name} exists")
            self.files[kind, name] = bytes(data)
        self.after("put", kind, name)

    def get(self, kind: FileKind, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self.before("get", kind, check_name(name))
        data = self._file(kind, name)[offset : None if length is None else offset + length]
        self.after("get", kind, name)
        return check_range(kind, name, data, offset, length)

    def list(self, kind: FileKind) -> Iterator[FileInfo]:
        self.before("list", kind, "")
        with self._lock:
            found = [FileInfo(name, len(data)) for (each, name), data in self.files.items() if each is kind]
        self.after("list", kind, "")
        yield from found

    def size(self, kind: FileKind, name: str) -> int:
        self.before("size", kind, check_name(name))
        size_bytes = len(self._file(kind, name))
        self.after("size", kind, name)
        return size_bytes

    def delete(self, kind: FileKind, name: str) -> None:
        self.before("delete", kind, check_name(name))
        with self._lock:
            self.files.pop((kind, name), None)
        self.after("delete", kind, name)

    def remove_leftovers(self) -> None:
        """Nothing to do: a put leaves nothing behind."""

    def _file(self, kind: FileKind, name: str) -> bytes:
        with self._lock:
            if (kind, name) not in self.files:
                raise NotFound(f"{kind}/{name} does not exist")
            return self.files[kind, name]
