"""Hellos: a store that starts asks all others what they heard of its numbering, before it goes on with it.

A machine that was put back to an old state with all its files, as a snapshot of a virtual machine is, is
noticed by this alone. Until the hello is complete the store says nothing else to others; it takes what they
say, and answers their hellos.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from pillarbox.replication.core import hierarchy
from pillarbox.replication.core.effects import Answer, Effect, Notice, Send
from pillarbox.replication.core.preset import DAY_MS
from pillarbox.replication.core.replica import Replica, ReplicaRecord, Waiting
from pillarbox.replication.core.state import NEVER_MS
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.wire.messages import Hello, HelloAnswer, Life, Message, Statement

AGAIN_MS: Final = 10_000
AGAIN_LATER_MS: Final = 60_000
REACHABLE_MS: Final = 30_000
"""A store that gives no answer for so long after another one's is not reachable."""
KEPT_BACK_MAX: Final = 1_000
HIERARCHY_MS_MAX: Final = DAY_MS
"""Content is not held back longer for changes of the hierarchy that nobody may have any more."""
SAYS_NOTHING: Final = Statement(Life(0, 0), NOTHING, NOTHING)


class Start(Enum):
    """The knowledge of itself with which a store starts."""

    JOINED = "its numbering has just begun"
    AGAIN = "it goes on where it stopped, as far as it knows itself"
    WENT_BACK = "it was put back to an earlier state, and numbers anew"


def begin(replica: Replica, start: Start) -> None:
    """Say hello to all other stores of the tree; with none there is nothing to wait for."""
    record, now_ms = replica.record, replica.now_ms
    if start is Start.WENT_BACK:
        replica.number_anew()
    replica.is_doubtful = False  # the hello is to show it
    replica.waiting = Waiting(
        start=replica.new_guid(),
        origin=replica.me.origin,
        last=_last_given(record),
        began_ms=now_ms,
        due_ms=now_ms,
        is_anew=start is not Start.AGAIN,
        went_back=start is Start.WENT_BACK,
    )
    replica.touched.add(replica.tree.hierarchy)
    look(replica)


def due_ms(replica: Replica) -> int:
    """The time at which the hello is said again, or nobody is waited for any more."""
    waiting = replica.waiting
    if waiting is None or is_quarantined(replica):
        return waiting.due_ms if waiting else NEVER_MS
    return min(waiting.due_ms, waiting.first_answer_ms + REACHABLE_MS)


def say(replica: Replica) -> None:
    """Say hello to all who did not answer yet, and see whom it still waits for."""
    waiting, now_ms = replica.waiting, replica.now_ms
    if waiting is None:
        return
    if waiting.due_ms <= now_ms:
        waiting.due_ms = now_ms + (AGAIN_MS if now_ms - waiting.began_ms < AGAIN_LATER_MS else AGAIN_LATER_MS)
        for database in unanswered(replica):
            _send(replica, database, Hello(waiting.start, waiting.origin))
    look(replica)


def say_soon(replica: Replica) -> None:
    """Say the hello again now: a store that did not answer yet can be reached since."""
    if replica.waiting is not None and unanswered(replica):
        replica.waiting.due_ms = replica.now_ms
        replica.touched.add(replica.tree.hierarchy)


def unanswered(replica: Replica) -> tuple[bytes, ...]:
    """The stores whose answer to the hello is waited for; none when it is complete."""
    waiting = replica.waiting
    if waiting is None:
        return ()
    others = replica.organisation.others(replica.me.database)
    return tuple(database for database in others if database not in waiting.answered)


def look(replica: Replica) -> None:
    """Go on once all have answered that can be reached, so at least one of each site that can."""
    waiting = replica.waiting
    if waiting is None or is_quarantined(replica):
        return
    if not unanswered(replica) or replica.now_ms - waiting.first_answer_ms >= REACHABLE_MS:
        _complete(replica, waiting)


def _complete(replica: Replica, waiting: Waiting) -> None:
    """Let the store speak, and leave out for good the numbers of an unclean end.

    Not so where a store that may be reached gave no answer: a slow link holds one up for longer than this
    waits, and only that store may know what was given. The old numbering stays in doubt.
    """
    record = replica.record
    silent = set(unanswered(replica)) - replica.unreachable
    replica.is_doubtful = bool(silent) and not waiting.is_anew
    if not replica.is_doubtful:
        record.left_out |= record.unsure
        record.unsure = NOTHING
    replica.waiting = None
    if replica.lacks_hierarchy():  # nothing of content leaves before it is there
        replica.state(replica.tree.hierarchy).asks_at_once = True
    replica.touched.update(record.folders)
    for folder, state in record.folders.items():
        if waiting.went_back and state.is_held:
            hierarchy.ask_all(replica, folder)


def _last_given(record: ReplicaRecord) -> int:
    """The last number that the store remembers to have given."""
    return record.counter - record.unsure.count()


def sendable(replica: Replica, effects: list[Effect]) -> list[Effect]:
    """The effects that may leave now: until the hello is complete no messages of this store but hellos.

    What others made is handed on. The rest is kept back; of very much the oldest goes, since requests are
    repeated.
    """
    if replica.waiting is None:
        if replica.kept_back:
            effects = [*replica.kept_back, *effects]
            replica.kept_back.clear()
        return effects
    told: list[Effect] = []
    for effect in effects:
        is_kept_back = isinstance(effect, Send | Answer) and not _is_hello(effect)
        # Of an acknowledgement the leaving replica asks again, and this one may leave meanwhile, too.
        if not (isinstance(effect, Send) and effect.message.acknowledges):
            (replica.kept_back if is_kept_back else told).append(effect)
    del replica.kept_back[:-KEPT_BACK_MAX]
    return told


def _is_hello(effect: Effect) -> bool:
    return isinstance(effect, Send) and isinstance(effect.message.body, Hello | HelloAnswer)


def answer(replica: Replica, asker: bytes, hello: Hello) -> None:
    """Tell a store that starts what was heard of its numbering here, from itself or from others."""
    is_refused = hello.origin in replica.record.quarantined
    highest = highest_heard(replica, hello.origin)
    told = HelloAnswer(hello.start, highest, is_refused, replica.numberings())
    _send(replica, asker, told, replica.statement(replica.tree.hierarchy))


def highest_heard(replica: Replica, origin: bytes) -> int:
    """The highest number of a replica GUID that this store has or heard of, in any folder.

    One that is left out was not given, but numbers above it are.
    """
    record = replica.record
    highest = max(record.left_out.highest(origin), record.once_heard.highest(origin))
    for state in record.folders.values():
        heard = (state.knowledge.had, *(row.had for row in state.rows.values()))
        highest = max(highest, *(numbers.highest(origin) for numbers in heard))
    return highest


def answered(replica: Replica, source: bytes, told: HelloAnswer, statement: Statement) -> None:
    """Take an answer: go on, or number anew where others know more of this store than it does itself.

    Content is held back until this store has of the hierarchy what the other one has.
    """
    waiting = replica.waiting
    if waiting is None or told.start != waiting.start:
        return
    replica.learn_numberings(told.numberings)
    replica.awaited_hierarchy[source] = statement
    replica.hierarchy_due_ms = replica.now_ms + HIERARCHY_MS_MAX
    if told.highest > waiting.last:
        note_return(replica)
    look_for_later(replica)
    if told.is_quarantined and waiting.origin == replica.me.origin and not is_quarantined(replica):
        replica.record.quarantined |= {replica.me.origin}
        replica.report(Notice.QUARANTINED, replica.tree.hierarchy)
    waiting.first_answer_ms = min(waiting.first_answer_ms, replica.now_ms)
    waiting.answered.add(source)
    replica.touched.add(replica.tree.hierarchy)
    look(replica)


def heard(replica: Replica, statement: Statement) -> None:
    """See in a statement, at any time, that another store knows numbers that this one did not give."""
    waiting = replica.waiting
    last = _last_given(replica.record) if waiting is None else waiting.last
    origin = replica.me.origin if waiting is None else waiting.origin
    if statement.had.highest(origin) > last:
        note_return(replica)


def look_for_later(replica: Replica) -> None:
    """See among the numberings, at any time, an incarnation of this store that is as late as its own, or
    later: it began that before it went back."""
    if _is_replaced(replica):
        note_return(replica)
        if _is_replaced(replica):
            replica.number_anew()


def told_of_itself(replica: Replica, folder: ObjectId, statement: Statement) -> None:
    """See in what this store is said to have stated before that it had more of a folder than it has.

    A copy that gave no number since shows by that alone: others would believe for ever that it has what it
    has not. Nothing is forgotten in the life of a replica but by going back.
    """
    life = replica.life(folder)
    had = replica.state(folder).knowledge.had
    if statement.life > life or (statement.life == life and not had.covers(statement.had)):
        note_return(replica)


def note_return(replica: Replica) -> None:
    """The store went back in time, and nobody said so: it numbers anew, says hello, and asks all what they
    have."""
    if replica.waiting is None:
        begin(replica, Start.AGAIN)
    waiting = replica.waiting
    if waiting is not None and not waiting.went_back:
        waiting.went_back = True
        replica.report(Notice.WENT_BACK, replica.tree.hierarchy)
        if waiting.origin == replica.me.origin:  # asked about, and not left since
            replica.number_anew()


def _is_replaced(replica: Replica) -> bool:
    """True when another incarnation of this store is known that is as late as its own, or later."""
    me = replica.me
    return any(
        database == me.database and incarnation >= me.incarnation and origin != me.origin
        for origin, (database, incarnation) in replica.record.owners.items()
    )


def is_quarantined(replica: Replica) -> bool:
    """True when two copies of this store give the same numbers."""
    return replica.me.origin in replica.record.quarantined


def _send(
    replica: Replica, to: bytes, body: Hello | HelloAnswer, statement: Statement = SAYS_NOTHING
) -> None:
    message = Message(replica.me, to, replica.tree.hierarchy, statement, body)
    replica.effects.append(Send(message))
