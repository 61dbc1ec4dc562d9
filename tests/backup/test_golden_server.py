"""A server, a killed database and a repository of table layout 1 open, and all reads back as it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC
from pathlib import Path
from random import Random
from typing import Any
from zipfile import ZipFile

import pytest

from pillarbox.backup.capture import Capture
from pillarbox.backup.repository.backend_directory import DirectoryBackend
from pillarbox.backup.repository.check import check_repository
from pillarbox.backup.repository.crypto import KeyFile
from pillarbox.backup.repository.lock import Holder, LockContext
from pillarbox.backup.repository.repository import Repository
from pillarbox.backup.restore import (
    RestorableDatabase,
    restorable_databases,
    restore_records,
    restore_to_directory,
)
from pillarbox.backup.snapshot import SnapshotSource
from pillarbox.backup.snapshot_mount import open_snapshot_mount
from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.clock import VirtualClock
from pillarbox.store.content.line_ends import size_with_crlf
from pillarbox.store.disk.tables import IDENTITY_KEY, LAYOUT_VERSION, LEFT_OUT_KEY, DatabaseKind, Table
from pillarbox.store.engine import change_feed
from pillarbox.store.engine.database import PROPERTIES, Database
from pillarbox.store.mail import folders, mailboxes, messages, public_folders
from pillarbox.store.server import Server
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.repair import repair_database

ACTOR = Actor.task("test")
KEY = KeyFile(bytes(range(32)))
TOLD = (Table.MAILBOX, Table.FOLDER, Table.ITEM, Table.TOMBSTONE, Table.SEEN)
NewerProgram = Callable[[], AbstractContextManager[Table]]


class Golden:
    """What golden_server_1.py wrote, in a directory of its own, and what it says of it."""

    def __init__(self, directory: Path) -> None:
        with ZipFile(Path(__file__).with_name("golden_server_1.zip")) as archive:
            archive.extractall(directory)
        self.directory = directory
        self.expected = json.loads((directory / "expected.json").read_text())
        self.fields = {
            table: set(next(iter(records.values())))
            for told in self.expected["server"].values()
            for table, records in told.items()
            if table in {each.name.lower() for each in TOLD} and records
        }
        self.clock = VirtualClock()
        self.random = Random(1)

    def database(self, name: str, path: Path) -> Database:
        guid, kind = self.expected["databases"][name]
        return Database(
            path, bytes.fromhex(guid), name, DatabaseKind(kind), clock=self.clock, rng=self.random
        )

    def repository(self) -> Repository:
        backend = DirectoryBackend(self.directory / "repository")
        entropy = self.random.randbytes
        context = LockContext(self.clock, entropy, Holder("host", "boot", 1), lambda pid: True)
        return Repository.open(backend, KEY, clock=self.clock, entropy=entropy, context=context)

    def server(self, *, read_only: bool = False) -> Server:
        return Server.open(
            self.directory / "server", read_only=read_only, clock=self.clock, rng=self.random, zone=UTC
        )

    def describe(self, database: Any) -> dict[str, Any]:
        """As in golden_server_1.py: what layout 1 has of every record, all content, and the change feed."""
        with database.read(ACTOR) as read:
            told: dict[str, Any] = {}
            for table in TOLD:
                name = table.name.lower()
                told[name] = {
                    key.hex(): {field: plain(getattr(record, field)) for field in self.fields[name]}
                    for key, record in read.records(table, b"", None)
                }
            told["content"] = {
                key.hex(): hashlib.sha256(messages.content(read, item)).hexdigest()
                for key, item in read.records(Table.ITEM, b"", None)
            }
            left_out = read.record(Table.META, LEFT_OUT_KEY)
            first = left_out.intervals[-1][1] if left_out else 0
            for since in (CNSet(), CNSet.full(database.guid, (first + 1 + read.state().counter) // 2)):
                changes = change_feed.changes(read, since)
                told[f"feed since {since.highest(database.guid)}"] = [
                    [str(change.kind), *map(int, change[1:6])] for change in changes
                ]
            told["cnset"] = plain(changes.cnset.encode())
            return told


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def digest(told: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def layout_of(database: Any) -> int:
    with database.read(ACTOR) as read:
        return int(read.record(Table.META, IDENTITY_KEY).layout_version)


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "lock.mdb"
    }


@pytest.fixture
def golden(tmp_path: Path) -> Golden:
    return Golden(tmp_path)


@contextmanager
def mounted(database: Database, *, read_only: bool = False) -> Iterator[Database]:
    database.mount(read_only=read_only)
    try:
        yield database
    finally:
        database.dismount()


# -- the server


def test_the_golden_server_has_what_it_is_to_show(golden: Golden) -> None:
    """Moves, deletions of messages, folders and a mailbox, a dictionary, compaction, read state, gaps."""
    kinds = {
        (record["kind"], bool(record["moved_to"]))
        for told in golden.expected["server"].values()
        for record in told["tombstone"].values()
    }
    assert kinds == {(4, False), (4, True), (5, False), (6, False)}
    with golden.server(read_only=True) as server:
        tables = [Table.DICTIONARY, Table.SEEN, Table.BLOCK]
        counts = dict.fromkeys(tables, 0)
        for database in server.databases():
            with database.read(ACTOR) as read:
                counts = {table: counts[table] + read.view.count(table) for table in tables}
        assert counts[Table.DICTIONARY] == 1 and counts[Table.SEEN] == 2 and counts[Table.BLOCK] > 0
        assert server.database("Mailbox Store").stream.segments()[0] > 1


def test_a_server_of_layout_1_is_read_without_an_upgrade(golden: Golden) -> None:
    before = files_of(golden.directory / "server")
    with golden.server(read_only=True) as server:
        for database in server.databases():
            assert golden.describe(database) == golden.expected["server"][database.name]
            assert check_database(database, ACTOR).findings == ()
            assert layout_of(database) == 1
    after = files_of(golden.directory / "server")
    assert {name: data for name, data in after.items() if not name.startswith("events")} == {
        name: data for name, data in before.items() if not name.startswith("events")
    }


def test_a_server_of_layout_1_is_upgraded_when_it_is_mounted_for_writing(golden: Golden) -> None:
    for _ in range(2):
        with golden.server() as server:
            for database in server.databases():
                assert layout_of(database) == LAYOUT_VERSION
                assert golden.describe(database) == golden.expected["server"][database.name]
                assert check_database(database, ACTOR).findings == ()


def test_an_upgraded_server_goes_on(golden: Golden) -> None:
    with golden.server() as server:
        store, public = server.database("Mailbox Store"), server.database("Public Folder Store")
        prepared = messages.prepare(store.files, b"Subject: new\r\n\r\nHello\r\n")
        with store.transaction(ACTOR) as txn:
            box = mailboxes.find(txn, "anna")
            messages.deliver(txn, [box.guid], prepared)
            old = next(folders.messages(txn, box.roles["inbox"]))
            messages.set_flags(txn, old.message_id, add=["\\Answered"])
            folders.delete(txn, folders.by_path(txn, box.root_id, "Lists 2").folder_id, with_contents=True)
        with public.transaction(Actor.user("bert")) as txn:
            news = public_folders.find(txn, "News")
            assert public_folders.read_uids(txn, news.folder_id).intervals == ((2, 3), (6, 7))
            public_folders.mark_read(txn, news.folder_id)
        server.mailboxes.move(ACTOR, "bert", "Archive")
        server.maintain()
        for database in server.databases():
            with database.read(ACTOR) as read:
                for _, item in read.records(Table.ITEM, b"", None):
                    assert item.size_crlf == size_with_crlf(messages.content(read, item))
            assert check_database(database, ACTOR).findings == ()


@pytest.mark.parametrize("lost", ["nothing", "the tables"])
@pytest.mark.parametrize("name", ["Mailbox Store", "Archive", "Public Folder Store"])
def test_a_database_of_layout_1_is_repaired(golden: Golden, name: str, lost: str) -> None:
    (path,) = (golden.directory / "server").glob(f"*/{name}")
    database = golden.database(name, path)
    if lost == "the tables":
        shutil.rmtree(path / PROPERTIES)
    report = repair_database(database)
    assert report.from_stream == (lost == "the tables")
    assert (report.lost, report.damaged_stream) == ((), ())
    with mounted(database):
        assert golden.describe(database) == golden.expected["server"][name]
        assert check_database(database, ACTOR).findings == ()
        with database.read(ACTOR) as read:
            assert read.state().restored == (lost == "the tables")


# -- killed


def test_redo_records_of_layout_1_that_were_not_applied_are_replayed(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pillarbox.store.engine.database.boot_identity", lambda: bytes(16))
    database = golden.database("Archive", golden.directory / "killed")
    events: list[Any] = []
    database.reporter = type("Reporter", (), {"report": staticmethod(events.append)})()
    with mounted(database):
        assert [event.details["transactions"] for event in events if "transactions" in event.details] == [7]
        assert golden.describe(database) == golden.expected["server"]["Archive"]
        assert check_database(database, ACTOR).findings == ()
        assert layout_of(database) == LAYOUT_VERSION


def test_a_newer_program_replays_and_reads_it_all(golden: Golden, newer_program: NewerProgram) -> None:
    with newer_program():
        killed = golden.database("Archive", golden.directory / "killed")
        with mounted(killed):
            assert golden.describe(killed) == golden.expected["server"]["Archive"]
        with golden.server() as server:
            for database in server.databases():
                assert golden.describe(database) == golden.expected["server"][database.name]
                assert check_database(database, ACTOR).findings == ()
                assert layout_of(database) == LAYOUT_VERSION + 1


# -- the repository


def stored(golden: Golden, snapshot: Any) -> list[RestorableDatabase]:
    databases = restorable_databases(snapshot)
    assert {database.name for database in databases} == set(golden.expected["databases"])
    return databases


def test_a_repository_of_layout_1_is_whole_and_is_restored(golden: Golden) -> None:
    repository = golden.repository()
    assert check_repository(repository, read_data=1).is_whole
    assert {snapshot.id for snapshot in repository.snapshots()} == set(golden.expected["snapshots"])
    for snapshot in repository.snapshots():
        assert stored(golden, snapshot)
        place = golden.directory / snapshot.id[:8]
        for restored in restore_to_directory(repository, snapshot, place, clock=golden.clock, thorough=True):
            database = golden.database(restored.name, restored.path)
            for read_only in (True, False):
                with mounted(database, read_only=read_only):
                    found = digest(golden.describe(database))
                    assert found == golden.expected["snapshots"][snapshot.id][restored.name]
                    assert layout_of(database) == (1 if read_only else LAYOUT_VERSION)


def test_a_snapshot_of_layout_1_is_mounted_without_an_upgrade(golden: Golden) -> None:
    repository = golden.repository()
    snapshot = repository.snapshot("latest")
    for database in stored(golden, snapshot):
        place = golden.directory / database.name
        restore_records(repository, database, place)
        with open_snapshot_mount(repository, database, place) as mount:
            assert layout_of(mount) == 1
            with mount.read(ACTOR) as read:
                for _, item in read.records(Table.ITEM, b"", None):
                    assert len(messages.content(read, item)) == item.size


def test_captures_go_on_across_the_upgrade(golden: Golden) -> None:
    repository = golden.repository()
    with golden.server() as server:
        databases = list(server.databases())
        (group,) = server.groups
        snapshot = Capture(
            SnapshotSource("server", group, databases), repository, clock=golden.clock
        ).capture()
        assert snapshot is not None
        expected = {database.name: golden.describe(database) for database in databases}
    for restored in restore_to_directory(repository, snapshot, golden.directory / "new", clock=golden.clock):
        with mounted(golden.database(restored.name, restored.path)) as database:
            assert golden.describe(database) == expected[restored.name]
            assert layout_of(database) == LAYOUT_VERSION
