"""One simulated machine: a store that commits, crashes, restarts, and goes back to old copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pillarbox.replication.core import identity, organisation_folder
from pillarbox.replication.core.effects import AnswerKey, Effect
from pillarbox.replication.core.hello import Start
from pillarbox.replication.core.identity import Fence, Mark, Place
from pillarbox.replication.core.preset import Preset
from pillarbox.replication.core.replica import Moment, Replica, ReplicaRecord
from pillarbox.replication.core.replicator import Replicator
from pillarbox.replication.ground.records import ObjectId, Tree
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.organisation.topology import Organisation
from pillarbox.replication.simulation.objects import DictObjects, FolderObjects, Witness
from pillarbox.replication.wire.messages import Message, Sender
from pillarbox.store.change_number import CNSet

R = TypeVar("R")


@dataclass(frozen=True)
class Copy:
    """All that a store has on its disk at one moment, and what a file beside it tells of its last mount."""

    record: ReplicaRecord
    objects: dict[ObjectId, FolderObjects]
    mark: Mark
    fence: Fence | None


class Machine:
    """A store and its replicator. Calls are transactions; what was not committed is lost by a crash."""

    def __init__(
        self,
        sender: Sender,
        tree: Tree,
        organisation: Organisation,
        preset: Preset,
        witness: Witness,
        new_guid: Callable[[], bytes],
    ) -> None:
        self.tree, self.preset, self._witness, self._new_guid = tree, preset, witness, new_guid
        self.organisation = organisation
        self.database = sender.database
        self.skew_ms = 0
        self.age_limit_ms: int | None = None
        self.deaf_until_ms = 0
        self.refuses_some = False
        self.is_restored = False
        self.mark, self.fence = Mark(sender.incarnation, b"", b""), None
        self.place = Place(new_guid(), 1)
        self._mount(ReplicaRecord(sender=sender), DictObjects())
        self.disk = self._on_disk(self.record.copy())
        self._uncommitted: set[ObjectId] = set()

    mark: Mark
    fence: Fence | None

    def _mount(self, record: ReplicaRecord, objects: DictObjects) -> None:
        self.record, self.objects = record, objects
        objects.witness, objects.refuses = self._witness, self._refuses
        self.replicator = Replicator(
            record, self.tree, self.organisation, self.preset, objects, self._new_guid
        )

    def _refuses(self, object_id: ObjectId, versions: Versions[Any]) -> bool:
        """True for some objects of other stores that are new here, for as long as the fault lasts."""
        is_own = any(number.origin == self.record.sender.origin for number in versions.siblings)
        return self.refuses_some and not is_own and object_id.counter % 3 == 0

    def _on_disk(self, record: ReplicaRecord) -> Copy:
        return Copy(record, self.objects.snapshot(), self.mark, self.fence)

    def call(self, work: Callable[[Replicator], list[Effect]]) -> list[Effect]:
        """Make one call. Its effects may leave after a commit, which is made here where there are any."""
        effects = work(self.replicator)
        self._uncommitted |= self.replicator.replica.touched
        if effects:
            self.commit()
        return effects

    def commit(self) -> None:
        """Make all that was done durable."""
        states = self.disk.record.folders
        if self._uncommitted:
            states = dict(states)  # what was kept before stays as it was
            for folder in sorted(self._uncommitted):
                if folder in self.record.folders:
                    states[folder] = self.record.folders[folder].copy()
            self._uncommitted.clear()
        self._keep_identity()
        self.disk = self._on_disk(self.record.copy_with(states))

    def _keep_identity(self) -> None:
        """Keep the incarnation in the fence too; the database comes first."""
        incarnation = self.record.sender.incarnation
        if self.mark.incarnation != incarnation:
            self.mark = self.mark._replace(incarnation=incarnation)
        if self.fence is not None and self.fence.incarnation != incarnation:
            self.fence = self.fence._replace(incarnation=incarnation)

    def moment(self, now_ms: int) -> Moment:
        """A time as this machine's clocks show it."""
        return Moment(now_ms, now_ms + self.skew_ms)

    def start(self, now_ms: int) -> list[Effect]:
        """Begin, or go on after a restart, as what is found on the machine says.

        It goes by the entries of the organisation that it has, before there are any by the organisation of
        now: one that was down may have missed that a store joined.
        """
        self._mount(self.record, self.objects)
        organisation_folder.follow(self.replicator.replica)
        self._uncommitted |= self.record.folders.keys()
        begins = self.begins()
        if begins is Start.AGAIN and self.fence is not None and self.fence.is_open:
            identity.leave_out_after_unclean_end(self.record)
        self.is_restored = False
        nonce, incarnation = self._new_guid(), self.record.sender.incarnation
        self.mark = Mark(incarnation, nonce, self.fence.nonce if self.fence else b"")
        self.fence = Fence(self.database, incarnation, nonce, self.place, is_open=True)
        return self.call(lambda replicator: replicator.start(self.moment(now_ms), begins))

    def begins(self) -> Start:
        """The way in which the store begins, by what it finds on the machine."""
        if not self.mark.nonce and not self.is_restored:
            return Start.JOINED
        reason = identity.reason_to_number_anew(
            self.database, self.is_restored, self.mark, self.fence, self.place
        )
        return Start.WENT_BACK if reason else Start.AGAIN

    def stop(self) -> None:
        """End properly."""
        self.commit()
        if self.fence is not None:
            self.fence = self.fence._replace(is_open=False)

    def organisation_changed(self, now_ms: int) -> list[Effect]:
        """Learn of other servers, sites or connectors."""
        return self.call(
            lambda replicator: replicator.organisation_changed(self.organisation, self.moment(now_ms))
        )

    def crash(self) -> CNSet:
        """Lose all that was not committed. The numbers that were lost."""
        origin, last = self.record.sender.origin, self.record.counter
        kept = self.disk.record
        self._go_back_to(self.disk)
        return CNSet.of_range(origin, kept.counter + 1 if kept.sender.origin == origin else 1, last)

    def restore(self, copy: Copy) -> None:
        """Go back to an old copy by means that say so."""
        self._go_back_to(copy)
        self.is_restored = True

    def put_back(self, copy: Copy, *, was_running: bool) -> None:
        """Go back to an old copy of the whole machine, which nobody says."""
        self._go_back_to(copy)
        self.fence = copy.fence._replace(is_open=was_running) if copy.fence else None

    def begin_elsewhere(self, copy: Copy, *, with_fence: bool) -> None:
        """Go on from an old copy on another machine, to which the fence was copied too, or not."""
        self._go_back_to(copy)
        self.fence = copy.fence if with_fence else None
        self.place = Place(self._new_guid(), 1)

    def _go_back_to(self, copy: Copy) -> None:
        self._uncommitted.clear()
        self._mount(copy.record.copy(), DictObjects(copy.objects))
        self.mark, self.disk = copy.mark, copy

    def copy(self) -> Copy:
        """A copy of the machine's disk, as a backup makes it."""
        return replace(self.disk, record=self.disk.record.copy(), fence=self.fence)

    def local(self, change: Callable[[Replica], R], now_ms: int) -> tuple[R, list[Effect]]:
        """Make a local change."""
        given: list[R] = []

        def make(replicator: Replicator) -> list[Effect]:
            result, effects = replicator.local_changes(change, self.moment(now_ms))
            given.append(result)
            return effects

        effects = self.call(make)
        return given[0], effects

    def page(self, key: AnswerKey, now_ms: int) -> Message | None:
        """The next page of an answer; None when that is over."""
        self.commit()
        return self.replicator.answer_page(key, self.moment(now_ms))
