"""The objects of the core as a store has them: the reads of `ObjectStore`, over whatever reads the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pillarbox.replication.core.objects import Found
from pillarbox.replication.ground.records import ObjectId, Tree
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.node.identifiers import KnownIdentifiers
from pillarbox.replication.node.stored_versions import folder_of, message_of
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.disk.tables import (
    FolderRecord,
    ObjectKind,
    Table,
    id_key,
    split_feed_value,
    split_item_key,
    split_triple_key,
    triple_key,
)
from pillarbox.store.engine import content_store
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.ids import COUNTER_BITS, COUNTER_MAX
from pillarbox.store.mail import apply_folders, apply_messages
from pillarbox.store.mail.apply_folders import FolderState
from pillarbox.store.mail.apply_messages import MessageState

ID_MAX: Final = (1 << 64) - 1


class ObjectReads:
    """Reads objects within one read or transaction. Each folder is read once."""

    def __init__(self, reader: Reader, tree: Tree, ids: KnownIdentifiers) -> None:
        self._reader = reader
        self._hierarchy = tree.hierarchy
        self._known_ids = ids
        self._folders: dict[ObjectId, Versions[Any] | None] = {}  # read here, since each is read many times

    def get(self, folder: ObjectId, object_id: ObjectId) -> Versions[Any] | None:
        """The object, or None."""
        known_id = self._known_ids.known_id(object_id)
        if folder != self._hierarchy:
            return None if known_id is None else self._message(self._known_ids.id(folder), known_id)
        if object_id not in self._folders:
            state = None if known_id is None else apply_folders.state_of(self._reader, known_id)
            self._folders[object_id] = self._versions(state)
        return self._folders[object_id]

    def _message(self, folder_id: int, message_id: int) -> Versions[Any] | None:
        return self._versions(apply_messages.state_of(self._reader, folder_id, message_id))

    def _versions(self, state: FolderState | MessageState | None) -> Versions[Any] | None:
        if state is None:
            return None
        siblings = {
            self._known_ids.change_number(each.number): self._version(each) for each in state.versions
        }
        return Versions(self._known_ids.context_of(dict(state.context)), siblings)

    def _version(self, stored: apply_folders.FolderVersion | apply_messages.MessageVersion) -> Any:
        if isinstance(stored, apply_folders.FolderVersion):
            return folder_of(self._known_ids, stored)
        size = content_store.content_record(self._reader, stored.digest).size if stored.digest else 0
        return message_of(self._known_ids, stored, size)

    def ids(self, folder: ObjectId) -> list[ObjectId]:
        """The ids of all objects of the folder, tombstones too, ascending."""
        if folder == self._hierarchy:
            found = apply_folders.ids(self._reader)
        else:
            found = apply_messages.ids_in(self._reader, self._known_ids.id(folder))
        return sorted(map(self._known_ids.object_id, found))

    def entries(self, folder: ObjectId) -> CNSet:
        """All numbers by which objects of the folder are found: those of their contexts and siblings."""
        scope = self._known_ids.id(folder)
        return self._entries(triple_key(scope, 0, 0), triple_key(scope + 1, 0, 0))

    def entries_from(self, folder: ObjectId, first: ChangeNumber) -> CNSet:
        """The entries that have the origin of a number, and are no lower."""
        scope, replica = self._known_ids.id(folder), self._known_ids.known_replica(first.origin)
        if replica is None:
            return CNSet()
        start = triple_key(scope, replica << COUNTER_BITS | first.counter, 0)
        return self._entries(start, triple_key(scope, replica << COUNTER_BITS | COUNTER_MAX, ID_MAX))

    def _entries(self, start: bytes, stop: bytes) -> CNSet:
        rows = self._reader.indexes(Table.VERSION, start, stop)
        return self._known_ids.cnset(sorted({split_triple_key(key)[1] for key, _ in rows}))

    def found(self, folder: ObjectId, numbers: CNSet, limit: int | None = None) -> list[ObjectId]:
        """The objects that are found by any of these numbers, in the order of the lowest such number: all of
        them, or the first `limit`."""
        found: dict[ObjectId, None] = {}
        for _, body in self._hits(self._known_ids.id(folder), numbers):
            if len(found) == limit:
                break
            found[self._known_ids.object_id(split_feed_value(body)[1])] = None
        return list(found)

    def figures(self, folder: ObjectId) -> tuple[int, int]:
        """The count of the messages of a folder that are shown, and their bytes, as its record has them."""
        record: FolderRecord | None = self._reader.record(Table.FOLDER, id_key(self._known_ids.id(folder)))
        return (record.messages_count, record.size) if record else (0, 0)

    def figures_found(self, folder: ObjectId, numbers: CNSet) -> Found:
        """The figures of the messages of a folder that are found by any of these numbers."""
        folder_id = self._known_ids.id(folder)
        uids: dict[int, int] = {}  # by message, 0 where its own record was not met yet
        for key, body in self._hits(folder_id, numbers):
            kind, message_id, _, uid = split_feed_value(body)
            if kind == ObjectKind.MESSAGE and split_triple_key(key)[2] == message_id:
                uids[message_id] = uid
            else:  # a tombstone, or a version beside what is shown
                uids.setdefault(message_id, 0)
        shown = {uid or self._shown_uid(folder_id, message_id) for message_id, uid in uids.items()} - {0}
        if not shown:
            return Found(len(uids), 0, 0)
        return Found(len(uids), len(shown), apply_messages.size_of(self._reader, folder_id, shown))

    def _shown_uid(self, folder_id: int, message_id: int) -> int:
        """The UID of a message that is shown in a folder, 0 of one that is not."""
        place = self._reader.index(Table.LOCATION, id_key(message_id))
        shown_in, uid = split_item_key(place) if place else (0, 0)
        return uid if shown_in == folder_id else 0

    def _hits(self, scope: int, numbers: CNSet) -> Iterator[tuple[bytes, bytes]]:
        """The rows (key, body) of each of these numbers, by ascending number."""
        for origin in numbers.origins():
            replica = self._known_ids.known_replica(origin)
            for first, last in numbers.ranges(origin) if replica is not None else ():
                start = triple_key(scope, (replica or 0) << COUNTER_BITS | first, 0)
                stop = triple_key(scope, ((replica or 0) << COUNTER_BITS | last) + 1, 0)
                yield from self._reader.indexes(Table.VERSION, start, stop)
