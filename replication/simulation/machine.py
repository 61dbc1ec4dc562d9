"""One simulated machine: a store that commits, crashes, restarts, and goes back to old copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from pillarbox.replication.core import identity
from pillarbox.replication.core.effects import Answer, Effect
from pillarbox.replication.core.preset import Preset
from pillarbox.replication.core.replica import Moment, Replica, ReplicaRecord
from pillarbox.replication.core.replicator import Replicator
from pillarbox.replication.ground.records import ObjectId, Tree
from pillarbox.replication.organisation.topology import Organisation
from pillarbox.replication.simulation.objects import DictObjects, FolderObjects, Witness
from pillarbox.replication.wire.messages import Message, Sender
from pillarbox.store.change_number import CNSet

R = TypeVar("R")


@dataclass(frozen=True)
class Copy:
    """All that a store has on its disk at one moment."""

    record: ReplicaRecord
    objects: dict[ObjectId, FolderObjects]


class Machine:
    """A store and its replicator. Calls are transactions; what was not committed is lost by a crash."""

    def __init__(
        self,
        sender: Sender,
        tree: Tree,
        organisation: Organisation,
        preset: Preset,
        witness: Witness,
    ) -> None:
        self.tree, self.preset, self._witness = tree, preset, witness
        self.organisation = organisation
        self.skew_ms = 0
        self.age_limit_ms: int | None = None
        self.deaf_until_ms = 0
        self.answers: dict[tuple[bytes, ObjectId], Answer] = {}
        self._mount(ReplicaRecord(sender=sender), DictObjects())
        self.disk = Copy(self.record.copy(), self.objects.snapshot())
        self._uncommitted: set[ObjectId] = set()

    def _mount(self, record: ReplicaRecord, objects: DictObjects) -> None:
        self.record, self.objects = record, objects
        objects.witness = self._witness
        self.replicator = Replicator(record, self.tree, self.organisation, self.preset, objects)

    @property
    def database(self) -> bytes:
        """The GUID of the store's database."""
        return self.record.sender.database

    def call(self, work: Callable[[Replicator], list[Effect]]) -> list[Effect]:
        """Make one call. Its effects may leave after a commit, which is made here where there are any."""
        effects = work(self.replicator)
        self._uncommitted |= self.replicator.replica.touched
        if effects:
            self.commit()
        return effects

    def commit(self) -> None:
        """Make all that was done durable."""
        states = dict(self.disk.record.folders)
        for folder in self._uncommitted:
            if folder in self.record.folders:
                states[folder] = self.record.folders[folder].copy()
        self._uncommitted.clear()
        passing = {site: dict(copies) for site, copies in self.record.passing.items()}
        record = replace(self.record, owners=dict(self.record.owners), passing=passing, folders=states)
        self.disk = Copy(record, self.objects.snapshot())

    def moment(self, now_ms: int) -> Moment:
        """A time as this machine's clocks show it."""
        return Moment(now_ms, now_ms + self.skew_ms)

    def start(self, now_ms: int) -> list[Effect]:
        """Begin, or go on after a restart."""
        self._uncommitted |= self.record.folders.keys()
        return self.call(lambda replicator: replicator.start(self.moment(now_ms)))

    def organisation_changed(self, now_ms: int) -> list[Effect]:
        """Learn of other servers, sites or connectors."""
        return self.call(
            lambda replicator: replicator.organisation_changed(self.organisation, self.moment(now_ms))
        )

    def crash(self) -> CNSet:
        """Lose all that was not committed. The numbers left out, those of what was lost among them."""
        self._go_back_to(self.disk)
        left_out = identity.leave_out_after_unclean_end(self.record)
        self.disk = Copy(self.record.copy(), self.objects.snapshot())
        return left_out

    def restore(self, copy: Copy, sender: Sender) -> None:
        """Go back to an old copy, and number changes anew, since the old numbering went on without it."""
        self._go_back_to(copy)
        identity.begin_incarnation(self.record, sender)
        self.disk = Copy(self.record.copy(), self.objects.snapshot())

    def _go_back_to(self, copy: Copy) -> None:
        self.answers.clear()
        self._uncommitted.clear()
        self._mount(copy.record.copy(), DictObjects(copy.objects))

    def copy(self) -> Copy:
        """A copy of the disk, as a backup makes it."""
        return Copy(self.disk.record.copy(), self.disk.objects)

    def local(self, change: Callable[[Replica], R], now_ms: int) -> tuple[R, list[Effect]]:
        """Make a local change."""
        given: list[R] = []

        def make(replicator: Replicator) -> list[Effect]:
            result, effects = replicator.local_changes(change, self.moment(now_ms))
            given.append(result)
            return effects

        effects = self.call(make)
        return given[0], effects

    def page(self, key: tuple[bytes, ObjectId], now_ms: int) -> Message | None:
        """The next page of an answer that is under way; None when it was replaced or lost."""
        answer = self.answers.pop(key, None)
        if answer is None:
            return None
        self.commit()
        message, left = self.replicator.answer_page(answer, self.moment(now_ms))
        if left is not None:
            self.answers[key] = left
        return message
