"""The check of a database whose pages are not sound: LMDB must not read them in this process.

What can be said is said: which pages are bent, which rows are damaged, as far as another process gets, and
what is damaged in the stream.
"""

from __future__ import annotations

from pathlib import Path

from pillarbox.store.disk.env import DATA_FILE
from pillarbox.store.disk.frame_scan import scan_frames
from pillarbox.store.disk.stream import disk_error
from pillarbox.store.disk.tables import LET_GO_KEY, LetGoRecord, Table, decode_record
from pillarbox.store.disk.tables_process import TableRows
from pillarbox.store.engine.database import PROPERTIES, Database
from pillarbox.store.errors import Corrupt, PillarboxError
from pillarbox.store.upkeep.check_findings import Finding
from pillarbox.store.upkeep.let_go import LetGo


class UnsoundCheck:
    """One run. `findings` is what was found, `records` how many rows were read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._let_go = LetGo(None)
        self.findings: list[Finding] = []
        self.records = self.messages = self.segments = 0

    def found(self, error: Corrupt) -> None:
        """Name what keeps the pages from being looked at."""
        self.findings.append(Finding("", b"", error.file, error.offset, str(error), ""))

    def check_pages(self, copy: Path, problems: list[str]) -> None:
        """Name the problems of the pages in a copy, and the rows that are damaged beside them."""
        self._found_in_pages(problems)
        rows = TableRows(copy)
        for table, key, value in rows:
            self._check_row(table, key, value)
        self._found_in_pages(rows.problems)

    def check_stream(self) -> None:
        """Name what is damaged in the stream."""
        for segment in self._database.stream.segments():
            self._check_segment(segment)

    def _found_in_pages(self, problems: list[str]) -> None:
        path = str(self._database.path / PROPERTIES / DATA_FILE)
        self.findings += [Finding("", b"", path, -1, problem, "the tables") for problem in problems]

    def _check_row(self, table: Table, key: bytes, value: bytes) -> None:
        self.records += 1
        self.messages += table == Table.ITEM
        try:
            record = decode_record(table, key, value)
        except Corrupt as error:
            self.findings.append(Finding(table.name.lower(), key, "", -1, str(error), ""))
            return
        if key == LET_GO_KEY and isinstance(record, LetGoRecord):
            self._let_go = LetGo(record)

    def _check_segment(self, segment: int) -> None:
        stream = self._database.stream
        path = str(stream.path(segment))
        self.segments += 1
        try:
            stream.read_bytes(segment, 0, 1)
            for offset, length, frame in scan_frames(stream, segment):
                if frame is None and not self._let_go.covers(stream, segment, offset, length):
                    problem = f"{length} bytes are no whole frame"
                    self.findings.append(Finding("", b"", path, offset, problem, ""))
        except PillarboxError as error:
            self.findings.append(Finding("", b"", path, 0, str(error), "everything in this segment"))
        except OSError as error:
            self.findings.append(Finding("", b"", path, 0, str(disk_error(error, path)), ""))
