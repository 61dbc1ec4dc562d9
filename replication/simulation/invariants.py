"""Invariants that are true at every moment, under any faults; looked at after every call, where it changed
something."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pillarbox.replication.core import hierarchy, setting_aside
from pillarbox.replication.core.state import FolderState
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId, Tree
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.simulation.acknowledgements import Acknowledgements
from pillarbox.replication.simulation.history import History, Violation
from pillarbox.replication.simulation.machine import Machine
from pillarbox.replication.simulation.objects import FolderObjects
from pillarbox.replication.wire.messages import Life
from pillarbox.store.change_number import ChangeNumber, CNSet

_FEW = 64


@dataclass(slots=True)
class Seen:
    """A folder at a store as it was when it was looked at last."""

    life: Life
    objects: FolderObjects
    changes: int = -1
    known: CNSet = NOTHING
    expired: CNSet = NOTHING
    purged: CNSet = NOTHING
    hierarchy: CNSet = NOTHING


class Invariants:
    """Holds the stores against the history of the run.

    `died` are for each folder the numbers that were known to stores that are lost, or went back in time;
    `aged` the numbers that some store claims although it never had them, since all that had what replaced
    them let that go by age; `purged` all that some store purged.
    """

    def __init__(self, tree: Tree, machines: Mapping[bytes, Machine]) -> None:
        self.tree, self.machines = tree, machines
        self.history = History(tree)
        self.died: dict[ObjectId, CNSet] = {}
        self.aged = CNSet()
        self.purged = CNSet()
        self.acknowledgements = Acknowledgements()
        self._seen: dict[bytes, dict[ObjectId, Seen]] = {}

    def die(self, machine: Machine) -> None:
        """The store is about to be lost, or to go back to an old copy: what only it had may be missing."""
        for folder, state in machine.record.folders.items():
            if state.is_held:
                self.died[folder] = self.died.get(folder, NOTHING) | state.knowledge.had
        for origin, (database, _) in machine.record.owners.items():
            if database == machine.database:  # an earlier incarnation may give its numbers again too
                self.history.go_back(origin)
        self._seen.pop(machine.database, None)

    def crash(self, machine: Machine, lost: CNSet) -> int:
        """The store lost what was not durable. Counts the writes among that."""
        self._seen.pop(machine.database, None)
        return self.history.lost(lost)

    def give_up(self, machine: Machine, folder: ObjectId, numbers: CNSet) -> None:
        """A store closed holes. Raises Violation when a store that it lists has one of them.

        Among the numbers below a context are those of other folders, of which nothing is given up.
        """
        given_up = self.history.in_set(folder, numbers)
        for number in given_up:
            object_id = self.history.writes[number].object_id
            for database in machine.replicator.replica.peers(folder):
                other = self.machines.get(database)
                held = other.objects.get(folder, object_id) if other else None
                if held is not None and number in held.siblings and not held.siblings[number].gone:
                    raise Violation(
                        f"{_at(machine, folder, number)} was given up, and another replica has it"
                    )
        self.history.given_up |= CNSet.of(given_up)

    def look_at(self, machine: Machine) -> None:
        """Check what a call changed. Raises Violation."""
        seen_here = self._seen.setdefault(machine.database, {})
        for folder in sorted(machine.replicator.replica.touched):
            state = machine.record.folders.get(folder)
            seen = seen_here.get(folder)
            if state is None or not state.is_held:
                if seen is not None:
                    del seen_here[folder]
                    self._check_left(machine, folder, seen)
            else:
                self._check_rows(machine, folder, state)
                seen_here[folder] = self._look(machine, folder, state, seen)

    def look_at_whole(self, machine: Machine) -> None:
        """Check all that a store holds, whatever changed last. Raises Violation."""
        for folder, state in machine.record.folders.items():
            if state.is_held:
                self._check_rows(machine, folder, state)
                self._check_whole(machine, folder, state)

    def _check_whole(self, machine: Machine, folder: ObjectId, state: FolderState) -> None:
        writes, of_folder = self.history.writes, self.history.of_folder.get(folder, ())
        held = machine.objects.folder_objects(folder).objects
        written = {writes[number].object_id for number in of_folder}
        self._check_objects(machine, folder, state, sorted(written | held.keys()))
        self._check_cleared(machine, folder, self._deletions(machine))

    def _look(self, machine: Machine, folder: ObjectId, state: FolderState, seen: Seen | None) -> Seen:
        knowledge, objects = state.knowledge, machine.objects.folder_objects(folder)
        life = Life(machine.record.sender.incarnation, state.life)
        if seen is None or seen.life != life:
            seen = Seen(life, FolderObjects())
        changes = machine.objects.changes.get(folder, 0)
        deletions = self._deletions(machine)
        is_same = (
            changes == seen.changes
            and (knowledge.known is seen.known or knowledge.known == seen.known)
            and (knowledge.expired is seen.expired or knowledge.expired == seen.expired)
        )
        if is_same and (deletions is seen.hierarchy or folder == self.tree.hierarchy):
            return seen
        if not knowledge.had.covers(seen.known | seen.expired):
            raise Violation(f"{_at(machine, folder)} numbers were had and are forgotten")
        if not is_same:
            self._check_purged(machine, folder, knowledge.purged - seen.purged)
            self._check_changed(machine, folder, state, seen)
        self._check_cleared(machine, folder, deletions)
        if folder == self.tree.hierarchy:
            self._check_tree(machine)
        return Seen(life, objects, changes, knowledge.known, knowledge.expired, knowledge.purged, deletions)

    def _check_changed(self, machine: Machine, folder: ObjectId, state: FolderState, seen: Seen) -> None:
        """Check the objects that were touched, and those of numbers that are newly known."""
        touched = machine.objects.take_touched(folder)
        for number in self._writes_in(folder, state.knowledge.known - seen.known):
            touched.add(self.history.writes[number].object_id)
        self._check_objects(machine, folder, state, touched)

    def _check_objects(
        self, machine: Machine, folder: ObjectId, state: FolderState, object_ids: Iterable[ObjectId]
    ) -> None:
        """Numbers that are known are had, and versions that are held are known and were not replaced."""
        known, deletions = state.knowledge.known, self._deletions(machine)
        objects = machine.objects.folder_objects(folder).objects
        for object_id in object_ids:
            versions = objects.get(object_id)
            for number in self.history.of_object(folder, object_id):
                if number in known:
                    self._check_sound(machine, folder, state, number, versions)
            for number in versions.siblings if versions else ():
                if number not in known:
                    raise Violation(f"{_at(machine, folder, number)} is held, and not known")
                if number not in self.history.writes:
                    raise Violation(f"{_at(machine, folder, number)} is held, and was lost by a crash")
                if self.is_back(number, known, deletions) and not self._is_aside(state, object_id, number):
                    raise Violation(f"{_at(machine, folder, number)} was replaced or deleted, and is back")

    def _deletions(self, machine: Machine) -> CNSet:
        """The numbers of the hierarchy that a store knows."""
        return machine.record.folders[self.tree.hierarchy].knowledge.known

    def _writes_in(self, folder: ObjectId, numbers: CNSet) -> list[ChangeNumber]:
        """The writes of a folder among these numbers."""
        if numbers.count() > _FEW:
            return self.history.in_set(folder, numbers)
        writes, found = self.history.writes, []
        for number in _each(numbers):
            write = writes.get(number)
            if write is not None and write.folder == folder:
                found.append(number)
        return found

    def _check_sound(
        self,
        machine: Machine,
        folder: ObjectId,
        state: FolderState,
        number: ChangeNumber,
        versions: Versions[Any] | None,
    ) -> None:
        """A number that a store claims is held, was replaced by one that it has, was deleted, or expired."""
        if versions is not None and number in versions.siblings:
            return
        knowledge, history = state.knowledge, self.history
        assumed = machine.replicator.replica.assumed(folder)
        if assumed and any(later in assumed for later in history.covering(number)):
            self.aged |= CNSet.of([number])
        if number in knowledge.purged or number in history.given_up or number in self.aged:
            return  # each is checked when it becomes so
        is_shown = versions is not None and versions.live()
        if number in self.purged and not is_shown:
            return  # others have purged a deletion of the object, and here is another one, or a bare context
        if versions is not None and versions.has_seen(number) and history.is_deleted(number):
            return  # so says the context
        for later in history.covering(number):
            if versions is not None and versions.has_seen(later):
                return
            if later in knowledge.had and later not in history.given_up:
                return
        raise Violation(f"{_at(machine, folder, number)} is claimed, and nothing of it is there")

    def _is_aside(self, state: FolderState, object_id: ObjectId, number: ChangeNumber) -> bool:
        """True when what replaced a version is set aside here, and tried again: till then the older one may
        be held."""
        aside = setting_aside.numbers_of(state, object_id)
        return any(later in aside for later in self.history.covering(number))

    def is_back(self, number: ChangeNumber, known: CNSet, deletions: CNSet) -> bool:
        """True when a version counts as replaced where these numbers of its folder and of the hierarchy are
        known, and may not be there."""
        covering = list(self.history.covering(number))
        undone = [each for each in covering if self._is_undone(number, each)]
        return any(
            self._is_seen(later, known, deletions)
            for later in covering
            if not any(later == deletion or self.history.saw(deletion, later) for deletion in undone)
        )

    def _is_undone(self, number: ChangeNumber, deletion: ChangeNumber) -> bool:
        """True when an edit that had not seen a deletion brought its object back, and was let go by age.

        No tombstone is left of the deletion then, and the version that the edit replaced may live on alone at
        a store that was put back to before it.
        """
        history = self.history
        return history.writes[deletion].version.gone and any(
            self._is_let_go(edit)
            for edit in history.covering(number)
            if edit != deletion and not history.saw(edit, deletion) and not history.saw(deletion, edit)
        )

    def _is_let_go(self, number: ChangeNumber) -> bool:
        """True when a store let a version go by age, or claims it since all others did that had it."""
        folder = self.history.writes[number].folder
        states = (machine.record.folders.get(folder) for machine in self.machines.values())
        return number in self.aged or any(
            state is not None and number in state.knowledge.expired for state in states
        )

    def _is_seen(self, later: ChangeNumber, known: CNSet, deletions: CNSet) -> bool:
        """True when a store that knows these numbers of a folder and of the hierarchy has seen a later write.

        It has not where it gave the write up, or claims it since all others let what replaced it go by age.
        Nor has it where the write went with its folder: what replaced that one in turn, before, may still be
        on its way, and only that says that older versions are gone.
        """
        if later not in known or later in self.history.given_up or later in self.aged:
            return False
        folder = self.history.writes[later].folder
        return not any(
            later in cleared and deletion in deletions for deletion, cleared in self.history.deletions(folder)
        )

    def _check_purged(self, machine: Machine, folder: ObjectId, numbers: CNSet) -> None:
        """Only what was deleted is purged."""
        for number in self._writes_in(folder, numbers):
            if not self.history.is_deleted(number):
                raise Violation(f"{_at(machine, folder, number)} counts as purged and was never deleted")
        self.purged |= numbers

    def _check_cleared(self, machine: Machine, folder: ObjectId, known: CNSet) -> None:
        """No content lives that went with its folder by a deletion which the store knows.

        One that it claims has not come where what replaced it is let go or set aside by all who said to have
        it: that comes with what says so of the content.
        """
        objects = machine.objects.folder_objects(folder)
        for deletion, cleared in self.history.deletions(folder):
            if deletion in known and deletion not in self.history.given_up:
                for object_id in machine.objects.found(folder, cleared):
                    back = [each for each in objects.objects[object_id].siblings if each in cleared]
                    if back and not self._is_replaced_by_aged(deletion, known):
                        raise Violation(f"{_at(machine, folder, back[0])} went with its folder, and is back")

    def _is_replaced_by_aged(self, number: ChangeNumber, known: CNSet) -> bool:
        """True when a write that replaced this one is missing and was let go by age, or set aside."""
        return any(later not in known and self._is_let_go(later) for later in self.history.covering(number))

    def _check_rows(self, machine: Machine, folder: ObjectId, state: FolderState) -> None:
        """There is a row for each other replica of the list, and for no store else."""
        if state.rows.keys() != machine.replicator.replica.peers(folder).keys():
            raise Violation(f"{_at(machine, folder)} the rows are not those of the replica list")

    def _check_tree(self, machine: Machine) -> None:
        """Every folder hangs from a root."""
        tree = self.tree
        fixed = {tree.root, tree.system_root, tree.lost_and_found}
        shown = hierarchy.places(machine.replicator.replica)
        for folder in shown:
            above, steps = folder, 0
            while above not in fixed:
                above, steps = shown.get(above, above), steps + 1
                if steps > len(shown):
                    raise Violation(f"{_at(machine, folder)} it hangs from no root")

    def _check_left(self, machine: Machine, folder: ObjectId, seen: Seen) -> None:
        """Content leaves a store only when another one has it, or all others let it go by age."""
        replica = machine.replicator.replica
        if not self.acknowledgements.covers(replica, folder, seen.life.incarnation, seen.known):
            raise Violation(f"{_at(machine, folder)} content left that no acknowledgement covers")
        others = [
            state
            for other in self.machines.values()
            if other is not machine and (state := other.record.folders.get(folder)) and state.is_held
        ]
        died = self.died.get(folder, NOTHING)
        if not others and folder not in self.died:
            raise Violation(f"{_at(machine, folder)} the last replica let its content go")
        for versions in seen.objects.objects.values():
            for number, version in versions.siblings.items():
                if version.gone or number in died:
                    continue
                if not any(number in state.knowledge.had for state in others):
                    raise Violation(f"{_at(machine, folder, number)} left, and nobody else has it")


def _each(numbers: CNSet) -> Iterator[ChangeNumber]:
    for origin in numbers.origins():
        for first, last in numbers.ranges(origin):
            for counter in range(first, last + 1):
                yield ChangeNumber(origin, counter)


def _at(machine: Machine, folder: ObjectId, number: ChangeNumber | None = None) -> str:
    place = f"at {machine.database.hex()[:8]}, folder {folder.counter}:"
    return f"{place} {number.counter} of {number.origin.hex()[:8]}" if number else place
