"""The store as the core uses it: the objects of each folder, within the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.ground.versions import Versions
from pillarbox.store.change_number import ChangeNumber, CNSet


class NotApplied(Exception):
    """An object that a store cannot take, for a reason of that object's own. Nothing of it was stored."""


class Found(NamedTuple):
    """Figures of objects that were found by numbers: how many these are, tombstones too, how many of them are
    shown, and the bytes of those."""

    objects_count: int
    shown_count: int
    size_bytes: int


class ObjectStore(Protocol):
    """Objects by folder and id. The hierarchy is a folder whose objects are folders.

    All calls of one call of the replicator, and its state, belong to one transaction: knowledge that survives
    a crash without the objects it speaks of would lose them for ever.
    """

    def next_number(self, last: int) -> int:
        """The counter of the next number of this store's own, above `last`."""

    def get(self, folder: ObjectId, object_id: ObjectId) -> Versions[Any] | None:
        """The object, or None."""

    def put(self, folder: ObjectId, object_id: ObjectId, versions: Versions[Any]) -> None:
        """Store the object's new state.

        Raises NotApplied; any other error is of the store as a whole, and ends the call.
        """

    def remove(self, folder: ObjectId, object_id: ObjectId) -> None:
        """Forget the object; the call is idempotent."""

    def ids(self, folder: ObjectId) -> Iterable[ObjectId]:
        """The ids of all objects of the folder, tombstones too, ascending; a copy that may be changed
        under."""

    def entries(self, folder: ObjectId) -> CNSet:
        """All numbers by which objects of the folder are found: those of their contexts and siblings."""

    def entries_from(self, folder: ObjectId, first: ChangeNumber) -> CNSet:
        """The entries that have the origin of a number, and are no lower: however large the folder
        is, only they are read."""

    def found(self, folder: ObjectId, numbers: CNSet, limit: int | None = None) -> list[ObjectId]:
        """The objects that are found by any of these numbers, in the order of the lowest such number: all of
        them, or the first `limit`."""

    def figures(self, folder: ObjectId) -> tuple[int, int]:
        """The count of the messages of a folder that are shown, and their bytes; they are not read for it."""

    def figures_found(self, folder: ObjectId, numbers: CNSet) -> Found:
        """The figures of the messages of a folder that are found by any of these numbers; no content is read
        for it, nor each message where they are many."""

    def clear(self, folder: ObjectId) -> None:
        """Forget all objects of the folder."""
