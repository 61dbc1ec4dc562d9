"""Invariants: true at every moment, under any faults; and true at the end, when the faults have stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pillarbox.replication.core import deletion, hierarchy
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import FolderState
from pillarbox.replication.ground.records import ObjectId, ReplicaState, Tree
from pillarbox.replication.ground.versions import Context, Version, Versions
from pillarbox.replication.simulation.machine import Machine
from pillarbox.store.change_number import ChangeNumber, CNSet


class Violation(Exception):
    """Something that must be true is not."""


class Write(NamedTuple):
    """One write that was ever made: the state right after it."""

    folder: ObjectId
    object_id: ObjectId
    context: Context
    version: Version


class Invariants:
    """Remembers every write of a run and holds the stores against it.

    `given_up` are numbers that a purge closed, `cleared` those of content that may have gone with its folder,
    `deletions` the writes that cleared some of it, `expired` numbers that a store let go by age.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.writes: dict[ChangeNumber, Write] = {}
        self.of_object: dict[tuple[ObjectId, ObjectId], list[ChangeNumber]] = {}
        self.of_folder: dict[ObjectId, list[ChangeNumber]] = {}
        self.cleared: dict[ObjectId, CNSet] = {}
        self.deletions: dict[ObjectId, list[tuple[ChangeNumber, CNSet]]] = {}
        self.expired: dict[bytes, CNSet] = {}
        self.ever_expired = CNSet()
        self.given_up = CNSet()
        self.ever_purged = CNSet()
        self._seen: dict[tuple[bytes, ObjectId], tuple[Any, ...]] = {}

    def witness(self, folder: ObjectId, object_id: ObjectId, versions: Versions[Any]) -> None:
        """See a state that some store put: the first time that a number is there, it is a write."""
        for number, version in versions.siblings.items():
            if number in self.writes:
                if self.writes[number].version != version:
                    raise Violation(f"{number.counter} of {number.origin.hex()[:8]} was given twice")
                continue
            self.writes[number] = Write(folder, object_id, dict(versions.context), version)
            self.of_object.setdefault((folder, object_id), []).append(number)
            self.of_folder.setdefault(folder, []).append(number)
            if folder == self.tree.hierarchy and version.cleared:
                self.cleared[object_id] = self.cleared.get(object_id, CNSet()) | version.cleared
                self.deletions.setdefault(object_id, []).append((number, version.cleared))

    def lost(self, numbers: CNSet) -> None:
        """Forget writes that are lost, before they were acknowledged or before anybody else heard of them."""
        for number in [number for number in self.writes if number in numbers]:
            write = self.writes.pop(number)
            self.of_object[write.folder, write.object_id].remove(number)
            self.of_folder[write.folder].remove(number)
        for folder, deletions in self.deletions.items():
            self.deletions[folder] = [each for each in deletions if each[0] not in numbers]

    def folder_came_back(self, machine: Machine, folder: ObjectId) -> None:
        """A folder that reconciling drops comes back with what only one store has: the rest counts as
        cleared.
        """
        state = machine.record.folders[folder]
        seen = self.cleared.get(folder, CNSet())
        for row in state.rows.values():
            seen |= row.had
        self.cleared[folder] = seen

    def covering(self, number: ChangeNumber) -> list[ChangeNumber]:
        """The writes that saw this one, and so replaced it."""
        write = self.writes[number]
        return [
            later
            for later in self.of_object[write.folder, write.object_id]
            if later != number and self.writes[later].context.get(number.origin, 0) >= number.counter
        ]

    # --- always ---------------------------------------------------------------------------------------------

    def look_at(self, machine: Machine, machines: Mapping[bytes, Machine]) -> None:
        """Check what a call changed. Raises Violation."""
        for folder in sorted(machine.replicator.replica.touched):
            state = machine.record.folders.get(folder)
            if state is None or not state.is_held:
                continue
            changes = machine.objects.changes.get(folder, 0)
            seen = (state.knowledge.known, state.knowledge.expired, changes, len(self.writes))
            key = (machine.database, folder)
            if self._seen.get(key) == seen:
                continue
            self._seen[key] = seen
            self._note_gone(machine, state)
            self._check_sound(machine, folder, state)

    def _note_gone(self, machine: Machine, state: FolderState) -> None:
        self.ever_purged |= state.knowledge.purged
        if state.knowledge.expired:
            mine = self.expired.get(machine.database, CNSet())
            self.expired[machine.database] = mine | state.knowledge.expired
            self.ever_expired |= state.knowledge.expired

    def _check_sound(self, machine: Machine, folder: ObjectId, state: FolderState) -> None:
        """Every number that a store claims is held, was replaced, deleted with its folder, or expired."""
        known, index = state.knowledge.known, machine.objects.folder_objects(folder).index
        cleared = self.cleared.get(folder, CNSet())
        for number in self.of_folder.get(folder, ()):
            if number in known and number not in index and number not in cleared:
                self._check_gone(machine, folder, state, number)

    def _check_gone(
        self, machine: Machine, folder: ObjectId, state: FolderState, number: ChangeNumber
    ) -> None:
        knowledge = state.knowledge
        if number in knowledge.purged or number in self.given_up:
            return
        if self.writes[number].version.gone and number in self.ever_purged:
            return
        for later in self.covering(number):
            if later in knowledge.had or later in self.ever_expired or later in self.ever_purged:
                return
        raise Violation(
            f"{machine.database.hex()[:8]} claims {number.counter} of {number.origin.hex()[:8]} in folder "
            f"{folder.counter} and has nothing of it"
        )

    # --- at the end -----------------------------------------------------------------------------------------

    def differences(self, replicas: list[Replica]) -> Iterator[str]:
        """Differences between the stores; none when they have converged."""
        first = replicas[0]
        shown, records = hierarchy.places(first), self._records(first)
        for replica in replicas[1:]:
            if self._records(replica) != records or hierarchy.places(replica) != shown:
                yield "the hierarchies differ"
            theirs = replica.state(self.tree.hierarchy).knowledge.known
            if theirs != first.state(self.tree.hierarchy).knowledge.known:
                yield "what is known of the hierarchy differs"
        for folder in shown:
            yield from self._folder_differences(folder, replicas)

    def _records(self, replica: Replica) -> dict[ObjectId, Any]:
        return {
            folder: read
            for folder in replica.objects.ids(self.tree.hierarchy)
            if (read := replica.folder(folder)) and read.is_live
        }

    def _folder_differences(self, folder: ObjectId, replicas: list[Replica]) -> Iterator[str]:
        holders = [replica for replica in replicas if replica.held(folder)]
        active = [replica for replica in holders if replica.my_state(folder) is ReplicaState.ACTIVE]
        if len(active) < len(holders):
            yield f"a replica of folder {folder.counter} still leaves"
        wanted = [replica for replica in replicas if replica.my_state(folder) is not ReplicaState.REMOVED]
        if not wanted:
            return
        if len(wanted) > len(holders):
            yield f"a replica of folder {folder.counter} has not begun"
        everything: dict[ChangeNumber, Any] = {}
        for replica in active:
            everything.update(self._content(replica, folder))
        had = {replica.state(folder).knowledge.had | replica.assumed(folder) for replica in active}
        if len(had) > 1:
            yield f"what is known of folder {folder.counter} differs"
        for replica in active:
            missing = everything.keys() - self._content(replica, folder).keys()
            expired = replica.state(folder).knowledge.expired | self.expired.get(replica.me.database, CNSet())
            if any(
                number not in expired and not self._is_expired(folder, number, active) for number in missing
            ):
                yield f"content of folder {folder.counter} is missing at a replica"

    def _content(self, replica: Replica, folder: ObjectId) -> dict[ChangeNumber, Version]:
        return {
            number: version
            for object_id in replica.objects.ids(folder)
            if (versions := replica.objects.get(folder, object_id))
            for number, version in versions.siblings.items()
            if not version.gone
        }

    def _is_expired(self, folder: ObjectId, number: ChangeNumber, active: list[Replica]) -> bool:
        """True when no store can give the number any more, since all that had it have expired it.

        So it is where that is true of what replaced it: a restored copy may hold the older version alone.
        """
        known = CNSet()
        for replica in active:
            known |= replica.state(folder).knowledge.known
        gone = [each for each in (number, *self.covering(number)) if each in self.ever_expired]
        return any(each not in known for each in gone)

    def count_tombstones(self, replicas: list[Replica]) -> int:
        """Count the tombstones that are still there, but for those that are kept for ever.

        A few may be left: a number below their context that only its owner had, which holds the folder no
        more.
        """
        return sum(
            not versions.live() and not deletion.is_kept_for_ever(versions)
            for replica in replicas
            for folder in (self.tree.hierarchy, *hierarchy.places(replica))
            if replica.held(folder)
            for object_id in replica.objects.ids(folder)
            if (versions := replica.objects.get(folder, object_id))
        )

    def check_nothing_lost(self, replicas: list[Replica]) -> None:
        """No change that a living store knows of is missing everywhere, and nothing deleted is back.

        Raises Violation.
        """
        for folder in hierarchy.places(replicas[0]):
            holders = [replica for replica in replicas if replica.held(folder)]
            if holders:
                self._check_folder(folder, holders)

    def _deleted(self, folder: ObjectId, replica: Replica) -> CNSet:
        """The content that went with the folder by deletions that the replica knows of."""
        known, deleted = replica.state(self.tree.hierarchy).knowledge.known, CNSet()
        for number, cleared in self.deletions.get(folder, ()):
            if number in known and number not in self.given_up:
                deleted |= cleared
        return deleted

    def _check_folder(self, folder: ObjectId, holders: list[Replica]) -> None:
        had = known = CNSet()
        live: set[ChangeNumber] = set()
        for replica in holders:
            had |= replica.state(folder).knowledge.had
            known |= replica.state(folder).knowledge.known
            live |= self._content(replica, folder).keys()
        cleared, deleted = self.cleared.get(folder, CNSet()), self._deleted(folder, holders[0])
        for number in self.of_folder.get(folder, ()):
            if number not in had:
                continue
            if number in live and number in deleted:
                raise Violation(
                    f"{number.counter} of folder {folder.counter} went with the folder and is back"
                )
            replaced = [later for later in self.covering(number) if later in had]
            excused = number in cleared or number in self.given_up or number in self.ever_expired
            # A number that was given up may be claimed where its write never came.
            if number in live and any(later in known and later not in self.given_up for later in replaced):
                raise Violation(f"{number.counter} of folder {folder.counter} was replaced and is back")
            if any(later in self.ever_expired for later in self.covering(number)):
                continue  # expired by all that had it: nobody can give it, and what it replaced is gone
            is_due = not self.writes[number].version.gone and not replaced and not excused
            if is_due and number not in live:
                raise Violation(f"{number.counter} of folder {folder.counter} is lost")
