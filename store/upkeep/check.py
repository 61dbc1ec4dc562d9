"""Check: prove every record, index row, reference, counter, frame and message of a database.

It reads one state and changes nothing, beside whoever writes. One damaged thing never hides another: what
cannot be read is named, and the check goes on behind it. Memory grows with folders and damage, and not with
messages: references are counted in passes over a part of the digests each.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from pillarbox.store.access import Actor
from pillarbox.store.content.blocks import digest_of
from pillarbox.store.disk.checkpoint import read_checkpoint
from pillarbox.store.disk.records import unseal
from pillarbox.store.disk.redo import read_redo
from pillarbox.store.disk.stream import (
    FRAME_HEADER_BYTES,
    FRAME_MAGIC,
    SEGMENT_HEADER_BYTES,
    Frame,
    FrameKind,
    Position,
    Stream,
    disk_error,
    parse_frame,
)
from pillarbox.store.disk.tables import (
    DERIVED,
    IDENTITY_KEY,
    STATE_KEY,
    BlockRecord,
    ContentRecord,
    DictionaryRecord,
    FolderRecord,
    IdentityRecord,
    ItemRecord,
    MailboxRecord,
    ObjectKind,
    Record,
    SeenRecord,
    SegmentRecord,
    StateRecord,
    Table,
    TombstoneRecord,
    decode_record,
    derived_entries,
    id_key,
    item_key,
    number_of,
    pair_key,
    segment_key,
    split_feed_value,
    split_pair_key,
)
from pillarbox.store.engine import content_store
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.errors import Corrupt, PillarboxError, UnsupportedVersion
from pillarbox.store.events import EventId
from pillarbox.store.ids import counter_of, guid_text, id_text
from pillarbox.store.mail.folders import DEPTH_MAX, path_of
from pillarbox.store.mail.messages import SEEN_BIT

_DIGESTS_PER_PASS: Final = 1_000_000
_READ_BYTES: Final = 1 << 20
# What a value of the wrong type or length does to the code that takes it for a record.
_SHAPE_ERRORS: Final = (PillarboxError, TypeError, ValueError, AttributeError, KeyError, struct.error)


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
        place = f"{self.table}[{self.key.hex()}]" if self.table else f"{self.file} at {self.offset}"
        return f"{place}: {self.problem}" + (f" ({self.hit})" if self.hit else "")


class CheckReport(NamedTuple):
    """What a check went through and what it found. `bytes_read` is of messages."""

    findings: tuple[Finding, ...]
    records: int
    messages: int
    bytes_read: int
    segments: int

    @property
    def clean(self) -> bool:
        """Whether nothing is damaged."""
        return not self.findings


def check_database(
    database: Database, actor: Actor, *, progress: Callable[[int, int], None] | None = None
) -> CheckReport:
    """Prove a mounted database whole, at one moment; it may be mounted for reading only.

    `progress(done, total)` is called with counts of records. The result is reported as event 20030 or 20031.
    Raises Dismounted; Retryable when too many reads are open; UnsupportedVersion for records of a newer
    program. Damage is returned, not raised.
    """
    with database.read(actor) as reader:
        report = _Check(database, reader, progress).run()
    if report.clean:
        database.report(EventId.CHECK_FINISHED)
    else:
        database.report(EventId.CHECK_FOUND_DAMAGE, damaged=len(report.findings))
    return report


class Scanned(NamedTuple):
    """A stretch of a segment: a frame, or bytes that are none (`frame` is None)."""

    offset: int
    length: int
    frame: Frame | None


def scan_frames(stream: Stream, segment: int, start: int = SEGMENT_HEADER_BYTES) -> Iterator[Scanned]:
    """Everything in a segment's file, damaged or not, its header aside. Zeros at the end are left out."""
    path = stream.path(segment)
    with path.open("rb") as file:
        size = file.seek(0, 2)

        def read(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        offset = start
        while offset < size:
            frame = _frame_at(read, offset, size, str(path))
            if frame is not None:
                yield Scanned(offset, frame.length, frame)
                offset += frame.length
                continue
            behind = _next_frame(read, offset, size, str(path))
            if behind < size or not _is_zero(read, offset, size):
                yield Scanned(offset, behind - offset, None)
            offset = behind


def _frame_at(read: Callable[[int, int], bytes], offset: int, size: int, where: str) -> Frame | None:
    head = read(offset, FRAME_HEADER_BYTES)
    if len(head) < FRAME_HEADER_BYTES or head[:2] != FRAME_MAGIC:
        return None
    stored = int.from_bytes(head[8:12], "little")
    if offset + FRAME_HEADER_BYTES + stored > size:
        return None
    try:
        return parse_frame(read(offset, FRAME_HEADER_BYTES + stored), 0, where)
    except Corrupt:
        return None


def _next_frame(read: Callable[[int, int], bytes], offset: int, size: int, where: str) -> int:
    """Where the next whole frame behind a damaged one begins, or the end.

    The damaged frame's own length is believed first: its payload is somebody's mail, in which a frame could
    have been planted.
    """
    head = read(offset, FRAME_HEADER_BYTES)
    behind = offset + FRAME_HEADER_BYTES + int.from_bytes(head[8:12], "little")
    if head[:2] == FRAME_MAGIC and (
        behind == size or (behind < size and _frame_at(read, behind, size, where) is not None)
    ):
        return behind
    at = offset + 1
    while at < size:
        found = read(at, _READ_BYTES).find(FRAME_MAGIC)
        if found < 0:
            at += _READ_BYTES - 1
        elif _frame_at(read, at + found, size, where) is not None:
            return at + found
        else:
            at += found + 1
    return size


def _is_zero(read: Callable[[int, int], bytes], start: int, stop: int) -> bool:
    return not any(any(read(at, _READ_BYTES)) for at in range(start, stop, _READ_BYTES))


class _Sums:
    """What the messages of one folder, or of one mailbox, come to."""

    def __init__(self) -> None:
        self.messages = self.unread = self.size = self.uid = self.cn = 0


class _Check:
    """One run of a check."""

    def __init__(
        self, database: Database, reader: Reader, progress: Callable[[int, int], None] | None
    ) -> None:
        self._database = database
        self._reader = reader
        self._view = reader.view
        self._stream = database.stream
        self._progress = progress or (lambda done, total: None)
        self._total = sum(self._view.count(table) for table in Table)
        self._done = 0
        self._findings: list[Finding] = []
        self._state: StateRecord | None = None
        self._folders: dict[int, _Sums] = {}
        self._mailboxes: dict[bytes, _Sums] = {}
        self._live: Counter[int] = Counter()
        self._index_rows: Counter[Table] = Counter()
        self._named_rows: set[tuple[Table, bytes]] = set()
        self._damaged_places: set[tuple[int, int]] = set()
        self._damaged_content: dict[bytes, str] = {}
        self._counted_content = self._counted_live = 0
        self._highest_cn = 0
        self._bytes_read = 0

    def run(self) -> CheckReport:
        """Everything, in an order in which later steps can use what earlier ones summed up."""
        self._check_checkpoint()
        self._check_meta()
        for table, check in (
            (Table.ITEM, self._check_item),
            (Table.TOMBSTONE, self._check_tombstone),
            (Table.SEEN, self._check_seen),
            (Table.FOLDER, self._check_folder),
            (Table.MAILBOX, self._check_mailbox),
            (Table.DICTIONARY, self._check_dictionary),
            (Table.BLOCK, self._check_block),
            (Table.CONTENT, self._check_content),
            (Table.SEGMENT, self._sum_segment),
        ):
            self._check_table(table, check)
        self._check_references(Table.CONTENT, self._items_held)
        self._check_references(Table.BLOCK, self._blocks_held)
        segments = self._check_segments()
        self._check_state()
        for table in sorted(DERIVED):
            self._check_surplus(table)
        self._name_damaged_messages()
        return CheckReport(
            tuple(self._findings),
            self._total,
            self._view.count(Table.ITEM),
            self._bytes_read,
            segments,
        )

    # -- findings

    def _found(self, table: Table, key: bytes, problem: object, hit: str = "") -> None:
        file, offset = "", -1
        if isinstance(problem, Corrupt):
            file, offset = problem.file, problem.offset
        self._findings.append(Finding(table.name.lower(), key, file, offset, str(problem), hit))

    def _found_in_file(self, file: object, offset: int, problem: object, hit: str = "") -> None:
        self._findings.append(Finding("", b"", str(file), offset, str(problem), hit))

    def _message_text(self, item: ItemRecord) -> str:
        return f"message {item.subject!r} of {item.sender} in {self._folder_text(item.folder_id)}"

    def _folder_text(self, folder_id: int) -> str:
        try:
            record: FolderRecord | None = self._reader.record(Table.FOLDER, id_key(folder_id))
            if record is None:
                return f"folder {id_text(folder_id)}"
            path = "/".join(path_of(self._reader, folder_id)) or "(root)"
            if not record.mailbox:
                return f"public folder {path}"
            return f"folder {path} of {self._mailbox_text(record.mailbox)}"
        except _SHAPE_ERRORS:
            return f"folder {id_text(folder_id)}"

    def _mailbox_text(self, guid: bytes) -> str:
        try:
            record: MailboxRecord | None = self._reader.record(Table.MAILBOX, guid)
            return f"mailbox {record.name if record else guid_text(guid)}"
        except _SHAPE_ERRORS:
            return f"mailbox {guid.hex()}"

    def _key_text(self, table: Table, key: bytes) -> str:
        """What a record that cannot be read was about, as far as its key tells."""
        if table in (Table.ITEM, Table.TOMBSTONE, Table.SEEN, Table.VIEW) and len(key) >= 8:
            what = {Table.ITEM: "a message in ", Table.VIEW: "the list of "}.get(table, "")
            return what + self._folder_text(number_of(key[:8])[0])
        if table == Table.FOLDER and len(key) == 8:
            return f"folder {id_text(number_of(key)[0])}"
        if table == Table.MAILBOX and len(key) == 16:
            return f"mailbox {guid_text(key)}"
        return ""

    # -- records

    def _rows(self, table: Table) -> Iterator[tuple[bytes, bytes]]:
        try:
            for key, value in self._view.scan(table, b"", None):
                self._done += 1
                if self._done % 1000 == 0:
                    self._progress(min(self._done, self._total), self._total)
                yield key, value
        except PillarboxError as error:
            self._found(table, b"", f"the table cannot be read to its end: {error}")

    def _decoded(self, table: Table, *, naming: bool = False) -> Iterator[tuple[bytes, Any]]:
        """Every record that can be read; those that cannot are named when `naming`."""
        for key, value in self._rows(table):
            try:
                record = decode_record(table, key, value)
            except UnsupportedVersion:
                raise  # a newer program's record is no damage
            except _SHAPE_ERRORS as error:
                if naming:
                    self._found(table, key, error, self._key_text(table, key))
                continue
            yield key, record

    def _check_table(self, table: Table, check: Callable[[bytes, Any], None]) -> None:
        for key, record in self._decoded(table, naming=True):
            try:
                self._check_index_rows(table, key, record)
                check(key, record)
            except _SHAPE_ERRORS as error:
                self._found(table, key, error, self._key_text(table, key))

    def _sums(self, folder_id: int) -> _Sums:
        return self._folders.setdefault(folder_id, _Sums())

    def _exists(self, table: Table, key: bytes) -> bool:
        return self._view.get(table, key) is not None

    def _note_cn(self, cn: int) -> None:
        self._highest_cn = max(self._highest_cn, counter_of(cn))

    def _check_item(self, key: bytes, item: ItemRecord) -> None:
        if key != item_key(item.folder_id, item.uid):
            self._found(Table.ITEM, key, "stands under the key of another message", self._message_text(item))
            return
        sums = self._sums(item.folder_id)
        sums.messages += 1
        sums.unread += not item.flags & SEEN_BIT
        sums.size += item.size
        sums.uid = max(sums.uid, item.uid)
        sums.cn = max(sums.cn, item.modseq)
        self._note_cn(item.modseq)
        self._note_cn(item.message_id)
        if not self._exists(Table.FOLDER, id_key(item.folder_id)):
            self._found(Table.ITEM, key, "its folder does not exist", self._message_text(item))
        content = self._view.get(Table.CONTENT, item.digest)
        if content is None:
            self._found(Table.ITEM, key, "its content does not exist", self._message_text(item))
            return
        try:
            size = content_store.content_record(self._reader, item.digest).size
        except _SHAPE_ERRORS as error:
            self._damaged_content[item.digest] = str(error)
        else:
            if size != item.size:
                self._found(
                    Table.ITEM, key, f"has size {item.size}, its content {size}", self._message_text(item)
                )

    def _check_tombstone(self, key: bytes, _: TombstoneRecord) -> None:
        folder_id, cn = split_pair_key(key)
        self._note_cn(cn)
        self._sums(folder_id).cn = max(self._sums(folder_id).cn, cn)

    def _check_seen(self, key: bytes, _: SeenRecord) -> None:
        if not self._exists(Table.FOLDER, key[:8]):
            self._found(Table.SEEN, key, "read state of a folder that does not exist")

    def _check_folder(self, key: bytes, record: FolderRecord) -> None:
        text = self._folder_text(record.folder_id)
        if key != id_key(record.folder_id):
            self._found(Table.FOLDER, key, "stands under the key of another folder", text)
            return
        self._check_folder_place(key, record, text)
        sums = self._sums(record.folder_id)
        for name, counted, stored in (
            ("messages_count", sums.messages, record.messages_count),
            ("unread_count", sums.unread, record.unread_count),
            ("size", sums.size, record.size),
        ):
            if counted != stored:
                self._found(Table.FOLDER, key, f"{name} is {stored} where {counted} are there", text)
        if record.uid_next <= sums.uid:
            self._found(Table.FOLDER, key, f"uid_next is {record.uid_next} with UID {sums.uid} in use", text)
        if record.highest_cn < sums.cn:
            self._found(
                Table.FOLDER,
                key,
                f"highest_cn is {id_text(record.highest_cn)}, below {id_text(sums.cn)}",
                text,
            )
        self._note_cn(max(record.highest_cn, record.change_cn, record.folder_id))
        mailbox = self._mailboxes.setdefault(record.mailbox, _Sums())
        mailbox.messages += sums.messages
        mailbox.size += sums.size

    def _check_folder_place(self, key: bytes, record: FolderRecord, text: str) -> None:
        if record.mailbox and not self._exists(Table.MAILBOX, record.mailbox):
            self._found(Table.FOLDER, key, "its mailbox does not exist", text)
        at, depth = record, 0
        while at.parent_id:
            try:
                parent: FolderRecord | None = self._reader.record(Table.FOLDER, id_key(at.parent_id))
            except PillarboxError:
                return  # that folder is named by itself
            if parent is None:
                if at is record:
                    self._found(Table.FOLDER, key, f"its parent {id_text(at.parent_id)} does not exist", text)
                return
            if at is record and parent.mailbox != record.mailbox:
                self._found(Table.FOLDER, key, "its parent is of another mailbox", text)
            at, depth = parent, depth + 1
            if depth > 2 * DEPTH_MAX:
                self._found(Table.FOLDER, key, "it lies within itself", text)
                return

    def _check_mailbox(self, key: bytes, record: MailboxRecord) -> None:
        text = self._mailbox_text(record.guid)
        if key != record.guid:
            self._found(Table.MAILBOX, key, "stands under the key of another mailbox", text)
            return
        sums = self._mailboxes.get(key, _Sums())
        if record.messages_count != sums.messages:
            self._found(
                Table.MAILBOX,
                key,
                f"messages_count is {record.messages_count} where {sums.messages} are there",
                text,
            )
        if record.size != sums.size:
            self._found(Table.MAILBOX, key, f"size is {record.size} where {sums.size} are there", text)
        for role, folder_id in (("root", record.root_id), *record.roles.items()):
            if not self._exists(Table.FOLDER, id_key(folder_id)):
                self._found(Table.MAILBOX, key, f"its folder {role!r} does not exist", text)
        self._note_cn(record.change_cn)

    # -- content

    def _frame(self, kind: FrameKind, digest: bytes, segment: int, offset: int, length: int) -> bytes:
        self._live[segment] += length
        try:
            frame = self._stream.read(segment, offset, length)
            where = str(self._stream.path(segment))
            if frame.kind != kind or (kind != FrameKind.DICTIONARY and frame.digest != digest):
                raise Corrupt(
                    f"{where}: the frame at {offset} is of other content", file=where, offset=offset
                )
            return self._reader.files.dictionaries.decompress(frame, where)
        except PillarboxError as error:
            self._damaged_places.add((segment, offset))
            path = str(self._stream.path(segment))
            raise Corrupt(str(error), file=path, offset=offset) from error

    def _check_dictionary(self, key: bytes, record: DictionaryRecord) -> None:
        self._frame(FrameKind.DICTIONARY, b"", *record)

    def _check_block(self, key: bytes, record: BlockRecord) -> None:
        raw = self._frame(FrameKind.BLOCK, key, record.segment, record.offset, record.length)
        if len(raw) != record.size:
            self._found(Table.BLOCK, key, f"has {len(raw)} bytes where {record.size} were stored")
        if digest_of(raw) != key:
            self._found(Table.BLOCK, key, "its bytes are not those of its digest")

    def _check_content(self, key: bytes, record: ContentRecord) -> None:
        try:
            self._frame(FrameKind.SKELETON, key, record.segment, record.offset, record.length)
            raw = content_store.read(self._reader, key)
        except _SHAPE_ERRORS as error:
            self._damaged_content[key] = str(error)
            self._found(Table.CONTENT, key, error)
            return
        self._bytes_read += len(raw)
        if digest_of(raw) != key:
            self._damaged_content[key] = "its bytes are not those that were stored"
            self._found(Table.CONTENT, key, "its bytes are not those of its digest")

    def _items_held(self) -> Iterator[bytes]:
        return (item.digest for _, item in self._decoded(Table.ITEM))

    def _blocks_held(self) -> Iterator[bytes]:
        return (
            digest
            for _, content in self._decoded(Table.CONTENT)
            for part in content.parts
            for digest in part[4]
        )

    def _check_references(self, table: Table, held: Callable[[], Iterator[bytes]]) -> None:
        passes = 1 + self._view.count(table) // _DIGESTS_PER_PASS
        for each in range(passes):
            try:
                counted = Counter(digest for digest in held() if digest[-1] % passes == each)
            except _SHAPE_ERRORS as error:
                self._found(table, b"", f"references cannot be counted: {error}")
                return
            for key, record in self._decoded(table):
                if key[-1] % passes == each and record.references != counted.pop(key, 0):
                    self._found(table, key, f"references is {record.references}, and others hold it")
            if table == Table.BLOCK:
                for key in counted:
                    if not self._exists(table, key):
                        self._found(table, key, "is missing; content names it")

    def _name_damaged_messages(self) -> None:
        if not self._damaged_content:
            return
        for key, item in self._decoded(Table.ITEM):
            if item.digest in self._damaged_content:
                problem = f"its content is damaged: {self._damaged_content[item.digest]}"
                self._found(Table.ITEM, key, problem, self._message_text(item))

    # -- the stream

    def _check_checkpoint(self) -> None:
        try:
            read_checkpoint(self._database.path)
        except PillarboxError as error:
            self._found_in_file(self._database.path / "checkpoint", 0, error)

    def _check_segments(self) -> int:
        """Every frame up to the state that is checked; whoever writes may be ahead of it."""
        numbers = self._stream.segments()
        before, sequence, past = 0, -1, False
        for number in numbers:
            if past:
                break
            if number != before + 1:
                sequence = -1
            try:
                sequence, past = self._check_segment(number, sequence)
            except FileNotFoundError:
                sequence = -1  # compaction has removed it meanwhile, unless a record names it: see below
                numbers = [each for each in numbers if each != number]
            except OSError as error:
                sequence = -1
                path = self._stream.path(number)
                self._found_in_file(path, 0, disk_error(error, str(path)), "what cannot be read of it")
            before = number
        self._check_segment_records(set(numbers))
        return len(numbers)

    def _check_segment(self, number: int, sequence: int) -> tuple[int, bool]:
        path = self._stream.path(number)
        try:
            self._stream.read_bytes(number, 0, SEGMENT_HEADER_BYTES)
        except PillarboxError as error:
            if path.exists():
                self._found_in_file(path, 0, error, "everything in this segment")
        content_bytes, whole, last = 0, True, False
        for offset, length, frame in scan_frames(self._stream, number):
            if frame is None:
                whole, sequence = False, -1
                if not any((number, at) in self._damaged_places for at in range(offset, offset + length)):
                    self._found_in_file(path, offset, f"{length} bytes are no whole frame")
            elif frame.kind != FrameKind.REDO:
                content_bytes += length
            else:
                sequence = self._check_redo(number, offset, frame, sequence)
                last = self._state is not None and sequence >= self._state.sequence
                if last:
                    break
        if whole:
            self._check_content_bytes(number, content_bytes)
        return sequence, last

    def _check_redo(self, number: int, offset: int, frame: Frame, sequence: int) -> int:
        path = str(self._stream.path(number))
        try:
            found = read_redo(frame, Position(number, offset + frame.length), path).sequence
        except Corrupt as error:
            self._found_in_file(path, offset, error)
            return -1
        if sequence >= 0 and found != sequence + 1:
            self._found_in_file(path, offset, f"transaction {found} follows {sequence}")
        return found

    def _check_content_bytes(self, number: int, counted: int) -> None:
        """A segment without a record is one that compaction has emptied and not yet removed."""
        key = segment_key(number)
        try:
            record: SegmentRecord | None = self._reader.record(Table.SEGMENT, key)
        except PillarboxError:
            return  # named with its table
        if record is not None and record.content_bytes != counted:
            problem = f"content_bytes is {record.content_bytes} where {counted} are there"
            self._found(Table.SEGMENT, key, problem, str(self._stream.path(number)))

    def _sum_segment(self, _: bytes, record: SegmentRecord) -> None:
        self._counted_content += record.content_bytes

    def _check_segment_records(self, numbers: set[int]) -> None:
        for key, record in self._decoded(Table.SEGMENT):
            number = int.from_bytes(key, "big")
            live = self._live.pop(number, 0)
            self._counted_live += live
            path = str(self._stream.path(number))
            if number not in numbers:
                self._found(Table.SEGMENT, key, "the segment's file is missing", path)
            if record.live_bytes != live:
                self._found(
                    Table.SEGMENT, key, f"live_bytes is {record.live_bytes} where {live} are in use", path
                )
        for number, live in self._live.items():
            self._found(Table.SEGMENT, segment_key(number), f"is missing; {live} of its bytes are in use")
            self._counted_live += live

    # -- identity and state

    def _check_meta(self) -> None:
        found = dict(self._decoded(Table.META, naming=True))
        state, identity = found.get(STATE_KEY), found.get(IDENTITY_KEY)
        self._state = state if isinstance(state, StateRecord) else None
        for key in (STATE_KEY, IDENTITY_KEY):
            if key not in found and not self._exists(Table.META, key):
                self._found(Table.META, key, "is missing")
        if isinstance(identity, IdentityRecord):
            if identity.guid != self._database.guid:
                self._found(Table.META, IDENTITY_KEY, f"is of database {guid_text(identity.guid)}")
            for role, folder_id in identity.roots.items():
                if not self._exists(Table.FOLDER, id_key(folder_id)):
                    self._found(Table.META, IDENTITY_KEY, f"its folder {role!r} does not exist")

    def _check_state(self) -> None:
        state = self._state
        if state is None:
            return
        if state.counter < self._highest_cn:
            self._found(
                Table.META, STATE_KEY, f"counter is {state.counter} with number {self._highest_cn} in use"
            )
        if state.content_bytes != self._counted_content:
            self._found(
                Table.META,
                STATE_KEY,
                f"content_bytes is {state.content_bytes} where the segments have {self._counted_content}",
            )
        if state.live_bytes != self._counted_live:
            self._found(
                Table.META,
                STATE_KEY,
                f"live_bytes is {state.live_bytes} where {self._counted_live} are in use",
            )

    # -- index tables

    def _check_index_rows(self, table: Table, key: bytes, record: Record) -> None:
        for (index, index_key), expected in derived_entries(table, key, record).items():
            found = self._view.get(index, index_key)
            if found is not None:
                self._index_rows[index] += 1
            if found == expected:
                continue
            problem = "is missing" if found is None else self._index_problem(index, index_key, found)
            self._named_rows.add((index, index_key))
            text = (
                self._message_text(record) if isinstance(record, ItemRecord) else self._key_text(table, key)
            )
            self._found(index, index_key, problem, text)

    @staticmethod
    def _index_problem(index: Table, key: bytes, found: bytes) -> str:
        try:
            unseal(index, key, found, index.name.lower())
        except Corrupt as error:
            return str(error)
        return "points elsewhere"

    def _check_surplus(self, table: Table) -> None:
        """Each row belongs to a record; they are looked at one by one only when there are too many."""
        if self._view.count(table) == self._index_rows[table]:
            return
        for key, value in self._rows(table):
            if (table, key) in self._named_rows:
                continue
            try:
                body = unseal(table, key, value, table.name.lower())
                owner = self._owner(table, key, body)
                surplus = owner is None or (table, key) not in derived_entries(*owner)
            except PillarboxError as error:
                if isinstance(error, Corrupt) and error.table not in ("", table.name.lower()):
                    continue  # the record it belongs to cannot be read, and was named
                self._found(table, key, error, self._key_text(table, key))
                continue
            except (struct.error, ValueError, TypeError):
                surplus = True
            if surplus:
                self._found(table, key, "belongs to no record", self._key_text(table, key))

    def _owner(self, table: Table, key: bytes, body: bytes) -> tuple[Table, bytes, Record] | None:
        """The record that an index row says it comes from, if it is there."""
        owner, owner_key = self._owner_key(table, key, body)
        record = self._reader.record(owner, owner_key)
        return None if record is None else (owner, owner_key, record)

    def _owner_key(self, table: Table, key: bytes, body: bytes) -> tuple[Table, bytes]:
        if table == Table.LOCATION:
            return Table.ITEM, body
        if table == Table.VIEW:
            return Table.ITEM, key[:8] + key[-4:]
        if table == Table.FOLDER_NAME:
            return Table.FOLDER, body
        if table == Table.MAILBOX_NAME:
            return Table.MAILBOX, body
        kind, object_id, folder_id, uid = split_feed_value(body)
        if kind == ObjectKind.MESSAGE:
            return Table.ITEM, item_key(folder_id, uid)
        if kind == ObjectKind.FOLDER:
            return Table.FOLDER, id_key(object_id)
        if kind == ObjectKind.MAILBOX:
            root: FolderRecord | None = self._reader.record(Table.FOLDER, id_key(object_id))
            return Table.MAILBOX, root.mailbox if root else b"\0"
        return Table.TOMBSTONE, pair_key(folder_id, split_pair_key(key)[1])
