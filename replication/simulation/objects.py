"""A store made of dicts: objects by folder and id, with the index that a real store derives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from pillarbox.replication.core.objects import Found, NotApplied
from pillarbox.replication.ground.records import MessageVersion, ObjectId
from pillarbox.replication.ground.versions import Versions
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.ids import COUNTER_MAX

_FEW = 64  # numbers that are looked up one by one; more are found by walking the index

Witness = Callable[[ObjectId, ObjectId, Versions[Any]], None]
Refuses = Callable[[ObjectId, Versions[Any]], bool]


@dataclass
class FolderObjects:
    """The objects of one folder, and each number by which one of them is found."""

    objects: dict[ObjectId, Versions[Any]] = field(default_factory=dict)
    index: dict[ChangeNumber, ObjectId] = field(default_factory=dict)
    entries: CNSet = field(default_factory=CNSet)

    def copy(self) -> FolderObjects:
        """A copy that does not change with this one."""
        return FolderObjects(dict(self.objects), dict(self.index), self.entries)


class DictObjects:
    """Implements `ObjectStore`. `snapshot` costs one step a folder; a folder is copied when it next changes.

    `witness` is told of every state that is stored.
    """

    def __init__(self, folders: dict[ObjectId, FolderObjects] | None = None) -> None:
        self._folders = dict(folders or {})
        self._shared = set(self._folders)
        self._snapshot: dict[ObjectId, FolderObjects] | None = None  # None once something has changed
        self.witness: Witness | None = None
        self.refuses: Refuses | None = None
        self.changes: dict[ObjectId, int] = {}
        self._touched: dict[ObjectId, set[ObjectId]] = {}

    def next_number(self, last: int) -> int:
        """The counter of the next own number."""
        return last + 1

    def snapshot(self) -> dict[ObjectId, FolderObjects]:
        """All objects as they are now; pass it to a new `DictObjects` to go back to them."""
        if self._snapshot is None:
            self._shared, self._snapshot = set(self._folders), dict(self._folders)
        return self._snapshot

    def take_touched(self, folder: ObjectId) -> set[ObjectId]:
        """The objects of a folder that changed since this was asked last."""
        return self._touched.pop(folder, set())

    def _own(self, folder: ObjectId, object_id: ObjectId | None = None) -> FolderObjects:
        held, self._snapshot = self._folders.get(folder), None
        if held is None:
            held = self._folders[folder] = FolderObjects()
        elif folder in self._shared:
            held = self._folders[folder] = held.copy()
        self._shared.discard(folder)
        self.changes[folder] = self.changes.get(folder, 0) + 1
        if object_id is not None:
            self._touched.setdefault(folder, set()).add(object_id)
        return held

    def get(self, folder: ObjectId, object_id: ObjectId) -> Versions[Any] | None:
        """The object, or None."""
        held = self._folders.get(folder)
        return held.objects.get(object_id) if held else None

    def put(self, folder: ObjectId, object_id: ObjectId, versions: Versions[Any]) -> None:
        """Store the object's new state. Raises NotApplied where `refuses` says so of one that is new."""
        is_new = self.get(folder, object_id) is None
        if is_new and self.refuses and self.refuses(object_id, versions):
            raise NotApplied("this store takes no such item")
        held = self._own(folder, object_id)
        self._unindex(held, object_id)
        held.objects[object_id] = versions
        for number in versions.entries():
            held.index[number] = object_id
            held.entries = held.entries.with_number(number)
        if self.witness:
            self.witness(folder, object_id, versions)

    def remove(self, folder: ObjectId, object_id: ObjectId) -> None:
        """Forget the object."""
        held = self._own(folder, object_id)
        self._unindex(held, object_id)
        held.objects.pop(object_id, None)

    def _unindex(self, held: FolderObjects, object_id: ObjectId) -> None:
        before = held.objects.get(object_id)
        if before is not None:
            numbers = before.entries()
            for number in numbers:
                held.index.pop(number, None)
            held.entries -= CNSet.of(numbers)

    def ids(self, folder: ObjectId) -> list[ObjectId]:
        """The ids of all objects of the folder, ascending."""
        held = self._folders.get(folder)
        return sorted(held.objects) if held else []

    def entries(self, folder: ObjectId) -> CNSet:
        """All numbers by which objects of the folder are found."""
        held = self._folders.get(folder)
        return held.entries if held else CNSet()

    def entries_from(self, folder: ObjectId, first: ChangeNumber) -> CNSet:
        """The entries that have the origin of a number, and are no lower."""
        return self.entries(folder) & CNSet.of_range(first.origin, first.counter, COUNTER_MAX)

    def found(self, folder: ObjectId, numbers: CNSet, limit: int | None = None) -> list[ObjectId]:
        """The objects that are found by any of these numbers, in the order of the lowest such number: all of
        them, or the first `limit`."""
        held = self._folders.get(folder)
        if held is None:
            return []
        common = held.entries & numbers
        if common.count() <= _FEW:
            hits = [
                ChangeNumber(origin, counter)
                for origin in common.origins()
                for first, last in common.ranges(origin)
                for counter in range(first, last + 1)
            ]
        else:
            hits = sorted(number for number in held.index if number in common)
        return list(dict.fromkeys(held.index[number] for number in hits))[:limit]

    def figures(self, folder: ObjectId) -> tuple[int, int]:
        """The count of the messages of a folder that are shown, and their bytes."""
        return _figures(self.folder_objects(folder).objects.values())

    def figures_found(self, folder: ObjectId, numbers: CNSet) -> Found:
        """The figures of the messages of a folder that are found by any of these numbers."""
        found, held = self.found(folder, numbers), self.folder_objects(folder).objects
        return Found(len(found), *_figures(held[object_id] for object_id in found))

    def clear(self, folder: ObjectId) -> None:
        """Forget all objects of the folder."""
        self._own(folder)
        self._folders[folder] = FolderObjects()

    def folder_objects(self, folder: ObjectId) -> FolderObjects:
        """The objects of a folder, to look at."""
        return self._folders.get(folder) or FolderObjects()


def _figures(objects: Iterable[Versions[Any]]) -> tuple[int, int]:
    live = [shown for versions in objects if (shown := versions.live())]
    sizes = (each.size_bytes for shown in live for each in shown if isinstance(each, MessageVersion))
    return len(live), sum(sizes)
