"""A server: what it consists of, what it mounts, what it lets others know, and how it enforces sizes."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.file_lock import PASSING
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine import disk_floor
from pillarbox.store.engine.database import LOCK, Database, MountState
from pillarbox.store.engine.database_limits import GB, LIMIT_KEY, Edition
from pillarbox.store.errors import (
    AlreadyExists,
    DiskFull,
    InvalidName,
    InvalidSetting,
    NoPermission,
    NotEmpty,
    NotFound,
    ReadOnly,
    Refused,
    UnsupportedVersion,
    WriterBusy,
)
from pillarbox.store.events import Category, EventId, Level
from pillarbox.store.mail import folders, mailboxes, public_folders
from pillarbox.store.mail.delivery import deliver
from pillarbox.store.server import FIRST_GROUP, SERVER_LOCK, Server
from pillarbox.store.server_config import CONFIG_FILE, read_config, write_config
from pillarbox.store.upkeep import sizes
from pillarbox.store.upkeep.time_of_day import DAY_MS

ADMIN = Actor.administrator("root")
MAILBOX_STORE = "Mailbox Store"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Server.create(tmp_path / "server", clock=VirtualClock()).close()
    return tmp_path / "server"


@pytest.fixture
def big(tmp_path: Path) -> Iterator[Server]:
    with Server.create(tmp_path / "big", Edition.ENTERPRISE, clock=VirtualClock(), zone=UTC) as server:
        yield server


def reported(server: Server, event_id: int) -> int:
    return len(list(server.events.query(event_id=event_id)))


# -- finding


def test_a_mailbox_is_found_again_after_the_server_was_closed(path: Path) -> None:
    with Server.open(path) as server:
        created = server.mailboxes.create(ADMIN, "anna")[1]
    with Server.open(path, read_only=True) as server:
        assert server.mailboxes.find("Anna")[1] == created
        with pytest.raises(NotFound):
            server.mailboxes.find("bert")


def test_a_database_name_that_two_groups_have_needs_the_group(big: Server) -> None:
    big.create_group("Second Group")
    big.create_database("Second Group", MAILBOX_STORE, DatabaseKind.MAILBOX_STORE)
    with pytest.raises(InvalidName, match="more than one"):
        big.database(MAILBOX_STORE)
    for group in (FIRST_GROUP, "Second Group"):
        database = big.database(f"{group}/{MAILBOX_STORE}")
        assert database.label == f"{group}/{MAILBOX_STORE}"


# -- mounting


def test_a_database_that_cannot_be_mounted_leaves_the_others_mounted(path: Path) -> None:
    shutil.rmtree(path / FIRST_GROUP / "Public Folder Store")
    with Server.open(path) as server:
        states = {each.name: each.state for each in server.databases()}
        assert states[MAILBOX_STORE] is MountState.MOUNTED
        assert isinstance(server.not_mounted["Public Folder Store"], NotFound)
        assert reported(server, EventId.DATABASE_NOT_MOUNTED) == 1


def test_a_database_whose_files_may_not_be_read_leaves_the_others_mounted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, stat = path / FIRST_GROUP / "Public Folder Store", os.stat

    def guarded(at: Path | int, **asked: Any) -> os.stat_result:
        if isinstance(at, Path) and closed in at.parents:
            raise PermissionError(13, "Permission denied", str(at))
        return stat(at, **asked)

    monkeypatch.setattr(os, "stat", guarded)
    with Server.open(path) as server:
        assert [each.name for each in server.databases() if each.state is MountState.MOUNTED] == [
            MAILBOX_STORE
        ]
        assert "Permission denied" in str(server.not_mounted["Public Folder Store"])


def test_a_directory_that_may_not_be_looked_into_takes_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.stat

    def guarded(at: Path | int, **asked: Any) -> os.stat_result:
        if isinstance(at, Path) and tmp_path in at.parents:
            raise PermissionError(13, "Permission denied", str(at))
        return stat(at, **asked)

    monkeypatch.setattr(os, "stat", guarded)
    with pytest.raises(NoPermission, match="Permission denied"):
        Server.create(tmp_path / "server")


def test_databases_mount_and_dismount_one_by_one(path: Path) -> None:
    with Server.open(path) as server:
        server.mailboxes.create(ADMIN, "anna")
        server.dismount("Public Folder Store")
        assert server.mailboxes.find("anna")
        assert server.mount("Public Folder Store").state is MountState.MOUNTED
        assert server.mount("Public Folder Store").state is MountState.MOUNTED


def test_a_server_without_a_mailbox_store_says_how_to_get_one(path: Path) -> None:
    with Server.open(path) as server:
        server.dismount(MAILBOX_STORE)
        server.delete_database(MAILBOX_STORE)
        with pytest.raises(Refused) as refused:
            server.mailboxes.create(ADMIN, "anna")
    assert "pillarbox database create" in refused.value.hint


def test_a_database_set_not_to_mount_stays_dismounted_when_the_server_is_opened(path: Path) -> None:
    with Server.open(path) as server:
        server.set_mount_at_startup(MAILBOX_STORE, False)
    with Server.open(path) as server:
        assert server.database(MAILBOX_STORE).state is MountState.DISMOUNTED
        assert not server.not_mounted
        assert not server.mounts_at_startup(MAILBOX_STORE)
        assert server.mount(MAILBOX_STORE).state is MountState.MOUNTED


def test_a_server_is_opened_without_its_databases(path: Path) -> None:
    with Server.open(path, mount=False) as server, Server.open(path) as other:
        assert {each.state for each in server.databases()} == {MountState.DISMOUNTED}
        assert {each.state for each in other.databases()} == {MountState.MOUNTED}


def test_a_server_made_before_there_were_guids_gets_one_and_keeps_it(path: Path, tmp_path: Path) -> None:
    with Server.open(path) as server:
        made = server.guid
    with Server.create(tmp_path / "other") as other:
        assert len(made) == 16 and other.guid not in (b"", made)
    config = read_config(path)
    config.guid = b""
    write_config(path, config)
    with Server.open(path, read_only=True) as server:
        assert server.guid == b"", "a reader writes nothing"
    with Server.open(path, mount=False) as server:
        given = server.guid
    with Server.open(path, read_only=True) as server:
        assert server.guid == given != made


def test_what_another_process_changed_is_taken_over(path: Path) -> None:
    with Server.open(path) as server:
        with Server.open(path, mount=False) as other:
            other.set_limits(MAILBOX_STORE, {LIMIT_KEY: 3})
            other.rename_database(MAILBOX_STORE, "Mail")
        server.reload()
        assert server.database("mail").limits.limit_bytes == 3 * GB
        assert server.database("mail").state is MountState.MOUNTED
        (path / CONFIG_FILE).write_text("broken")
        with pytest.raises(InvalidSetting):
            server.reload()
        assert server.database("mail").state is MountState.MOUNTED


def test_a_second_writer_is_refused_with_the_reason(path: Path) -> None:
    with Server.open(path) as server, Server.open(path) as other:
        assert all(isinstance(each, WriterBusy) for each in other.not_mounted.values())
        with pytest.raises(WriterBusy):
            other.mailboxes.create(ADMIN, "anna")
        assert server.mailboxes.create(ADMIN, "anna")
        with pytest.raises(WriterBusy):
            other.mailboxes.find("anna")
        with pytest.raises(NotFound):
            other.mailboxes.find("bert")


def test_a_server_that_is_open_for_reading_changes_nothing(path: Path) -> None:
    before = (path / CONFIG_FILE).read_bytes()
    with Server.open(path, read_only=True) as server:
        with pytest.raises(ReadOnly):
            server.mailboxes.create(ADMIN, "anna")
        with pytest.raises(ReadOnly):
            server.rename_database(MAILBOX_STORE, "Sales")
    assert (path / CONFIG_FILE).read_bytes() == before


def test_a_writer_waits_for_a_reader_that_recovers_the_database(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server.open(path) as server:
        server.mailboxes.create(ADMIN, "anna")
        shutil.copytree(path, tmp_path / "crashed", ignore=shutil.ignore_patterns("lock.mdb"))
    replay = Database._replay
    found: list[bytes] = []

    def looked_at(database: Database, *asked: Any) -> Any:
        found.append((database.path / LOCK).read_bytes())
        return replay(database, *asked)

    monkeypatch.setattr(Database, "_replay", looked_at)
    with Server.open(tmp_path / "crashed", read_only=True) as server:
        assert not server.not_mounted and set(found) == {PASSING}
    with Server.open(tmp_path / "crashed") as server:
        assert (server.database(MAILBOX_STORE).path / LOCK).read_bytes() == b""


def test_the_names_of_a_new_server_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power loss a directory has the entries that it had when it was last flushed."""
    flushed: dict[int, set[str]] = {}
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        fsync(descriptor)
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        if place.is_dir():
            flushed[place.stat().st_ino] = {entry.name for entry in place.iterdir()}

    monkeypatch.setattr(os, "fsync", recorded)
    path = tmp_path / "made" / "server"
    Server.create(path).close()
    remade = {"lock", "lock.mdb", "events.jsonl", "checkpoint.new", SERVER_LOCK}
    for place in (tmp_path, path.parent, path, *(each for each in path.rglob("*") if each.is_dir())):
        entries = {entry.name for entry in place.iterdir()} - remade
        assert entries <= flushed.get(place.stat().st_ino, set()), place


def test_a_server_read_after_a_crash_is_recovered_first(path: Path, tmp_path: Path) -> None:
    with Server.open(path) as server:
        server.mailboxes.create(ADMIN, "anna")
        shutil.copytree(path, tmp_path / "crashed", ignore=shutil.ignore_patterns("lock.mdb"))
    with Server.open(tmp_path / "crashed", read_only=True) as server:
        assert not server.not_mounted
        assert server.mailboxes.find("anna")


# -- making, renaming, deleting


def test_an_edition_caps_groups_and_databases(path: Path, big: Server) -> None:
    with Server.open(path) as server:
        with pytest.raises(Refused, match="at most 1 storage group"):
            server.create_group("Second Group")
        with pytest.raises(Refused, match="at most 1 mailbox store"):
            server.create_database(FIRST_GROUP, "Second", DatabaseKind.MAILBOX_STORE)
    for number in range(3):
        big.create_group(f"Group {number}")
        big.create_database(FIRST_GROUP, f"Store {number}", DatabaseKind.MAILBOX_STORE)
    with pytest.raises(Refused, match="at most 4"):
        big.create_group("One too many")
    with pytest.raises(Refused, match="at most 5"):
        big.create_database(FIRST_GROUP, "One too many", DatabaseKind.MAILBOX_STORE)


def test_renamed_groups_and_databases_keep_their_files_and_mail(big: Server) -> None:
    created = big.mailboxes.create(ADMIN, "anna")[1]
    big.rename_database(MAILBOX_STORE, "Sales")
    big.rename_group(FIRST_GROUP, "Berlin")
    assert big.mailboxes.find("anna")[0] is big.database("Berlin/Sales")
    big.close()
    with Server.open(big.path) as server:
        assert server.mailboxes.find("anna")[1] == created
        assert server.group("Berlin").databases.keys() == {"Sales", "Public Folder Store"}


@pytest.mark.parametrize("name", ["", "a/b", "x" * 300, "line\nbreak"])
def test_a_name_that_cannot_be_is_refused_and_changes_nothing(big: Server, name: str) -> None:
    before = (big.path / CONFIG_FILE).read_bytes()
    with pytest.raises(InvalidName):
        big.create_group(name)
    with pytest.raises(InvalidName):
        big.create_database(FIRST_GROUP, name, DatabaseKind.MAILBOX_STORE)
    with pytest.raises(InvalidName):
        big.rename_database(MAILBOX_STORE, name)
    assert (big.path / CONFIG_FILE).read_bytes() == before


@pytest.mark.parametrize(
    "name", ["events", "recovery", "Public-Folder-Recovery", "EVENTS", "store.new", "..."]
)
def test_a_name_that_the_server_uses_itself_gets_a_directory_of_its_own(big: Server, name: str) -> None:
    group = big.create_group(name)
    own = {"events", *(path.name for path in big.recovery_paths.values())}
    assert group.path.name.casefold() not in own
    database = big.create_database(name, name, DatabaseKind.MAILBOX_STORE)
    assert database.state is MountState.MOUNTED and not database.path.name.endswith(".new")


def test_a_database_is_deleted_only_when_it_is_dismounted(big: Server) -> None:
    database = big.create_database(FIRST_GROUP, "Second", DatabaseKind.MAILBOX_STORE)
    with pytest.raises(Refused, match="is mounted"):
        big.delete_database("Second")
    with pytest.raises(NotEmpty):
        big.delete_group(FIRST_GROUP)
    big.dismount("Second")
    big.delete_database("Second")
    assert not database.path.exists()
    with pytest.raises(NotFound):
        big.database("Second")


def test_a_database_that_is_given_another_kind_while_it_is_dismounted_is_of_that_kind(big: Server) -> None:
    """In its own directory all the same, as where a backup of another store was put there."""
    before = big.create_database(FIRST_GROUP, "Second", DatabaseKind.MAILBOX_STORE)
    file = big.path / CONFIG_FILE
    whole = file.read_text()
    first, mark, entry = whole.rpartition('name = "Second"')
    changed = first + mark + entry.replace("mailbox store", "public folder store")
    file.write_text(changed)
    with pytest.raises(InvalidSetting, match="another directory or kind"):
        big.reload()
    file.write_text(whole)
    big.dismount("Second")
    file.write_text(changed)
    big.reload()
    database = big.database("Second")
    assert database is not before and database.path == before.path
    assert database.kind is DatabaseKind.PUBLIC_FOLDER_STORE and database.mailbox_names is None


def test_a_database_that_another_process_has_mounted_is_not_deleted(big: Server) -> None:
    database = big.create_database(FIRST_GROUP, "Second", DatabaseKind.MAILBOX_STORE)
    big.dismount("Second")
    elsewhere = Database(database.path, database.guid, "Second", database.kind, clock=VirtualClock())
    elsewhere.mount()
    with pytest.raises(WriterBusy):
        big.delete_database("Second")
    elsewhere.dismount()
    assert big.database("Second") is database


def test_two_servers_that_change_the_configuration_lose_nothing_of_each_other(big: Server) -> None:
    with Server.open(big.path, clock=VirtualClock()) as other:
        big.create_group("One")
        other.create_group("Two")
        big.create_group("Three")
        assert big.groups.keys() == {FIRST_GROUP, "One", "Two", "Three"}


def test_a_second_server_at_the_same_place_is_refused(path: Path) -> None:
    with pytest.raises(AlreadyExists):
        Server.create(path)


def test_a_folder_that_is_no_server_is_told_apart_from_a_damaged_one(path: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Server.open(tmp_path)
    config = (path / CONFIG_FILE).read_text()
    (path / CONFIG_FILE).write_text(config.replace("version = 1", "version = 2"))
    with pytest.raises(UnsupportedVersion):
        Server.open(path)
    (path / CONFIG_FILE).write_text("format = ")
    with pytest.raises(InvalidSetting):
        Server.open(path)


# -- sizes and settings


def test_an_edition_goes_up_and_limits_follow(path: Path) -> None:
    with Server.open(path) as server, Server.open(path, mount=False) as other:
        other.set_edition(Edition.ENTERPRISE)
        assert other.database(MAILBOX_STORE).limits.limit_bytes == 8000 * GB
        server.reload()
        assert server.edition is Edition.ENTERPRISE
        assert server.create_group("Second Group")
        assert server.set_limits(MAILBOX_STORE, {LIMIT_KEY: 100}).limits.limit_bytes == 100 * GB


def test_an_edition_goes_down_only_when_the_server_fits_into_it(big: Server) -> None:
    big.create_group("Second Group")
    big.create_database(FIRST_GROUP, "Second", DatabaseKind.MAILBOX_STORE)
    big.set_limits(MAILBOX_STORE, {LIMIT_KEY: 76})
    with pytest.raises(Refused) as refused:
        big.set_edition(Edition.STANDARD)
    for reason in (
        "2 storage groups, at most 1",
        f"3 databases in {FIRST_GROUP}, at most 2",
        f"2 mailbox stores in {FIRST_GROUP}, at most 1",
        f"a limit of 76.00 GB of {MAILBOX_STORE}, at most 75 GB",
    ):
        assert reason in str(refused.value)
    assert big.edition is Edition.ENTERPRISE
    big.delete_group("Second Group")
    big.dismount("Second")
    big.delete_database("Second")
    big.set_limits(MAILBOX_STORE, {LIMIT_KEY: 75})
    big.set_edition(Edition.STANDARD)
    assert big.database("Public Folder Store").limits.limit_bytes == 18 * GB
    assert big.database(MAILBOX_STORE).limits.limit_bytes == 75 * GB


def test_comments_in_the_configuration_stay(path: Path) -> None:
    file = path / CONFIG_FILE
    lines = ["# ours", *file.read_text().splitlines(), "# the end"]
    file.write_text("\n".join(f"{line}  # kept" if line.startswith("kind") else line for line in lines))
    with Server.open(path) as server:
        server.set_limits(MAILBOX_STORE, {LIMIT_KEY: 20})
        server.rename_database(MAILBOX_STORE, "Sales")
    text = file.read_text()
    assert text.startswith("# ours\n") and "# the end" in text and text.count("# kept") == 2


def test_limits_are_in_force_at_once_and_kept(big: Server) -> None:
    assert big.set_limits(MAILBOX_STORE, {LIMIT_KEY: 20}).limits.limit_bytes == 20 * GB
    with pytest.raises(InvalidSetting):
        big.set_limits(MAILBOX_STORE, {LIMIT_KEY: 8001})
    with pytest.raises(InvalidSetting, match="no setting"):
        big.set_limits(MAILBOX_STORE, {"limit": 1})
    big.close()
    with Server.open(big.path) as server:
        assert server.database(MAILBOX_STORE).limits.limit_bytes == 20 * GB
        assert server.set_limits(MAILBOX_STORE, {LIMIT_KEY: None}).limits.limit_bytes == 8000 * GB


def test_a_limit_that_the_file_has_wrong_gives_the_default_and_an_event(path: Path) -> None:
    config = (path / CONFIG_FILE).read_text()
    wrong = config.replace(
        'kind = "mailbox store"', f'kind = "mailbox store"\nsettings = {{ {LIMIT_KEY} = 9000 }}'
    ).replace("\n[groups.databases.settings]\n", "\n")
    (path / CONFIG_FILE).write_text(wrong)
    with Server.open(path) as server:
        assert server.database(MAILBOX_STORE).limits.limit_bytes == 18 * GB
        assert reported(server, EventId.SETTING_NOT_USED) == 1


def test_a_database_above_its_limit_is_dismounted_by_the_second_check_after_its_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "physical_size_bytes", lambda _: 19 * GB)
    monkeypatch.setattr(sizes, "logical_size_bytes", lambda _: 19 * GB)
    clock = VirtualClock()
    with Server.create(tmp_path / "server", clock=clock, zone=UTC) as server:
        assert reported(server, EventId.SIZE_ABOVE_LIMIT) == 2  # both databases, mounted still
        assert len(server._mounted()) == 2
        wakes_ms = server.check_sizes()
        assert clock.now_ms() < wakes_ms <= clock.now_ms() + DAY_MS
        clock.set_ms(wakes_ms)
        server.check_sizes()
        assert reported(server, EventId.SIZE_ABOVE_LIMIT_DISMOUNTED) == 2
        assert not server._mounted()
        server.mount(MAILBOX_STORE)
        assert server.database(MAILBOX_STORE).state is MountState.MOUNTED


def test_maintenance_by_hand_ends_when_its_step_raises_and_runs_once_at_a_time(path: Path) -> None:
    with Server.open(path) as server:
        actor = Actor.administrator("operator")
        with pytest.raises(WriterBusy):
            server.maintain_now(MAILBOX_STORE, actor, step=lambda: stop(server))
        assert server.maintain_now(MAILBOX_STORE, actor).purged_mailboxes == 0, "the run before has ended"


def stop(server: Server) -> None:
    """Raises WriterBusy: a run goes on."""
    server.maintain_now(MAILBOX_STORE, Actor.task("test"))


def test_maintenance_runs_once_a_day_and_tells_when_to_come_again(path: Path) -> None:
    clock = VirtualClock()
    with Server.open(path, clock=clock, zone=UTC) as server:
        for runs in (1, 2):
            wakes_ms = server.maintain()
            assert clock.now_ms() < wakes_ms <= clock.now_ms() + DAY_MS
            assert server.maintain() == wakes_ms
            assert reported(server, EventId.FREE_SPACE_AFTER_MAINTENANCE) == 2 * runs
            clock.set_ms(wakes_ms)


def test_below_the_floor_of_free_disk_delivery_is_refused_and_reading_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server.open(path, clock=VirtualClock()) as server:
        database, box = server.mailboxes.create(ADMIN, "anna")
        item = deliver(database, ADMIN, [box.guid], b"Subject: kept\r\n\r\n")[0]
        monkeypatch.setattr(disk_floor, "free_disk_bytes", lambda _: 1)
        server._clock.sleep_ms(2000)
        with pytest.raises(DiskFull, match="floor"):
            deliver(database, ADMIN, [box.guid], b"Subject: refused\r\n\r\n")
        with database.read(ADMIN) as read:
            assert [each.message_id for each in folders.messages(read, box.roles[mailboxes.INBOX])] == [
                item.message_id
            ]


def test_diagnostic_levels_are_kept(path: Path) -> None:
    with Server.open(path) as server:
        server.set_diagnostics(Category.PUBLIC_FOLDER_GENERAL, "medium")
        with pytest.raises(InvalidSetting):
            server.set_diagnostics(Category.PUBLIC_FOLDER_GENERAL, "loud")
    with Server.open(path) as server:
        assert server.diagnostics().level(Category.PUBLIC_FOLDER_GENERAL) is Level.MEDIUM


def test_a_public_folder_store_has_its_tree_from_the_start(path: Path) -> None:
    with Server.open(path) as server, server.database("Public Folder Store").read(ADMIN) as read:
        assert public_folders.root_id(read) != public_folders.root_id(read, public_folders.NON_IPM_SUBTREE)


def test_a_server_is_used_from_many_threads(big: Server) -> None:
    def work(number: int) -> None:
        big.mailboxes.create(ADMIN, f"user {number}")
        big.create_database(FIRST_GROUP, f"Store {number}", DatabaseKind.PUBLIC_FOLDER_STORE)
        big.mailboxes.find(f"user {number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(big.group(FIRST_GROUP).databases) == 5
    assert {big.mailboxes.find(f"user {number}")[1].name for number in range(3)} == {
        f"user {number}" for number in range(3)
    }


def test_a_server_that_could_not_be_made_leaves_its_directory_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def full(new: Path, target: Path) -> Path:
        if target.name == CONFIG_FILE:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(new, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(DiskFull):
            Server.create(tmp_path / "server")
    assert list((tmp_path / "server").iterdir()) == []
    Server.create(tmp_path / "server").close()
