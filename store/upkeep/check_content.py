"""The check of content: every block and message is read, and its bytes are those of its digest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from pillarbox.store.content.blocks import BLOCK_BYTES_MAX, digest_of, skeleton_bytes_max
from pillarbox.store.disk.stream import FrameKind
from pillarbox.store.disk.tables import BlockRecord, ContentRecord, DictionaryRecord, Table
from pillarbox.store.engine import content_store
from pillarbox.store.errors import Corrupt, PillarboxError
from pillarbox.store.upkeep.check_findings import SHAPE_ERRORS, CheckedState
from pillarbox.store.upkeep.check_records import RecordsCheck

_DIGESTS_PER_PASS: Final = 1_000_000


class ContentCheck:
    """Reads all content, and counts who holds it in passes over a part of the digests each.

    `live_bytes` are those in use in each segment; `damaged_places` were named with what lies there.
    """

    def __init__(self, checked: CheckedState, records: RecordsCheck) -> None:
        self._checked = checked
        self.live_bytes: Counter[int] = Counter()
        self.damaged_places: set[tuple[int, int]] = set()
        self.bytes_read = 0
        self._records = records

    def _frame(
        self,
        kind: FrameKind,
        digest: bytes,
        segment: int,
        offset: int,
        length: int,
        limit_bytes: int = BLOCK_BYTES_MAX,
    ) -> bytes:
        self.live_bytes[segment] += length
        try:
            frame = self._checked.stream.read(segment, offset, length)
            where = str(self._checked.stream.path(segment))
            if frame.kind != kind or (kind != FrameKind.DICTIONARY and frame.digest != digest):
                raise Corrupt(
                    f"{where}: the frame at {offset} is of other content", file=where, offset=offset
                )
            return self._checked.reader.files.dictionaries.decompress(frame, where, limit_bytes)
        except PillarboxError as error:
            self.damaged_places.add((segment, offset))
            path = str(self._checked.stream.path(segment))
            raise Corrupt(str(error), file=path, offset=offset) from error

    def check_dictionary(self, key: bytes, record: DictionaryRecord) -> None:
        """Read a dictionary's frame. Raises Corrupt."""
        self._frame(FrameKind.DICTIONARY, b"", record.segment, record.offset, record.length)

    def check_block(self, key: bytes, record: BlockRecord) -> None:
        """Read a block. Raises Corrupt."""
        raw = self._frame(FrameKind.BLOCK, key, record.segment, record.offset, record.length)
        if len(raw) != record.size:
            self._checked.found(Table.BLOCK, key, f"has {len(raw)} bytes where {record.size} were stored")
        if digest_of(raw) != key:
            self._checked.found(Table.BLOCK, key, "its bytes are not those of its digest")

    def check_content(self, key: bytes, record: ContentRecord) -> None:
        """Read a message, and compare it with its digest."""
        try:
            place = (record.segment, record.offset, record.length)
            self._frame(FrameKind.SKELETON, key, *place, skeleton_bytes_max(len(record.parts)))
            raw = content_store.read(self._checked.reader, key)
        except SHAPE_ERRORS as error:
            self._records.damaged_content[key] = str(error)
            self._checked.found(Table.CONTENT, key, error)
            return
        self.bytes_read += len(raw)
        if digest_of(raw) != key:
            self._records.damaged_content[key] = "its bytes are not those that were stored"
            self._checked.found(Table.CONTENT, key, "its bytes are not those of its digest")

    def items_held(self) -> Iterator[bytes]:
        """The content of each message."""
        return (item.digest for _, item in self._checked.decoded(Table.ITEM))

    def blocks_held(self) -> Iterator[bytes]:
        """The blocks of each content."""
        return (
            digest
            for _, content in self._checked.decoded(Table.CONTENT)
            for part in content.parts
            for digest in part[4]
        )

    def check_references(self, table: Table, held: Callable[[], Iterator[bytes]]) -> None:
        """Compare the references that records count with those that there are."""
        passes = 1 + self._checked.count(table) // _DIGESTS_PER_PASS
        for each in range(passes):
            try:
                counted = Counter(digest for digest in held() if digest[-1] % passes == each)
            except SHAPE_ERRORS as error:
                self._checked.found(table, b"", f"references cannot be counted: {error}")
                return
            for key, record in self._checked.decoded(table):
                if key[-1] % passes == each and record.references != counted.pop(key, 0):
                    self._checked.found(table, key, f"references is {record.references}, and others hold it")
            if table == Table.BLOCK:
                for key in counted:
                    if not self._checked.exists(table, key):
                        self._checked.found(table, key, "is missing; content names it")

    def name_damaged_messages(self) -> None:
        """Name each message whose content was found damaged."""
        if not self._records.damaged_content:
            return
        for key, item in self._checked.decoded(Table.ITEM):
            if item.digest in self._records.damaged_content:
                problem = f"its content is damaged: {self._records.damaged_content[item.digest]}"
                self._checked.found(Table.ITEM, key, problem, self._checked.message_text(item))
