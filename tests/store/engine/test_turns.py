"""Turns come in order and end whatever interrupts the thread that has them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import pytest
from interrupts import interrupted_at

from pillarbox.store.access import Actor
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.turns import Line, Turn, TurnBlock
from pillarbox.store.errors import Refused
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.mail.delivery import deliver

ACTOR = Actor.task("test")


def turns(line: Line, *shares: int) -> list[Turn]:
    told: SimpleQueue[Any] = SimpleQueue()
    made = [Turn(told, share) for share in shares]
    for turn in made:
        line.join(turn)
    return made


def come(line: Line, joined: list[Turn]) -> list[bool]:
    return [not line.blockers(turn) for turn in joined]


def test_a_turn_comes_when_all_before_it_have_ended() -> None:
    line = Line()
    joined = turns(line, 1, 1, 1)
    assert come(line, joined) == [True, False, False]
    joined[1].end()  # it never came: its thread was interrupted while it waited
    assert come(line, joined) == [True, False, False]
    assert len(line) == 2
    joined[0].end()
    assert come(line, joined) == [True, True, True]
    joined[2].end()
    assert len(line) == 0


def test_turns_come_together_as_far_as_their_shares_fit_and_a_large_one_alone() -> None:
    line = Line(10)
    joined = turns(line, 4, 5, 3, 20, 1)
    assert come(line, joined) == [True, True, False, False, False]
    joined[1].end()
    assert come(line, joined) == [True, True, True, False, False]
    for turn in joined[:3]:
        turn.end()
    assert come(line, joined)[3:] == [True, False]
    joined[3].end()
    assert come(line, joined)[4]


def test_a_turn_that_ends_lets_the_thread_behind_it_go_on() -> None:
    line = Line()
    first, second = turns(line, 1, 1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(line.wait, second)
        assert not line.wait(second, 0.01)
        first.end()
        assert waiting.result(20)


def test_the_end_of_a_turn_wakes_only_who_can_come_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    joined = turns(line, *[1] * 20)
    looked: list[Turn] = []
    blockers = Line.blockers

    def counted(line: Line, turn: Turn) -> list[Turn]:
        looked.append(turn)
        return blockers(line, turn)

    monkeypatch.setattr(Line, "blockers", counted)
    with ThreadPoolExecutor(20) as pool:
        come = [pool.submit(line.wait, turn) for turn in joined]
        for turn, has_come in zip(joined, come, strict=True):
            assert has_come.result(20)
            turn.end()
    assert len(looked) <= 2 * len(joined)


def test_a_line_that_never_empties_keeps_only_the_turns_in_it() -> None:
    line = Line()
    (held,) = turns(line, 1)
    made: weakref.WeakSet[Turn] = weakref.WeakSet()
    for _ in range(2_000):
        (waiting,) = turns(line, 1)
        made.add(waiting)
        assert not line.wait(waiting, 0)
        held.end()
        assert line.wait(waiting)
        held = waiting
    gc.collect()
    assert len(made) == 1


def test_a_turn_that_lasts_keeps_none_of_those_that_came_beside_it() -> None:
    line = Line(3)
    lasting, held = turns(line, 1, 2)
    made: weakref.WeakSet[Turn] = weakref.WeakSet()
    for _ in range(2_000):
        (waiting,) = turns(line, 2)
        made.add(waiting)
        assert not line.wait(waiting, 0)
        held.end()
        assert line.wait(waiting)
        held = waiting
    gc.collect()
    assert len(made) == 1
    assert not lasting.has_ended


def test_a_turn_that_waited_and_never_came_is_let_go() -> None:
    line = Line()
    (lasting,) = turns(line, 1)
    made: weakref.WeakSet[Turn] = weakref.WeakSet()
    for _ in range(2_000):
        (waiting,) = turns(line, 1)
        made.add(waiting)
        assert not line.wait(waiting, 0)
        waiting.end()
    gc.collect()
    assert len(made) == 1  # the last in the line
    assert not lasting.has_ended


def test_a_turn_of_many_shares_comes_by_the_end_of_any_before_it() -> None:
    for ends in (0, 1, 2):
        line = Line(10)
        joined = turns(line, 4, 3, 3, 3)
        with ThreadPoolExecutor(1) as pool:
            come = pool.submit(line.wait, joined[3])
            assert not line.wait(joined[3], 0)
            joined[ends].end()
            assert come.result(20)


class _Block(TurnBlock[str]):
    def enter(self) -> str:
        return "entered"


@pytest.mark.parametrize("stacked", [False, True])
def test_the_writer_is_told_of_a_block_that_is_gone_before_its_turn_has_ended(stacked: bool) -> None:
    told: SimpleQueue[Any] = SimpleQueue()

    def left_in_the_middle() -> Iterator[None]:
        with _Block(Turn(told)):
            yield

    def stacked_in_the_middle() -> Iterator[None]:
        stack = ExitStack()
        stack.enter_context(_Block(Turn(told)))
        yield

    steps = stacked_in_the_middle() if stacked else left_in_the_middle()
    next(steps)
    assert told.empty()
    del steps
    assert not told.empty()


# -- interrupts at every step


@pytest.fixture
def anna(database: Database) -> mailboxes.MailboxRecord:
    with database.transaction(ACTOR) as txn:
        return mailboxes.create(txn, "anna")


def raw_of(number: int) -> bytes:
    return b"Subject: %d\r\n\r\n" % number


# One that comes in a finalizer Python prints and forgets.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "name",
    [
        "pause",
        "transaction",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("append", "delivery", "large delivery", "stacked")
        ),
    ],
)
def test_an_interrupt_at_any_step_leaves_nothing_half_made_and_nobody_waiting(
    database: Database, anna: mailboxes.MailboxRecord, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "large delivery":
        monkeypatch.setattr("pillarbox.store.engine.database._LARGE_BYTES", 1)
        monkeypatch.setattr("pillarbox.store.engine.database.SMALL_BYTES_MAX", 0)
    prepared = messages.prepare(database.files, raw_of(0))
    number = 0

    def transaction() -> None:
        with database.transaction(ACTOR) as txn:
            txn.set_size_check(number, 0)

    def append() -> None:
        with database.transaction(ACTOR) as txn:
            messages.append(txn, anna.roles["inbox"], prepared)

    def pause() -> None:
        with database.paused():
            pass

    def stacked() -> None:
        with ExitStack() as stack:
            stack.enter_context(database.transaction(ACTOR)).set_size_check(number, 0)

    def delivery() -> None:
        deliver(database, ACTOR, [anna.guid], raw_of(0))

    action = {
        "transaction": transaction,
        "append": append,
        "pause": pause,
        "stacked": stacked,
        "delivery": delivery,
        "large delivery": delivery,
    }[name]
    kept: list[BaseException] = []
    with ThreadPoolExecutor(1) as pool:
        while interrupted_at(number + 1, action, kept):
            number += 1
            if name == "stacked":
                kept.clear()  # a stack is in the frames that the traceback keeps, and refers to itself
                gc.collect()
            pool.submit(deliver, database, ACTOR, [anna.guid], raw_of(number)).result(20)
    with database.read(ACTOR) as read:
        inbox = anna.roles["inbox"]
        found = [messages.content(read, item) for item in folders.messages(read, inbox)]
        assert folders.get(read, inbox).messages_count == len(found)
    assert [raw for raw in found if raw != raw_of(0)] == [raw_of(at) for at in range(1, number + 1)]
    assert number > 20


def test_who_waits_for_the_writer_is_counted(database: Database) -> None:
    writer = database._writer
    assert writer is not None
    with database.transaction(ACTOR):
        waiting = writer.new_turn()
        writer._line.join(waiting)
        assert database.waiting_count >= 1
        waiting.end()


def test_within_a_transaction_of_the_same_thread_nothing_waits(database: Database) -> None:
    with database.transaction(ACTOR):
        for begin in (database.transaction, lambda actor: database.paused()):
            with pytest.raises(Refused, match="transaction open"), begin(ACTOR):
                pytest.fail("it was begun")
