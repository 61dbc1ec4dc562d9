"""The state of a database that a check looks at, and its one list of findings."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from pillarbox.store.disk.tables import (
    FolderRecord,
    ItemRecord,
    MailboxRecord,
    Table,
    decode_record,
    id_key,
    number_of,
)
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.errors import Corrupt, PillarboxError, UnsupportedVersion
from pillarbox.store.ids import guid_text, id_text
from pillarbox.store.mail.folders import path_of

# What a value of the wrong type or length does to the code that takes it for a record.
SHAPE_ERRORS: Final = (PillarboxError, TypeError, ValueError, AttributeError, KeyError, struct.error)


class Finding(NamedTuple):
    """One thing that is not as it should be.

    `table` and `key` say where in the tables, `file` and `offset` where on the disk; what does not apply is
    empty or -1. `hit` says in words what it concerns.
    """

    table: str
    key: bytes
    file: str
    offset: int
    problem: str
    hit: str

    def __str__(self) -> str:
        return f"{self._place()}{self.problem}" + (f" ({self.hit})" if self.hit else "")

    def _place(self) -> str:
        if self.table:
            return f"{self.table}[{self.key.hex()}]: "
        if self.file and self.problem.startswith(self.file):
            return ""  # the problem is an error of the disk or the stream, which names it
        return f"{self.file}: " if self.offset < 0 else f"{self.file} at {self.offset}: "


class CheckedState:
    """One state of a database under check, and what was found in it so far."""

    def __init__(
        self, database: Database, reader: Reader, progress: Callable[[int, int], None] | None
    ) -> None:
        self.database = database
        self.reader = reader
        self.view = reader.view
        self.stream = database.stream
        self.findings: list[Finding] = []
        self._progress = progress or (lambda done, total: None)
        self.records_count = sum(map(self.count, Table))
        self._done = 0

    def count(self, table: Table) -> int:
        """Rows of a table; 0 where LMDB cannot tell, which the reading of the table names."""
        try:
            return self.view.count(table)
        except PillarboxError:
            return 0

    def attempt(self, step: Callable[[], None], of: str) -> None:
        """Do a step of the check. An error that ends it is a finding, and no end of the check."""
        try:
            step()
        except UnsupportedVersion:
            raise
        except SHAPE_ERRORS as error:
            self.found_in_file(self.database.path, -1, f"the check of {of} ended early: {error}")

    def found(self, table: Table, key: bytes, problem: object, hit: str = "") -> None:
        """Add a finding in the tables; `problem` is an error or words, `hit` what it concerns."""
        file, offset = "", -1
        if isinstance(problem, Corrupt):
            file, offset = problem.file, problem.offset
        self.findings.append(Finding(table.name.lower(), key, file, offset, str(problem), hit))

    def found_in_file(self, file: object, offset: int, problem: object, hit: str = "") -> None:
        """Add a finding at a place on the disk."""
        self.findings.append(Finding("", b"", str(file), offset, str(problem), hit))

    def message_text(self, item: ItemRecord) -> str:
        """A message in words, with its folder and mailbox."""
        return f"message {item.subject!r} of {item.sender} in {self.folder_text(item.folder_id)}"

    def folder_text(self, folder_id: int) -> str:
        """A folder in words, as far as it can be read."""
        try:
            record: FolderRecord | None = self.reader.record(Table.FOLDER, id_key(folder_id))
            if record is None:
                return f"folder {id_text(folder_id)}"
            path = "/".join(path_of(self.reader, folder_id)) or "(root)"
            if not record.mailbox:
                return f"public folder {path}"
            return f"folder {path} of {self.mailbox_text(record.mailbox)}"
        except SHAPE_ERRORS:
            return f"folder {id_text(folder_id)}"

    def mailbox_text(self, guid: bytes) -> str:
        """A mailbox in words, as far as it can be read."""
        try:
            record: MailboxRecord | None = self.reader.record(Table.MAILBOX, guid)
            return f"mailbox {record.name if record else guid_text(guid)}"
        except SHAPE_ERRORS:
            return f"mailbox {guid.hex()}"

    def key_text(self, table: Table, key: bytes) -> str:
        """The object that a record which cannot be read was about, in words, as far as its key tells."""
        if table in (Table.ITEM, Table.TOMBSTONE, Table.SEEN, Table.VIEW) and len(key) >= 8:
            what = {Table.ITEM: "a message in ", Table.VIEW: "the list of "}.get(table, "")
            return what + self.folder_text(number_of(key[:8])[0])
        if table == Table.FOLDER and len(key) == 8:
            return f"folder {id_text(number_of(key)[0])}"
        if table == Table.MAILBOX and len(key) == 16:
            return f"mailbox {guid_text(key)}"
        return ""

    def rows(self, table: Table) -> Iterator[tuple[bytes, bytes]]:
        """Every row of a table, up to where it cannot be read: that is a finding."""
        try:
            for key, value in self.view.scan(table, b"", None):
                self._done += 1
                if self._done % 1000 == 0:
                    self._progress(min(self._done, self.records_count), self.records_count)
                yield key, value
        except PillarboxError as error:
            self.found(table, b"", f"the table cannot be read to its end: {error}")

    def decoded(self, table: Table, *, naming: bool = False) -> Iterator[tuple[bytes, Any]]:
        """Every record that can be read; those that cannot are named when `naming`."""
        for key, value in self.rows(table):
            try:
                record = decode_record(table, key, value)
            except UnsupportedVersion:
                raise  # a newer program's record is no damage
            except SHAPE_ERRORS as error:
                if naming:
                    self.found(table, key, error, self.key_text(table, key))
                continue
            yield key, record

    def exists(self, table: Table, key: bytes) -> bool:
        """True when a row is found by its key. Raises Corrupt."""
        return self.view.get(table, key) is not None
