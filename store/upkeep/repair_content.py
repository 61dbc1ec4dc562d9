"""The second part of a repair: which content is whole, where it lies, and which message it is of.

All content is read. Where a record does not lead to whole bytes, the old tables' record and then the stream
itself are asked for another place. Content of which no whole redo record tells becomes a record again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pillarbox.store.content.blocks import digest_of
from pillarbox.store.content.envelope import parse_envelope
from pillarbox.store.content.header import header_end
from pillarbox.store.disk.frame_scan import scan_frames
from pillarbox.store.disk.stream import Frame, FrameKind
from pillarbox.store.disk.tables import BlockRecord, ContentRecord, Table, decode_record
from pillarbox.store.engine import content_store
from pillarbox.store.engine.transaction import ReadTransaction
from pillarbox.store.errors import Corrupt
from pillarbox.store.upkeep.check_findings import SHAPE_ERRORS
from pillarbox.store.upkeep.repair_draft import Draft
from pillarbox.store.upkeep.repair_gather import Gathered, Place

# The frames that hold content, and the table of the records that lead to them.
_TABLES: Final[dict[int, Table]] = {FrameKind.BLOCK: Table.BLOCK, FrameKind.SKELETON: Table.CONTENT}

# Nobody knows how many parts a skeleton without its record had. A larger one was made by an enemy, or had
# thousands of parts, which would be lost with the record.
_STRAY_BYTES_MAX: Final = 16 << 20


class ProvedContent:
    """The content that is whole, and why the rest is not.

    `whole` are digests; `problems` say why content is lost; `unaccounted` is what is whole and of which no
    redo record says that it was deleted, should no message hold it; `fragments` are skeletons of messages
    whose other parts nobody knows: (subject, sender, problem).
    """

    def __init__(self, draft: Draft, gathered: Gathered) -> None:
        self._draft = draft
        self._gathered = gathered
        self._stream = draft.stream
        self.whole: set[bytes] = set()
        self.problems: dict[bytes, str] = {}
        self.fragments: list[tuple[str, str, str]] = []
        self.dropped: list[str] = []

    def prove(self) -> None:
        """Read everything."""
        self._read_dictionaries()
        self._adopt_strays()
        self._read_content(None)
        if self.problems:
            self._try_spare_records()
            self._find_again()

    def is_unaccounted(self, digest: bytes) -> bool:
        """True when whole content that no message holds was not deleted, as far as the stream tells."""
        if digest not in self.whole:
            return False
        return (Table.CONTENT, digest) not in self._gathered.from_tables or digest in self._gathered.stray

    def _read_dictionaries(self) -> None:
        with self._draft.reading() as reader:
            for key, record in reader.records(Table.DICTIONARY, b"", None):
                number = int.from_bytes(key, "big")
                try:
                    frame = self._stream.read(record.segment, record.offset, record.length)
                    if frame.kind != FrameKind.DICTIONARY:
                        raise Corrupt("another frame lies there")
                    self._draft.files.dictionaries.add(number, frame.payload)
                except SHAPE_ERRORS as error:
                    self.dropped.append(f"dictionary {number} is lost: {error}")
                    self._draft.put(Table.DICTIONARY, key, None)

    def _raw(self, place: Place) -> tuple[Frame, bytes]:
        frame = self._stream.read(place.segment, place.offset, place.length)
        where = f"segment {place.segment}"
        return frame, self._draft.files.dictionaries.decompress(frame, where, _STRAY_BYTES_MAX)

    def _adopt_strays(self) -> None:
        for digest, place in self._gathered.stray.items():
            table = _TABLES.get(place.kind)
            if table is not None and self._draft.get(table, digest) is None:
                self._adopt(table, digest, place)

    def _adopt(self, table: Table, digest: bytes, place: Place) -> None:
        """Make a block, or a message that is in one piece, a record again; note what is neither."""
        try:
            _, raw = self._raw(place)
        except SHAPE_ERRORS as error:
            if table == Table.BLOCK:
                self.dropped.append(f"a block at {place.offset} of segment {place.segment}: {error}")
            else:
                self.fragments.append(("", "", str(error)))
            return
        if digest_of(raw) == digest:
            known = {
                "references": 0,
                "size": len(raw),
                "segment": place.segment,
                "offset": place.offset,
                "length": place.length,
            }
            record = BlockRecord(**known) if table == Table.BLOCK else ContentRecord(parts=(), **known)
            self._draft.put(table, digest, record)
        elif table == Table.CONTENT:
            envelope = parse_envelope(raw, header_end(raw))
            where = f"segment {place.segment} at {place.offset}"
            problem = f"{where}: the record that names its parts is lost"
            self.fragments.append((envelope.subject, envelope.sender, problem))

    def _read_content(self, only: Iterable[bytes] | None) -> None:
        with self._draft.reading() as reader:
            keys = only if only is not None else (key for key, _ in reader.records(Table.CONTENT, b"", None))
            for key in keys:
                problem = self._problem_of(reader, key)
                if problem is None:
                    self.whole.add(key)
                    self.problems.pop(key, None)
                else:
                    self.problems[key] = problem

    def _problem_of(self, reader: ReadTransaction, key: bytes) -> str | None:
        try:
            raw = content_store.read(reader, key)
        except SHAPE_ERRORS as error:
            return str(error)
        return None if digest_of(raw) == key else "its bytes are not those that were stored"

    def _wanted(self, reader: ReadTransaction) -> set[bytes]:
        """Digests of the frames of all content that is not whole."""
        wanted = set(self.problems)
        for key in self.problems:
            record: Any = reader.record(Table.CONTENT, key)
            if record is not None:
                wanted.update(digest for part in record.parts for digest in part[4])
        return wanted

    def _try_spare_records(self) -> None:
        """Old tables may tell of another place than the stream, and be right."""
        with self._draft.reading() as reader:
            wanted = self._wanted(reader)
        for (table, key), value in self._gathered.spare.items():
            if key in wanted:
                self._draft.put(table, key, decode_record(table, key, value))
        self._read_content(list(self.problems))

    def _find_again(self) -> None:
        """Another whole copy may lie in a segment that compaction has emptied and not removed."""
        if not self.problems:
            return
        with self._draft.reading() as reader:
            wanted = self._wanted(reader)
            for segment in self._stream.segments():
                for offset, length, frame in scan_frames(self._stream, segment):
                    if frame is not None and frame.digest in wanted:
                        self._point_to(reader, frame, Place(frame.kind, segment, offset, length))
        self._read_content(list(self.problems))

    def _point_to(self, reader: ReadTransaction, frame: Frame, place: Place) -> None:
        table = _TABLES.get(frame.kind)
        if table is None:
            return
        record: Any = reader.record(table, frame.digest) if table == Table.CONTENT else None
        if record is None:
            self._adopt(table, frame.digest, place)
        else:
            _, segment, offset, length = place
            moved = record._replace(segment=segment, offset=offset, length=length)
            self._draft.put(table, frame.digest, moved)
