"""Invariants of leaving: an acknowledgement covers what it is for, and content goes by nothing less."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pillarbox.replication.core.effects import Effect, Send
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.simulation.history import Violation
from pillarbox.replication.wire.messages import Message, Statement, Status, StatusRequest
from pillarbox.store.change_number import CNSet


class Stated(NamedTuple):
    """A statement of a leaving replica: its store and incarnation, the folder, and its number there."""

    store: bytes
    incarnation: int
    folder: ObjectId
    number: int


class Acknowledgements:
    """Statements of leaving replicas, and what each acknowledgement of one had."""

    def __init__(self) -> None:
        self._stated: dict[Stated, list[CNSet]] = {}
        self._given: dict[Stated, dict[bytes, Statement]] = {}

    def look(self, replica: Replica, effects: Iterable[Effect]) -> None:
        """See what a store states or acknowledges. Raises Violation."""
        for effect in effects:
            if isinstance(effect, Send):
                message, body = effect.message, effect.message.body
                if isinstance(body, StatusRequest) and body.leaving is not None:
                    sender = message.sender
                    key = Stated(sender.database, sender.incarnation, message.folder, body.leaving)
                    # A store that went back may use a number again, for what it has then.
                    self._stated.setdefault(key, []).append(message.statement.known)
                elif isinstance(body, Status) and body.acknowledgement is not None:
                    key = Stated(
                        message.to,
                        body.acknowledgement.incarnation,
                        message.folder,
                        body.acknowledgement.statement,
                    )
                    self._look_at(replica, message, key)

    def _look_at(self, replica: Replica, message: Message, key: Stated) -> None:
        """An acknowledgement is an active replica's, and it has all that it is for."""
        where = f"folder {message.folder.counter}: {message.sender.database.hex()[:8]} acknowledges"
        if replica.my_state(message.folder) is not ReplicaState.ACTIVE:
            raise Violation(f"{where}, and is not active")
        if key not in self._stated:
            raise Violation(f"{where} what was never stated")
        has = message.statement.had
        if not replica.state(message.folder).knowledge.had.covers(has):
            raise Violation(f"{where} by more than it has")
        if not any(has.covers(each) for each in self._stated[key]):
            raise Violation(f"{where} what it has not")
        given, said = self._given.setdefault(key, {}), message.statement
        before = given.get(message.sender.database, said)
        given[message.sender.database] = said._replace(
            known=said.known | before.known, expired=said.expired | before.expired
        )

    def covers(self, replica: Replica, folder: ObjectId, incarnation: int, known: CNSet) -> bool:
        """True when acknowledgements cover, between them, all that a store knew when it let its content go,
        as this incarnation: each number is held by one giver, or was let go by age at all of them."""
        number = replica.record.folders[folder].leaving.number
        given = self._given.get(Stated(replica.me.database, incarnation, folder, number), {}).values()
        rest = known
        for statement in given:
            rest -= statement.known
        return bool(given) and all(statement.expired.covers(rest) for statement in given)
