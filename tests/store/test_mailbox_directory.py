"""The mailboxes of a server by name, over databases that are mounted and others that are not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC
from pathlib import Path

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.file_lock import FileLock
from pillarbox.store.disk.mailbox_names import MailboxNames
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import LOCK, Database
from pillarbox.store.engine.database_limits import Edition
from pillarbox.store.errors import AlreadyExists, DiskFull, Dismounted, NotFound, Refused, WriterBusy
from pillarbox.store.events import EventId
from pillarbox.store.mail import mailboxes
from pillarbox.store.names import name_key
from pillarbox.store.server import FIRST_GROUP, Server
from pillarbox.store.upkeep.repair import repair_database

ADMIN = Actor.administrator("root")
FIRST, SECOND = "Mailbox Store", "Second"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of two mailbox stores: anna in the first, bert in the second."""
    with Server.create(tmp_path / "server", Edition.ENTERPRISE, clock=VirtualClock(), zone=UTC) as made:
        made.create_database(FIRST_GROUP, SECOND, DatabaseKind.MAILBOX_STORE)
        made.mailboxes.create(ADMIN, "anna", FIRST)
        made.mailboxes.create(ADMIN, "bert", SECOND)
        yield made


def known_in(server: Server, name: str) -> set[bytes]:
    names = server.database(name).mailbox_names
    assert names is not None
    return set(names.read())


def test_with_several_mailbox_stores_a_new_mailbox_needs_the_name_of_one(server: Server) -> None:
    with pytest.raises(Refused, match="2 mailbox stores"):
        server.mailboxes.create(ADMIN, "carl")
    with pytest.raises(Refused, match="no mailboxes"):
        server.mailboxes.create(ADMIN, "carl", "Public Folder Store")


def test_a_mailbox_takes_no_name_that_one_in_another_store_has(server: Server) -> None:
    with pytest.raises(AlreadyExists, match=SECOND):
        server.mailboxes.create(ADMIN, "BERT", FIRST)
    with pytest.raises(AlreadyExists, match=SECOND):
        server.mailboxes.rename(ADMIN, "anna", "BERT")
    assert server.mailboxes.rename(ADMIN, "anna", "Anna")[1].name == "Anna"


@pytest.mark.parametrize("is_lost", [False, True], ids=["dismounted", "without its files"])
def test_a_database_that_is_not_mounted_stops_nothing_but_its_own_mailboxes(
    server: Server, is_lost: bool
) -> None:
    server.dismount(SECOND)
    if is_lost:
        shutil.rmtree(server.database(SECOND).path)
    assert server.mailboxes.create(ADMIN, "carl", FIRST)[1].name == "carl"
    assert server.mailboxes.rename(ADMIN, "carl", "emil")[1].name == "emil"
    assert server.mailboxes.find("anna")[0].name == FIRST
    with pytest.raises(NotFound):
        server.mailboxes.find("carl")
    with pytest.raises(Dismounted, match="Second is not mounted"):
        server.mailboxes.find("Bert")
    for call in (
        lambda: server.mailboxes.create(ADMIN, "BERT", FIRST),
        lambda: server.mailboxes.rename(ADMIN, "anna", "bert"),
    ):
        with pytest.raises(AlreadyExists, match="in Second, which is not mounted"):
            call()


def test_the_names_in_a_database_are_known_after_the_server_was_closed(server: Server) -> None:
    server.set_mount_at_startup(SECOND, False)
    server.close()
    with Server.open(server.path, clock=VirtualClock()) as again:
        with pytest.raises(AlreadyExists):
            again.mailboxes.create(ADMIN, "bert", FIRST)
        assert again.mailboxes.create(ADMIN, "carl", FIRST)


def test_a_name_is_free_once_its_mailbox_is_renamed_or_purged(server: Server) -> None:
    server.mailboxes.rename(ADMIN, "bert", "emil")
    database, box = server.mailboxes.find("emil")
    server.dismount(SECOND)
    assert server.mailboxes.create(ADMIN, "bert", FIRST)
    server.mount(SECOND)
    with database.transaction(ADMIN) as txn:
        mailboxes.purge(txn, box.guid)
    server.dismount(SECOND)
    assert server.mailboxes.create(ADMIN, "emil", FIRST)


def test_a_mailbox_that_no_server_made_is_known_too(server: Server) -> None:
    with server.database(SECOND).transaction(ADMIN) as txn:
        mailboxes.create(txn, "carl")
    server.dismount(SECOND)
    with pytest.raises(AlreadyExists):
        server.mailboxes.create(ADMIN, "carl", FIRST)


def test_a_moved_mailbox_is_found_while_the_database_it_came_from_is_not_mounted(server: Server) -> None:
    server.mailboxes.move(ADMIN, "anna", SECOND)
    server.dismount(FIRST)
    assert server.mailboxes.find("anna")[0].name == SECOND
    server.dismount(SECOND)
    server.mount(FIRST)
    with pytest.raises(AlreadyExists):
        server.mailboxes.create(ADMIN, "anna", FIRST)


def test_a_process_sees_the_names_that_another_gives(server: Server) -> None:
    with Server.open(server.path, mount=False, clock=VirtualClock()) as other:
        server.dismount(SECOND)
        other.mount(SECOND)
        other.mailboxes.create(ADMIN, "carl", SECOND)
        with pytest.raises(AlreadyExists):
            server.mailboxes.create(ADMIN, "carl", FIRST)
        with pytest.raises(AlreadyExists):
            other.mailboxes.create(ADMIN, "anna", SECOND)
        with pytest.raises(Dismounted):
            server.mailboxes.find("carl")


def test_a_mailbox_in_a_database_that_another_process_has_is_not_said_to_be_missing(server: Server) -> None:
    with Server.open(server.path, clock=VirtualClock()) as other:
        with pytest.raises(WriterBusy):
            other.mailboxes.find("bert")
        with pytest.raises(NotFound):
            other.mailboxes.find("carl")


def test_a_move_to_a_database_that_another_process_has_is_told_so(server: Server) -> None:
    server.dismount(SECOND)
    with closing(FileLock(server.database(SECOND).path / LOCK, "it", VirtualClock())):
        with pytest.raises(WriterBusy):
            server.mount(SECOND)
        with pytest.raises(WriterBusy):
            server.mailboxes.move(ADMIN, "anna", SECOND)


# -- names that are not known


def forget_names(server: Server) -> Database:
    """The second store, dismounted, as a program has left it that kept no file of names."""
    database = server.dismount(SECOND)
    assert database.mailbox_names is not None
    database.mailbox_names.forget()
    return database


def zero_pages(database: Database) -> None:
    data = database.path / "properties" / "data.mdb"
    with data.open("r+b") as file:
        file.seek(8192)
        file.write(bytes(data.stat().st_size - 8192))


def test_names_that_are_not_written_down_are_read_from_sound_tables(server: Server) -> None:
    forget_names(server)
    with pytest.raises(AlreadyExists, match="Second, which is not mounted"):
        server.mailboxes.create(ADMIN, "bert", FIRST)
    with pytest.raises(Dismounted):
        server.mailboxes.find("bert")
    with pytest.raises(NotFound):
        server.mailboxes.find("carl")
    assert server.mailboxes.create(ADMIN, "carl", FIRST)
    server.mount(SECOND)
    assert server.mailboxes.create(ADMIN, "dora", SECOND)
    forget_names(server)
    with pytest.raises(AlreadyExists):
        server.mailboxes.create(ADMIN, "dora", FIRST)


def test_a_name_given_while_names_are_not_known_is_taken_from_the_mailbox_that_has_it_there(
    server: Server,
) -> None:
    guid = server.mailboxes.find("bert")[1].guid
    database = forget_names(server)
    zero_pages(database)
    with pytest.raises(Dismounted):
        server.mailboxes.find("bert")
    made = server.mailboxes.create(ADMIN, "Bert", FIRST)[1]
    server.mailboxes.create(ADMIN, "bert 2", FIRST)
    (_, told) = server.events.query(event_id=EventId.MAILBOX_NAMES_UNKNOWN)
    assert told.database == SECOND and told.details["mailbox"] == "Bert"
    assert repair_database(database).names_unknown
    server.mount(SECOND)
    assert server.mailboxes.find("bert")[1].guid == made.guid
    assert server.mailboxes.find("bert 3")[1].guid == guid
    (told,) = server.events.query(event_id=EventId.MAILBOX_NAME_TAKEN)
    assert (told.details["mailbox"], told.details["name"], told.details["other"]) == ("bert", "bert 3", FIRST)
    server.dismount(SECOND)
    with pytest.raises(AlreadyExists):
        server.mailboxes.create(ADMIN, "bert 3", FIRST)


def test_no_name_is_given_that_a_database_may_have_which_another_process_uses(server: Server) -> None:
    forget_names(server)
    with Server.open(server.path, mount=False, clock=VirtualClock()) as other:
        database = other.database(SECOND)
        names, database.mailbox_names = database.mailbox_names, None
        other.mount(SECOND)
        database.mailbox_names = names
        with pytest.raises(Dismounted, match="Second is not mounted"):
            server.mailboxes.create(ADMIN, "carl", FIRST)


def test_a_mount_puts_the_names_right(server: Server) -> None:
    names = server.database(SECOND).mailbox_names
    assert names is not None
    server.dismount(SECOND)
    names.replace({name_key("nobody"): b"n" * 16})
    server.mount(SECOND)
    assert known_in(server, SECOND) == {name_key("bert")}


def test_names_that_cannot_be_written_at_a_mount_are_not_known_afterwards(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.dismount(SECOND)

    def full(*_: object) -> None:
        raise DiskFull("no space")

    with monkeypatch.context() as patch:
        patch.setattr(MailboxNames, "replace", full)
        server.mount(SECOND)
        server.dismount(SECOND)
    assert list(server.events.query(event_id=EventId.REQUEST_FAILED))
    names = server.database(SECOND).mailbox_names
    assert names is not None and not names.is_known()


def test_a_mailbox_whose_name_cannot_be_written_is_not_made(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DiskFull("no space")

    with monkeypatch.context() as patch:
        patch.setattr(MailboxNames, "add", full)
        with pytest.raises(DiskFull):
            server.mailboxes.create(ADMIN, "carl", SECOND)
    with pytest.raises(NotFound):
        server.mailboxes.find("carl")
    assert server.mailboxes.create(ADMIN, "carl", SECOND)


def test_a_crash_before_the_commit_leaves_a_name_too_many_until_the_next_mount(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = MailboxNames.add

    def added_and_copied(names: MailboxNames, come: list[tuple[bytes, bytes]]) -> None:
        add(names, come)
        shutil.copytree(server.path, tmp_path / "crashed", ignore=shutil.ignore_patterns("lock.mdb"))

    monkeypatch.setattr(MailboxNames, "add", added_and_copied)
    server.mailboxes.create(ADMIN, "carl", SECOND)
    monkeypatch.undo()
    with Server.open(tmp_path / "crashed", mount=False, clock=VirtualClock()) as again:
        again.mount(FIRST)
        assert known_in(again, SECOND) == {name_key("bert"), name_key("carl")}
        with pytest.raises(AlreadyExists):
            again.mailboxes.create(ADMIN, "carl", FIRST)
        again.mount(SECOND)
        assert again.mailboxes.create(ADMIN, "carl", FIRST)


def test_a_repair_puts_the_names_right(server: Server) -> None:
    database = server.database(SECOND)
    names = database.mailbox_names
    assert names is not None
    server.dismount(SECOND)
    names.replace({})
    assert not repair_database(database).names_unknown
    assert known_in(server, SECOND) == {name_key("bert")}


def test_the_names_of_a_deleted_database_go_with_it(server: Server) -> None:
    server.dismount(SECOND)
    server.delete_database(SECOND)
    assert len(list((server.path / "mailboxes").iterdir())) == 1
    assert server.mailboxes.create(ADMIN, "bert", FIRST)


@pytest.mark.parametrize("name", ["mailboxes", "Mailboxes"])
def test_a_storage_group_gets_a_directory_beside_that_of_the_names(server: Server, name: str) -> None:
    assert server.create_group(name).path.name.casefold() != "mailboxes"
    assert server.create_database(name, "Third", DatabaseKind.MAILBOX_STORE).path.is_dir()


def test_damaged_name_rows_leave_the_names_that_are_known(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pillarbox.store.engine.transaction import ReadTransaction
    from pillarbox.store.errors import Corrupt

    def bent(*_: object) -> Iterator[tuple[bytes, bytes]]:
        raise Corrupt("a row does not hold", table="mailbox_name")

    server.dismount(SECOND)
    with monkeypatch.context() as patch:
        patch.setattr(ReadTransaction, "indexes", bent)
        server.mount(SECOND)
        server.dismount(SECOND)
    assert list(server.events.query(event_id=EventId.DAMAGE_FOUND))
    assert isinstance(server.database(SECOND), Database)
    assert known_in(server, SECOND) == {name_key("bert")}
