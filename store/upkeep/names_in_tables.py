"""The names of the mailboxes in a database that nobody has mounted, as its tables tell them.

For a database that no program with a file of mailbox names (`disk/mailbox_names`) has mounted for writing.
Nothing is written: that the file is missing tells the next mount that the names were not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pillarbox.store.disk.checkpoint import CHECKPOINT_FILE, read_checkpoint
from pillarbox.store.disk.env import DATA_FILE
from pillarbox.store.disk.stream import disk_error
from pillarbox.store.disk.tables import Table, decode_index, decode_record, derived_entries
from pillarbox.store.disk.tables_process import TableRows, verify_tables
from pillarbox.store.engine.database import PROPERTIES
from pillarbox.store.errors import Corrupt, RecoveryNeeded
from pillarbox.store.upkeep.verification import TRIES, is_at_rest, never_at_rest, state_at_rest


def names_in_tables(path: Path) -> Mapping[bytes, bytes]:
    """The GUIDs of the mailboxes by the name key of each, in the database of a directory.

    The pages are verified first, and rows are read by another process. Raises RecoveryNeeded when the stream
    may hold names that the tables lack; Retryable when processes mount and dismount it all the time; Corrupt;
    UnsupportedVersion; a disk error.
    """
    for _ in range(TRIES):
        before = state_at_rest(path)
        try:
            names = _names_in(path)
        except Corrupt:
            if is_at_rest(path, before):
                raise
            continue  # a process that has mounted it meanwhile writes what was read
        if is_at_rest(path, before):
            return names
    raise never_at_rest(path)


def _names_in(path: Path) -> Mapping[bytes, bytes]:
    properties = path / PROPERTIES
    data = str(properties / DATA_FILE)
    if not read_checkpoint(path).clean:
        raise RecoveryNeeded(f"{path} was not closed cleanly", hint="mount it for writing once")
    try:
        problems = verify_tables(properties)
        rows = TableRows(properties, (Table.MAILBOX,))
    except OSError as error:
        raise disk_error(error, data) from error
    if problems:
        raise Corrupt(f"{data}: {problems[0]}", file=data)
    names = {}
    for table, key, value in rows:
        derived = derived_entries(table, key, decode_record(table, key, value))
        for (index, name), entry in derived.items():
            if index == Table.MAILBOX_NAME:
                names[name] = decode_index(index, name, entry)
    if rows.problems:
        raise Corrupt(f"{data}: {rows.problems[0]}", file=data)
    return names


class NamesInTables:
    """Names that were read from tables, and hold until their database is mounted for writing again."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], Mapping[bytes, bytes]]] = {}

    def __call__(self, path: Path) -> Mapping[bytes, bytes]:
        """`names_in_tables`, read again only when there is another checkpoint."""
        try:
            found = (path / CHECKPOINT_FILE).stat()
        except OSError as error:
            raise disk_error(error, str(path)) from error
        stamp = (found.st_ino, found.st_mtime_ns)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = (stamp, names_in_tables(path))
        return known[1]
