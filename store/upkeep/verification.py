"""Verification of the pages of a database's tables, on a copy where they are used (`tables_proof`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from pillarbox.store.disk.checkpoint import CHECKPOINT_FILE, boot_identity, read_checkpoint
from pillarbox.store.disk.env import DATA_FILE, META_BYTES, copy_pages_in_use, put_back_meta_pages
from pillarbox.store.disk.file_lock import Opening, is_locked
from pillarbox.store.disk.own_directory import own_directory
from pillarbox.store.disk.stream import disk_error
from pillarbox.store.engine.database import LOCK, PROPERTIES, Database, MountState
from pillarbox.store.engine.tables_proof import problems_of_pages
from pillarbox.store.errors import Corrupt, DiskFull, Retryable
from pillarbox.store.events import EventId

_COPY: Final = "verify"
TRIES: Final = 10


@contextmanager
def copied_tables(database: Database) -> Iterator[Path]:
    """A directory with a copy of the property file for a `with` block, of one moment, sound or not.

    Each block has its own, also beside others of the database. It takes as much free disk as the property
    file. Raises Corrupt when that is missing, also with all the files of the database, or when it cannot be
    copied for its meta pages; DiskFull; Retryable when another process is just opening it, or has made the
    map larger than reads of this one allow, or processes mount and dismount it all the time.
    """
    with ExitStack() as stack:
        copy = _make_directory(stack, database.path)
        if database.state is not MountState.DISMOUNTED:
            database.files.env.copy_pages_to(copy)
        else:
            _copy_not_mounted_here(database, copy)
        yield copy


def _make_directory(stack: ExitStack, path: Path) -> Path:
    try:
        return stack.enter_context(own_directory(path, _COPY))
    except FileNotFoundError as error:  # as on a disk that is gone
        raise Corrupt("the files of the database are not there", file=str(path)) from error
    except OSError as error:
        raise disk_error(error, str(path)) from error


def _copy_not_mounted_here(database: Database, copy: Path) -> None:
    """A copy begun of files at rest is of one moment when no process has mounted them meanwhile."""
    for _ in range(TRIES):
        if is_locked(database.path / LOCK):
            with Opening(database.path / PROPERTIES, database.clock):
                copy_pages_in_use(database.path / PROPERTIES, copy)
            return
        before = state_at_rest(database.path)
        try:
            _copy_dismounted(database.path, copy)
        except Corrupt:
            if is_at_rest(database.path, before):
                raise
            continue
        if is_at_rest(database.path, before):
            return
        (copy / DATA_FILE).unlink()
    raise never_at_rest(database.path)


def never_at_rest(path: Path) -> Retryable:
    """The error of who has read the files of a database in vain as often as makes sense."""
    return Retryable(
        f"{path}: other processes mount and dismount the database all the time",
        hint="try again, or do it where the database is mounted",
    )


def is_at_rest(path: Path, state: tuple[bytes, bytes]) -> bool:
    """True when no process has a database mounted for writing, nor has written since `state_at_rest`."""
    return not is_locked(path / LOCK) and state_at_rest(path) == state


def state_at_rest(path: Path) -> tuple[bytes, bytes]:
    """The checkpoint and LMDB's meta pages: who mounts a database for writing, and writes, changes them."""
    found = []
    for file, length in ((path / CHECKPOINT_FILE, -1), (path / PROPERTIES / DATA_FILE, META_BYTES)):
        try:
            with file.open("rb") as opened:
                found.append(opened.read(length))
        except FileNotFoundError:
            found.append(b"")
        except OSError as error:
            raise disk_error(error, str(file)) from error
    checkpoint, meta_pages = found
    return checkpoint, meta_pages


def _copy_dismounted(path: Path, copy: Path) -> None:
    """The tables as they were left, or as they were at the checkpoint."""
    data = path / PROPERTIES / DATA_FILE
    try:
        shutil.copyfile(data, copy / DATA_FILE)
    except FileNotFoundError as error:
        raise Corrupt(f"{data} is missing", file=str(data)) from error
    except OSError as error:
        raise disk_error(error, str(data)) from error
    checkpoint = read_checkpoint(path)
    if not checkpoint.clean and checkpoint.boot != boot_identity():
        put_back_meta_pages(copy, checkpoint.meta_pages)


@contextmanager
def told_without_room(database: Database) -> Iterator[None]:
    """Let a `with` block that verifies a copy end on a full disk, and tell that nothing was verified."""
    try:
        yield
    except DiskFull as full:
        database.report(EventId.TABLES_NOT_VERIFIED, reason=str(full))


def problems_in_use(database: Database) -> list[str]:
    """The problems of the pages of a mounted database's tables. Raises Dismounted, DiskFull."""
    try:
        with copied_tables(database) as copy:
            problems = problems_of_pages(copy, database.clock, database.report)
        database.prove_tables()
        return problems
    except Corrupt as error:  # meta pages that allow no copy
        return [str(error)]
