"""A process of its own that looks into a property file that may be damaged (`tables_process` starts it).

LMDB ends the process that meets a bent page. `verify` never hands the file to LMDB, and is here for its cost:
it must take no time from the process that serves.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from lmdb.verify import VerifyError, verify

from pillarbox.store.disk.env import DATA_FILE, Env, ReadView, copy_compacted
from pillarbox.store.disk.records import pack
from pillarbox.store.disk.tables import PRIMARY, Table
from pillarbox.store.errors import DiskFull, PillarboxError

_NICE: Final = 10
_PR_SET_PDEATHSIG: Final = 1
_ROWS_AT_ONCE: Final = 100


def problems_of(path: Path) -> list[str]:
    """The problems that LMDB's verifier finds in the property file of a directory."""
    try:
        problems: list[str] = verify(str(path / DATA_FILE))
    except (VerifyError, OSError) as error:
        return [str(error)]
    return problems


def problem_of_copy(path: Path, target: Path) -> tuple[bool, str]:
    """Copy tables without their free pages (`env.copy_compacted`): whether the disk is full, what failed."""
    try:
        copy_compacted(path, target)
    except PillarboxError as error:
        return isinstance(error, DiskFull), str(error)
    return False, ""


def answers(what: str, path: Path, words: list[str]) -> Iterator[Any]:
    """The answers of the child, in order: problems, how a copy went, or rows of the tables of these numbers.

    `words` are the directory of the copy, or the numbers.
    """
    if what == "verify":
        yield problems_of(path)
        return
    if what == "copy":
        yield problem_of_copy(path, Path(words[0]))
        return
    yield from _all_rows(path, {int(word) for word in words})


def _all_rows(path: Path, numbers: set[int]) -> Iterator[Any]:
    try:
        env = Env(path)
    except PillarboxError as error:
        yield [(-1, b"", str(error))]
        return
    with env.view() as view:
        for table in PRIMARY:
            if int(table) in numbers:
                yield [(int(table), b"", None)]  # begins
                yield from _rows_of(view, table)
    env.close()


def _rows_of(view: ReadView, table: Table) -> Iterator[list[tuple[int, bytes, Any]]]:
    rows: list[tuple[int, bytes, Any]] = []
    try:
        for key, value in view.all_rows(table):
            rows.append((int(table), key, value))
            if len(rows) >= _ROWS_AT_ONCE:
                yield rows
                rows = []
    except PillarboxError as error:
        rows.append((int(table), b"", str(error)))
    yield rows


def _end_with(parent: int) -> None:
    """Die with the process that asks: it may be killed, and the next one works in the same directories."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit()  # it was killed before


def main() -> None:
    """Write the answers to the standard output: length (4 bytes) and msgpack of each; length 0 ends them."""
    os.nice(_NICE)
    _end_with(int(sys.argv[1]))
    for answer in answers(sys.argv[2], Path(sys.argv[3]), sys.argv[4:]):
        packed = pack(answer)
        sys.stdout.buffer.write(len(packed).to_bytes(4, "little") + packed)
        sys.stdout.buffer.flush()  # the next row may end this process
    sys.stdout.buffer.write(bytes(4))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
