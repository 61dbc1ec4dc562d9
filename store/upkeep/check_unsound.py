"""The check of a database whose pages are not sound: LMDB must not read them in this process.

What can be said is said: which pages are bent, which rows are damaged, as far as another process gets, and
what is damaged in the stream.
"""

from __future__ import annotations

from pathlib import Path

from pillarbox.store.disk.checkpoint import read_checkpoint
from pillarbox.store.disk.env import DATA_FILE
from pillarbox.store.disk.frame_scan import scan_frames
from pillarbox.store.disk.redo import read_redo
from pillarbox.store.disk.stream import Frame, FrameKind, Position, disk_error
from pillarbox.store.disk.tables import LET_GO_KEY, ItemRecord, ItemRole, LetGoRecord, Table, decode_record
from pillarbox.store.disk.tables_process import TableRows
from pillarbox.store.engine.database import PROPERTIES, Database
from pillarbox.store.errors import Corrupt, PillarboxError
from pillarbox.store.upkeep.check_findings import Finding
from pillarbox.store.upkeep.let_go import LetGo
from pillarbox.store.upkeep.missing_segments import missing_text, runs_of_missing


class UnsoundCheck:
    """One run. `findings` is what was found, `records` how many rows were read."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._let_go = LetGo(None)
        self._known_segments: set[int] = set()
        self._first_transactions: dict[int, int] = {}
        self._last_transaction = 0
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
        place = str(self._database.path / PROPERTIES)
        self._found_in_pages([problem.replace(str(copy), place) for problem in rows.problems])

    def check_stream(self) -> None:
        """Name what is damaged in the stream, and what is not there of it."""
        numbers = self._database.stream.segments()
        gaps = {last + 1: first for first, last in runs_of_missing(numbers)}
        for segment in numbers:
            before = self._last_transaction
            self._check_segment(segment)
            if segment in gaps:
                self._check_gap(range(gaps[segment], segment), before)
        self._check_end()

    def _check_gap(self, missing: range, before: int) -> None:
        """Where records of segments can be read they tell which are needed; compaction takes them away."""
        known = any(number in missing for number in self._known_segments)
        if self._known_segments and not known:
            return
        after = self._first_transactions.get(missing.stop, 0)
        lost = (before + 1, after - 1) if before and after > before + 1 else None
        problem = missing_text(missing.start, missing.stop - 1, lost, is_sure=known)
        directory = self._database.stream.directory
        self.findings.append(Finding("", b"", str(directory), -1, problem, "everything in it"))

    def _check_end(self) -> None:
        try:
            told = read_checkpoint(self._database.path).sequence
        except PillarboxError:
            return  # named where the tables are copied
        if told > self._last_transaction:
            last = self._last_transaction
            problem = f"the stream ends with transaction {last}, the checkpoint names {told}"
            directory = self._database.stream.directory
            self.findings.append(Finding("", b"", str(directory), -1, problem, ""))

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
        if isinstance(record, ItemRecord):
            self.messages -= record.role == ItemRole.VERSION
        if table == Table.SEGMENT:
            self._known_segments.add(int.from_bytes(key, "big"))
        if key == LET_GO_KEY and isinstance(record, LetGoRecord):
            self._let_go = LetGo(record)

    def _check_segment(self, segment: int) -> None:
        stream = self._database.stream
        path = str(stream.path(segment))
        self.segments += 1
        try:
            stream.read_bytes(segment, 0, 1)
            for offset, length, frame in scan_frames(stream, segment):
                problem = self._problem_of(segment, offset, length, frame)
                if problem and not self._let_go.covers(stream, segment, offset, length):
                    self.findings.append(Finding("", b"", path, offset, problem, ""))
        except PillarboxError as error:
            self.findings.append(Finding("", b"", path, 0, str(error), "everything in this segment"))
        except OSError as error:
            self.findings.append(Finding("", b"", path, 0, str(disk_error(error, path)), ""))

    def _problem_of(self, segment: int, offset: int, length: int, frame: Frame | None) -> str:
        """The problem of a place in the stream in words; transactions that can be read are followed."""
        if frame is None:
            return f"{length} bytes are no whole frame"
        if frame.kind == FrameKind.REDO:
            end = Position(segment, offset + length)
            try:
                transaction = read_redo(frame, end, str(self._database.stream.path(segment))).sequence
            except Corrupt as error:
                return str(error)
            self._first_transactions.setdefault(segment, transaction)
            self._last_transaction = max(self._last_transaction, transaction)
        return ""
