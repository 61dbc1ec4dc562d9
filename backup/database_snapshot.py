"""One database in a snapshot, as trees of a repository, of which little is written anew.

    root      children: image, redo, contents, then a tree a segment
    image     the LMDB file of some moment, compacted, in blobs of 1 MiB
    redo      the redo frames since that moment, in the order of their sequence numbers
    contents  what `backup show` tells: mailboxes and folders (stored_contents.py)
    segment   the stream's bytes, in chunks of 256 KiB at fixed offsets

A stream only grows at its end, so chunks of an earlier snapshot are named again without being read, once it
is proven that the stream still continues from there (a restore may have taken the database back meanwhile).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from pillarbox.backup.repository.pack import BlobId, BlobKind, Child, Tree, decode_tree
from pillarbox.backup.repository.repository import Repository, Writer
from pillarbox.backup.stored_contents import SLICED_TABLES, Contents, read_slices, store_contents
from pillarbox.store.disk.env import DATA_FILE
from pillarbox.store.disk.redo import read_redo
from pillarbox.store.disk.stream import SEGMENT_HEADER_BYTES, FrameKind, Position, build_frame
from pillarbox.store.disk.tables import Table
from pillarbox.store.engine.checkpointer import FlushedState
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import ReadTransaction
from pillarbox.store.errors import Corrupt, InvalidContent, NotFound, UnsupportedVersion

DATABASE_FORMAT: Final = 1
SEGMENT_CHUNK_BYTES: Final = 256 << 10
IMAGE_CHUNK_BYTES: Final = 1 << 20
REDO_BYTES_MIN: Final = 256 << 10  # below it a new image would cost more than the redo it spares
REDO_PIECES_MAX: Final = 32  # of some kB each, so that hundreds of captures do not name hundreds
_PROVEN_CHUNKS: Final = 2
_THREADS: Final = 2
_FIRST_SEGMENT_CHILD: Final = 3
_DAMAGE: Final = (Corrupt, InvalidContent, NotFound, UnsupportedVersion)

Progress = Callable[[int], None]


class FrozenDatabase(NamedTuple):
    """The state of a database in the freeze; the read keeps its pages and segments until it ends."""

    database: Database
    flushed: FlushedState
    read: ReadTransaction


@dataclass(frozen=True)
class StoredDatabase:
    """A database as a snapshot holds it. Sizes in bytes; `segments` are (number, id of its tree)."""

    root: BlobId
    guid: bytes
    sequence: int
    position: Position
    image: BlobId
    image_bytes: int
    image_sequence: int
    redo: BlobId
    redo_bytes: int
    contents: BlobId
    segments: tuple[tuple[int, BlobId], ...]
    mailboxes_count: int
    messages_count: int


class _RedoFrame(NamedTuple):
    """One transaction as it is kept, and the (table, key) of every record that it changed."""

    sequence: int
    frame: bytes
    changed: list[tuple[int, bytes]]


class StoredSegment(NamedTuple):
    """One segment of a stored database: its number, its size, and its chunks in order."""

    number: int
    size_bytes: int
    chunks: tuple[BlobId, ...]


def read_stored_database(repository: Repository, root: BlobId) -> StoredDatabase:
    """The database of that root tree. Raises Corrupt, NotFound, InvalidContent when it is none of ours."""
    tree = repository.read_tree(root)
    try:
        version, *fields = tree.meta
        if version != DATABASE_FORMAT:
            raise UnsupportedVersion(
                f"a snapshot holds a database in format {version}",
                hint=f"this program knows {DATABASE_FORMAT}; use a newer one",
            )
        guid, sequence, position, image, redo_bytes, numbers, counts = fields
        ids = [child.blob_id for child in tree.children]
        segments = tuple(zip(map(int, numbers), ids[_FIRST_SEGMENT_CHILD:], strict=True))
        if len(guid) != 16 or any(child.kind is not BlobKind.TREE for child in tree.children):
            raise ValueError("its fields are not those of a database")
        return StoredDatabase(
            root, guid, int(sequence), Position(*map(int, position)), ids[0], int(image[0]), int(image[1]),
            ids[1], int(redo_bytes), ids[2], segments, *map(int, counts),
        )  # fmt: skip
    except (ValueError, TypeError, IndexError) as error:
        raise InvalidContent(f"a snapshot's tree of a database: {error}") from error


def read_stored_segment(repository: Repository, number: int, tree_id: BlobId) -> StoredSegment:
    """One segment of a stored database. Raises as `read_stored_database`."""
    return _stored_segment(number, repository.read_tree(tree_id))


def read_stored_segments(repository: Repository, stored: StoredDatabase) -> dict[int, StoredSegment]:
    """All segments of a stored database by number; neighbouring trees come in one request.

    Raises as `read_stored_database`.
    """
    trees = dict(repository.read_many(tree_id for _, tree_id in stored.segments))
    return {
        number: _stored_segment(number, decode_tree(trees[tree_id])) for number, tree_id in stored.segments
    }


def _stored_segment(number: int, tree: Tree) -> StoredSegment:
    try:
        found, size_bytes = map(int, tree.meta)
        chunks = _data_ids(tree)
        if found != number or len(chunks) != -(-size_bytes // SEGMENT_CHUNK_BYTES):
            raise ValueError(f"it is not segment {number} or not whole")
        return StoredSegment(number, size_bytes, chunks)
    except (ValueError, TypeError) as error:
        raise InvalidContent(f"a snapshot's tree of a segment: {error}") from error


def read_stored_chunks(repository: Repository, tree_id: BlobId) -> Iterator[bytes]:
    """The blobs of an image, redo or contents tree, in order. Raises as `read_stored_database`."""
    try:
        chunks = _data_ids(repository.read_tree(tree_id))
    except ValueError as error:
        raise InvalidContent(f"a snapshot's tree: {error}") from error
    for blob_id in chunks:
        yield repository.read(blob_id)


def _data_ids(tree: Tree) -> tuple[BlobId, ...]:
    if any(child.kind is not BlobKind.DATA for child in tree.children):
        raise ValueError("it holds a tree where data belongs")
    return tuple(child.blob_id for child in tree.children)


def store_database(
    repository: Repository,
    writer: Writer,
    frozen: FrozenDatabase,
    previous: BlobId | None,
    *,
    progress: Progress | None = None,
) -> StoredDatabase:
    """Store a frozen database; `previous` is the root tree of an earlier snapshot of it.

    `progress` is told bytes of the stream as they are dealt with. Raises Corrupt when the database is damaged
    where it had to be read, and what the repository raises.
    """
    earlier = None
    if previous is not None:
        with suppress(*_DAMAGE):  # a damaged snapshot is not built upon: everything is stored again
            earlier = _Earlier(repository, writer, previous)
    return _DatabaseStoring(repository, writer, frozen, earlier, progress).store()


class _Earlier:
    """An earlier snapshot of the database, everything of which is in the repository."""

    def __init__(self, repository: Repository, writer: Writer, root: BlobId) -> None:
        self.stored = read_stored_database(repository, root)
        self.segments = read_stored_segments(repository, self.stored)
        self.contents = read_slices(repository, self.stored.contents)
        self.redo = repository.read_tree(self.stored.redo)
        image_children = repository.read_tree(self.stored.image).children
        needed = [child.blob_id for child in (*self.redo.children, *image_children)]
        needed += [each.blob for each in self.contents.slices]
        needed += [chunk for segment in self.segments.values() for chunk in segment.chunks]
        for blob_id in needed:
            if not writer.has(blob_id):
                raise NotFound(f"blob {blob_id.hex()} of the snapshot before is missing")


class _DatabaseStoring:
    """One database on its way into a repository."""

    def __init__(
        self,
        repository: Repository,
        writer: Writer,
        frozen: FrozenDatabase,
        earlier: _Earlier | None,
        progress: Progress | None,
    ) -> None:
        self._naming = repository.naming
        self._repository = repository
        self._writer = writer
        self._database, (self._sequence, self._position), self._read = frozen
        self._stream = self._database.stream
        self._needed = {int.from_bytes(key, "big") for key, _ in self._read.records(Table.SEGMENT, b"", None)}
        listed = {each for each in self._stream.segments() if each <= self._position.segment}
        self._numbers = sorted(listed | self._needed)
        self._progress = progress or (lambda _: None)
        self._earlier = earlier if earlier is not None and self._continues(earlier) else None

    def store(self) -> StoredDatabase:
        earlier = self._earlier
        if earlier is not None and earlier.stored.sequence == self._sequence:
            return earlier.stored
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="pillarbox-backup") as threads:
            segments = self._store_segments(threads)
        since = None if earlier is None else self._redo_since(earlier.stored)
        image, image_state, redo, redo_bytes = self._store_records(since)
        contents = self._store_contents(since)
        counts = contents.mailboxes_count, contents.messages_count
        meta = [
            DATABASE_FORMAT, self._database.guid, self._sequence, list(self._position), image_state,
            redo_bytes, self._numbers, counts,
        ]  # fmt: skip
        trees = [_below(each) for each in (image, redo, contents.tree, *segments)]
        root = self._writer.add_tree(trees, meta).id
        return StoredDatabase(
            root, self._database.guid, self._sequence, self._position, image, *image_state, redo, redo_bytes,
            contents.tree, tuple(zip(self._numbers, segments, strict=True)), *counts,
        )  # fmt: skip

    # -- the stream

    def _end_of(self, number: int) -> int:
        return self._position.offset if number == self._position.segment else self._stream.size(number)

    def _continues(self, earlier: _Earlier) -> bool:
        """True when the stream still holds what it held then, by the last chunks that both have."""
        common = [number for number in self._numbers if number in earlier.segments]
        if earlier.stored.position > self._position or earlier.stored.sequence > self._sequence or not common:
            return False
        segment = earlier.segments[common[-1]]
        if segment.size_bytes > self._end_of(segment.number):
            return False
        first = max(0, len(segment.chunks) - _PROVEN_CHUNKS)
        return all(
            self._naming.name(BlobKind.DATA, self._read_chunk(segment.number, index, segment.size_bytes))
            == segment.chunks[index]
            for index in range(first, len(segment.chunks))
        )

    def _read_chunk(self, number: int, index: int, end: int) -> bytes:
        start = index * SEGMENT_CHUNK_BYTES
        length = min(SEGMENT_CHUNK_BYTES, end - start)
        data = self._stream.read_bytes(number, start, length)
        if len(data) != length:
            path = str(self._stream.path(number))
            raise Corrupt(f"{path} ends before {start + length}", file=path, offset=start + len(data))
        return data

    def _store_segments(self, threads: ThreadPoolExecutor) -> list[BlobId]:
        """The trees of all segments; those that compaction removes meanwhile are none of the snapshot."""
        stored: dict[int, BlobId] = {}
        for number in self._numbers:
            try:
                stored[number] = self._store_segment(number, threads)
            except Corrupt:
                if not self._is_removed(number):
                    raise
        self._numbers = list(stored)
        return list(stored.values())

    def _is_removed(self, number: int) -> bool:
        """True when a segment is gone that nothing needed any more at the snapshot's moment.

        One that was needed then stays as long as the read of that moment does.
        """
        return number not in self._needed and number not in self._stream.segments()

    def _store_segment(self, number: int, threads: ThreadPoolExecutor) -> BlobId:
        end = self._end_of(number)
        if not end:
            path = str(self._stream.path(number))
            raise Corrupt(f"{path} is missing", file=path)
        kept = self._kept_chunks(number, end)
        count = -(-end // SEGMENT_CHUNK_BYTES)

        def store_chunk(index: int) -> BlobId:
            data = self._read_chunk(number, index, end)
            added = self._writer.add(BlobKind.DATA, data).id
            self._progress(len(data))
            return added

        self._progress(min(len(kept) * SEGMENT_CHUNK_BYTES, end))
        chunks = [*kept, *threads.map(store_chunk, range(len(kept), count))]
        return self._writer.add_tree([Child(BlobKind.DATA, each) for each in chunks], [number, end]).id

    def _kept_chunks(self, number: int, end: int) -> Sequence[BlobId]:
        segment = self._earlier.segments.get(number) if self._earlier else None
        if segment is None or segment.size_bytes > end:
            return ()
        if segment.size_bytes == end:
            return segment.chunks
        return segment.chunks[: segment.size_bytes // SEGMENT_CHUNK_BYTES]

    # -- the records

    def _store_records(
        self, since: Sequence[_RedoFrame] | None
    ) -> tuple[BlobId, tuple[int, int], BlobId, int]:
        """The image with its (bytes, sequence), and the redo since with its bytes."""
        earlier = self._earlier
        if earlier is None or since is None:
            image, image_bytes = self._store_image()
            return image, (image_bytes, self._sequence), self._add_redo((), 0, b""), 0
        stored = earlier.stored
        redo_bytes = stored.redo_bytes + sum(len(each.frame) for each in since)
        redo = self._store_redo(earlier.redo, b"".join(each.frame for each in since))
        return stored.image, (stored.image_bytes, stored.image_sequence), redo, redo_bytes

    def _redo_since(self, stored: StoredDatabase) -> list[_RedoFrame] | None:
        """The redo frames since then; None when an image serves better: too many, or compaction took some."""
        room = max(REDO_BYTES_MIN, stored.image_bytes // 4) - stored.redo_bytes
        found: list[_RedoFrame] = []
        sequence = stored.sequence
        for number in range(stored.position.segment, self._position.segment + 1):
            if number not in self._numbers:
                return None
            start = stored.position.offset if number == stored.position.segment else SEGMENT_HEADER_BYTES
            for each in self._redo_frames(number, start):
                room -= len(each.frame)
                if room < 0 or each.sequence != sequence + 1:
                    return None
                sequence = each.sequence
                found.append(each)
        return found if sequence == self._sequence else None

    def _redo_frames(self, number: int, start: int) -> Iterator[_RedoFrame]:
        end = self._end_of(number)
        if start >= end:
            return
        for offset, frame in self._stream.frames(number, start):
            after = offset + frame.length
            if frame.kind == FrameKind.REDO:
                redo = read_redo(frame, Position(number, after), f"{self._stream.path(number)} at {offset}")
                fields = frame.kind, frame.codec, frame.dictionary, frame.raw_bytes, frame.digest
                changed = [(table, key) for table, key, _ in redo.rows]
                yield _RedoFrame(redo.sequence, build_frame(*fields, frame.payload), changed)
            if after >= end:  # behind it others write at this moment
                return

    def _store_redo(self, earlier: Tree, frames: bytes) -> BlobId:
        """Store the redo of the snapshot before, and `frames` behind it; many small pieces become one."""
        whole_count = int(earlier.meta)
        loose = earlier.children[whole_count:]
        if len(loose) < REDO_PIECES_MAX:
            return self._add_redo(earlier.children, whole_count, frames)
        before = b"".join(self._repository.read(child.blob_id) for child in loose)
        return self._add_redo(earlier.children[:whole_count], whole_count, before + frames)

    def _add_redo(self, before: Sequence[Child], whole_count: int, frames: bytes) -> BlobId:
        """A tree of `before` and the blobs of `frames`; it says how many in front are never joined again."""
        added = [
            Child(BlobKind.DATA, self._writer.add(BlobKind.DATA, frames[at : at + IMAGE_CHUNK_BYTES]).id)
            for at in range(0, len(frames), IMAGE_CHUNK_BYTES)
        ]
        if len(before) == whole_count:
            whole_count += len(frames) // IMAGE_CHUNK_BYTES
        return self._writer.add_tree([*before, *added], whole_count).id

    def _store_contents(self, since: Sequence[_RedoFrame] | None) -> Contents:
        earlier = self._earlier
        if earlier is None or since is None:
            return store_contents(self._writer, self._read, None, {})
        changed = {each for frame in since for each in frame.changed}
        by_table = {
            table: sorted(key for number, key in changed if number == table) for table in SLICED_TABLES
        }
        return store_contents(self._writer, self._read, earlier.contents, by_table)

    def _store_image(self) -> tuple[BlobId, int]:
        with tempfile.TemporaryDirectory(prefix="snapshot.", dir=self._database.path) as scratch:
            self._database.files.env.copy_to(Path(scratch), self._read.view)
            with (Path(scratch) / DATA_FILE).open("rb") as file:
                chunks = []
                size = 0
                while data := file.read(IMAGE_CHUNK_BYTES):
                    size += len(data)
                    chunks.append(Child(BlobKind.DATA, self._writer.add(BlobKind.DATA, data).id))
            return self._writer.add_tree(chunks, size).id, size


def _below(tree_id: BlobId) -> Child:
    return Child(BlobKind.TREE, tree_id)


def describe_database(frozen: FrozenDatabase, stored: StoredDatabase) -> dict[str, Any]:
    """The entry of a database in a manifest: plain data, no blob ids."""
    database = frozen.database
    return {
        "guid": database.guid,
        "name": database.name,
        "kind": int(database.kind),
        "sequence": stored.sequence,
        "state": describe_state(frozen.read),
        "position": list(stored.position),
        "stream_bytes": sum(database.stream.size(number) for number, _ in stored.segments[:-1])
        + stored.position.offset,
        "records_bytes": stored.image_bytes + stored.redo_bytes,
        "mailboxes_count": stored.mailboxes_count,
        "messages_count": stored.messages_count,
    }


def describe_state(read: ReadTransaction) -> list[int]:
    """The numbers that stay while no object changes: the last change number, bytes stored and in use.

    A transaction of the engine alone, as the note that sizes were checked, is no change to be backed up for.
    """
    state = read.state()
    return [state.counter, state.content_bytes, state.live_bytes]
