"""What is promised of a database: made whole, mounted after anything, refused when it is another's."""

from __future__ import annotations

import gc
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import IDENTITY_KEY, DatabaseKind, Table
from pillarbox.store.engine import content_store
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.errors import AlreadyExists, Corrupt, Dismounted, NotFound, RecoveryNeeded
from pillarbox.store.events import Event, EventId
from pillarbox.store.mail import mailboxes, messages

ACTOR = Actor.task("test")


def names(database: Database) -> list[str]:
    with database.read(ACTOR) as read:
        return [box.name for box in mailboxes.all_of(read)]


def create_mailbox(database: Database, name: str) -> None:
    with database.transaction(ACTOR) as txn:
        mailboxes.create(txn, name)


def crashed_copy(database: Database, path: Path) -> Path:
    """The files as a kill at this moment would leave them."""
    shutil.copytree(database.path, path)
    (path / "properties" / "lock.mdb").unlink()
    return path


def test_a_database_is_not_made_over_another(database: Database) -> None:
    with pytest.raises(AlreadyExists):
        database.create()


def test_mounting_and_dismounting_twice_is_harmless(database: Database) -> None:
    create_mailbox(database, "anna")
    database.mount()
    database.dismount()
    database.dismount()
    assert database.state is MountState.DISMOUNTED
    with pytest.raises(Dismounted):
        database.read(ACTOR)
    database.mount()
    assert names(database) == ["anna"]


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def end_with_commits(database: Database) -> None:
    database.mount()
    create_mailbox(database, "anna")
    database.checkpoint()
    database.dismount()


def fail_to_mount(database: Database) -> None:
    def fail(writer: object, files: object) -> None:
        raise Corrupt("bent")

    database._identify = fail  # type: ignore[method-assign]
    with pytest.raises(Corrupt):
        database.mount()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("end", [end_with_commits, fail_to_mount])
def test_nothing_is_left_running_by_a_database_that_is_not_mounted(
    database: Database, end: Callable[[Database], None]
) -> None:
    database.dismount()
    others = set(threading.enumerate())
    end(database)
    for thread in set(threading.enumerate()) - others:
        thread.join(10)
        assert not thread.is_alive(), thread.name


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    missing = Database(tmp_path / "missing", b"m" * 16, "DB", DatabaseKind.MAILBOX_STORE)
    with pytest.raises(NotFound, match="missing"):
        missing.mount()


def test_another_database_in_its_place_is_refused(database: Database) -> None:
    database.dismount()
    other = Database(database.path, b"another database", "DB", DatabaseKind.MAILBOX_STORE)
    with pytest.raises(Corrupt, match="holds database"):
        other.mount()
    database.mount()


def test_reading_only_is_refused_after_a_crash_until_it_was_mounted_for_writing(
    database: Database, tmp_path: Path
) -> None:
    create_mailbox(database, "anna")
    path = crashed_copy(database, tmp_path / "crashed")
    crashed = Database(path, database.guid, "DB", database.kind, rng=random.Random(2))
    with pytest.raises(RecoveryNeeded):
        crashed.mount(read_only=True)
    crashed.mount()
    crashed.dismount()
    crashed.mount(read_only=True)
    assert names(crashed) == ["anna"]
    crashed.dismount()


@pytest.mark.parametrize("new_boot", [False, True])
def test_a_crash_is_replayed_and_change_numbers_are_not_given_out_again(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_boot: bool
) -> None:
    for number in range(5):
        create_mailbox(database, f"user {number}")
    with database.read(ACTOR) as read:
        counter = read.state().counter
    path = crashed_copy(database, tmp_path / "crashed")
    if new_boot:
        monkeypatch.setattr("pillarbox.store.engine.database.boot_identity", lambda: b"another boot....")
    crashed = Database(path, database.guid, "DB", database.kind, rng=random.Random(2))
    crashed.mount()
    assert len(names(crashed)) == 5
    with crashed.transaction(ACTOR) as txn:
        assert mailboxes.create(txn, "after").change_cn & ((1 << 48) - 1) > counter
    crashed.dismount()


def test_a_failed_mount_can_be_tried_again_in_the_same_process(database: Database, tmp_path: Path) -> None:
    create_mailbox(database, "anna")
    path = crashed_copy(database, tmp_path / "crashed")
    segment = path / "stream" / "00000001.stm"
    whole = segment.read_bytes()
    segment.write_bytes(whole[:41])
    crashed = Database(path, database.guid, "DB", database.kind, rng=random.Random(2))
    with pytest.raises(Corrupt):
        crashed.mount()
    segment.write_bytes(whole)
    crashed.mount()
    assert names(crashed) == ["anna"]
    crashed.dismount()


def test_recovery_is_reported(database: Database, tmp_path: Path) -> None:
    events: list[Any] = []

    class Recorder:
        def report(self, event: Any) -> None:
            events.append(event)

    create_mailbox(database, "anna")
    path = crashed_copy(database, tmp_path / "crashed")
    crashed = Database(path, database.guid, "DB", database.kind, reporter=Recorder())
    crashed.mount()
    crashed.dismount()
    assert len(events) == 3, "recovered, mounted, dismounted"


def test_a_database_whose_making_was_interrupted_is_finished_by_its_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Database(tmp_path / "made", b"i" * 16, "DB", DatabaseKind.PUBLIC_FOLDER_STORE)
    with monkeypatch.context() as patch:
        patch.setattr(Database, "mount", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made.create()
    made.mount()
    with made.read(ACTOR) as read:
        assert read.record(Table.META, IDENTITY_KEY).kind == DatabaseKind.PUBLIC_FOLDER_STORE
    made.dismount()


def test_damage_that_ends_a_read_or_a_transaction_is_reported_with_its_place(database: Database) -> None:
    prepared = messages.prepare(database.files, b"Subject: a\n\n" + bytes(range(256)))
    with database.transaction(ACTOR) as txn:
        item = messages.append(txn, mailboxes.create(txn, "anna").roles[mailboxes.INBOX], prepared)
        place = content_store.content_record(txn, item.digest)
    path = database.stream.path(place.segment)
    with path.open("r+b") as file:
        file.seek(place.offset + place.length - 1)
        file.write(bytes([prepared.raw[-1] ^ 1]))
    events: list[Event] = []

    class Recorder:
        def report(self, event: Event) -> None:
            events.append(event)

    database.reporter = Recorder()
    with pytest.raises(Corrupt), database.read(ACTOR) as read:
        messages.content(read, item)
    with pytest.raises(Corrupt), database.transaction(ACTOR) as txn:
        messages.content(txn, item)
    assert [event.event_id for event in events] == [EventId.DAMAGE_FOUND] * 2
    assert all(path.name in event.text for event in events)


FORKS = """
import os, sys
from pathlib import Path
from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import Dismounted, Refused
from pillarbox.store.mail import mailboxes

ACTOR = Actor.task("test")
database = Database(sys.argv[1], b"x" * 16, "Mail", DatabaseKind.MAILBOX_STORE)
database.create()
database.mount()
with database.transaction(ACTOR) as txn:
    mailboxes.create(txn, "anna")
    child = os.fork()
    if not child:
        told = [database.state.value]
        for ask in (
            lambda: database.read(ACTOR),
            lambda: database.transaction(ACTOR),
            lambda: database.mount(read_only=True),
            lambda: Database(sys.argv[1], b"x" * 16, "Mail", DatabaseKind.MAILBOX_STORE).mount(),
        ):
            try:
                ask()
                told.append("taken")
            except (Dismounted, Refused) as error:
                told.append(type(error).__name__)
        print(*told, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
with database.transaction(ACTOR) as txn:
    mailboxes.create(txn, "bert")
with database.read(ACTOR) as read:
    print(*[found.name for found in mailboxes.all_of(read)], flush=True)
database.dismount()
"""


def test_a_process_that_is_forked_has_nothing_mounted_and_costs_its_parent_nothing(tmp_path: Path) -> None:
    path = tmp_path / "forks"
    run = subprocess.run([sys.executable, "-c", FORKS, str(path)], capture_output=True, text=True, check=True)
    told, boxes = run.stdout.splitlines()
    assert told == "dismounted Dismounted Dismounted Refused Refused"
    assert boxes == "anna bert"
    again = Database(path, b"x" * 16, "Mail", DatabaseKind.MAILBOX_STORE)
    again.mount(read_only=True)  # left clean by the parent
    again.dismount()
