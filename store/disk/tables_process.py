"""Looking into a property file that may be damaged, from a process that must survive it.

LMDB trusts its file: a bent page ends the process. So a child process looks (`tables_child`), at a copy that
nobody writes, at low priority; how it ends is part of the answer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any, Final

from pillarbox.store.disk import tables_child
from pillarbox.store.disk.env import DATA_FILE
from pillarbox.store.disk.records import unpack
from pillarbox.store.disk.tables import NAMES, PRIMARY, Table
from pillarbox.store.errors import Corrupt, DiskFull

Row = tuple[Table, bytes, bytes]
_ANSWER_BYTES_MAX: Final = 1 << 30
# To start a process takes longer than to verify so little.
_VERIFIED_HERE_BYTES_MAX: Final = 1 << 20


def verify_tables(path: Path) -> list[str]:
    """The problems of the pages of the property file in a directory; none when it is sound.

    Nobody may write the file meanwhile. A large one is verified by a process of low priority. LMDB's verifier
    finds swapped, zeroed and bent pages, and damage of the free list; of bits bent in keys of branch pages it
    finds most.
    """
    if (path / DATA_FILE).stat().st_size <= _VERIFIED_HERE_BYTES_MAX:
        return tables_child.problems_of(path)
    problems: list[str] = []
    try:
        for answer in _ask("verify", path, []):
            problems += answer
    except _ChildFailed as failure:
        problems.append(f"the verifier ended early: {failure}")
    return problems


def copy_compacted(path: Path, target: Path) -> None:
    """Write tables that nobody has open into an empty directory, without their free pages.

    Raises Corrupt when they cannot be read, DiskFull.
    """
    data = str(path / DATA_FILE)
    try:
        for is_full, problem in _ask("copy", path, [str(target)]):
            if is_full:
                raise DiskFull(problem, hint="free some disk space and try again")
            if problem:
                raise Corrupt(problem, file=data)
    except _ChildFailed as failure:
        raise Corrupt(f"{data} cannot be copied: {failure}", file=data) from None


class _ChildFailed(Exception):
    """The child did not answer to its end; says in words how it ended."""


def _ask(what: str, path: Path, words: list[str]) -> Iterator[Any]:
    if not sys.executable:  # in some servers Python is a library
        yield from tables_child.answers(what, path, words)
        return
    command = [sys.executable, "-P", "-m", tables_child.__name__, str(os.getpid()), what, str(path), *words]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            yield from _answers(process.stdout)
        except EOFError:
            raise _ChildFailed(_ending_text(process.wait())) from None
        finally:
            process.kill()  # harmless to one that has ended


def _answers(pipe: IO[bytes]) -> Iterator[Any]:
    while True:
        length = int.from_bytes(_exactly(pipe, 4), "little")
        if not length:
            return
        yield unpack(_exactly(pipe, min(length, _ANSWER_BYTES_MAX)))


def _exactly(pipe: IO[bytes], length: int) -> bytes:
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _ending_text(code: int) -> str:
    if code >= 0:
        return f"its process ended with {code}"
    return f"LMDB ended the process that read it ({signal.Signals(-code).name})"


class TableRows:
    """The rows of primary tables of a property file that may be damaged.

    `problems` says, once all rows were taken, which tables could not be read to their end.
    """

    def __init__(self, path: Path, tables: Collection[Table] = PRIMARY) -> None:
        self.problems: list[str] = []
        self._path = path
        # More than the file holds comes from pages that lead in circles.
        self._bytes_left = (path / DATA_FILE).stat().st_size
        self._waiting = list(tables)

    def __iter__(self) -> Iterator[Row]:
        """Each row once, table by table. A table that ends the child is passed over by the next child."""
        while self._waiting:
            self._begun: Table | None = None
            try:
                yield from self._of_one_child()
                return
            except _ChildFailed as failure:
                name = "the tables" if self._begun is None else f"table {self._begun.name.lower()}"
                self.problems.append(f"{name} cannot be read to the end: {failure}")
                if self._begun is None:
                    return

    def _of_one_child(self) -> Iterator[Row]:
        for rows in _ask("rows", self._path, [str(int(table)) for table in self._waiting]):
            for number, key, value in rows:
                if number < 0:
                    self.problems.append(f"the tables cannot be opened: {value}")
                    return
                table = Table(number)
                if value is None:
                    self._begun = table
                    self._waiting.remove(table)
                elif isinstance(value, str):
                    name = NAMES[table].decode()
                    self.problems.append(f"table {name} cannot be read to its end: {value}")
                else:
                    self._bytes_left -= len(key) + len(value)
                    if self._bytes_left < 0:
                        raise _ChildFailed("its pages lead in circles")
                    yield table, key, value
