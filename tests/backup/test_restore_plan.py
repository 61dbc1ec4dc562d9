"""Which databases a restore over a server goes to, what of them would go, and what is kept of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from random import Random

import pytest

from pillarbox.backup import restore_plan
from pillarbox.backup.find_snapshot import FoundDatabases, find_for_server
from pillarbox.backup.recovery_group import restore_to_server
from pillarbox.backup.replaced import discard_replaced, replaced_databases, replaced_of
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.repository import Repository
from pillarbox.backup.restore import restorable_databases
from pillarbox.backup.restore_plan import Newer, plan_restore
from pillarbox.backup.snapshot import GroupSnapshot, source_of
from pillarbox.backup.snapshot_owner import mark_of
from pillarbox.store.access import Actor
from pillarbox.store.engine import numbering
from pillarbox.store.errors import Conflict, Refused
from pillarbox.store.mail import mailboxes, messages, public_folders
from pillarbox.store.server import FIRST_GROUP, Server
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.joining import join
from pillarbox.store.upkeep.last_check import keep_last_check, last_check
from pillarbox.store.upkeep.repair import repair_database

ADMIN = Actor.administrator("root")
STORE, PUBLIC = "Mailbox Store", "Public Folder Store"


class Site:
    """A server with mailbox anna, and a repository with one snapshot of it."""

    def __init__(self, world, path: Path, corpus: list[bytes]) -> None:
        self.clock = world.clock
        self.corpus = corpus
        self.server = Server.create(path, clock=self.clock, rng=Random(1), zone=UTC)
        self.server.mailboxes.create(ADMIN, "anna", STORE)
        self.deliver("anna", corpus[:3])
        self.repository: Repository = world.create(MemoryBackend())
        source = source_of(self.server, self.server.group(FIRST_GROUP))
        self.snapshot = GroupSnapshot(source, self.repository, clock=self.clock).run()

    def deliver(self, name: str, raws: list[bytes]) -> None:
        database, box = self.server.mailboxes.find(name)
        for raw in raws:
            prepared = messages.prepare(database.files, raw)
            with database.transaction(ADMIN) as txn:
                messages.append(txn, box.roles["inbox"], prepared)

    def found(self, *names: str) -> list[FoundDatabases]:
        return find_for_server(self.repository, "latest", mark_of(self.server), names=names)

    def damage(self) -> None:
        path = self.server.database(STORE).stream.path(1)
        data = bytearray(path.read_bytes())
        data[2000] ^= 1
        path.write_bytes(data)

    def restore(self, *names: str) -> None:
        restore_to_server(self.repository, "here", self.snapshot, self.server, names=names, clock=self.clock)


@pytest.fixture
def site(world, tmp_path, mail_corpus) -> Iterator[Site]:
    made = Site(world, tmp_path / "server", mail_corpus)
    yield made
    made.server.close()


def test_messages_of_other_stores_are_newer_by_when_they_came_and_not_by_their_ids(site: Site) -> None:
    """Ids of another numbering are above all of the first one, whenever they came."""
    public = site.server.database(PUBLIC)
    with public.transaction(ADMIN) as txn:
        folder = public_folders.create(txn, "Posts")
    join(public, ADMIN, b"t" * 16)
    with public.transaction(ADMIN) as txn:
        numbering.begin_numbering(txn, b"o" * 16)
        prepared = messages.prepare(public.files, site.corpus[0])
        items = [messages.append(txn, folder.folder_id, prepared) for _ in range(3)]
    assert all(item.message_id > items[2].arrived_cn for item in items)
    assert restore_plan._count_above(public, items[0].arrived_cn).messages_count == 2
    assert restore_plan._count_above(public, items[2].arrived_cn).messages_count == 0


def test_with_nothing_damaged_and_nothing_named_it_says_what_could_be(site):
    with pytest.raises(Refused, match="no database is damaged") as refused:
        plan_restore(site.server, site.found(), named=False)
    assert STORE in refused.value.hint and PUBLIC in refused.value.hint


def test_what_the_last_check_found_damaged_is_meant(site):
    site.damage()
    database = site.server.database(STORE)
    keep_last_check(database, len(check_database(database, ADMIN).findings))
    (planned,) = plan_restore(site.server, site.found(), named=False)
    assert planned.target is database and "its last check found 2 damaged" in planned.reason
    site.restore(STORE)
    assert check_database(database, ADMIN).clean
    with pytest.raises(Refused):
        plan_restore(site.server, site.found(), named=False)


def test_what_was_repaired_is_not_meant_any_more(site):
    site.damage()
    database = site.server.database(STORE)
    keep_last_check(database, 2)
    database.dismount()
    repair_database(database)
    assert last_check(database).damaged_count == 0
    site.server.mount(STORE)
    with pytest.raises(Refused):
        plan_restore(site.server, site.found(), named=False)


def test_what_cannot_be_mounted_is_meant_and_what_is_in_use_is_not(site):
    site.server.dismount(STORE)
    path = site.server.database(STORE).path
    (path / "properties").rename(path / "elsewhere")
    with pytest.raises(Exception, match="properties is missing"):
        site.server.mount(STORE)
    (planned,) = plan_restore(site.server, site.found(), named=False)
    assert planned.newer is None and "cannot be mounted" in planned.reason
    (path / "elsewhere").rename(path / "properties")
    with Server.open(site.server.path, clock=site.clock) as other:
        assert PUBLIC in other.not_mounted, "this process has it"
        with pytest.raises(Refused):
            plan_restore(other, site.found(), named=False)


def test_it_counts_what_is_newer_than_the_snapshot(site):
    site.deliver("anna", site.corpus[3:7])
    site.server.mailboxes.create(ADMIN, "bert", STORE)
    site.deliver("bert", site.corpus[:1])
    planned = {
        each.target.name: each for each in plan_restore(site.server, site.found(), named=False, all_=True)
    }
    assert planned[STORE].newer == Newer(5, 1)
    assert planned[PUBLIC].newer == Newer(0, 0)
    site.server.dismount(STORE)
    (named,) = plan_restore(site.server, site.found("mailbox store"), named=True)
    assert named.newer == Newer(5, 1) and named.reason == "it was named"


def test_a_database_that_has_another_name_now_is_named_by_that(site):
    site.server.rename_database(STORE, "Post")
    (planned,) = plan_restore(site.server, site.found("post"), named=True)
    assert planned.target.name == "Post"


def test_a_database_that_the_server_has_not_is_refused_when_it_is_named(site):
    site.server.dismount(STORE)
    site.server.delete_database(STORE)
    found = [FoundDatabases(site.snapshot, tuple(restorable_databases(site.snapshot)))]
    with pytest.raises(Conflict):
        plan_restore(site.server, found, named=True)
    assert [each.target.name for each in plan_restore(site.server, found, named=False, all_=True)] == [PUBLIC]


def test_what_was_replaced_is_counted_and_kept_until_it_is_discarded(site):
    site.deliver("anna", site.corpus[3:5])
    for _ in range(2):
        site.restore(STORE)
    store, public = site.server.database(STORE), site.server.database(PUBLIC)
    assert len(replaced_databases(site.server)) == len(replaced_of(site.server, store)) == 2
    assert replaced_of(site.server, public) == []
    assert all(each.size_bytes > 0 for each in replaced_databases(site.server))
    gone = discard_replaced(site.server)
    assert len(gone) == 2 and replaced_databases(site.server) == []
    assert not (site.server.path / "replaced").exists()
    with store.read(ADMIN) as read:
        assert mailboxes.find(read, "anna").messages_count == 3
    assert discard_replaced(site.server) == []


def test_discarding_that_was_killed_is_ended_by_the_next(site, monkeypatch):
    site.restore(STORE)

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("shutil.rmtree", die)
    with pytest.raises(Killed):
        discard_replaced(site.server)
    monkeypatch.undo()
    (left,) = replaced_databases(site.server)
    assert left.path.parents[1].name.endswith(".removing"), "half removed, and its name says so"
    discard_replaced(site.server)
    assert replaced_databases(site.server) == []


def test_what_an_interrupted_restore_left_beside_a_database_is_counted_and_put_away_by_the_next(site):
    site.restore(STORE)
    (kept,) = replaced_databases(site.server)
    store = site.server.database(STORE)
    beside = store.path.with_name(store.path.name + ".replaced")
    kept.path.rename(beside)  # as if it was killed before the last step
    assert [each.path for each in replaced_of(site.server, store)] == [beside]
    site.restore(STORE)
    assert not beside.exists() and len(replaced_of(site.server, store)) == 2


def test_files_that_are_a_databases_only_copy_are_not_discarded(site):
    store = site.server.database(STORE)
    site.server.dismount(STORE)
    beside = store.path.with_name(store.path.name + ".replaced")
    store.path.rename(beside)  # between the two renames of an exchange
    assert replaced_databases(site.server) == [] == discard_replaced(site.server)
    assert beside.is_dir()


def test_a_group_that_is_called_so_is_no_replaced_database(tmp_path, world):
    with Server.create(tmp_path / "server", clock=world.clock, rng=Random(1)) as server:
        (entry,) = server._config.groups
        assert entry.directory != "replaced"
    path = tmp_path / "server" / "replaced" / "mine"
    path.mkdir(parents=True)
    with Server.open(tmp_path / "server", clock=world.clock) as server:
        assert replaced_databases(server) == [] == discard_replaced(server)
    assert path.is_dir()
