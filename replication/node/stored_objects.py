"""The objects of the core in a real public folder store: `ObjectStore` over one transaction of it.

Nothing is decided here. Which versions an object has is the core's, how its records, UIDs and tombstones
follow is the store's (`apply_messages`, `apply_folders`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pillarbox.replication.core.objects import NotApplied
from pillarbox.replication.ground.records import ObjectId, Tree
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.node.identifiers import Identifiers, OwnerOf
from pillarbox.replication.node.object_reads import ID_MAX, ObjectReads
from pillarbox.replication.node.stored_versions import (
    shown_folder,
    shown_message,
    stored_folder,
    stored_message,
)
from pillarbox.store.disk.tables import Table, split_triple_key, triple_key
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import Dismounted, PillarboxError, ReadOnly, Retryable
from pillarbox.store.ids import COUNTER_BITS, COUNTER_MAX, counter_of
from pillarbox.store.mail import apply_folders, apply_messages, messages
from pillarbox.store.mail.apply_folders import FolderState
from pillarbox.store.mail.apply_messages import MessageState
from pillarbox.store.mail.messages import PreparedMessage

OF_THE_STORE: Final = (Retryable, Dismounted, ReadOnly)
"""Errors of the store as a whole, not of what it is given: the same call may be made again later."""

ContentOf = Callable[[bytes], bytes]
"""The bytes of a message by their digest, which came with it or are of an object that is here."""


Place = tuple[ObjectId, ObjectId]
"""A folder, and an object in it."""


class CannotApply(Exception):
    """An object that a store cannot take, as its transaction found when some of it was stored."""

    def __init__(self, place: Place, reason: str) -> None:
        super().__init__(reason)
        self.place, self.reason = place, reason


class StoredObjects(ObjectReads):
    """Implements `ObjectStore` within a transaction of a store that has joined the tree.

    `prepared` are messages by digest that were made ready before the transaction, which is most of the work.
    Within it folders are changed by these objects alone: each is read once.
    """

    def __init__(
        self,
        txn: WriteTransaction,
        tree: Tree,
        owner_of: OwnerOf,
        content_of: ContentOf,
        prepared: Mapping[bytes, PreparedMessage] = {},
        refused: Mapping[Place, str] = {},
    ) -> None:
        self.identifiers = self._ids = Identifiers(txn, tree, owner_of)
        super().__init__(txn, tree, self._ids)
        self._refused = refused
        self._txn = txn
        self._content_of = content_of
        self._prepared = prepared
        self._roomy: set[int] = set()  # folders that are known to be here
        self._absent: tuple[ObjectId, ObjectId] | None = None  # the message that was not here just now
        self._highest: dict[tuple[int, int], int] = {}  # by folder and replica number, of all that is here

    def next_number(self, last: int) -> int:
        """The counter of the next change number: the store's own changes are numbered by the same counter."""
        return counter_of(self._txn.next_cn())

    def get(self, folder: ObjectId, object_id: ObjectId) -> Versions[Any] | None:
        """The object, or None."""
        found = super().get(folder, object_id)
        if folder != self._hierarchy:
            self._absent = None if found else (folder, object_id)
        return found

    def _message(self, folder_id: int, message_id: int) -> Versions[Any] | None:
        if self._is_above_all(folder_id, message_id):
            return None
        return super()._message(folder_id, message_id)

    def _is_above_all(self, folder_id: int, message_id: int) -> bool:
        """True for a message that is above all numbers of its replica in the folder, as new ones mostly are.

        Such a one is not here: the context of each message covers its id, and each number of a context is in
        the index.
        """
        replica = message_id >> COUNTER_BITS
        highest = self._highest.get((folder_id, replica))
        if highest is None:
            first, last = replica << COUNTER_BITS, replica << COUNTER_BITS | COUNTER_MAX
            start, stop = triple_key(folder_id, first, 0), triple_key(folder_id, last, ID_MAX)
            rows = self._txn.indexes(Table.VERSION, start, stop, reverse=True)
            highest = next((split_triple_key(key)[1] for key, _ in rows), 0)
            self._highest[folder_id, replica] = highest
        return message_id > highest

    def _note_put(self, folder_id: int, context: Mapping[int, int]) -> None:
        for replica, counter in context.items():
            number = replica << COUNTER_BITS | counter
            if number > self._highest.get((folder_id, replica), number):
                self._highest[folder_id, replica] = number

    def put(self, folder: ObjectId, object_id: ObjectId, versions: Versions[Any]) -> None:
        """Store the object's new state. Raises NotApplied for an object of `refused`, which tells why.

        An error of the object itself is CannotApply: some of it may be in the transaction, which is to be
        undone, and made again with the object refused.
        """
        place = folder, object_id
        if place in self._refused:
            raise NotApplied(self._refused[place])
        try:
            self._put(folder, object_id, versions)
        except OF_THE_STORE:
            raise
        except (PillarboxError, ValueError) as error:
            raise CannotApply(place, str(error)) from error

    def _put(self, folder: ObjectId, object_id: ObjectId, versions: Versions[Any]) -> None:
        context = self._ids.context(versions.context)
        is_new, self._absent = self._absent == (folder, object_id), None
        if folder == self._hierarchy:
            self._folders.pop(object_id, None)
            held = (stored_folder(self._ids, *each) for each in versions.siblings.items())
            shown = shown_folder(self._ids, versions, self._txn.now_ms)
            state = FolderState(context, tuple(sorted(held)), shown)
            apply_folders.apply(self._txn, self._ids.id(object_id), state)
            return
        found = [stored_message(self._ids, *each) for each in versions.siblings.items()]
        folder_id = self._ids.id(folder)
        if folder_id not in self._roomy:
            apply_folders.make_room(self._txn, folder_id)
            self._roomy.add(folder_id)
        contents = {version.digest: self._ready(version.digest) for version in found if self._wants(version)}
        as_one = shown_message(self._ids, versions, self._txn.now_ms)
        message_state = MessageState(context, tuple(sorted(found)), as_one)
        message_id = self._ids.id(object_id)
        apply_messages.apply(self._txn, folder_id, message_id, message_state, contents, is_new=is_new)
        self._note_put(folder_id, context)

    def _wants(self, version: apply_messages.MessageVersion) -> bool:
        """True when a version's content is at hand, or is not in the store."""
        digest = version.digest
        return digest in self._prepared or (bool(digest) and self._txn.record(Table.CONTENT, digest) is None)

    def _ready(self, digest: bytes) -> PreparedMessage:
        prepared = self._prepared.get(digest)
        return prepared or messages.prepare(self._txn.files, self._content_of(digest))

    def remove(self, folder: ObjectId, object_id: ObjectId) -> None:
        """Forget the object; the call is idempotent."""
        self._absent, known_id = None, self._ids.known_id(object_id)
        if known_id is None:
            return
        if folder == self._hierarchy:
            self._folders.pop(object_id, None)
            apply_folders.forget(self._txn, known_id)
        else:
            apply_messages.forget(self._txn, self._ids.id(folder), [known_id])

    def clear(self, folder: ObjectId) -> None:
        """Forget all objects of the folder."""
        for object_id in self.ids(folder):
            self.remove(folder, object_id)
