"""A replica that leaves: its content goes only when another one has acknowledged all of it."""

from __future__ import annotations

from dataclasses import replace

from pillarbox.replication.core import hierarchy, status
from pillarbox.replication.core.effects import Notice
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import NEVER_MS, FolderState, Leaving
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.wire.messages import Acknowledgement, Message, Statement, StatusRequest
from pillarbox.store.change_number import CNSet


def due_ms(replica: Replica, folder: ObjectId, state: FolderState) -> int:
    """The time at which a leaving replica states its numbers (again)."""
    return state.leaving.due_ms if is_leaving(replica, folder, state) else NEVER_MS


def is_leaving(replica: Replica, folder: ObjectId, state: FolderState) -> bool:
    """True when this store's replica is delete pending."""
    if folder == replica.tree.hierarchy or not state.is_held:
        return False
    read = replica.folder(folder)
    return read is not None and read.is_live and replica.my_state(folder, read) is not ReplicaState.ACTIVE


def state_all(replica: Replica, folder: ObjectId) -> None:
    """State what this replica has to all active ones, under a new number when that has changed."""
    state = replica.state(folder)
    leaving = state.leaving
    if leaving.stated != state.knowledge.known:
        leaving = Leaving(leaving.number + 1, state.knowledge.known)
    due_ms = replica.now_ms + replica.preset.first_retry.same_site_ms
    state.leaving = leaving = replace(leaving, due_ms=due_ms)
    for peer, listed in replica.peers(folder).items():
        if listed is ReplicaState.ACTIVE:
            replica.send(peer, folder, StatusRequest(leaving.number))


def answer(replica: Replica, folder: ObjectId, message: Message, statement_number: int) -> None:
    """Acknowledge a leaving replica's statement if this store is active and has all of it; else backfill
    first. What is set aside here is not had: the leaving replica may hold the last copy."""
    states = replica.replica_states(folder)
    leaver = states.get(message.sender.database, ReplicaState.REMOVED)
    if states.get(replica.me.database) is not ReplicaState.ACTIVE or leaver is ReplicaState.ACTIVE:
        return
    state = replica.state(folder)
    has_all = (state.knowledge.had - state.aside()).covers(message.statement.known)
    replica.fired["acknowledged" if has_all else "not_acknowledged"] += 1
    if has_all:
        acknowledgement = Acknowledgement(message.sender.incarnation, statement_number)
        status.tell(replica, folder, message.sender.database, acknowledgement)


def acknowledged(
    replica: Replica, folder: ObjectId, source: bytes, given: Acknowledgement, statement: Statement
) -> None:
    """Take an acknowledgement: the content goes if it covers all that is held at this moment.

    What its giver let go by age another active replica may hold that has acknowledged the same statement.
    """
    state = replica.state(folder)
    states = replica.replica_states(folder)
    is_for_us = given == Acknowledgement(replica.me.incarnation, state.leaving.number)
    if (
        not is_leaving(replica, folder, state)
        or not is_for_us
        or states.get(source) is not ReplicaState.ACTIVE
    ):
        return
    acknowledged = {**state.leaving.acknowledged, source: (statement.known, statement.expired)}
    state.leaving = replace(state.leaving, acknowledged=acknowledged)
    active = [peer for peer, listed in replica.peers(folder).items() if listed is ReplicaState.ACTIVE]
    rest = to_cover(state)
    for peer in active:
        rest -= acknowledged[peer][0] if peer in acknowledged else NOTHING
    if rest and not _is_expired_by_all(state, rest, active):
        return
    if rest:
        replica.report(Notice.EXPIRED_LOST, folder, rest)
    hierarchy.drop(replica, folder)


def to_cover(state: FolderState) -> CNSet:
    """The numbers that an acknowledgement must cover: all held at this moment, not those stated."""
    return state.knowledge.known


def _is_expired_by_all(state: FolderState, numbers: CNSet, active: list[bytes]) -> bool:
    return all(
        peer in state.leaving.acknowledged and state.leaving.acknowledged[peer][1].covers(numbers)
        for peer in active
    )
