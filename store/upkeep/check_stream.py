"""The check of the files: checkpoint, segments, redo records, and what the segment records say of them."""

from __future__ import annotations

from pillarbox.store.disk.checkpoint import CHECKPOINT_FILE, read_checkpoint
from pillarbox.store.disk.env import DATA_FILE
from pillarbox.store.disk.frame_scan import scan_frames
from pillarbox.store.disk.redo import read_redo
from pillarbox.store.disk.stream import SEGMENT_HEADER_BYTES, Frame, FrameKind, Position, disk_error
from pillarbox.store.disk.tables import (
    IDENTITY_KEY,
    LET_GO_KEY,
    STATE_KEY,
    IdentityRecord,
    LetGoRecord,
    SegmentRecord,
    StateRecord,
    Table,
    id_key,
    segment_key,
)
from pillarbox.store.engine import numbering
from pillarbox.store.engine.database import PROPERTIES
from pillarbox.store.engine.replay import read_state
from pillarbox.store.errors import Corrupt, PillarboxError
from pillarbox.store.ids import guid_text
from pillarbox.store.upkeep.check_content import ContentCheck
from pillarbox.store.upkeep.check_findings import CheckedState
from pillarbox.store.upkeep.let_go import LetGo


class StreamCheck:
    """Reads every frame of the stream up to the state that is checked."""

    def __init__(self, checked: CheckedState, content: ContentCheck) -> None:
        self._checked = checked
        self._content = content
        self._state: StateRecord | None = None
        self._let_go = LetGo(None)
        self._counted_content = self._counted_live = 0
        self.segments_count = 0

    def check_checkpoint(self) -> None:
        """Read the checkpoint, which the tables must have reached: a mount refuses those of an older time."""
        database = self._checked.database
        try:
            told = read_checkpoint(database.path).sequence
        except PillarboxError as error:
            self._checked.found_in_file(database.path / CHECKPOINT_FILE, 0, error)
            return
        # Not the state that is checked: a checkpoint may have been made since.
        held = read_state(database.files.env).sequence
        if held < told:
            problem = f"the tables have transaction {held}, the checkpoint was made after {told}"
            self._checked.found_in_file(database.path / PROPERTIES / DATA_FILE, -1, problem)

    def check_segments(self) -> None:
        """Every frame up to the state that is checked; whoever writes may be ahead of it."""
        numbers = self._checked.stream.segments()
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
                path = self._checked.stream.path(number)
                self._checked.found_in_file(
                    path, 0, disk_error(error, str(path)), "what cannot be read of it"
                )
            before = number
        self._check_segment_records(set(numbers))
        self.segments_count = len(numbers)

    def _check_segment(self, number: int, sequence: int) -> tuple[int, bool]:
        path = self._checked.stream.path(number)
        try:
            self._checked.stream.read_bytes(number, 0, SEGMENT_HEADER_BYTES)
        except PillarboxError as error:
            if self._let_go.covers(self._checked.stream, number, 0, self._checked.stream.size(number)):
                return -1, False
            if path.exists():
                self._checked.found_in_file(path, 0, error, "everything in this segment")
        content_bytes, whole, last = 0, True, False
        for offset, length, frame in scan_frames(self._checked.stream, number):
            if frame is None:
                whole, sequence = False, -1
                if not self._is_known(number, offset, length):
                    self._checked.found_in_file(path, offset, f"{length} bytes are no whole frame")
            elif frame.kind != FrameKind.REDO:
                content_bytes += length
            else:
                sequence = self._check_redo(number, offset, frame, sequence)
                last = self._state is not None and sequence >= self._state.sequence
                if last:
                    self._check_behind(number, offset + length)
                    break
        if whole:
            self._check_content_bytes(number, content_bytes)
        return sequence, last

    def _check_behind(self, number: int, offset: int) -> None:
        """Look behind the last transaction that the tables have: at what a mount would replay.

        A writer may be at work there, so only a redo record that is whole and cannot be read is damage.
        """
        for at, _, frame in scan_frames(self._checked.stream, number, offset):
            if frame is not None and frame.kind == FrameKind.REDO:
                self._check_redo(number, at, frame, -1)

    def _is_known(self, number: int, offset: int, length: int) -> bool:
        """True when damage was named with what lies there, or let go by a repair."""
        named = any(
            segment == number and offset <= at < offset + length
            for segment, at in self._content.damaged_places
        )
        return named or self._let_go.covers(self._checked.stream, number, offset, length)

    def _check_redo(self, number: int, offset: int, frame: Frame, sequence: int) -> int:
        path = str(self._checked.stream.path(number))
        if self._let_go.covers(self._checked.stream, number, offset, frame.length):
            return sequence  # whole, and behind a later one: a repair has written again what it tells
        try:
            found = read_redo(frame, Position(number, offset + frame.length), path).sequence
        except Corrupt as error:
            if not self._is_known(number, offset, frame.length):
                self._checked.found_in_file(path, offset, error)
            return -1
        is_missing = sequence >= 0 and found != sequence + 1
        # Of a transaction of which no byte was left a repair has let none go, in front of the next one.
        if is_missing and not self._let_go.covers(self._checked.stream, number, offset, 0):
            self._checked.found_in_file(path, offset, f"transaction {found} follows {sequence}")
        return found

    def _check_content_bytes(self, number: int, counted: int) -> None:
        """A segment without a record is one that compaction has emptied and not yet removed."""
        key = segment_key(number)
        try:
            record: SegmentRecord | None = self._checked.reader.record(Table.SEGMENT, key)
        except PillarboxError:
            return  # named with its table
        if record is not None and record.content_bytes != counted:
            problem = f"content_bytes is {record.content_bytes} where {counted} are there"
            self._checked.found(Table.SEGMENT, key, problem, str(self._checked.stream.path(number)))

    def sum_segment(self, _: bytes, record: SegmentRecord) -> None:
        """Add what a segment record counts."""
        self._counted_content += record.content_bytes

    def _check_segment_records(self, numbers: set[int]) -> None:
        for key, record in self._checked.decoded(Table.SEGMENT):
            number = int.from_bytes(key, "big")
            live = self._content.live_bytes.pop(number, 0)
            self._counted_live += live
            path = str(self._checked.stream.path(number))
            if number not in numbers:
                self._checked.found(Table.SEGMENT, key, "the segment's file is missing", path)
            if record.live_bytes != live:
                self._checked.found(
                    Table.SEGMENT, key, f"live_bytes is {record.live_bytes} where {live} are in use", path
                )
        for number, live in self._content.live_bytes.items():
            self._checked.found(
                Table.SEGMENT, segment_key(number), f"is missing; {live} of its bytes are in use"
            )
            self._counted_live += live

    def check_meta(self) -> None:
        """Look for identity and state, and at what the identity names."""
        found = dict(self._checked.decoded(Table.META, naming=True))
        state, identity = found.get(STATE_KEY), found.get(IDENTITY_KEY)
        self._state = state if isinstance(state, StateRecord) else None
        let_go = found.get(LET_GO_KEY)
        self._let_go = LetGo(let_go if isinstance(let_go, LetGoRecord) else None)
        for key in (STATE_KEY, IDENTITY_KEY):
            if key not in found and not self._checked.exists(Table.META, key):
                self._checked.found(Table.META, key, "is missing")
        if isinstance(identity, IdentityRecord):
            if identity.guid != self._checked.database.guid:
                self._checked.found(Table.META, IDENTITY_KEY, f"is of database {guid_text(identity.guid)}")
            for role, folder_id in identity.roots.items():
                if not self._checked.exists(Table.FOLDER, id_key(folder_id)):
                    self._checked.found(Table.META, IDENTITY_KEY, f"its folder {role!r} does not exist")

    def check_state(self, highest_cn: int, highest_id: int) -> None:
        """Compare the state's counters with what was found: the highest ones in use, of change numbers and of
        ids.
        """
        state = self._state
        if state is None:
            return
        # A database that went back gives ids under another numbering, and its old ones come back from others.
        is_first = state.numbering in (0, numbering.FIRST_NUMBERING)
        highest = max(highest_cn, highest_id) if is_first else highest_cn
        if state.counter < highest:
            self._checked.found(
                Table.META, STATE_KEY, f"counter is {state.counter} with number {highest} in use"
            )
        if state.content_bytes != self._counted_content:
            self._checked.found(
                Table.META,
                STATE_KEY,
                f"content_bytes is {state.content_bytes} where the segments have {self._counted_content}",
            )
        if state.live_bytes != self._counted_live:
            self._checked.found(
                Table.META,
                STATE_KEY,
                f"live_bytes is {state.live_bytes} where {self._counted_live} are in use",
            )
