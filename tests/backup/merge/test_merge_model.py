"""Whatever became of a mailbox since a snapshot: a merge brings back what is missing, once."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pillarbox.backup.merge import match as merge_match
from pillarbox.backup.merge import run as merge_run
from pillarbox.backup.merge.merge_mailbox import merge_mailbox
from pillarbox.backup.merge.report import MailboxMerge, MergeMode, MergeOptions, MergeProgress
from pillarbox.backup.merge.target import MailboxTarget
from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind, ItemRecord
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import AlreadyExists, Refused
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.upkeep.check import check_database

ACTOR = Actor.task("test")
NAMES = ("Lists", "Post", "Old", "zope")
BODIES = [b"Subject: %d\n\n" % n + b"line %d of the text\n" % n * (n * n * 10) for n in range(8)]
FLAGS = ("\\Seen", "\\Flagged", "work")


class Stopped(Exception):
    """The merge ends here."""


def open_store(path: Path, number: int, *, read_only: bool = False) -> Database:
    kind, guid = DatabaseKind.MAILBOX_STORE, bytes([number]) * 16
    database = Database(path, guid, "DB", kind, clock=VirtualClock(), rng=Random(number))
    if not path.exists():
        database.create()
        database.mount()
        with database.transaction(ACTOR) as txn:
            mailboxes.create(txn, "anna")
    database.mount(read_only=read_only)
    return database


class History:
    """Random changes of anna's mailbox."""

    def __init__(self, database: Database, rng: Random) -> None:
        self.database = database
        self.rng = rng

    def run(self, kinds: tuple[str, ...], count: int) -> None:
        for _ in range(count):
            with self.database.transaction(ACTOR) as txn:
                getattr(self, self.rng.choice(kinds))(txn)

    def _folder(self, txn: WriteTransaction) -> int:
        root_id = mailboxes.find(txn, "anna").root_id
        found = [record.folder_id for _, record in folders.walk(txn, root_id)]
        # Few of the standard folders, so that the others hold something.
        return self.rng.choice(found[:3] + [each for each in found if each > root_id + 11] * 3)

    def _message(self, txn: WriteTransaction) -> int:
        root_id = mailboxes.find(txn, "anna").root_id
        found = [
            item.message_id
            for _, record in folders.walk(txn, root_id)
            for item in folders.messages(txn, record.folder_id)
        ]
        return self.rng.choice(found) if found else 0

    def append(self, txn: WriteTransaction) -> None:
        raw = self.rng.choice(BODIES) + b"%d" % self.rng.randrange(4)
        prepared = messages.prepare(txn.files, raw)
        flags = self.rng.sample(FLAGS, self.rng.randrange(3))
        messages.append(
            txn, self._folder(txn), prepared, flags=flags, received_ms=self.rng.randrange(1, 10**12)
        )

    def copy(self, txn: WriteTransaction) -> None:
        if found := self._message(txn):
            messages.copy(txn, found, self._folder(txn))

    def delete(self, txn: WriteTransaction) -> None:
        if found := self._message(txn):
            messages.delete(txn, found)

    def move(self, txn: WriteTransaction) -> None:
        if found := self._message(txn):
            messages.move(txn, found, self._folder(txn))

    def flag(self, txn: WriteTransaction) -> None:
        if found := self._message(txn):
            added, removed = self.rng.sample(FLAGS, 2)
            messages.set_flags(txn, found, add=[added], remove=[removed])

    def edit(self, txn: WriteTransaction) -> None:
        if found := self._message(txn):
            messages.set_categories(txn, found, self.rng.sample(NAMES, 2))
            messages.set_property(txn, found, "note", self.rng.randrange(100))

    def make_folder(self, txn: WriteTransaction) -> None:
        with_parent = self._folder(txn) if self.rng.random() < 0.5 else mailboxes.find(txn, "anna").root_id
        self._try(folders.create, txn, with_parent, self.rng.choice(NAMES))

    def rename_folder(self, txn: WriteTransaction) -> None:
        self._try(folders.rename, txn, self._folder(txn), self.rng.choice(NAMES))

    def move_folder(self, txn: WriteTransaction) -> None:
        self._try(folders.move, txn, self._folder(txn), self._folder(txn))

    def delete_folder(self, txn: WriteTransaction) -> None:
        found = self._folder(txn)
        if not folders.get(txn, found).parent_id or self.rng.random() < 0.5:
            self._try(folders.delete, txn, found, with_contents=True)

    @staticmethod
    def _try(change: Callable[..., Any], *args: Any, **named: Any) -> None:
        try:
            change(*args, **named)
        except (AlreadyExists, Refused):
            return


GROWING = ("append", "append", "append", "copy", "move", "flag", "edit", "make_folder", "delete")
CHANGING = (
    *("delete", "delete", "delete", "move", "move", "flag", "edit", "append", "copy"),
    *("rename_folder", "move_folder", "delete_folder", "delete_folder", "make_folder"),
)
TIDYING = ("move", "flag", "edit", "rename_folder", "move_folder", "copy")


def items_of(database: Database) -> dict[int, tuple[tuple[str, ...], int, ItemRecord, bytes]]:
    """Path, folder, record and bytes of every message of anna's, by id."""
    found = {}
    with database.read(ACTOR) as read:
        for path, record in folders.walk(read, mailboxes.find(read, "anna").root_id):
            for item in folders.messages(read, record.folder_id):
                raw = messages.content(read, item)
                found[item.message_id] = (path, record.folder_id, item, raw)
    return found


def picture(database: Database) -> dict[tuple[str, ...], list[tuple[Any, ...]]]:
    """All that a user sees of anna's mailbox, and what is noted with it."""
    with database.read(ACTOR) as read:
        return {
            path: [
                (
                    *(item.uid, messages.content(read, item), messages.flag_names(item), item.categories),
                    *(item.received_ms, item.properties),
                )
                for item in folders.messages(read, record.folder_id)
            ]
            for path, record in folders.walk(read, mailboxes.find(read, "anna").root_id)
        }


def state(database: Database) -> int:
    with database.read(ACTOR) as read:
        return read.state().counter


class World:
    """A store, a snapshot of it, and what became of the store since; another store with some of its mail."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place = place
        self.rng = Random(seed)
        live = open_store(place / "live", 1)
        History(live, self.rng).run(GROWING, 40)
        live.dismount()
        shutil.copytree(place / "live", place / "snapshot")
        live.mount()
        History(live, self.rng).run(CHANGING, 30)
        live.dismount()
        other = open_store(place / "other", 2)
        History(other, Random(seed)).run(GROWING, 15)
        other.dismount()
        self.source = open_store(place / "snapshot", 1, read_only=True)
        self._copies = 0

    @contextmanager
    def target(self, name: str) -> Iterator[Database]:
        """A copy of a store's files as they were before any merge."""
        self._copies += 1
        shutil.copytree(self.place / name, self.place / f"{name} {self._copies}")
        database = open_store(self.place / f"{name} {self._copies}", 1 if name == "live" else 2)
        try:
            yield database
        finally:
            database.dismount()

    def merge(self, database: Database, options: MergeOptions | None = None, **named: Any) -> MailboxMerge:
        with self.source.read(ACTOR) as read:
            source_guid = mailboxes.find(read, "anna").guid
        with database.read(ACTOR) as read:
            target = MailboxTarget(database, mailboxes.find(read, "anna").guid)
        return merge_mailbox(self.source, source_guid, target, ACTOR, options, **named)


SEEDS = [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 60))]


@pytest.mark.parametrize("name", ["live", "other"])
@pytest.mark.parametrize("seed", SEEDS)
def test_everything_is_there_once_and_what_was_there_is_untouched(
    tmp_path: Path, seed: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_run, "BATCH_MESSAGES", 5)
    monkeypatch.setattr(merge_match, "PART_MESSAGES", 10)
    world = World(tmp_path, seed)
    with world.target(name) as database:
        was, source = items_of(database), items_of(world.source)
        dry = world.merge(database, MergeOptions(dry_run=True))
        report = world.merge(database)
        now = items_of(database)
        assert dry == report
        assert {each: now[each] for each in was} == was
        wanted = Counter(raw for *_, raw in was.values()) | Counter(raw for *_, raw in source.values())
        assert Counter(raw for *_, raw in now.values()) == wanted
        for each in now.keys() - was.keys():
            assert_recovered(now[each], source, database)
        assert report.merged_count == len(now) - len(was)
        assert report.merged_count + report.duplicates_count == len(source)
        assert check_database(database, ACTOR).clean
        assert_nothing_more_comes(world, database)
    world.source.dismount()


def assert_recovered(
    found: tuple[tuple[str, ...], int, ItemRecord, bytes],
    source: dict[int, tuple[tuple[str, ...], int, ItemRecord, bytes]],
    database: Database,
) -> None:
    path, folder_id, item, raw = found
    mark = item.properties["recovered_from"]
    source_path, source_folder, source_item, source_raw = source[mark[1]]
    assert raw == source_raw
    assert (item.flags, item.keywords, item.categories) == (
        source_item.flags,
        source_item.keywords,
        source_item.categories,
    )
    assert (item.received_ms, item.subject) == (source_item.received_ms, source_item.subject)
    assert item.properties.get("note") == source_item.properties.get("note")
    with database.read(ACTOR) as read:
        if database.guid == b"\1" * 16 and folders.is_there(read, source_folder):
            assert folder_id == source_folder
        elif database.guid != b"\1" * 16:
            assert path == source_path
        else:
            assert path[-1].casefold() == source_path[-1].casefold()


def assert_nothing_more_comes(world: World, database: Database) -> None:
    before = state(database)
    assert world.merge(database).merged_count == 0
    assert state(database) == before
    History(database, world.rng).run(TIDYING, 30)
    before = state(database)
    assert world.merge(database).merged_count == 0
    assert state(database) == before


@pytest.mark.parametrize("name", ["live", "other"])
@pytest.mark.parametrize("mode", MergeMode)
@pytest.mark.parametrize("seed", SEEDS[:1] + SEEDS[2:22])
def test_a_merge_that_stops_anywhere_and_goes_on_ends_as_one_that_did_not(
    tmp_path: Path, seed: int, mode: MergeMode, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, seed)
    options = MergeOptions(mode)
    batches: list[MergeProgress] = []
    with world.target(name) as database:
        count = world.merge(database, options._replace(dry_run=True)).merged_count
        monkeypatch.setattr(merge_run, "BATCH_MESSAGES", max(1, count // 3))
        world.merge(database, options, progress=batches.append)
        whole = picture(database)
    assert len(batches) > min(2, count)
    for stop in range(1, len(batches) + 1):
        for stopped_by in (stop_after_commit, stop_before_commit):
            with world.target(name) as database:
                stopped_by(world, database, options, stop)
                world.merge(database, options)
                assert picture(database) == whole
    world.source.dismount()


def stop_after_commit(world: World, database: Database, options: MergeOptions, number: int) -> None:
    left = number

    def stop(progress: MergeProgress) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Stopped

    with pytest.raises(Stopped):
        world.merge(database, options, progress=stop)


def stop_before_commit(world: World, database: Database, options: MergeOptions, number: int) -> None:
    transaction, left = database.transaction, number

    @contextmanager
    def stopping(actor: Actor) -> Iterator[WriteTransaction]:
        nonlocal left
        left -= 1
        with transaction(actor) as txn:
            yield txn
            if not left:
                raise Stopped

    database.transaction = stopping  # type: ignore[method-assign,assignment]
    with pytest.raises(Stopped):
        world.merge(database, options)
    database.transaction = transaction  # type: ignore[method-assign]
