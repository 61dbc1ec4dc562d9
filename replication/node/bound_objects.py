"""The objects of a store to a core that outlives transactions: each call binds them to its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pillarbox.replication.core.objects import Found
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.node.stored_objects import StoredObjects
from pillarbox.store.change_number import ChangeNumber, CNSet


class BoundObjects:
    """Implements `ObjectStore` by the `StoredObjects` of the transaction under way."""

    bound: StoredObjects

    def next_number(self, last: int) -> int:
        """The counter of the next own number."""
        return self.bound.next_number(last)

    def get(self, folder: ObjectId, object_id: ObjectId) -> Versions[Any] | None:
        """The object, or None."""
        return self.bound.get(folder, object_id)

    def put(self, folder: ObjectId, object_id: ObjectId, versions: Versions[Any]) -> None:
        """Store the object's new state."""
        self.bound.put(folder, object_id, versions)

    def remove(self, folder: ObjectId, object_id: ObjectId) -> None:
        """Forget the object."""
        self.bound.remove(folder, object_id)

    def ids(self, folder: ObjectId) -> Iterable[ObjectId]:
        """The ids of all objects of the folder."""
        return self.bound.ids(folder)

    def entries(self, folder: ObjectId) -> CNSet:
        """All numbers by which objects of the folder are found."""
        return self.bound.entries(folder)

    def entries_from(self, folder: ObjectId, first: ChangeNumber) -> CNSet:
        """The entries that have the origin of a number, and are no lower."""
        return self.bound.entries_from(folder, first)

    def found(self, folder: ObjectId, numbers: CNSet, limit: int | None = None) -> list[ObjectId]:
        """The objects that are found by any of these numbers."""
        return self.bound.found(folder, numbers, limit)

    def figures(self, folder: ObjectId) -> tuple[int, int]:
        """The count of the messages of a folder that are shown, and their bytes."""
        return self.bound.figures(folder)

    def figures_found(self, folder: ObjectId, numbers: CNSet) -> Found:
        """The figures of the messages of a folder that are found by any of these numbers."""
        return self.bound.figures_found(folder, numbers)

    def clear(self, folder: ObjectId) -> None:
        """Forget all objects of the folder."""
        self.bound.clear(folder)
