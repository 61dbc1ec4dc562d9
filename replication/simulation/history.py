"""The history of a run as nobody in it knows it: every write that was ever made, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pillarbox.replication.ground.records import ObjectId, Tree
from pillarbox.replication.ground.versions import Context, Version, Versions
from pillarbox.store.change_number import ChangeNumber, CNSet


class Violation(Exception):
    """Something that must be true is not."""


class Write(NamedTuple):
    """One write: the state right after it."""

    folder: ObjectId
    object_id: ObjectId
    context: Context
    version: Version


class History:
    """Every write of a run. `given_up` are numbers of holes that a store closed."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.writes: dict[ChangeNumber, Write] = {}
        self.of_folder: dict[ObjectId, list[ChangeNumber]] = {}
        self.given_up = CNSet()
        self._of_object: dict[tuple[ObjectId, ObjectId], list[ChangeNumber]] = {}
        self._lost: set[ChangeNumber] = set()

    def witness(self, folder: ObjectId, object_id: ObjectId, versions: Versions[Any]) -> None:
        """See a state that some store put: the first time that a number is there, it is a write.

        Raises Violation when a number is given twice, or one that a crash lost was seen by others before.
        """
        for number, version in versions.siblings.items():
            write = self.writes.get(number)
            if write is None:
                if number in self._lost:
                    raise Violation(
                        f"{_name(number)} was lost by a crash, and had left before it was durable"
                    )
                self.writes[number] = Write(folder, object_id, dict(versions.context), version)
                self._of_object.setdefault((folder, object_id), []).append(number)
                self.of_folder.setdefault(folder, []).append(number)
            elif write.version is not version and (folder, object_id, version) != (
                write.folder,
                write.object_id,
                write.version,
            ):
                raise Violation(f"{_name(number)} was given twice")

    def lost(self, numbers: CNSet) -> int:
        """Forget writes that a crash lost before they were acknowledged: nobody may see them; how many."""
        lost = self.forget(numbers)
        self._lost.update(lost)
        return len(lost)

    def forget(self, numbers: CNSet) -> list[ChangeNumber]:
        """Forget writes of which nobody is left who heard of them: their numbers may be given again."""
        lost = [number for number in self.writes if number in numbers]
        for number in lost:
            write = self.writes.pop(number)
            self._of_object[write.folder, write.object_id].remove(number)
            self.of_folder[write.folder].remove(number)
        return lost

    def go_back(self, origin: bytes) -> None:
        """An origin goes back in time: what a crash of it lost may be given again."""
        self._lost = {number for number in self._lost if number.origin != origin}

    def of_object(self, folder: ObjectId, object_id: ObjectId) -> list[ChangeNumber]:
        """The writes of an object, in the order in which they were seen."""
        return self._of_object.get((folder, object_id), [])

    def covering(self, number: ChangeNumber) -> Iterator[ChangeNumber]:
        """The writes that saw this one, and so replaced it."""
        write = self.writes[number]
        for later in self._of_object[write.folder, write.object_id]:
            if later != number and self.saw(later, number):
                yield later

    def saw(self, later: ChangeNumber, number: ChangeNumber) -> bool:
        """True when a write of an object saw another one of it."""
        return self.writes[later].context.get(number.origin, 0) >= number.counter

    def deletions(self, folder: ObjectId) -> Iterator[tuple[ChangeNumber, CNSet]]:
        """The writes of a folder's record that cleared content, and what they cleared."""
        for number in self._of_object.get((self.tree.hierarchy, folder), ()):
            cleared = getattr(self.writes[number].version, "cleared", None)
            if cleared:
                yield number, cleared

    def is_deleted(self, number: ChangeNumber) -> bool:
        """True when a write is a deletion, or its object or its folder was deleted by somebody who saw it."""
        write = self.writes[number]
        later = (number, *self.covering(number))
        return any(self.writes[each].version.gone for each in later) or any(
            each in cleared for _, cleared in self.deletions(write.folder) for each in later
        )

    def in_set(self, folder: ObjectId, numbers: CNSet) -> list[ChangeNumber]:
        """The writes in a folder that are in a set of numbers, in the order in which they were seen."""
        return [number for number in self.of_folder.get(folder, ()) if number in numbers]


def _name(number: ChangeNumber) -> str:
    return f"{number.counter} of {number.origin.hex()[:8]}"
