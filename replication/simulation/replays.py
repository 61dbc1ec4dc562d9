"""Replays: what a store has taken is given once more to a copy of it, at once or much later, and must change
nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import NamedTuple, TypeAlias

from pillarbox.replication.core.effects import Effect
from pillarbox.replication.core.replica import Moment
from pillarbox.replication.core.replicator import Replicator
from pillarbox.replication.core.state import Row
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.simulation.history import Violation
from pillarbox.replication.simulation.machine import Machine
from pillarbox.replication.simulation.network import carried
from pillarbox.replication.simulation.objects import DictObjects, FolderObjects
from pillarbox.replication.wire.messages import Message, Status
from pillarbox.store.change_number import ChangeNumber

EVERY = 24  # of so many deliveries one is replayed, and an older one
KEPT_MAX = 12

Delivery: TypeAlias = Callable[[Replicator, Moment], list[Effect]]


class Taken(NamedTuple):
    """Something that a store took, the replicator that it was then, and of its replicas the lives and the
    rows."""

    machine: Machine
    replicator: Replicator
    lives: dict[ObjectId, int]
    rows: dict[ObjectId, dict[bytes, Row]]
    delivery: Delivery
    messages: tuple[Message, ...]


class Replays:
    """Some of what stores took in a run: one of `every` deliveries, none where that is 0.

    Each costs a copy of all that its store keeps.
    """

    def __init__(self, rng: random.Random, every: int = EVERY) -> None:
        self._rng, self.every = rng, every
        self._count = 0
        self._kept: list[Taken] = []

    def taken(self, machine: Machine, delivery: Delivery, messages: tuple[Message, ...], now_ms: int) -> int:
        """A store took something. Replays it now and then, and an older thing; how many. Raises Violation."""
        self._count += 1
        if not self.every or self._count % self.every:
            return 0
        if not all(_is_heard(machine, message) for message in messages):
            return 0  # a copy that was refused, say: it is news when it comes again
        held = {folder: state for folder, state in machine.record.folders.items() if state.is_held}
        lives = {folder: state.life for folder, state in held.items()}
        rows = {folder: dict(state.rows) for folder, state in held.items()}
        taken = Taken(machine, machine.replicator, lives, rows, delivery, messages)
        self._replay(taken, now_ms)
        old = self._rng.choice(self._kept) if self._kept else taken
        # An acknowledgement that came too early counts when it comes again, and the content goes then.
        if old.machine.replicator is old.replicator and not any(each.acknowledges for each in old.messages):
            self._replay(old, now_ms)
        self._kept.append(taken)
        if len(self._kept) > KEPT_MAX:
            del self._kept[self._rng.randrange(KEPT_MAX)]
        return 2

    def _replay(self, taken: Taken, now_ms: int) -> None:
        machine = taken.machine
        if not all(_is_had(machine, message) for message in taken.messages):
            return  # it came before its folder did, and is news now
        record, objects = machine.record.copy(), DictObjects(machine.objects.snapshot())
        guids = random.Random(self._count)
        organisation = machine.replicator.replica.organisation
        twin = Replicator(
            record, machine.tree, organisation, machine.preset, objects, lambda: guids.randbytes(16)
        )
        twin.replica.waiting = deepcopy(machine.replicator.replica.waiting)
        taken.delivery(twin, machine.moment(now_ms))
        if record.counter != machine.record.counter or record.sender != machine.record.sender:
            raise Violation(f"{machine.database.hex()[:8]} gives a number to what it takes twice")
        for folder, life in taken.lives.items():
            state = machine.record.folders.get(folder)
            if state is None or not state.is_held or state.life != life:
                continue
            before, after = machine.objects.folder_objects(folder), objects.folder_objects(folder)
            if before is not after and not _is_same(before, after):
                raise Violation(f"{machine.database.hex()[:8]} takes something twice, and an object changes")
            now, was = record.folders[folder].knowledge, state.knowledge
            if not now.known.covers(was.known) or now.expired != was.expired or now.purged != was.purged:
                raise Violation(f"{machine.database.hex()[:8]} takes something twice, and forgets numbers")
            # Which of them expired may change: one is let go and held again, and statements have no order.
            rows, then = record.folders[folder].rows, taken.rows[folder]
            late = _of_unlisted(taken.messages, folder, then)
            if any(
                peer in rows and rows[peer].had != row.had
                for peer, row in state.rows.items()
                if peer not in late and not _is_begun_anew(row, then.get(peer))
            ):
                raise Violation(f"{machine.database.hex()[:8]} takes something twice, and a row changes")


def _is_begun_anew(row: Row, then: Row | None) -> bool:
    """True when a store was taken off the list since something was taken, or was not on it yet: what it had
    said by then may be heard late."""
    if then is None or not row.is_heard():
        return True
    return row.life == then.life and not row.had.covers(then.had)


def _of_unlisted(
    messages: Iterable[Message], folder: ObjectId, then: Mapping[bytes, Row]
) -> frozenset[bytes]:
    """The stores whose statements came by a mate that was not on the list when they were taken: nothing that
    it said was heard."""
    return frozenset(
        mate
        for message in messages
        if message.folder == folder and message.sender.database not in then
        if isinstance(message.body, Status)
        for mate in message.body.mates
    )


def _is_same(before: FolderObjects, after: FolderObjects) -> bool:
    """True when the same versions are there, with all that is in them, and no context forgot anything.

    A context without versions may go, and one may see a deletion that came here purged: it is known anyway.
    """
    versions = {each: held.siblings for each, held in before.objects.items() if held.siblings}
    if versions != {each: held.siblings for each, held in after.objects.items() if held.siblings}:
        return False
    return all(
        after.objects[object_id].has_seen(ChangeNumber(origin, counter))
        for object_id in versions
        for origin, counter in before.objects[object_id].context.items()
    )


def _is_heard(machine: Machine, message: Message) -> bool:
    """True when a store has what a message states of its sender, or knows of a later life of it."""
    said, state = message.statement, machine.record.folders.get(message.folder)
    row = state.rows.get(message.sender.database) if state else None
    is_new = row is not None and (
        row.life < said.life or (row.life == said.life and not row.had.covers(said.had))
    )
    return not is_new


def _is_had(machine: Machine, message: Message) -> bool:
    """True when a store has all that a message carries, and asks for none of it again.

    What it set aside is tried again when it comes.
    """
    state = machine.record.folders.get(message.folder)
    numbers = set(carried(message))
    if not numbers or state is None:
        return not numbers
    is_aside = any(numbers & each.numbers for each in state.set_aside.values())
    return not is_aside and all(number in state.knowledge.settled for number in numbers)
