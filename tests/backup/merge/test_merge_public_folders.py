"""Recovered public folders come back with all that they had, once, and marked with what they were."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from pillarbox.backup.merge.filter import MergeFilter
from pillarbox.backup.merge.merge_mailbox import match_public_folders, merge_mailbox
from pillarbox.backup.merge.report import MailboxMerge, MergeMode, MergeOptions
from pillarbox.backup.merge.target import MailboxTarget
from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind, FolderRecord, ItemRecord, Table, id_key
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import AlreadyExists, Refused
from pillarbox.store.events import Event, EventId
from pillarbox.store.mail import folders, mailboxes, messages, public_folders
from pillarbox.store.upkeep.check import check_database

TASK = Actor.task("test")
ANNA, BERT = Actor.user("anna"), Actor.user("bert")
FORUM = MergeOptions(filter=MergeFilter(folders=(("Forum",),)))


class Read(NamedTuple):
    """What a folder holds: each message's subject, and who has read it."""

    subjects: list[str]
    anna: list[str]
    bert: list[str]


class Store:
    """A public folder store, and what tests do with it."""

    def __init__(self, path: Path, number: int = 1) -> None:
        self.path = path
        self.number = number
        self.clock = VirtualClock()
        self.events: list[Event] = []
        self.database = self.open(path)
        self.database.create()
        self.database.mount()
        with self.database.transaction(TASK) as txn:
            public_folders.create_tree(txn)

    def open(self, path: Path) -> Database:
        guid, kind = bytes([self.number]) * 16, DatabaseKind.PUBLIC_FOLDER_STORE
        return Database(path, guid, "Public", kind, clock=self.clock, rng=Random(self.number), reporter=self)

    def report(self, event: Event) -> None:
        self.events.append(event)

    def copy(self, place: Path) -> Path:
        """All its files as they are now."""
        self.database.dismount()
        shutil.copytree(self.path, place)
        self.database.mount()
        return place

    def snapshot(self, place: Path) -> Database:
        """Its state now, mounted for reading only."""
        copied = self.open(self.copy(place))
        copied.mount(read_only=True)
        return copied

    def make(self, path: str) -> int:
        with self.database.transaction(TASK) as txn:
            return public_folders.create(txn, path).folder_id

    def post(self, path: str, *subjects: str, flags: tuple[str, ...] = ()) -> list[int]:
        prepared = [
            messages.prepare(self.database.files, b"Subject: %s\n\ntext\n" % subject.encode())
            for subject in subjects
        ]
        self.clock.advance_ms(1000)
        with self.database.transaction(TASK) as txn:
            found = public_folders.find(txn, path).folder_id
            return [messages.append(txn, found, each, flags=flags).message_id for each in prepared]

    def delete(self, path: str) -> None:
        with self.database.transaction(TASK) as txn:
            folders.delete(txn, public_folders.find(txn, path).folder_id, with_contents=True)
        self.database.finish_removals()
        self.clock.advance_ms(1000)

    def read(self, actor: Actor, path: str, *subjects: str) -> None:
        """Let somebody read messages."""
        with self.database.transaction(actor) as txn:
            for item in folders.messages(txn, public_folders.find(txn, path).folder_id):
                if item.subject in subjects:
                    public_folders.mark_read(txn, item.folder_id, item.uid, item.uid)

    def merge(self, source: Database, options: MergeOptions | None = None) -> MailboxMerge:
        return merge_mailbox(source, b"", MailboxTarget(self.database, b""), TASK, options)

    def folder(self, path: str) -> FolderRecord:
        with self.database.read(TASK) as read:
            return public_folders.find(read, path)

    def items(self, path: str) -> list[ItemRecord]:
        with self.database.read(TASK) as read:
            return list(folders.messages(read, public_folders.find(read, path).folder_id))

    def held(self) -> dict[str, Read]:
        """What each folder holds, by path."""
        with self.database.read(TASK) as read:
            found = {"/".join(path): record.folder_id for path, record in public_folders.walk(read)}
        return {path: self._held(folder_id) for path, folder_id in found.items()}

    def _held(self, folder_id: int) -> Read:
        by = []
        for actor in (ANNA, BERT):
            with self.database.read(actor) as read:
                items = list(folders.messages(read, folder_id))
                by.append([item.subject for item in items if public_folders.is_read(read, item)])
        return Read([item.subject for item in items], *by)

    def counter(self) -> int:
        """The number of the last change."""
        with self.database.read(TASK) as read:
            return read.state().counter

    def is_sound(self) -> bool:
        return check_database(self.database, TASK).clean


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Forum/zope with messages that anna and bert have read in part, and a folder beside it."""
    made = Store(tmp_path / "live")
    for path in ("Forum", "Forum/zope", "Other"):
        made.make(path)
    made.post("Forum/zope", "one", "two", "three")
    made.post("Other", "elsewhere")
    made.read(ANNA, "Forum/zope", "one", "three")
    made.read(BERT, "Forum/zope", "two")
    yield made
    made.database.dismount()


def ids(reader: Reader) -> set[int]:
    """Of all folders and messages that are there."""
    found = set()
    for record in folders.all_of(reader):
        found.add(record.folder_id)
        found |= {item.message_id for item in folders.messages(reader, record.folder_id)}
    return found


# -- what comes back


def test_a_folder_comes_back_with_those_below_it_and_with_what_each_user_had_read(
    store: Store, tmp_path: Path
) -> None:
    before = store.held()
    source = store.snapshot(tmp_path / "snapshot")
    store.delete("Forum")
    report = store.merge(source, FORUM)
    assert (report.mailbox, report.merged_count) == ("/", 3)
    assert report.folders_made == (("Forum",), ("Forum", "zope"))
    assert store.held() == before
    assert store.is_sound()


def test_flags_properties_and_dates_of_messages_and_folders_come_back(store: Store, tmp_path: Path) -> None:
    (lost,) = store.post("Forum", "flagged", flags=("\\Flagged", "work"))
    with store.database.transaction(TASK) as txn:
        messages.set_categories(txn, lost, ["red", "blue"])
        was = messages.set_property(txn, lost, "scl", 3)
        folders.set_property(txn, was.folder_id, "permissions", {"anna": ["ReadItems"], "bert": []})
    folder_was = store.folder("Forum")
    source = store.snapshot(tmp_path / "snapshot")
    store.delete("Forum")
    store.merge(source)
    folder_now, (now,) = store.folder("Forum"), store.items("Forum")
    for properties in (folder_now.properties, now.properties):
        del properties["recovered_from"]
    new = {"folder_id", "uid", "message_id", "arrived_cn", "change_cn", "read_cn"}
    assert {field for field in was._fields if getattr(was, field) != getattr(now, field)} == new - {"uid"}
    assert (folder_now.properties, folder_now.created_ms) == (folder_was.properties, folder_was.created_ms)


def test_a_folder_that_is_there_keeps_its_own_properties_and_read_state(store: Store, tmp_path: Path) -> None:
    lost, _, _ = (item.message_id for item in store.items("Forum/zope"))
    source = store.snapshot(tmp_path / "snapshot")
    with store.database.transaction(TASK) as txn:
        messages.delete(txn, lost)
        folders.set_property(txn, store.folder("Forum/zope").folder_id, "permissions", "newer")
    with store.database.transaction(ANNA) as txn:
        public_folders.mark_unread(txn, store.folder("Forum/zope").folder_id, 1, 3)
    store.post("Forum/zope", "four")
    store.read(BERT, "Forum/zope", "four")
    store.merge(source)
    assert store.folder("Forum/zope").properties["permissions"] == "newer"
    assert store.held()["Forum/zope"] == Read(["two", "three", "four", "one"], ["one"], ["two", "four"])
    assert store.is_sound()


def test_a_second_run_changes_nothing_whatever_was_done_to_what_came_back(
    store: Store, tmp_path: Path
) -> None:
    source = store.snapshot(tmp_path / "snapshot")
    store.delete("Forum")
    store.merge(source)
    moved, flagged, _ = store.items("Forum/zope")
    with store.database.transaction(TASK) as txn:
        messages.move(txn, moved.message_id, store.folder("Other").folder_id)
        messages.set_flags(txn, flagged.message_id, add=["work"])
        folders.rename(txn, store.folder("Forum/zope").folder_id, "python")
        folders.move(txn, store.folder("Forum").folder_id, store.folder("Other").folder_id)
    before = store.counter()
    report = store.merge(source)
    assert (report.merged_count, report.duplicates_count, report.folders_made) == (0, 4, ())
    assert store.counter() == before


def test_a_folder_is_found_by_its_id_then_by_its_path(store: Store, tmp_path: Path) -> None:
    source = store.snapshot(tmp_path / "snapshot")
    with store.database.transaction(TASK) as txn:
        zope = store.folder("Forum/zope").folder_id
        messages.delete(txn, store.items("Forum/zope")[0].message_id)
        folders.rename(txn, zope, "python")
        folders.move(txn, zope, store.folder("Other").folder_id)
    store.delete("Forum")
    store.make("FORUM")
    report = store.merge(source)
    assert (report.merged_count, report.folders_made) == (1, ())
    assert sorted(store.held()) == ["FORUM", "Other", "Other/python"]
    assert store.held()["Other/python"].subjects == ["two", "three", "one"]


def test_a_folder_whose_parent_is_gone_comes_back_in_it(store: Store, tmp_path: Path) -> None:
    source = store.snapshot(tmp_path / "snapshot")
    store.delete("Forum")
    options = MergeOptions(filter=MergeFilter(folders=(("Forum", "zope"),), subjects=("two",)))
    assert store.merge(source, options).folders_made == (("Forum",), ("Forum", "zope"))
    assert store.held()["Forum/zope"] == Read(["two"], [], ["two"])


def test_the_same_text_posted_to_two_folders_is_two_messages(store: Store, tmp_path: Path) -> None:
    """Also in a store in which neither is known by its id."""
    store.post("Other", "one")
    source = store.snapshot(tmp_path / "snapshot")
    store.delete("Forum")
    assert store.merge(source, FORUM).merged_count == 3
    other = Store(tmp_path / "other", 2)
    for path in ("Forum", "Forum/zope", "Other"):
        other.make(path)
    other.post("Other", "elsewhere", "one")
    report = other.merge(source)
    assert (report.merged_count, report.duplicates_count) == (3, 2)
    assert other.held()["Forum/zope"].subjects == ["one", "two", "three"]
    assert other.merge(source).merged_count == 0
    other.database.dismount()


def test_what_was_imported_again_is_not_doubled(store: Store, tmp_path: Path) -> None:
    source = store.snapshot(tmp_path / "snapshot")
    store.delete("Forum")
    store.make("Forum")
    store.make("Forum/zope")
    store.post("Forum/zope", "two", "one")
    report = store.merge(source)
    assert (report.merged_count, report.duplicates_count) == (1, 3)
    assert store.held()["Forum/zope"].subjects == ["two", "one", "three"]


def test_system_folders_are_no_part_of_it(store: Store, tmp_path: Path) -> None:
    with store.database.transaction(TASK) as txn:
        system = public_folders.create(txn, "schedule", subtree=public_folders.NON_IPM_SUBTREE)
    source = store.snapshot(tmp_path / "snapshot")
    with store.database.transaction(TASK) as txn:
        folders.delete(txn, system.folder_id)
    assert store.merge(source).folders_made == ()


def test_a_copy_lies_in_a_folder_of_its_own(store: Store, tmp_path: Path) -> None:
    source = store.snapshot(tmp_path / "snapshot")
    before = store.held()
    assert store.merge(source, MergeOptions(MergeMode.COPY)).merged_count == 4
    (made,) = [path for path in store.held() if path.startswith("Recovered Data") and "/" not in path]
    held = store.held()
    assert {path: held[f"{made}/{path}"] for path in before} == before


# -- at several replicas


def test_what_comes_back_is_new_so_that_no_deletion_is_about_it(store: Store, tmp_path: Path) -> None:
    source = store.snapshot(tmp_path / "snapshot")
    store.delete("Forum")
    with store.database.read(TASK) as read:
        gone = {record.object_id for _, record in read.records(Table.TOMBSTONE, b"", None)}
        before = read.state().counter
    store.merge(source)
    with store.database.read(TASK) as read:
        came = {each for each in ids(read) if each & ((1 << 48) - 1) > before}
    assert len(came) == 5 and not came & gone


def test_the_same_merge_at_two_copies_leaves_the_same_marks(store: Store, tmp_path: Path) -> None:
    source = store.snapshot(tmp_path / "snapshot")
    store.delete("Forum")
    other = Store(tmp_path / "unused", 1)
    other.database.dismount()
    other.database = other.open(store.copy(tmp_path / "second site"))
    other.database.mount()
    other.post("Other", "only here")
    stranger = Store(tmp_path / "third site", 3)
    marks = []
    for site in (store, other, stranger):
        site.merge(source)
        marks.append({item.subject: item.properties["recovered_from"] for item in site.items("Forum/zope")})
        marks[-1] |= {
            path: site.folder(path).properties["recovered_from"] for path in ("Forum", "Forum/zope")
        }
    assert marks[0] == marks[1] == marks[2]
    assert {(guid, copy) for guid, _, copy in marks[0].values()} == {(source.guid, 0)}
    first, second = ({item.message_id for item in site.items("Forum/zope")} for site in (store, other))
    assert first != second
    for site in (other, stranger):
        site.database.dismount()


# -- what goes wrong


def test_damaged_read_state_is_told_and_the_messages_come(store: Store, tmp_path: Path) -> None:
    folder_id = store.folder("Forum/zope").folder_id
    with store.database.read(TASK) as read:
        rows = [key for key, _ in read.records(Table.SEEN, id_key(folder_id), id_key(folder_id + 1))]
    store.database.files.env.apply({Table.SEEN: {rows[0]: b"damage"}})
    other = Store(tmp_path / "other", 2)
    report = other.merge(store.database)
    assert (report.merged_count, len(other.items("Forum/zope"))) == (4, 3)
    assert [(each.folder, each.message_id) for each in report.damaged] == [(("Forum", "zope"), 0)]
    assert "who has read" in report.damaged[0].reason
    other.database.dismount()


def test_public_folders_and_mailboxes_are_not_merged_into_each_other(store: Store, tmp_path: Path) -> None:
    source = store.snapshot(tmp_path / "snapshot")
    box = Database(tmp_path / "box", b"m" * 16, "DB", DatabaseKind.MAILBOX_STORE, clock=store.clock)
    box.create()
    box.mount()
    with box.transaction(TASK) as txn:
        guid = mailboxes.create(txn, "anna").guid
    with pytest.raises(Refused, match="not merged into each other"):
        merge_mailbox(source, b"", MailboxTarget(box, guid), TASK)
    with pytest.raises(Refused, match="not merged into each other"):
        merge_mailbox(box, guid, MailboxTarget(store.database, b""), TASK)
    with pytest.raises(Refused, match="holds no public folders"):
        merge_mailbox(source, b"", MailboxTarget(box, b""), TASK)
    with pytest.raises(Refused, match="into itself"):
        merge_mailbox(store.database, b"", MailboxTarget(store.database, b""), TASK)
    box.dismount()


def test_the_live_store_is_found_by_its_guid_then_by_its_name(store: Store, tmp_path: Path) -> None:
    source = store.snapshot(tmp_path / "snapshot")
    other = Store(tmp_path / "other", 2)
    third = Store(tmp_path / "third", 3)
    assert match_public_folders(source, [other.database, store.database]) is store.database
    assert match_public_folders(source, [other.database]) is other.database
    assert match_public_folders(source, [other.database, third.database]) is None
    assert match_public_folders(source, []) is None
    for each in (other, third):
        each.database.dismount()


def test_a_merge_leaves_an_event(store: Store, tmp_path: Path) -> None:
    source = store.snapshot(tmp_path / "snapshot")
    store.delete("Forum")
    store.merge(source)
    (event,) = [each for each in store.events if each.event_id == EventId.PUBLIC_FOLDERS_MERGED]
    assert "3 messages of public folders were merged into database Public" in event.text


# -- whatever became of the folders since


class History:
    """Random changes of public folders by two users."""

    def __init__(self, store: Store, rng: Random) -> None:
        self.store = store
        self.rng = rng

    def run(self, count: int) -> None:
        kinds = (self.post, self.post, self.delete, self.move, self.read, self.make, self.change, self.drop)
        for _ in range(count):
            with self.store.database.transaction(self.rng.choice((ANNA, BERT))) as txn:
                self.rng.choice(kinds)(txn)
            self.store.database.finish_removals()

    def _folder(self, txn: WriteTransaction) -> int:
        found = [record.folder_id for _, record in public_folders.walk(txn)]
        return self.rng.choice([public_folders.root_id(txn), *found])

    def _item(self, txn: WriteTransaction) -> ItemRecord | None:
        found = list(folders.messages(txn, self._folder(txn)))
        return self.rng.choice(found) if found else None

    def post(self, txn: WriteTransaction) -> None:
        raw = b"Subject: %d\n\ntext\n" % self.rng.randrange(12)
        messages.append(txn, self._folder(txn), messages.prepare(txn.files, raw))

    def delete(self, txn: WriteTransaction) -> None:
        if item := self._item(txn):
            messages.delete(txn, item.message_id)

    def move(self, txn: WriteTransaction) -> None:
        if item := self._item(txn):
            messages.move(txn, item.message_id, self._folder(txn))

    def read(self, txn: WriteTransaction) -> None:
        if item := self._item(txn):
            mark = self.rng.choice((public_folders.mark_read, public_folders.mark_unread))
            mark(txn, item.folder_id, item.uid, item.uid)

    def make(self, txn: WriteTransaction) -> None:
        with suppress(AlreadyExists):
            folders.create(txn, self._folder(txn), self.rng.choice(("Forum", "zope", "News")))

    def change(self, txn: WriteTransaction) -> None:
        with suppress(AlreadyExists, Refused):
            if self.rng.random() < 0.5:
                folders.rename(txn, self._folder(txn), self.rng.choice(("Forum", "zope", "News")))
            else:
                folders.move(txn, self._folder(txn), self._folder(txn))

    def drop(self, txn: WriteTransaction) -> None:
        with suppress(Refused):
            folders.delete(txn, self._folder(txn), with_contents=True)


def all_of(database: Database) -> dict[int, tuple[ItemRecord, frozenset[str]]]:
    """Every message by its id, with who has read it."""
    found = {}
    with database.read(TASK) as read:
        roots = [public_folders.root_id(read)]
        for folder_id in roots + [record.folder_id for _, record in public_folders.walk(read)]:
            readers = list(public_folders.readers(read, folder_id))
            for item in folders.messages(read, folder_id):
                read_by = frozenset(account for account, uids in readers if item.uid in uids)
                found[item.message_id] = item, read_by
    return found


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(each, marks=pytest.mark.slow) for each in range(4, 120))]
)
def test_whatever_became_of_them_what_is_missing_comes_back_once(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    live = Store(tmp_path / "live")
    History(live, rng).run(30)
    source = live.snapshot(tmp_path / "snapshot")
    History(live, rng).run(25)
    lost, before = all_of(source), all_of(live.database)
    report = live.merge(source)
    after = all_of(live.database)
    assert {each: after.get(each) for each in before} == before, "what was there is as it was"
    came = {each: after[each] for each in after.keys() - before.keys()}
    assert len(came) == report.merged_count and report.merged_count + report.duplicates_count == len(lost)
    for item, read_by in came.values():
        was, was_read_by = lost[item.properties["recovered_from"][1]]
        assert (item.digest, item.received_ms, read_by) == (was.digest, was.received_ms, was_read_by)
        assert was.message_id not in before
    held, had = (Counter(item.digest for item, _ in each.values()) for each in (after, lost))
    assert not had - held, "each is there, and as often"
    changes = live.counter()
    assert live.merge(source).merged_count == 0 and live.counter() == changes
    assert live.is_sound()
    source.dismount()
    live.database.dismount()
