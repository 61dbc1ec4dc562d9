"""Commit notification: who waits for a database to advance is woken, and hears why when it never will."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.clock import VirtualClock
from pillarbox.store.engine import change_feed, commit_notification
from pillarbox.store.engine.commit_notification import CommitNotification
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import Dismounted, InvalidArgument, ReadOnly, Refused
from pillarbox.store.mail import mailboxes
from pillarbox.store.upkeep.sizes import record_size_check

if TYPE_CHECKING:
    from conftest import OpenDatabase

ACTOR = Actor.task("test")
SECONDS = 20


def create(database: Database, name: str) -> int:
    with database.transaction(ACTOR) as txn:
        return mailboxes.create(txn, name).change_cn


class Waiting:
    """Waits for a change in a thread of its own; made when that thread waits."""

    def __init__(self, database: Database, patch: pytest.MonkeyPatch, after: int) -> None:
        waits = threading.Event()

        class Queue:
            """A bell that tells when it is listened to."""

            def __init__(self) -> None:
                self._rung: SimpleQueue[None] = SimpleQueue()
                self.put = self._rung.put

            def get(self, timeout: float | None) -> None:
                waits.set()
                self._rung.get(timeout=timeout or SECONDS)

        self._threads = ThreadPoolExecutor(1)
        with patch.context() as queues:
            queues.setattr(commit_notification, "SimpleQueue", Queue)
            self._result: Future[int] = self._threads.submit(database.wait_for_change, after)
            assert waits.wait(SECONDS)

    def result(self) -> int:
        """What the wait returned, or raised."""
        try:
            return self._result.result(SECONDS)
        finally:
            self._threads.shutdown()

    @property
    def is_over(self) -> bool:
        return self._result.done()


@pytest.fixture
def wait(database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Waiting]:
    return lambda after: Waiting(database, monkeypatch, after)


def test_a_thread_that_waits_is_woken_by_a_commit_and_sees_it(
    database: Database, wait: Callable[[int], Waiting]
) -> None:
    before = database.wait_for_change(0)
    waiting = wait(before)
    create(database, "anna")
    cn = waiting.result()
    with database.read(ACTOR) as read:
        found = change_feed.changes(read, CNSet())
        assert max(change.cn for change in found) == cn > before
    assert database.wait_for_change(cn - 1) == cn


def test_a_change_that_came_before_the_wait_ends_it_at_once(database: Database) -> None:
    before = database.wait_for_change(0)
    create(database, "anna")
    assert database.wait_for_change(before) > before


def test_each_waits_for_its_own_number(database: Database, wait: Callable[[int], Waiting]) -> None:
    before = database.wait_for_change(0)
    soon, late = wait(before), wait(before + 20)
    first = create(database, "anna")
    assert before < first <= soon.result() <= before + 20
    while database.wait_for_change(0) <= before + 20:
        assert not late.is_over
        create(database, f"user {database.wait_for_change(0)}")
    assert late.result() > before + 20


def test_what_is_undone_or_takes_no_number_wakes_nobody(database: Database) -> None:
    notification, bell = database.notification, SimpleQueue[None]()
    before = database.wait_for_change(0)
    notification.hang(bell)
    with pytest.raises(ZeroDivisionError), database.transaction(ACTOR) as txn:
        mailboxes.create(txn, "anna")
        raise ZeroDivisionError
    record_size_check(database, 5)
    assert bell.empty()
    assert database.wait_for_change(before, timeout_ms=1) == before
    create(database, "anna")
    assert not bell.empty()


def test_a_wait_ends_after_its_time_and_leaves_nothing_behind(database: Database) -> None:
    before = database.wait_for_change(0)
    assert database.wait_for_change(before, timeout_ms=1) == before
    assert not database.notification._bells


def test_a_dismount_wakes_those_who_wait_with_its_reason(
    database: Database, wait: Callable[[int], Waiting]
) -> None:
    waiting = wait(database.wait_for_change(0))
    database.dismount("it is above its limit")
    with pytest.raises(Dismounted, match="it is above its limit"):
        waiting.result()
    with pytest.raises(Dismounted, match="it is above its limit"):
        database.wait_for_change(0)


def test_a_failed_flush_wakes_those_who_wait_with_its_reason(
    database: Database, wait: Callable[[int], Waiting], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = wait(database.wait_for_change(0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda file: os.fsync(-1))
        with pytest.raises(Dismounted):
            create(database, "anna")
    with pytest.raises(Dismounted, match="a write failed"):
        waiting.result()


def test_an_interrupted_wait_leaves_nothing_behind(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(SimpleQueue[None]):
        def get(self, block: bool = True, timeout: float | None = None) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(commit_notification, "SimpleQueue", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        database.wait_for_change(database.notification.cn)
    assert not database.notification._bells
    create(database, "anna")


def test_a_wait_within_a_transaction_or_a_mount_for_reading_is_refused(
    database: Database, open_database: OpenDatabase
) -> None:
    with database.transaction(ACTOR), pytest.raises(Refused):
        database.wait_for_change(0)
    with pytest.raises(InvalidArgument, match="after"):
        database.wait_for_change("7")  # type: ignore[arg-type]
    database.dismount()
    database.mount(read_only=True)
    with pytest.raises(ReadOnly):
        database.wait_for_change(0)


def test_a_bell_that_is_hung_while_others_ring_is_not_lost() -> None:
    """Between the writer's new number and the ringing of the bells another one comes."""
    notification = CommitNotification(1)

    class Late:
        """Hangs a bell as it is rung itself."""

        def put(self, item: None) -> None:
            notification.hang(bell)

    bell = SimpleQueue[None]()
    notification.hang(Late())
    notification.advance(2)
    assert not notification.has_passed(notification.cn)
    assert bell.empty()
    notification.advance(3)
    assert not bell.empty()
    assert notification.wait(notification.cn - 1, 0, VirtualClock()) == notification.cn
