"""A killed move brings no deleted mailbox back, hides none that is there, and leaves nothing for ever."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from killed_moves import (
    ACTOR,
    BEFORE,
    EVERYWHERE,
    FIRST,
    MAIL,
    SECOND,
    THIRD,
    boxes_in,
    delete,
    deliver,
    kill_move,
)

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import PROPERTIES, Database
from pillarbox.store.engine.database_limits import Edition
from pillarbox.store.errors import Conflict, DiskFull, Dismounted, NotFound
from pillarbox.store.events import EventId
from pillarbox.store.mail import mailboxes
from pillarbox.store.server import FIRST_GROUP, Server
from pillarbox.store.upkeep import move_mailbox
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.maintenance import MAILBOX_RETENTION_MS
from pillarbox.store.upkeep.repair import repair_database


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server of three mailbox stores, with mail for anna in the first."""
    path = tmp_path_factory.mktemp("made") / "server"
    with Server.create(path, Edition.ENTERPRISE, clock=VirtualClock(), rng=random.Random(1)) as made:
        for name in (SECOND, THIRD):
            made.create_database(FIRST_GROUP, name, DatabaseKind.MAILBOX_STORE)
        made.mailboxes.create(ACTOR, "anna", FIRST)
        for raw in MAIL:
            deliver(made, raw)
    return path


@pytest.fixture
def path(made_once: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made_once, tmp_path / "server")


@contextmanager
def opened(path: Path, clock: VirtualClock) -> Iterator[Server]:
    with Server.open(path, clock=clock, rng=random.Random(2), zone=UTC) as server:
        assert not server.not_mounted
        yield server


@pytest.fixture
def server(path: Path, clock: VirtualClock) -> Iterator[Server]:
    with opened(path, clock) as server:
        yield server


def found_in(server: Server) -> str:
    """The database that anna is found in, with all her mail and no other mailbox of hers anywhere."""
    database, box = server.mailboxes.find("anna")
    assert box.messages_count >= len(MAIL)
    shown = [each.name for store in stores(server) for each in server.mailboxes.all_of(store)]
    assert shown == ["anna"]
    return database.name


def stores(server: Server) -> list[Database]:
    return [server.database(name) for name in (FIRST, SECOND, THIRD)]


def nothing_is_left(server: Server) -> None:
    with pytest.raises(NotFound):
        server.mailboxes.find("anna")
    for database in stores(server):
        assert boxes_in(database) == []
        database.finish_removals()
        assert check_database(database, ACTOR).findings == ()


def told(server: Server) -> list[str]:
    return [event.details["reason"] for event in server.events.query(event_id=EventId.MOVE_UNDONE)]


@pytest.mark.parametrize("place", EVERYWHERE)
def test_without_a_deletion_the_mailbox_is_found_whole_and_the_rest_goes_at_the_next_mount(
    path: Path, clock: VirtualClock, place: str
) -> None:
    where = SECOND if place == "moved" else FIRST
    with opened(path, clock) as server:
        kill_move(server, place)
        assert found_in(server) == where
    with opened(path, clock) as server:
        assert found_in(server) == where
        assert [len(boxes_in(store)) for store in stores(server)] == [where == FIRST, where == SECOND, 0]
        assert len(told(server)) == (where == FIRST)
        deliver(server, b"more")
        assert server.mailboxes.move(ACTOR, "anna", SECOND).messages_count == len(MAIL) + 1
        assert found_in(server) == SECOND
        for database in stores(server):
            database.finish_removals()
            assert check_database(database, ACTOR).findings == ()


@pytest.mark.parametrize("place", EVERYWHERE)
def test_a_mailbox_that_was_deleted_after_its_move_was_killed_stays_so(
    path: Path, clock: VirtualClock, place: str
) -> None:
    with opened(path, clock) as server:
        kill_move(server, place)
        delete(server)
        with pytest.raises(NotFound):
            server.mailboxes.find("anna")
        assert [box for store in stores(server) for box in server.mailboxes.all_of(store)] == []
    with opened(path, clock) as server:
        nothing_is_left(server)
        assert len(told(server)) == (place != "moved")


@pytest.mark.parametrize("place", EVERYWHERE)
def test_its_name_is_free_everywhere(server: Server, place: str) -> None:
    kill_move(server, place)
    delete(server)
    database, box = server.mailboxes.create(ACTOR, "anna", SECOND)
    assert server.mailboxes.all_of(database) == [box]
    server.maintain()
    assert boxes_in(database) == [box]
    delete(server)
    server.mailboxes.create(ACTOR, "anna", FIRST)
    assert server.mailboxes.move(ACTOR, "anna", SECOND).messages_count == 0


@pytest.mark.parametrize("place", BEFORE)
def test_a_copy_of_a_deleted_mailbox_keeps_no_other_of_its_name_from_coming(
    server: Server, place: str
) -> None:
    kill_move(server, place)
    database, box = server.mailboxes.find("anna")
    with database.transaction(ACTOR) as txn:
        mailboxes.purge(txn, box.guid)
        mailboxes.create(txn, "anna")
    assert server.mailboxes.move(ACTOR, "anna", SECOND).messages_count == 0
    assert [box.name for box in boxes_in(server.database(SECOND))] == ["anna"] * (1 + (place == "copied"))
    server.maintain()
    assert [box.name for box in boxes_in(server.database(SECOND))] == ["anna"]


@pytest.mark.parametrize("by_hand", [False, True], ids=["daily", "by hand"])
@pytest.mark.parametrize("place", EVERYWHERE)
def test_a_mailbox_that_is_deleted_when_its_days_are_over_stays_so(
    server: Server, clock: VirtualClock, place: str, by_hand: bool
) -> None:
    database, box = server.mailboxes.find("anna")
    with database.transaction(ACTOR) as txn:
        mailboxes.disconnect(txn, box.guid)
    kill_move(server, place)
    clock.advance_ms(MAILBOX_RETENTION_MS)
    if by_hand:
        server.maintain_now(FIRST, ACTOR)
        server.maintain_now(SECOND, ACTOR)
    else:
        server.maintain()
    nothing_is_left(server)


@pytest.mark.parametrize("lost", [[FIRST], [SECOND], [FIRST, SECOND]], ids="+".join)
@pytest.mark.parametrize("is_deleted", [False, True], ids=["moved", "deleted"])
def test_a_repair_keeps_what_tells_that_a_mailbox_was_deleted(
    server: Server, lost: list[str], is_deleted: bool
) -> None:
    kill_move(server, "complete" if is_deleted else "moved")
    if is_deleted:
        delete(server)
    for name in lost:
        database = server.database(name)
        server.dismount(name)
        shutil.rmtree(database.path / PROPERTIES)
        assert repair_database(database).from_stream
        database.mount()
    if is_deleted:
        with pytest.raises(NotFound):
            server.mailboxes.find("anna")
        server.maintain()
        nothing_is_left(server)
    else:
        assert found_in(server) == SECOND


def test_a_copy_in_a_database_that_was_not_mounted_is_no_mailbox_once_another_move_has_ended(
    server: Server,
) -> None:
    kill_move(server, "complete")
    server.dismount(SECOND)
    server.mailboxes.move(ACTOR, "anna", THIRD)
    server.database(SECOND).mount()
    assert found_in(server) == THIRD
    server.dismount(SECOND)
    server.mount(SECOND)
    assert boxes_in(server.database(SECOND)) == []
    assert told(server) == ["the mailbox went to another database"]


def test_mail_that_was_acknowledged_is_never_thrown_away(server: Server) -> None:
    """Nothing tells of the deletion while the source is not mounted, and mail is delivered meanwhile."""
    kill_move(server, "complete")
    server.dismount(SECOND)
    delete(server)
    server.dismount(FIRST)
    server.mount(SECOND)
    deliver(server, b"acknowledged")
    server.mount(FIRST)
    assert found_in(server) == SECOND
    server.maintain()
    assert server.mailboxes.find("anna")[1].messages_count == len(MAIL) + 1


def test_a_source_that_was_restored_to_before_the_move_throws_nothing_away(
    server: Server, tmp_path: Path
) -> None:
    """An administrator decides between the two."""
    first = server.database(FIRST)
    server.dismount(FIRST)
    shutil.copytree(first.path, tmp_path / "backup")
    server.mount(FIRST)
    deliver(server, b"later than the backup")
    last = kill_move_and_read_counter(server)
    server.dismount(FIRST)
    shutil.rmtree(first.path)
    shutil.copytree(tmp_path / "backup", first.path)
    first.mount()
    with first.transaction(ACTOR) as txn:
        txn.leave_out_numbers(last + 1000)  # as a restore does
    server.dismount(FIRST)
    server.mount(FIRST)
    with pytest.raises(Conflict):
        server.mailboxes.find("anna")
    server.maintain()
    assert [box.messages_count for box in boxes_in(server.database(SECOND))] == [len(MAIL) + 1]


def kill_move_and_read_counter(server: Server) -> int:
    kill_move(server, "moved")
    with server.database(FIRST).read(ACTOR) as read:
        return read.state().counter


def test_a_copy_that_is_being_made_is_left_alone(server: Server) -> None:
    def mount_and_maintain(_: object) -> None:
        server.mailboxes.discard_copies()

    moved = server.mailboxes.move(ACTOR, "anna", SECOND, progress=mount_and_maintain)
    assert moved.messages_count == len(MAIL)
    assert told(server) == []


def test_a_complete_copy_waits_for_its_source(server: Server) -> None:
    kill_move(server, "complete")
    server.dismount(FIRST)
    server.maintain()
    with pytest.raises(Dismounted):
        server.mailboxes.find("anna")
    assert len(boxes_in(server.database(SECOND))) == 1
    server.mount(FIRST)
    assert found_in(server) == FIRST
    assert boxes_in(server.database(SECOND)) == []


def test_a_disk_that_is_full_when_the_copy_is_complete_leaves_nothing_of_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = server.database(SECOND)
    transaction = second.transaction
    named = move_mailbox._Move._name_copy

    @contextmanager
    def full(actor: Actor) -> Iterator[Any]:
        monkeypatch.setattr(second, "transaction", transaction)
        with pytest.raises(ZeroDivisionError), transaction(actor) as txn:
            yield txn
            raise ZeroDivisionError
        raise DiskFull("no space left")

    def name_on_a_full_disk(self: Any, *words: Any) -> None:
        monkeypatch.setattr(second, "transaction", full)
        named(self, *words)

    monkeypatch.setattr(move_mailbox._Move, "_name_copy", name_on_a_full_disk)
    with pytest.raises(DiskFull):
        server.mailboxes.move(ACTOR, "anna", SECOND)
    assert found_in(server) == FIRST
    assert boxes_in(second) == []


def test_one_mailbox_is_found_while_other_changes_are_on_their_way_to_the_disk(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = server.database(FIRST)
    flush, is_flushing, may_flush = first.stream.flush, threading.Event(), threading.Event()

    def wait_and_flush() -> None:
        is_flushing.set()
        assert may_flush.wait(60)
        flush()

    def change() -> None:
        with first.transaction(ACTOR) as txn:
            mailboxes.create(txn, "bert")

    changing = threading.Thread(target=change)
    ended, named = move_mailbox._Move._end, move_mailbox._Move._name_copy
    found: list[str] = []

    def end(self: Any) -> bool:
        monkeypatch.setattr(first.stream, "flush", wait_and_flush)
        changing.start()
        assert is_flushing.wait(60)
        return ended(self)

    def name_and_find(self: Any, *words: Any) -> None:
        named(self, *words)
        try:
            found.append(found_in(server))
        finally:
            may_flush.set()

    monkeypatch.setattr(move_mailbox._Move, "_end", end)
    monkeypatch.setattr(move_mailbox._Move, "_name_copy", name_and_find)
    server.mailboxes.move(ACTOR, "anna", SECOND)
    changing.join()
    assert found == [FIRST]
