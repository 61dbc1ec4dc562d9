"""Deliveries of many threads: made together, each with its own outcome."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import ItemRecord
from pillarbox.store.engine import changes as changes_module
from pillarbox.store.engine import database as database_module
from pillarbox.store.engine import writer as writer_module
from pillarbox.store.engine.changes import SMALL_BYTES_MAX
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.engine.group_store import GroupStore
from pillarbox.store.engine.transaction import DatabaseFiles
from pillarbox.store.errors import DiskFull, Dismounted, NotFound, PillarboxError, Refused
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.mail.delivery import deliver

ACTOR = Actor.task("test")
OTHER = Actor.task("other")
MISSING = bytes(16)
Outcome = list[ItemRecord] | BaseException


@pytest.fixture
def anna(database: Database) -> bytes:
    with database.transaction(ACTOR) as txn:
        return mailboxes.create(txn, "anna").guid


def raw_of(number: int) -> bytes:
    return b"Subject: %d\r\n\r\n" % number


def subjects(database: Database, guid: bytes) -> list[str]:
    with database.read(ACTOR) as read:
        inbox = mailboxes.get(read, guid).roles[mailboxes.INBOX]
        return sorted(item.subject for item in folders.messages(read, inbox))


def sequence(database: Database) -> int:
    with database.read(ACTOR) as read:
        return read.state().sequence


def outcome(database: Database, number: int, actor: Actor, guid: bytes) -> Outcome:
    try:
        return deliver(database, actor, [guid], raw_of(number))
    except BaseException as error:
        return error


def at_once(
    database: Database, deliveries: list[tuple[Actor, bytes]], *, failing_count: int = 0
) -> list[Outcome]:
    """What comes of deliveries (actor, mailbox) that all wait when the writer makes the first.

    So many as are failing do not wait.
    """
    with ThreadPoolExecutor(len(deliveries)) as pool:
        with database.paused():
            running = [
                pool.submit(outcome, database, number, *delivery)
                for number, delivery in enumerate(deliveries)
            ]
            wait_for_changes(database, len(deliveries) - failing_count)
        return [each.result(60) for each in running]


def wait_for_changes(database: Database, count: int) -> None:
    writer = database._writer
    assert writer is not None
    while len(writer._changes) < count:
        threading.Event().wait(0)


def test_what_many_threads_deliver_at_once_is_one_transaction(database: Database, anna: bytes) -> None:
    before = sequence(database)
    outcomes = at_once(database, [(ACTOR, anna)] * 8)
    assert [each[0].subject for each in outcomes if isinstance(each, list)] == [str(n) for n in range(8)]
    assert sequence(database) == before + 1
    assert subjects(database, anna) == [str(number) for number in range(8)]
    assert deliver(database, ACTOR, [anna], raw_of(9))[0].subject == "9"


def test_one_that_cannot_be_delivered_costs_the_others_nothing(database: Database, anna: bytes) -> None:
    wanted = [(ACTOR, MISSING), (ACTOR, anna), (ACTOR, MISSING), (ACTOR, anna)]
    outcomes = at_once(database, wanted)
    assert [type(each) for each in outcomes] == [NotFound, list, NotFound, list]
    assert subjects(database, anna) == ["1", "3"]


def test_each_transaction_is_of_one_actor(database: Database, anna: bytes) -> None:
    before = sequence(database)
    outcomes = at_once(database, [(ACTOR, anna), (OTHER, anna), (ACTOR, anna)])
    assert [type(each) for each in outcomes] == [list] * 3
    assert sequence(database) == before + 2


def test_a_dismount_is_told_to_all_who_wait(database: Database, anna: bytes) -> None:
    with ThreadPoolExecutor(4) as pool:
        with database.paused():
            dismounting = pool.submit(database.dismount)
            writer = database._writer
            assert writer is not None
            line, paused = writer._line, writer._holder
            while line._last is paused:
                threading.Event().wait(0)
            running = [pool.submit(outcome, database, number, ACTOR, anna) for number in range(3)]
            wait_for_changes(database, 3)
        outcomes = [each.result(60) for each in running]
        dismounting.result(60)
    assert [type(each) for each in outcomes] == [Dismounted] * 3
    database.mount()
    assert subjects(database, anna) == []


def test_a_message_that_takes_long_to_prepare_holds_up_nobody(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One too large for the writer, which prepares so many bytes at once that they cannot take long."""
    begun, go_on, prepare = threading.Event(), threading.Event(), messages.prepare
    large = raw_of(0).ljust(SMALL_BYTES_MAX + 1, b"x")

    def slow_for_one(files: DatabaseFiles, raw: bytes) -> messages.PreparedMessage:
        if raw == large:
            begun.set()
            assert go_on.wait(60)
        return prepare(files, raw)

    monkeypatch.setattr(messages, "prepare", slow_for_one)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(deliver, database, ACTOR, [anna], large)
        assert begun.wait(60)
        try:
            assert deliver(database, ACTOR, [anna], raw_of(1))
        finally:
            go_on.set()
        slow.result(60)
    assert subjects(database, anna) == ["0", "1"]


def test_the_writer_prepares_what_is_small_and_callers_what_is_not(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = messages.prepare
    prepared_by: list[str] = []

    def noted(files: DatabaseFiles, raw: bytes) -> messages.PreparedMessage:
        prepared_by.append(threading.current_thread().name)
        return prepare(files, raw)

    monkeypatch.setattr(messages, "prepare", noted)
    deliver(database, ACTOR, [anna], raw_of(1).ljust(SMALL_BYTES_MAX, b"x"))
    deliver(database, ACTOR, [anna], raw_of(2).ljust(SMALL_BYTES_MAX + 1, b"x"))
    assert prepared_by == ["pillarbox-writer", threading.current_thread().name]


def test_one_that_cannot_be_prepared_fails_its_own_caller_alone(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = messages.prepare

    def failing_for_one(files: DatabaseFiles, raw: bytes) -> messages.PreparedMessage:
        if raw == raw_of(1):
            raise MemoryError
        return prepare(files, raw)

    monkeypatch.setattr(messages, "prepare", failing_for_one)
    outcomes = at_once(database, [(ACTOR, anna)] * 3, failing_count=1)
    assert [type(each) for each in outcomes] == [list, MemoryError, list]
    assert subjects(database, anna) == ["0", "2"]


def test_callers_who_come_back_at_once_are_waited_for(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_NEXT_RETURN_PATIENCE_S", 60.0)
    before = sequence(database)
    at_once(database, [(ACTOR, anna)] * 2)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            list(pool.map(lambda number: deliver(database, ACTOR, [anna], raw_of(number)), range(2)))
    assert sequence(database) == before + 4


NO_PATIENCE = -1.0  # an error where somebody is waited for


def test_what_is_left_for_another_group_waits_for_those_who_come_back(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_module, "GROUP_COMMITS_MAX", 2)
    monkeypatch.setattr(writer_module, "_NEXT_RETURN_PATIENCE_S", NO_PATIENCE)
    outcomes = at_once(database, [(ACTOR, anna)] * 3)
    assert sorted(type(each).__name__ for each in outcomes) == ["Dismounted", "list", "list"]


def test_who_is_alone_waits_for_nobody(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_NEXT_RETURN_PATIENCE_S", NO_PATIENCE)
    for number in range(3):
        assert deliver(database, ACTOR, [anna], raw_of(number))


def test_callers_are_not_waited_for_while_those_before_them_do_not_come_back(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(database, [(ACTOR, anna)] * 3)
    at_once(database, [(ACTOR, anna)] * 2)  # one does not come back, for as long as the writer is patient
    monkeypatch.setattr(writer_module, "_NEXT_RETURN_PATIENCE_S", NO_PATIENCE)
    assert deliver(database, ACTOR, [anna], raw_of(3))


def test_a_commit_is_made_at_once_while_callers_are_waited_for(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_NEXT_RETURN_PATIENCE_S", 60.0)
    begun, go_on = threading.Event(), threading.Event()
    writer = database._writer
    assert writer is not None

    def commit() -> None:
        with database.transaction(ACTOR) as txn:
            txn.set_size_check(1, 0)
            begun.set()
            assert go_on.wait(60)

    def stay_open(until: Future[None]) -> None:
        with database.transaction(ACTOR):
            until.result(60)

    at_once(database, [(ACTOR, anna)] * 2)
    with ThreadPoolExecutor(3) as pool:
        committing = pool.submit(commit)
        assert begun.wait(60)
        last = writer._line._last
        open_behind = pool.submit(stay_open, committing)
        while writer._line._last is last:
            threading.Event().wait(0)
        delivering = pool.submit(deliver, database, ACTOR, [anna], raw_of(2))
        wait_for_changes(database, 1)
        go_on.set()
        for each in (committing, open_behind, delivering):
            each.result(60)


def test_a_delivery_that_waits_for_a_transaction_hears_of_the_end_of_all_writing(
    database: Database, anna: bytes
) -> None:
    writer = database._writer
    assert writer is not None
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(Dismounted), database.transaction(ACTOR):
            waiting = pool.submit(outcome, database, 1, ACTOR, anna)
            while writer._turn is None:
                threading.Event().wait(0)
            writer._groups.broken = PillarboxError("a checkpoint failed")
            writer._inbox.put(None)
        assert isinstance(waiting.result(60), Dismounted)
    assert database.state is MountState.DISMOUNTED


def test_large_messages_are_prepared_together_as_far_as_their_bytes_fit(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_LARGE_BYTES", 100)
    monkeypatch.setattr(database_module, "SMALL_BYTES_MAX", 99)
    writer = database._writer
    assert writer is not None
    writer._preparing._limit = 1000
    at_work: set[int] = set()
    most = [0]
    prepare = messages.prepare

    def counted(files: DatabaseFiles, raw: bytes) -> messages.PreparedMessage:
        at_work.add(id(raw))
        most[0] = max(most[0], len(at_work))
        threading.Event().wait(0.001)
        at_work.remove(id(raw))
        return prepare(files, raw)

    monkeypatch.setattr(messages, "prepare", counted)
    raws = [raw_of(number).ljust(400, b"x") for number in range(12)]
    too_large = raw_of(99).ljust(3000, b"x")
    with ThreadPoolExecutor(13) as pool:
        list(pool.map(lambda raw: deliver(database, ACTOR, [anna], raw), [*raws, too_large]))
    assert 1 <= most[0] <= 2
    assert len(subjects(database, anna)) == 13


def test_within_a_transaction_a_delivery_is_refused_and_makes_nobody_wait(
    database: Database, anna: bytes
) -> None:
    with database.transaction(ACTOR), pytest.raises(Refused, match="transaction open"):
        deliver(database, ACTOR, [anna], raw_of(1))
    assert deliver(database, ACTOR, [anna], raw_of(2))


def test_on_a_disk_without_room_ahead_mail_is_refused_and_deleting_goes_on(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (item,) = deliver(database, ACTOR, [anna], raw_of(1))
    database.dismount()  # what was preallocated goes with it
    database.mount()
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFull):
        deliver(database, ACTOR, [anna], raw_of(2))
    with database.transaction(ACTOR) as txn:
        messages.delete(txn, item.message_id)
    assert subjects(database, anna) == []


def test_each_of_those_who_are_told_the_same_raises_an_error_of_its_own(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One instance would carry the tracebacks of all the others' threads."""

    def full(*_: object) -> None:
        raise DiskFull("no space left")

    with monkeypatch.context() as patch, ThreadPoolExecutor(4) as pool:
        with database.paused():
            patch.setattr(GroupStore, "store", full)
            waiting = [pool.submit(deliver, database, ACTOR, anna, raw_of(number)) for number in range(4)]
            wait_for_changes(database, 4)
        told = [each.exception(10) for each in waiting]
    assert {type(error) for error in told} == {DiskFull}
    assert len({id(error) for error in told}) == 4
