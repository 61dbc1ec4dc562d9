"""Deliveries of many threads: made together, each with its own outcome."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import ItemRecord
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.delivery_queue import Delivery, DeliveryQueue
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


def at_once(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    deliveries: list[tuple[Actor, bytes]],
    then: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """What comes of deliveries (actor, mailbox) that all wait when the thread of the first goes on."""
    leading, go_on, prepare = threading.Event(), threading.Event(), messages.prepare

    def wait_for_others(files: DatabaseFiles, raw: bytes) -> messages.PreparedMessage:
        if raw == raw_of(0):
            leading.set()
            assert go_on.wait(60)
            then()
        return prepare(files, raw)

    def run(number: int) -> Outcome:
        actor, guid = deliveries[number]
        try:
            return deliver(database, actor, [guid], raw_of(number))
        except BaseException as error:
            return error

    monkeypatch.setattr(messages, "prepare", wait_for_others)
    with ThreadPoolExecutor(len(deliveries)) as pool:
        running = [pool.submit(run, 0)]
        assert leading.wait(60)
        running += [pool.submit(run, number) for number in range(1, len(deliveries))]
        while len(database.deliveries) < len(deliveries) - 1:
            threading.Event().wait(0)
        go_on.set()
        return [each.result(60) for each in running]


def test_what_many_threads_deliver_at_once_is_one_transaction(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sequence(database)
    outcomes = at_once(database, monkeypatch, [(ACTOR, anna)] * 8)
    assert [each[0].subject for each in outcomes if isinstance(each, list)] == [str(n) for n in range(8)]
    assert sequence(database) == before + 1
    assert subjects(database, anna) == [str(number) for number in range(8)]
    assert deliver(database, ACTOR, [anna], raw_of(9))[0].subject == "9"


def test_one_that_cannot_be_delivered_costs_the_others_nothing(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [(ACTOR, MISSING), (ACTOR, anna), (ACTOR, MISSING), (ACTOR, anna)]
    outcomes = at_once(database, monkeypatch, wanted)
    assert [type(each) for each in outcomes] == [NotFound, list, NotFound, list]
    assert subjects(database, anna) == ["1", "3"]


def test_each_transaction_is_of_one_actor(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sequence(database)
    outcomes = at_once(database, monkeypatch, [(ACTOR, anna), (OTHER, anna), (ACTOR, anna)])
    assert [type(each) for each in outcomes] == [list] * 3
    assert sequence(database) == before + 2


def test_a_dismount_is_told_to_all_who_wait(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = at_once(database, monkeypatch, [(ACTOR, anna)] * 3, database.dismount)
    assert [type(each) for each in outcomes] == [Dismounted] * 3
    database.mount()
    assert subjects(database, anna) == []


def test_when_the_thread_that_leads_is_interrupted_the_others_are_told_and_the_next_goes_on(
    database: Database, anna: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        outcomes = at_once(database, patch, [(ACTOR, anna)] * 3, interrupt)
    assert isinstance(outcomes[0], KeyboardInterrupt)
    assert [type(each) for each in outcomes[1:]] == [list] * 2, "they were not taken yet"
    assert subjects(database, anna) == ["1", "2"]
    assert deliver(database, ACTOR, [anna], raw_of(3))


def test_a_delivery_that_its_thread_left_half_made_is_no_success() -> None:
    delivery = Delivery(ACTOR, [], b"", 0)
    delivery.done()
    with pytest.raises(PillarboxError, match="interrupted"):
        delivery.outcome()


def test_within_a_transaction_a_delivery_is_refused_and_makes_nobody_wait(
    database: Database, anna: bytes
) -> None:
    with database.transaction(ACTOR), pytest.raises(Refused, match="transaction open"):
        deliver(database, ACTOR, [anna], raw_of(1))
    assert deliver(database, ACTOR, [anna], raw_of(2))


class _Interrupted(Delivery):
    """Its thread is interrupted while it waits, after the lead was handed to it or before."""

    queue: DeliveryQueue
    first: Delivery
    lead_first: bool

    def wait(self) -> None:
        if self.lead_first:
            self.queue.hand_on(self.first)
        raise KeyboardInterrupt


@pytest.mark.parametrize("lead_first", [True, False])
def test_a_thread_that_is_interrupted_while_it_waits_keeps_no_lead(lead_first: bool) -> None:
    queue = DeliveryQueue()
    first = Delivery(ACTOR, [], b"first", 0)
    assert queue.leads(first)
    assert queue.take([]) == [first]
    interrupted = _Interrupted(ACTOR, [], b"interrupted", 0)
    interrupted.queue, interrupted.first, interrupted.lead_first = queue, first, lead_first
    with pytest.raises(KeyboardInterrupt):
        queue.leads(interrupted)
    assert len(queue) == 0
    if not lead_first:
        queue.hand_on(first)
    assert queue.leads(Delivery(ACTOR, [], b"next", 0))


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
