"""The recovery storage group: every rule of DOMAIN.md on it, and that it is the same in another process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from pillarbox.backup import recovery_group
from pillarbox.backup.database_snapshot import StoredDatabase, read_stored_segments
from pillarbox.backup.recovery_config import RECOVERY_FILE, HeldAs, RecoveryConfig, write_recovery
from pillarbox.backup.recovery_group import (
    RecoveryGroup,
    goes_to_recovery_group,
    has_recovery_group,
    restore_to_server,
)
from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.backend_directory import DirectoryBackend
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.repository import Repository, Snapshot
from pillarbox.backup.restore import (
    Destination,
    RecoverySource,
    RestoredDatabase,
    read_restorable,
    restorable_databases,
)
from pillarbox.backup.salvage import salvage_files
from pillarbox.backup.snapshot import GroupSnapshot, SnapshotSource
from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database_limits import Edition
from pillarbox.store.errors import (
    AccessDenied,
    AlreadyExists,
    Conflict,
    Corrupt,
    DiskFull,
    Dismounted,
    InvalidName,
    InvalidSetting,
    NotFound,
    ReadOnly,
    Refused,
    UnsupportedVersion,
    WriterBusy,
)
from pillarbox.store.events import EventId
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.server import FIRST_GROUP, Server
from pillarbox.store.upkeep.sizes import last_size_check_ms
from pillarbox.store.upkeep.time_of_day import DAY_MS

ADMIN = Actor.administrator("root")
STORE = "Mailbox Store"
HERE = "/backup/mail"


class Made(NamedTuple):
    """A server on disk, and the files of a repository with a snapshot of its storage group."""

    path: Path
    files: dict[tuple[FileKind, str], bytes]


def make_server(world, path: Path, raws: list[bytes]) -> Made:
    """Mailbox stores with anna, who has the first six messages, and bert, who has the others."""
    backend = MemoryBackend()
    with Server.create(path, Edition.ENTERPRISE, clock=world.clock, rng=Random(1), zone=UTC) as server:
        server.create_database(FIRST_GROUP, "Second Store", DatabaseKind.MAILBOX_STORE)
        server.mailboxes.create(ADMIN, "anna", STORE)
        server.mailboxes.create(ADMIN, "bert", "Second Store")
        deliver(server, "anna", raws[:6])
        deliver(server, "bert", raws[6:])
        take(server, world.create(backend), world.clock)
    return Made(path, backend.files)


def deliver(server: Server, name: str, raws: list[bytes]) -> None:
    database, box = server.mailboxes.find(name)
    prepared = [messages.prepare(database.files, raw) for raw in raws]
    with database.transaction(ADMIN) as txn:
        for each in prepared:
            messages.append(txn, box.roles["inbox"], each)


def take(server: Server, repository: Repository, clock: VirtualClock, **source: str) -> Snapshot:
    """A snapshot of the first storage group, or of the `group` named."""
    clock.advance_ms(1000)
    group = source.pop("group", FIRST_GROUP)
    databases = list(server.group(group).databases.values())
    return GroupSnapshot(SnapshotSource("server", group, databases, **source), repository, clock=clock).run()


class Site:
    """A server with a recovery storage group, and a repository with a snapshot of its storage group."""

    def __init__(self, world, made: Made, path: Path, corpus: list[bytes]) -> None:
        self.world = world
        self.clock = world.clock
        self.clock.advance_ms(DAY_MS)
        self.corpus = corpus
        self.path = path
        shutil.copytree(made.path, path)
        self.server = Server.open(path, clock=self.clock, rng=Random(2), zone=UTC)
        backend = MemoryBackend()
        backend.files = dict(made.files)
        self.repository: Repository = world.open(backend)
        self.snapshot = self.repository.snapshot("latest")
        self.group = RecoveryGroup.create(self.server, clock=self.clock)

    def deliver(self, name: str, raws: list[bytes]) -> None:
        deliver(self.server, name, raws)

    def take(self, group: str = FIRST_GROUP, **source: str) -> Snapshot:
        return take(self.server, self.repository, self.clock, group=group, **source)

    def mount(self, snapshot: Snapshot | None = None, *names: str) -> None:
        self.group.mount_snapshot(self.repository, HERE, snapshot or self.snapshot, names=names)

    def restore(self, *names: str) -> None:
        self.group.restore(self.repository, HERE, self.snapshot, names=names)

    def reopen(self, **options: bool) -> None:
        """As another process finds the server."""
        self.group.close()
        self.server.close()
        self.server = Server.open(self.path, clock=self.clock, zone=UTC, **options)
        self.group = RecoveryGroup.open(self.server, clock=self.clock)

    def recovered(self, store: str, name: str) -> list[bytes]:
        database = self.group.database(store, self.repository)
        with database.read(ADMIN) as read:
            inbox = mailboxes.find(read, name).roles["inbox"]
            return [messages.content(read, item) for item in folders.messages(read, inbox)]

    def live(self, name: str) -> list[bytes]:
        database, box = self.server.mailboxes.find(name)
        with database.read(ADMIN) as read:
            return [messages.content(read, item) for item in folders.messages(read, box.roles["inbox"])]

    def names(self) -> list[str]:
        return [entry.name for entry in self.group.entries()]

    def events(self, event_id: EventId, database: str = STORE) -> int:
        found = self.server.events.query(event_id=event_id)
        return sum(event.database == database for event in found)

    def files(self) -> list[str]:
        """What lies in the group beside its own two files."""
        if not self.group.path.exists():
            return []
        return sorted(path.name for path in self.group.path.iterdir() if path.is_dir())


@pytest.fixture(scope="session")
def made(new_world, tmp_path_factory, mail_corpus) -> Made:
    return make_server(new_world(), tmp_path_factory.mktemp("made") / "server", mail_corpus)


@pytest.fixture
def site(world, made, tmp_path, mail_corpus) -> Iterator[Site]:
    site = Site(world, made, tmp_path / "server", mail_corpus)
    yield site
    site.group.close()
    site.server.close()


WAYS = pytest.mark.parametrize("way", ["mount", "restore"])


# -- it exists beside the regular groups


def test_a_server_has_one_until_it_is_removed(site):
    with pytest.raises(AlreadyExists):
        RecoveryGroup.create(site.server, clock=site.clock)
    site.mount()
    site.group.remove()
    assert not has_recovery_group(site.server)
    assert site.files() == []
    with pytest.raises(NotFound, match="no recovery storage group"):
        RecoveryGroup.open(site.server, clock=site.clock)
    site.group = RecoveryGroup.create(site.server, clock=site.clock)
    assert site.names() == []


def test_it_does_not_count_against_what_an_edition_allows(tmp_path, world):
    with Server.create(tmp_path / "small", Edition.STANDARD, clock=world.clock, zone=UTC) as server:
        RecoveryGroup.create(server, clock=world.clock)
        assert list(server.groups) == [FIRST_GROUP]


def test_a_regular_group_of_that_name_lies_elsewhere(site):
    group = site.server.create_group("recovery")
    assert group.path != site.group.path


def test_it_is_not_changed_by_who_opened_the_server_for_reading(site):
    site.mount()
    site.reopen(read_only=True)
    for change in (site.group.remove, site.mount, lambda: site.group.dismount(STORE)):
        with pytest.raises(ReadOnly):
            change()
    assert site.recovered(STORE, "anna") == site.corpus[:6]


# -- what it takes


@WAYS
def test_it_takes_the_mailbox_stores_of_a_snapshot_or_those_named(site, way):
    getattr(site, way)()
    assert sorted(site.names()) == [STORE, "Second Store"]
    site.group.delete(STORE)
    site.group.delete("second store")
    assert (site.names(), site.files(), site.group.source) == ([], [], None)
    getattr(site, way)(*((None,) if way == "mount" else ()), STORE)
    assert site.names() == [STORE]


def test_it_takes_no_public_folder_store(site):
    with pytest.raises(Refused, match="no mailbox store"):
        site.mount(None, "Public Folder Store")
    with pytest.raises(Refused, match="no mailbox store"):
        site.restore("Public Folder Store")
    assert site.names() == []


def test_its_databases_come_from_one_storage_group_at_a_time(site):
    site.server.create_group("Other")
    site.server.create_database("Other", "Third Store", DatabaseKind.MAILBOX_STORE)
    other = site.take("Other")
    site.mount(None, STORE)
    assert site.group.source == RecoverySource("server", FIRST_GROUP)
    with pytest.raises(Refused, match="one storage group at a time"):
        site.mount(other)
    site.mount(None, "Second Store")
    site.group.delete(STORE)
    site.group.delete("Second Store")
    site.mount(other)
    assert (site.names(), site.group.source) == (["Third Store"], RecoverySource("server", "Other"))


def test_it_takes_nothing_of_another_server_unless_that_is_said(site, world, tmp_path):
    with Server.create(tmp_path / "other", clock=world.clock, rng=Random(7), zone=UTC) as other:
        foreign = take(other, site.repository, site.clock)
    for way in (site.group.mount_snapshot, site.group.restore):
        with pytest.raises(Refused, match="another server"):
            way(site.repository, HERE, foreign)
        assert site.names() == []
        assert [entry.name for entry in way(site.repository, HERE, foreign, foreign=True)] == [STORE]
        site.group.delete(STORE)


def test_its_databases_come_from_a_server_of_the_same_administrative_group(site):
    elsewhere = site.take(administrative_group="Elsewhere")
    with pytest.raises(Refused, match="administrative group 'Elsewhere'"):
        site.mount(elsewhere)
    group = RecoveryGroup.open(site.server, clock=site.clock, administrative_group="Elsewhere")
    assert group.mount_snapshot(site.repository, HERE, elsewhere)


@pytest.mark.parametrize("layout", [0, 99])
def test_its_databases_are_of_a_version_that_is_known(site, layout):
    snapshot = site.snapshot
    other = replace(snapshot, manifest={**snapshot.manifest, "layout": layout})
    with pytest.raises(UnsupportedVersion):
        site.mount(other)


def test_a_database_is_in_it_once(site):
    site.mount(None, STORE)
    later = site.take()
    with pytest.raises(AlreadyExists, match="Mailbox Store"):
        site.mount(later)
    with pytest.raises(AlreadyExists):
        site.restore(STORE)
    assert site.names() == [STORE]


@pytest.mark.parametrize("name", ["../out", "..", RECOVERY_FILE, "Recovery.Lock"])
def test_a_name_that_leads_elsewhere_is_refused(site, name):
    snapshot = site.snapshot
    hostile = replace(snapshot, manifest={**snapshot.manifest, "group": name})
    with pytest.raises(InvalidName):
        site.mount(hostile)
    assert site.names() == []


def test_a_mount_tells_of_the_records_as_they_come(site):
    told: list[int] = []
    site.group.mount_snapshot(site.repository, HERE, site.snapshot, names=[STORE], progress=told.append)
    described = site.snapshot.manifest["databases"]
    assert [sum(told)] == [each["records_bytes"] for each in described if each["name"] == STORE]


def test_of_several_databases_all_come_or_none(site, monkeypatch):
    """The pack with the second one's records is gone when they are to be read."""
    read_many = site.repository.read

    def fail(blob_id: bytes) -> bytes:
        if site.files() and any("Second Store" in path.name for path in site.group.path.glob("*/*")):
            raise Corrupt("the repository is damaged")
        return read_many(blob_id)

    monkeypatch.setattr(site.repository, "read", fail)
    with pytest.raises(Corrupt):
        site.mount()
    assert site.names() == []
    assert site.events(EventId.DATABASE_NOT_MOUNTED) == 1
    monkeypatch.undo()
    site.mount()
    assert site.recovered(STORE, "anna") == site.corpus[:6]
    assert site.recovered("Second Store", "bert") == site.corpus[6:]


def test_what_is_restored_into_it_is_marked_as_put_back(site):
    restore_and_mount(site)
    with site.group.database(STORE).read(ADMIN) as read:
        assert read.state().restored


# -- who reaches it


@WAYS
def test_no_client_path_comes_to_it(site, way):
    site.mount(None, STORE) if way == "mount" else restore_and_mount(site)
    reopened = site.server
    assert {database.name for database in reopened.databases()} == {
        STORE,
        "Second Store",
        "Public Folder Store",
    }
    assert all(site.group.path not in database.path.parents for database in reopened.databases())
    database, _ = site.server.mailboxes.find("anna")
    assert database is site.server.database(STORE)
    site.server.dismount(STORE)
    with pytest.raises(Dismounted):
        site.server.mailboxes.find("anna")
    for name in ("recovery", f"recovery/{STORE}"):
        with pytest.raises(NotFound):
            site.server.group(name)
        with pytest.raises(NotFound):
            site.server.database(name)
    for actor in (Actor.user("anna"), Actor.transport()):
        with pytest.raises(AccessDenied):
            site.group.database(STORE, site.repository).read(actor)


def restore_and_mount(site: Site, name: str = STORE) -> None:
    site.restore(name)
    site.group.mount(name)


@WAYS
def test_nothing_changes_in_it_and_its_mailboxes_stay_disconnected(site, way):
    site.mount(None, STORE) if way == "mount" else restore_and_mount(site)
    database = site.group.database(STORE, site.repository)
    assert not hasattr(database, "transaction")
    with database.read(ADMIN) as read:
        assert [box.state for box in mailboxes.all_of(read)] == [mailboxes.DISCONNECTED]
    assert site.server.mailboxes.find("anna")[1].state != mailboxes.DISCONNECTED


def test_the_daily_size_check_does_not_come_to_it(site):
    restore_and_mount(site)
    site.group.database(STORE)
    before = recovery_files(site)
    live = site.server.database(STORE)
    checked_ms = last_size_check_ms(live)
    site.clock.advance_ms(2 * DAY_MS)
    site.server.check_sizes()
    assert last_size_check_ms(live) > checked_ms
    assert recovery_files(site) == before  # a check would be kept in the database


def recovery_files(site: Site) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in site.group.path.rglob("*")
        if path.is_file() and path.name != "lock.mdb"
    }


def test_it_cannot_be_backed_up(site):
    restore_and_mount(site)
    with pytest.raises(NotFound):
        site.take("recovery")
    assert len(site.repository.snapshots()) == 1


# -- mounting


def test_opening_the_server_mounts_nothing_of_it(site):
    restore_and_mount(site)
    site.restore("Second Store")
    mounted = [site.events(EventId.DATABASE_MOUNTED, name) for name in (STORE, "Second Store")]
    site.reopen()
    assert [entry.is_mounted for entry in site.group.entries()] == [True, False]
    after = [site.events(EventId.DATABASE_MOUNTED, name) for name in (STORE, "Second Store")]
    assert after == mounted
    assert not [path for path in site.group.path.rglob("lock") if path.is_file()]
    with pytest.raises(Dismounted, match="not mounted"):
        site.group.database("Second Store")


def test_restored_files_are_mounted_and_dismounted_by_an_administrator_and_stay(site):
    site.restore(STORE)
    with pytest.raises(Dismounted):
        site.recovered(STORE, "anna")
    mounted, dismounted = (
        site.events(each) for each in (EventId.DATABASE_MOUNTED, EventId.DATABASE_DISMOUNTED)
    )
    site.group.mount("mailbox store")
    site.group.mount(STORE)
    assert site.recovered(STORE, "anna") == site.corpus[:6]
    opened = site.group.database(STORE)
    site.group.dismount(STORE)
    site.group.dismount(STORE)
    with pytest.raises(Dismounted):
        opened.read(ADMIN)
    with pytest.raises(Dismounted):
        site.group.database(STORE)
    assert site.events(EventId.DATABASE_MOUNTED) == mounted + 1
    assert site.events(EventId.DATABASE_DISMOUNTED) == dismounted + 1
    site.group.mount(STORE)
    assert site.recovered(STORE, "anna") == site.corpus[:6]


def test_what_is_mounted_from_a_repository_leaves_with_its_records(site):
    site.mount(None, STORE)
    opened = site.group.database(STORE, site.repository)
    place = site.group.place(site.group.entry(STORE))
    assert [path.name for path in place.iterdir()] == ["properties"]
    site.group.dismount(STORE)
    assert not place.exists()
    with pytest.raises(Dismounted):
        opened.read(ADMIN)
    with pytest.raises(NotFound, match="no database"):
        site.group.database(STORE, site.repository)


@WAYS
def test_a_database_in_it_is_deleted_freely_and_the_live_one_goes_on(site, way):
    site.mount(None, STORE) if way == "mount" else restore_and_mount(site)
    site.group.delete(STORE)
    assert (site.names(), site.files()) == ([], [])
    assert site.live("anna") == site.corpus[:6]
    with pytest.raises(NotFound):
        site.group.delete(STORE)


def test_files_that_cannot_be_mounted_stay_dismounted_and_an_event_says_why(site):
    site.restore(STORE)
    shutil.rmtree(site.group.place(site.group.entry(STORE)) / "properties")
    with pytest.raises(NotFound):
        site.group.mount(STORE)
    assert not site.group.entry(STORE).is_mounted
    assert site.events(EventId.DATABASE_NOT_MOUNTED) == 1


def test_the_same_database_is_given_when_it_is_asked_for_again_until_it_is_closed(site):
    site.mount(None, STORE)
    first = site.group.database(STORE, site.repository)
    assert site.group.database(STORE) is first
    first.close()
    assert site.group.database(STORE, site.repository) is not first


# -- a full disk, and a process that ends on the way


@WAYS
def test_on_a_full_disk_a_database_is_deleted_since_its_files_go_first(site, way, monkeypatch):
    site.mount(None, STORE) if way == "mount" else restore_and_mount(site)
    site.mount(None, "Second Store")

    def full(directory: Path, config: RecoveryConfig) -> None:
        if list(directory.glob(f"*/{STORE}*")):
            raise DiskFull("no space left on the disk")
        write_recovery(directory, config)

    monkeypatch.setattr("pillarbox.backup.recovery_group.write_recovery", full)
    site.group.delete(STORE)
    assert site.names() == ["Second Store"]
    assert site.recovered("Second Store", "bert") == site.corpus[6:]


class Killed(BaseException):
    """The process is gone."""


DELETE_STEPS = ("shutil.rmtree", "write_recovery", "flush_directory")


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("names", [(STORE,), (STORE, "Second Store")], ids=["the last", "one of two"])
@pytest.mark.parametrize("step", DELETE_STEPS)
def test_a_removal_that_was_killed_is_ended_by_the_same_call(site, step, names, done, monkeypatch):
    for name in names:
        site.mount(None, name)
    real = attrgetter(step)(recovery_group)

    def kill(*words: object, **options: object) -> None:
        if done:
            real(*words, **options)
        raise Killed

    monkeypatch.setattr(f"pillarbox.backup.recovery_group.{step}", kill)
    with suppress(Killed):
        site.group.delete(STORE, remove_empty=True)
    monkeypatch.undo()
    if has_recovery_group(site.server) and STORE in site.names():
        with pytest.raises(NotFound, match="removal was interrupted") as gone:
            site.recovered(STORE, "anna")
        assert "recovery dismount" in gone.value.hint
        site.group.delete(STORE, remove_empty=True)
    assert site.files() == [FIRST_GROUP] * (len(names) - 1)
    assert has_recovery_group(site.server) is (len(names) > 1)
    for name in names[1:]:
        assert site.recovered(name, "bert") == site.corpus[6:]


MOUNT_STEPS = ("restore_records", "open_snapshot_mount", "rename_durably", "write_recovery")


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", MOUNT_STEPS)
def test_a_first_mount_that_was_killed_leaves_no_empty_group(site, step, done, monkeypatch):
    site.group.remove()
    real = getattr(recovery_group, step)

    def kill(*words: object, **options: object) -> None:
        if done:
            real(*words, **options)
        raise Killed

    group = RecoveryGroup.open_or_begin(site.server, clock=site.clock)
    monkeypatch.setattr(recovery_group, step, kill)
    with pytest.raises(Killed):
        group.mount_snapshot(site.repository, HERE, site.snapshot, names=[STORE])
    monkeypatch.undo()
    assert has_recovery_group(site.server) is (step == "write_recovery" and done)
    if not has_recovery_group(site.server):
        assert group.entries() == []
        group.mount_snapshot(site.repository, HERE, site.snapshot, names=[STORE])
    assert site.recovered(STORE, "anna") == site.corpus[:6]
    assert sorted(path.name for path in site.group.path.glob("*/*")) == [STORE]


# -- another process


def test_another_process_opens_what_is_mounted_without_bringing_its_records_again(site, world, tmp_path):
    backend = DirectoryBackend(tmp_path / "repository")
    site.repository = world.create(backend)
    site.snapshot = site.take()
    site.mount(None, STORE)
    entry = site.group.entry(STORE)
    assert (entry.held_as, entry.repository, entry.snapshot) == (HeldAs.REPOSITORY, HERE, site.snapshot.id)
    data = site.group.place(entry) / "properties" / "data.mdb"
    written = data.stat()
    site.reopen(mount=False)
    assert site.group.entries() == [entry]
    site.repository = world.open(backend)
    assert site.recovered(STORE, "anna") == site.corpus[:6]
    assert (data.stat().st_ino, data.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_what_is_mounted_opens_with_its_own_repository_only(site, world):
    site.mount(None, STORE)
    with pytest.raises(Refused, match=HERE):
        site.group.database(STORE)
    world.random.seed("another repository")
    with pytest.raises(Conflict, match="mounted from repository"):
        site.group.database(STORE, world.create(MemoryBackend()))


def test_when_its_snapshot_is_forgotten_it_opens_no_more_and_can_be_dismounted(site):
    site.mount(None, STORE)
    site.repository.forget([site.snapshot.id])
    with pytest.raises(NotFound, match=site.snapshot.id[:12]) as gone:
        site.group.database(STORE, site.repository)
    assert "recovery dismount" in gone.value.hint
    site.group.dismount(STORE)
    assert site.files() == []


def test_who_changes_it_keeps_others_from_it(site, monkeypatch):
    other = RecoveryGroup.open(site.server, clock=site.clock)

    def meanwhile(*_: object, **__: object) -> None:
        other.remove()

    monkeypatch.setattr("pillarbox.backup.recovery_group.restore_records", meanwhile)
    with pytest.raises(WriterBusy, match="recovery storage group"):
        site.mount()
    assert site.names() == []


def test_what_an_interrupted_mount_or_removal_left_goes_with_the_next(site):
    site.mount(None, STORE)
    for left in (f"{FIRST_GROUP}/Second Store.restoring", f"{FIRST_GROUP}/Second Store", "Elsewhere/Store"):
        (site.group.path / left / "properties").mkdir(parents=True)
    site.mount(None, "Second Store")
    assert site.recovered("Second Store", "bert") == site.corpus[6:]
    assert site.recovered(STORE, "anna") == site.corpus[:6]
    assert site.files() == [FIRST_GROUP]
    assert sorted(path.name for path in site.group.path.glob("*/*")) == [STORE, "Second Store"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("not toml [", InvalidSetting),
        ('format = "else"\nversion = 1', InvalidSetting),
        ('format = "pillarbox-recovery"\nversion = 2', UnsupportedVersion),
        ('format = "pillarbox-recovery"\nversion = 1\ndatabases = [1]', InvalidSetting),
        ('format = "pillarbox-recovery"\nversion = 1\n[[databases]]\nname = "x"', InvalidSetting),
    ],
    ids=["no toml", "another format", "a newer version", "no tables", "incomplete"],
)
def test_a_file_that_is_not_its_own_is_refused_by_name(site, text, error):
    (site.group.path / RECOVERY_FILE).write_text(text)
    with pytest.raises(error, match=r"recovery\.toml"):
        site.group.entries()


# -- restores go to it


def test_a_restore_goes_to_it_when_it_is_there(site):
    site.deliver("anna", site.corpus[6:8])
    destination, restored = restore(site)
    assert destination is Destination.RECOVERY_GROUP
    assert sorted(each.path.relative_to(site.group.path).as_posix() for each in restored) == [
        f"{FIRST_GROUP}/{STORE}",
        f"{FIRST_GROUP}/Second Store",
    ]
    assert site.live("anna") == site.corpus[:8]
    assert site.events(EventId.RESTORE_FINISHED) == 1
    site.group.mount(STORE)
    assert site.recovered(STORE, "anna") == site.corpus[:6]


def test_the_override_sends_a_restore_to_the_original_place(site):
    site.deliver("anna", site.corpus[6:8])
    site.group.set_override(True)
    site.reopen()
    assert site.group.override
    destination, restored = restore(site)
    assert (destination, len(restored)) == (Destination.ORIGINAL, 3)
    assert site.live("anna") == site.corpus[:6]
    assert site.names() == []
    site.group.set_override(False)
    assert restore(site)[0] is Destination.RECOVERY_GROUP


@WAYS
def test_a_restore_in_place_leaves_what_is_recovered_of_the_same_database_alone(site, way):
    site.mount(None, STORE) if way == "mount" else restore_and_mount(site)
    site.deliver("anna", site.corpus[6:8])
    later = site.take()
    site.deliver("anna", site.corpus[8:9])
    assert site.recovered(STORE, "anna") == site.corpus[:6]
    site.group.set_override(True)
    destination, restored = restore_to_server(
        site.repository, HERE, later, site.server, names=[STORE], clock=site.clock
    )
    assert destination is Destination.ORIGINAL
    assert [each.path for each in restored] == [site.server.database(STORE).path]
    assert site.live("anna") == site.corpus[:8]
    site.reopen()
    assert (site.names(), site.group.override) == ([STORE], True)
    assert site.recovered(STORE, "anna") == site.corpus[:6]
    assert site.live("bert") == site.corpus[6:]


def test_without_it_a_restore_goes_to_the_original_place(site):
    site.deliver("anna", site.corpus[6:8])
    site.group.remove()
    assert restore(site)[0] is Destination.ORIGINAL
    assert site.live("anna") == site.corpus[:6]


def test_who_opened_the_server_for_reading_restores_nothing_in_place(site):
    site.group.remove()
    site.server.close()
    site.server = Server.open(site.path, clock=site.clock, zone=UTC, read_only=True)
    with pytest.raises(ReadOnly):
        restore(site)


def restore(site: Site) -> tuple[Destination, list[RestoredDatabase]]:
    names = [each.name for each in restorable_databases(site.snapshot)]
    if goes_to_recovery_group(site.server):
        names = []
    return restore_to_server(site.repository, HERE, site.snapshot, site.server, names=names, clock=site.clock)


# -- it goes on over damage, when that is asked for


def damage_blob(site: Site, monkeypatch: pytest.MonkeyPatch, blob: bytes) -> None:
    """Let one blob of the repository be damaged, for whoever reads it in whichever way."""
    opened = site.repository.open_at

    def open_at(location, sealed):
        if location.record.blob_id == blob:
            raise Corrupt("packs/x is damaged")
        return opened(location, sealed)

    monkeypatch.setattr(site.repository, "open_at", open_at)


def stored_of(site: Site, name: str) -> StoredDatabase:
    (database,) = restorable_databases(site.snapshot, [name])
    return read_restorable(site.repository, database)


def test_where_records_are_damaged_a_mount_that_is_to_keep_going_makes_them_from_the_stream(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image,) = {each.blob_id for each in site.repository.read_tree(stored_of(site, STORE).image).children}
    damage_blob(site, monkeypatch, image)
    with pytest.raises(Corrupt):
        site.mount()
    assert site.names() == []
    lost: list[object] = []
    entries = site.group.mount_snapshot(
        site.repository, HERE, site.snapshot, on_lost=lambda *found: lost.append(found)
    )
    held = {entry.name: (entry.held_as, entry.is_mounted) for entry in entries}
    assert held == {STORE: (HeldAs.FILES, True), "Second Store": (HeldAs.REPOSITORY, True)}
    assert lost == []
    assert site.recovered(STORE, "anna") == site.corpus[:6]
    assert site.recovered("Second Store", "bert") == site.corpus[6:]


def test_a_restore_into_it_that_is_to_keep_going_brings_what_is_whole_and_names_the_rest(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = stored_of(site, STORE)
    ((_, segment),) = read_stored_segments(site.repository, stored).items()
    damage_blob(site, monkeypatch, segment.chunks[0])
    with pytest.raises(Corrupt):
        restore_to_server(site.repository, HERE, site.snapshot, site.server, names=[STORE], clock=site.clock)
    where, (done,) = restore_to_server(
        site.repository, HERE, site.snapshot, site.server, names=[STORE], fill=salvage_files, clock=site.clock
    )
    assert where is Destination.RECOVERY_GROUP
    assert [each.folder for each in done.lost] == ["anna: Inbox"] * 6
    assert site.names() == [STORE]
