"""The public folder recovery group is protected as the recovery storage group is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from random import Random

import pytest

from pillarbox.backup.recovery_config import RECOVERY_FILE, HeldAs
from pillarbox.backup.recovery_group import (
    RecoveryGroup,
    goes_to_recovery_group,
    has_recovery_group,
    recovery_groups,
)
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.snapshot import GroupSnapshot, SnapshotSource
from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database_limits import Edition
from pillarbox.store.errors import AccessDenied, Conflict, InvalidSetting, NotFound, ReadOnly, Refused
from pillarbox.store.mail import folders, messages, public_folders
from pillarbox.store.server import FIRST_GROUP, Server
from pillarbox.store.server_config import PUBLIC_FOLDER_RECOVERY
from pillarbox.store.upkeep.time_of_day import DAY_MS

ADMIN = Actor.administrator("root")
PUBLIC = DatabaseKind.PUBLIC_FOLDER_STORE
STORE = "Public Folder Store"
HERE = "/backup/mail"


class Site:
    """A server with a post in Forum, and a repository with a snapshot of its storage group."""

    def __init__(self, world, path: Path) -> None:
        self.clock = world.clock
        self.clock.advance_ms(DAY_MS)
        self.path = path
        self.server = Server.create(path, Edition.ENTERPRISE, clock=self.clock, rng=Random(1), zone=UTC)
        database = self.server.database(STORE)
        prepared = messages.prepare(database.files, b"Subject: post\n\ntext\n")
        with database.transaction(ADMIN) as txn:
            messages.append(txn, public_folders.create(txn, "Forum").folder_id, prepared)
        self.repository = world.create(MemoryBackend())
        databases = list(self.server.group(FIRST_GROUP).databases.values())
        source = SnapshotSource("server", FIRST_GROUP, databases)
        self.snapshot = GroupSnapshot(source, self.repository, clock=self.clock).run()

    def group(self, server: Server | None = None) -> RecoveryGroup:
        return RecoveryGroup.open_or_begin(server or self.server, clock=self.clock, kind=PUBLIC)

    def mount(self, *names: str) -> list[str]:
        with self.group() as group:
            return [
                each.name for each in group.mount_snapshot(self.repository, HERE, self.snapshot, names=names)
            ]


@pytest.fixture
def site(world, tmp_path) -> Iterator[Site]:
    site = Site(world, tmp_path / "server")
    yield site
    site.server.close()


def test_it_takes_public_folder_stores_and_no_other(site):
    assert site.mount() == [STORE]
    assert [group.kind for group in recovery_groups(site.server, clock=site.clock)] == [PUBLIC]
    with pytest.raises(Refused, match="no public folder store; the public folder recovery group"):
        site.mount("Mailbox Store")
    with site.group() as group:
        assert [(each.name, each.held_as, each.is_mounted) for each in group.entries()] == [
            (STORE, HeldAs.REPOSITORY, True)
        ]


def test_what_lies_in_it_is_read_by_administrators_only(site):
    site.mount()
    with site.group() as group:
        database = group.database(STORE, site.repository)
        with database.read(ADMIN) as read:
            forum = public_folders.find(read, "Forum")
            (item,) = folders.messages(read, forum.folder_id)
            assert messages.content(read, item) == b"Subject: post\n\ntext\n"
        with pytest.raises(AccessDenied, match="public folder recovery group, which no client reaches"):
            database.read(Actor.user("anna"))
        assert not hasattr(database, "transaction")


def test_the_server_serves_checks_and_backs_up_nothing_of_it(site, world):
    site.mount()
    labels = [database.label for database in site.server.databases()]
    assert labels.count(STORE) == 1 and len(labels) == 2
    assert list(site.server.groups) == [FIRST_GROUP]
    site.server.close()
    site.server = Server.open(site.path, clock=site.clock, zone=UTC)
    assert not site.server.not_mounted
    assert {database.label for database in site.server.databases()} == set(labels)
    before = files_of(site)
    site.clock.advance_ms(DAY_MS)
    site.server.check_sizes()
    site.server.maintain()
    assert files_of(site) == before


def files_of(site: Site) -> dict[str, bytes]:
    place = site.server.recovery_paths[PUBLIC]
    return {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_restores_go_where_they_went_without_it(site):
    site.mount()
    assert not has_recovery_group(site.server) and not goes_to_recovery_group(site.server)


def test_it_leaves_with_its_last_database(site):
    site.mount()
    with site.group() as group:
        group.dismount(STORE, remove_empty=True)
    assert not site.server.recovery_paths[PUBLIC].exists()
    assert recovery_groups(site.server, clock=site.clock) == []
    with pytest.raises(NotFound, match="no public folder recovery group"):
        RecoveryGroup.open(site.server, clock=site.clock, kind=PUBLIC)


def test_it_and_the_recovery_storage_group_stand_beside_each_other(site):
    mail = RecoveryGroup.create(site.server, clock=site.clock)
    mail.mount_snapshot(site.repository, HERE, site.snapshot)
    site.mount()
    assert [group.kind for group in recovery_groups(site.server, clock=site.clock)] == list(DatabaseKind)
    mail.remove()
    assert [group.kind for group in recovery_groups(site.server, clock=site.clock)] == [PUBLIC]
    with site.group() as group:
        group.remove()


def test_who_opened_the_server_for_reading_changes_nothing_in_it(site):
    site.mount()
    site.server.close()
    site.server = Server.open(site.path, read_only=True, clock=site.clock, zone=UTC)
    with site.group() as group, pytest.raises(ReadOnly):
        group.dismount(STORE)


def test_a_list_of_mailbox_stores_is_none_of_its_own(site):
    site.mount()
    path = site.server.recovery_paths[PUBLIC] / RECOVERY_FILE
    path.write_text(path.read_text().replace("public folder store", "mailbox store"))
    with pytest.raises(InvalidSetting, match="always a public folder store"):
        site.group()


def test_a_storage_group_that_an_older_program_put_there_is_never_cleared(site, world, tmp_path):
    """What the group does not list it removes: in the directory of a storage group that would be all."""
    group = site.server.create_group("Older")
    site.server.create_database("Older", "Sales", DatabaseKind.MAILBOX_STORE)
    site.server.close()
    config = site.path / "server.toml"
    config.write_text(
        config.read_text().replace('directory = "Older"', f'directory = "{PUBLIC_FOLDER_RECOVERY}"')
    )
    group.path.rename(site.path / PUBLIC_FOLDER_RECOVERY)
    site.server = Server.open(site.path, clock=site.clock, zone=UTC)
    assert not site.server.not_mounted
    with pytest.raises(Conflict, match="storage group Older lies in"):
        site.mount()
    assert not site.server.not_mounted and (site.path / PUBLIC_FOLDER_RECOVERY / "Sales").is_dir()
