"""A database read straight from a backup repository: its records are brought over, content when touched.

    <place>/properties/    the tables as they were at the snapshot's moment

Nothing of it can be changed. Tables are small beside content (a few percent), so a mailbox of a large store
can be looked at without restoring the store (DOMAIN.md "Recovery storage group").
"""

from __future__ import annotations

import random
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pillarbox.backup.database_snapshot import (
    SEGMENT_CHUNK_BYTES,
    StoredDatabase,
    StoredSegment,
    read_stored_segment,
)
from pillarbox.backup.repository.damage import damaged_file
from pillarbox.backup.repository.pack import BlobId
from pillarbox.backup.repository.repository import Repository
from pillarbox.backup.restore import RECOVERY_TITLES, RestorableDatabase, read_restorable
from pillarbox.store.access import Actor, Role
from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.content.blocks import BLOCK_BYTES_MAX, Dictionaries
from pillarbox.store.disk.env import DATA_FILE, Env
from pillarbox.store.disk.stream import Frame, parse_frame, segment_name
from pillarbox.store.disk.tables import (
    IDENTITY_KEY,
    DatabaseKind,
    IdentityRecord,
    MailboxRecord,
    Table,
    refuse_unknown_layout,
)
from pillarbox.store.engine.database import PROPERTIES
from pillarbox.store.engine.transaction import DatabaseFiles, FrameSource, ReadTransaction
from pillarbox.store.errors import (
    AccessDenied,
    Corrupt,
    Dismounted,
    InvalidContent,
    NotFound,
)
from pillarbox.store.ids import guid_text
from pillarbox.store.mail.mailboxes import DISCONNECTED

CHUNKS_KEPT: Final = 64  # 16 MiB: what lies together was delivered together, and is read together
_DAMAGE: Final = (Corrupt, InvalidContent, NotFound)
_NO_RANDOM: Final = random.Random(0)  # what is never written never needs a GUID


class RepositoryFrames:
    """The frames of a stored database, fetched from its repository in chunks as they are read.

    Used from any thread. `fetched_chunks` counts the chunks that were fetched.
    """

    def __init__(
        self, repository: Repository, stored: StoredDatabase, name: str, *, chunks_kept: int = CHUNKS_KEPT
    ) -> None:
        """Nothing is fetched before the first read."""
        self.fetched_chunks = 0
        self._repository = repository
        self._trees = dict(stored.segments)
        self._name = name
        self._chunks_kept = chunks_kept
        self._segments: dict[int, StoredSegment] = {}
        self._chunks: OrderedDict[BlobId, bytes] = OrderedDict()
        self._fetching = threading.Lock()

    def read(self, segment: int, offset: int, length: int) -> Frame:
        """The frame of `length` bytes at a place.

        Raises Corrupt naming the place when it is damaged or missing; Retryable when the repository does not
        answer.
        """
        where = f"{self._name}/{segment_name(segment)}"
        try:
            # One at a time: two readers of one chunk must not both fetch it.
            with self._fetching:
                data, begin = self._chunks_around(self._segment(segment), offset, length)
        except _DAMAGE as error:
            raise damaged_file(f"{where} at {offset}: {error}", where, offset) from error
        return parse_frame(memoryview(data)[: offset - begin + length], offset - begin, where, begin)

    @property
    def chunks_in_memory(self) -> int:
        """The number of chunks, of at most 256 KiB, that are kept."""
        return len(self._chunks)

    def _segment(self, number: int) -> StoredSegment:
        found = self._segments.get(number)
        if found is None:
            if number not in self._trees:
                raise NotFound(f"the snapshot has no segment {number}")
            found = read_stored_segment(self._repository, number, self._trees[number])
            self._segments[number] = found
        return found

    def _chunks_around(self, segment: StoredSegment, offset: int, length: int) -> tuple[bytes, int]:
        """The bytes of the chunks that a frame lies in, and where in the segment they begin."""
        end = offset + length
        if offset < 0 or length <= 0 or end > segment.size_bytes:
            raise NotFound(f"no frame of {length} bytes can be there")
        first, last = offset // SEGMENT_CHUNK_BYTES, (end - 1) // SEGMENT_CHUNK_BYTES
        wanted = segment.chunks[first : last + 1]
        found = self._fetch(wanted)
        begin = first * SEGMENT_CHUNK_BYTES
        for index, blob_id in enumerate(wanted, first):
            size = min(SEGMENT_CHUNK_BYTES, segment.size_bytes - index * SEGMENT_CHUNK_BYTES)
            if len(found[blob_id]) != size:
                raise damaged_file(f"a chunk has {len(found[blob_id])} bytes, not {size}")
        return b"".join(found[blob_id] for blob_id in wanted), begin

    def _fetch(self, wanted: tuple[BlobId, ...]) -> dict[BlobId, bytes]:
        found = {}
        for blob_id in wanted:
            if blob_id in self._chunks:
                self._chunks.move_to_end(blob_id)
                found[blob_id] = self._chunks[blob_id]
        missing = [blob_id for blob_id in wanted if blob_id not in found]
        for blob_id, data in self._repository.read_many(missing):
            self.fetched_chunks += 1
            found[blob_id] = self._chunks[blob_id] = data
        while len(self._chunks) > self._chunks_kept:
            self._chunks.popitem(last=False)
        return found


class _FetchedDictionaries(Dictionaries):
    """Dictionaries that are read from the stream when the first frame needs them."""

    def __init__(self, frames: FrameSource, places: dict[int, tuple[int, int, int]]) -> None:
        super().__init__()
        self._frames = frames
        self._places = places
        self._adding = threading.Lock()

    def decompress(self, frame: Frame, where: str, limit_bytes: int = BLOCK_BYTES_MAX) -> bytes:
        with self._adding:
            place = self._places.get(frame.dictionary)
            if place is not None:
                self.add(frame.dictionary, self._frames.read(*place).payload)
                del self._places[frame.dictionary]
        return super().decompress(frame, where, limit_bytes)


class RecoveryRead(ReadTransaction):
    """A read in which every mailbox is disconnected."""

    def record(self, table: Table, key: bytes) -> Any:
        return _disconnected(super().record(table, key))

    def records(
        self, table: Table, start: bytes, stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, Any]]:
        for key, record in super().records(table, start, stop, reverse=reverse):
            yield key, _disconnected(record)


def _disconnected(record: Any) -> Any:
    return record._replace(state=DISCONNECTED) if isinstance(record, MailboxRecord) else record


class RecoveryDatabase:
    """A database that only recovery tools read; it cannot be written, backed up or reached by clients.

    `frames` is where its content comes from: its own stream, or a repository. Used from any thread.
    """

    def __init__(
        self,
        properties: Path,
        guid: bytes,
        name: str,
        kind: DatabaseKind,
        frames: FrameSource,
    ) -> None:
        """Open the tables in `properties`, which are complete and which nobody writes any more.

        Raises NotFound, Corrupt, UnsupportedVersion.
        """
        self.guid = guid
        self.name = name
        self.kind = kind
        if not (properties / DATA_FILE).is_file():
            raise NotFound(
                f"the records of database {name} are not at {properties}",
                hint=f"remove the database from the {RECOVERY_TITLES[kind]}, then mount or restore it again",
            )
        env = Env(properties, read_only=True)
        self._files: DatabaseFiles | None = None
        try:
            dictionaries = self._identify(
                DatabaseFiles(guid, env, frames, Dictionaries(), _NO_RANDOM), frames
            )
        except BaseException:
            env.close()
            raise
        self._files = DatabaseFiles(guid, env, frames, dictionaries, _NO_RANDOM)

    def _identify(self, files: DatabaseFiles, frames: FrameSource) -> Dictionaries:
        """Prove that the tables are those of this database; its dictionaries, none of them read yet."""
        with ReadTransaction(files, files.env.view(), Actor.task("mount")) as read:
            identity: IdentityRecord | None = read.record(Table.META, IDENTITY_KEY)
            places = {
                int.from_bytes(key, "big"): (record.segment, record.offset, record.length)
                for key, record in read.records(Table.DICTIONARY, b"", None)
            }
        if identity is None or identity.guid != self.guid:
            raise Corrupt(f"the tables of database {self.name} are not those of {guid_text(self.guid)}")
        refuse_unknown_layout(identity.layout_version, self.name)
        return _FetchedDictionaries(frames, places)

    def read(self, actor: Actor) -> ReadTransaction:
        """A read of the one state it has.

        Raises AccessDenied for whoever is no administrator or task of the server; Dismounted after `close`.
        """
        if actor.role not in (Role.ADMINISTRATOR, Role.SERVER_TASK):
            raise AccessDenied(
                f"database {self.name} is in the {RECOVERY_TITLES[self.kind]}, which no client reaches",
                hint="let an administrator merge what is needed into the live database",
            )
        if self._files is None:
            raise Dismounted(f"database {self.name} of the {RECOVERY_TITLES[self.kind]} was closed")
        return RecoveryRead(self._files, self._files.env.view(), actor)

    @property
    def is_open(self) -> bool:
        """True while the database can be read."""
        return self._files is not None

    def close(self) -> None:
        """Let its files go; reads must be closed by now. Closing twice is harmless."""
        if self._files is not None:
            self._files.env.close()
            self._files = None

    def __enter__(self) -> RecoveryDatabase:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_snapshot_mount(
    repository: Repository,
    database: RestorableDatabase,
    place: PathLike,
    *,
    chunks_kept: int = CHUNKS_KEPT,
) -> RecoveryDatabase:
    """Open a database whose records `restore_records` brought to `place`; content comes from `repository`.

    `chunks_kept` is how many pieces of content, of 256 KiB, are kept in memory. Raises NotFound, Corrupt,
    InvalidContent, UnsupportedVersion.
    """
    place = as_path(place, "place")
    frames = RepositoryFrames(
        repository, read_restorable(repository, database), database.name, chunks_kept=chunks_kept
    )
    return RecoveryDatabase(place / PROPERTIES, database.guid, database.name, database.kind, frames)
