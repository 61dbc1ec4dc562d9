"""Recovered mail comes back byte for byte, once, to where it was; or goes where it is told to."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pillarbox.backup.merge import run as merge_run
from pillarbox.backup.merge.filter import MergeFilter
from pillarbox.backup.merge.merge_mailbox import (
    MergeTask,
    match_mailboxes,
    merge_mailbox,
    merge_mailboxes,
)
from pillarbox.backup.merge.report import MailboxMerge, MergeMode, MergeOptions, MergeProgress
from pillarbox.backup.merge.target import FileTarget, MailboxDestination, MailboxTarget
from pillarbox.backup.restore import restorable_databases, restore_records
from pillarbox.backup.snapshot_mount import RecoveryDatabase, open_snapshot_mount
from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.content.blocks import digest_of
from pillarbox.store.disk.stream import Codec, Frame, FrameKind, build_frame
from pillarbox.store.disk.tables import (
    DatabaseKind,
    DictionaryRecord,
    ItemRecord,
    MailboxRecord,
    Table,
    id_key,
    item_key,
    segment_key,
)
from pillarbox.store.engine import content_store
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import AlreadyExists, NotFound, Refused
from pillarbox.store.events import Event
from pillarbox.store.files.exporting import ExportFormat, read_mail_files
from pillarbox.store.files.mbox import read_mbox
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.upkeep.check import check_database

ACTOR = Actor.task("test")
DATA = Path(__file__).parents[2] / "data"
CORPUS = [item.raw for item in read_mbox(DATA / "lists.mbox")]
CORPUS += [path.read_bytes() for path in sorted((DATA / "spam").glob("*.eml"))]
LARGE = b"Subject: large\n\n" + b"a line of text\n" * 400
COPY = MergeOptions(MergeMode.COPY)
ARCHIVE = MergeOptions(archive=True)
Paths = tuple[str, ...]


class Store:
    """A mailbox store with anna's mailbox, and what tests do with it."""

    def __init__(self, path: Path, number: int = 1, clock: VirtualClock | None = None) -> None:
        self.path = path
        self.number = number
        self.clock = clock or VirtualClock()
        self.database = self._open(path)
        self.database.create()
        self.database.mount()
        self.anna = self.add_mailbox("anna")

    def _open(self, path: Path) -> Database:
        kind, guid = DatabaseKind.MAILBOX_STORE, bytes([self.number]) * 16
        tuning = Tuning(segment_bytes=200_000)
        return Database(path, guid, "DB", kind, clock=self.clock, rng=Random(self.number), tuning=tuning)

    def snapshot(self, place: Path) -> Database:
        """A copy of all its files as they are now, mounted for reading only."""
        self.database.dismount()
        shutil.copytree(self.path, place)
        self.database.mount()
        copied = self._open(place)
        copied.mount(read_only=True)
        return copied

    def add_mailbox(self, name: str, guid: bytes = b"") -> MailboxRecord:
        with self.database.transaction(ACTOR) as txn:
            return mailboxes.create(txn, name, guid=guid)

    def add(
        self, path: Paths, raws: list[bytes], flags: tuple[str, ...] = (), box: str = "anna"
    ) -> list[int]:
        prepared = [messages.prepare(self.database.files, raw) for raw in raws]
        with self.database.transaction(ACTOR) as txn:
            at = folders.ensure(txn, mailboxes.find(txn, box).root_id, path).folder_id
            return [messages.append(txn, at, each, flags=flags).message_id for each in prepared]

    def delete(self, ids: list[int]) -> None:
        with self.database.transaction(ACTOR) as txn:
            for each in ids:
                messages.delete(txn, each)

    def folder_id(self, *path: str, box: str = "anna") -> int:
        with self.database.read(ACTOR) as read:
            return folders.by_path(read, mailboxes.find(read, box).root_id, "/".join(path)).folder_id

    def held(self, box: str = "anna") -> dict[Paths, list[bytes]]:
        return held(self.database, box)

    def items(self, *path: str, box: str = "anna") -> list[ItemRecord]:
        with self.database.read(ACTOR) as read:
            at = folders.by_path(read, mailboxes.find(read, box).root_id, "/".join(path))
            return list(folders.messages(read, at.folder_id))

    def merge(
        self,
        source: Database,
        options: MergeOptions | None = None,
        box: str = "anna",
        source_box: str = "anna",
    ) -> MailboxMerge:
        with source.read(ACTOR) as read:
            source_guid = mailboxes.find(read, source_box).guid
        with self.database.read(ACTOR) as read:
            target = MailboxTarget(self.database, mailboxes.find(read, box).guid)
        return merge_mailbox(source, source_guid, target, ACTOR, options)

    def state(self) -> int:
        """The number of the last change."""
        with self.database.read(ACTOR) as read:
            return read.state().counter

    def content_bytes(self) -> int:
        with self.database.read(ACTOR) as read:
            return read.state().content_bytes

    def is_sound(self) -> bool:
        return check_database(self.database, ACTOR).clean


def held(database: Database, box: str = "anna") -> dict[Paths, list[bytes]]:
    """The messages of each folder that has some, by UID."""
    with database.read(ACTOR) as read:
        root_id = mailboxes.find(read, box).root_id
        found = {
            path: [messages.content(read, item) for item in folders.messages(read, record.folder_id)]
            for path, record in folders.walk(read, root_id)
        }
    return {path: raws for path, raws in found.items() if raws}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "live")
    yield made
    made.database.dismount()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "other", 2)
    yield made
    made.database.dismount()


# -- merge into the same mailbox


def test_what_was_lost_is_back_where_it_was_and_the_rest_is_left_alone(store: Store, tmp_path: Path) -> None:
    ids = store.add(("Inbox",), CORPUS[:6])
    store.add(("Lists", "zope"), CORPUS[6:9])
    before = store.held()
    source = store.snapshot(tmp_path / "snapshot")
    store.delete(ids[2:4])
    with store.database.transaction(ACTOR) as txn:
        messages.move(txn, ids[0], mailboxes.find(txn, "anna").roles["deleted"])
        messages.set_flags(txn, ids[1], add=["\\Flagged"])
        messages.set_categories(txn, ids[4], ["later"])
        folders.delete(txn, store.folder_id("Lists"), with_contents=True)
    report = store.merge(source)
    assert (report.merged_count, report.duplicates_count) == (5, 4)
    assert report.merged_bytes == sum(map(len, CORPUS[2:4] + CORPUS[6:9]))
    assert report.folders_made == (("Lists",), ("Lists", "zope"))
    found = store.held()
    assert found.pop(("Deleted Items",)) == CORPUS[:1]
    assert {path: Counter(raws) for path, raws in found.items()} == {
        path: Counter(raw for raw in raws if raw != CORPUS[0]) for path, raws in before.items()
    }
    assert store.is_sound()


def test_a_second_run_changes_nothing_whatever_was_done_to_what_came_back(
    store: Store, tmp_path: Path
) -> None:
    store.add(("Lists", "zope"), CORPUS[:4])
    source = store.snapshot(tmp_path / "snapshot")
    with store.database.transaction(ACTOR) as txn:
        folders.delete(txn, store.folder_id("Lists"), with_contents=True)
    store.merge(source)
    moved, flagged, edited, _ = store.items("Lists", "zope")
    with store.database.transaction(ACTOR) as txn:
        messages.move(txn, moved.message_id, mailboxes.find(txn, "anna").roles["inbox"])
        messages.set_flags(txn, flagged.message_id, add=["\\Seen", "work"])
        messages.set_property(txn, edited.message_id, "note", "mine")
        folders.rename(txn, store.folder_id("Lists"), "Mail")
    before = store.state()
    assert store.merge(source).merged_count == 0
    assert store.state() == before


def test_flags_categories_and_times_come_back(store: Store, tmp_path: Path) -> None:
    (lost,) = store.add(("Inbox",), CORPUS[:1], ("\\Seen", "\\Flagged", "work"))
    with store.database.transaction(ACTOR) as txn:
        messages.set_categories(txn, lost, ["red", "blue"])
        was = messages.set_property(txn, lost, "scl", 3)
    source = store.snapshot(tmp_path / "snapshot")
    store.delete([lost])
    store.clock.advance_ms(1000)
    store.merge(source)
    (now,) = store.items("Inbox")
    assert now.properties.pop("recovered_from")
    new = {"uid", "message_id", "arrived_cn", "change_cn", "read_cn"}
    assert {field for field in was._fields if getattr(was, field) != getattr(now, field)} == new
    assert now.uid == was.uid + 1


def test_a_folder_is_known_by_its_id_when_it_was_renamed_and_moved(store: Store, tmp_path: Path) -> None:
    ids = store.add(("Lists", "zope"), CORPUS[:2])
    source = store.snapshot(tmp_path / "snapshot")
    store.delete(ids[:1])
    with store.database.transaction(ACTOR) as txn:
        moved = folders.move(
            txn, store.folder_id("Lists", "zope"), mailboxes.find(txn, "anna").roles["inbox"]
        )
        folders.rename(txn, moved.folder_id, "python")
    store.merge(source)
    assert store.held() == {("Inbox", "python"): [CORPUS[1], CORPUS[0]]}


def test_folders_without_messages_are_made_unless_messages_are_chosen(store: Store, tmp_path: Path) -> None:
    store.add(("Empty", "inner"), [])
    source = store.snapshot(tmp_path / "snapshot")
    with store.database.transaction(ACTOR) as txn:
        folders.delete(txn, store.folder_id("Empty"), with_contents=True)
    assert store.merge(source, MergeOptions(filter=MergeFilter(subjects=("x",)))).folders_made == ()
    assert store.merge(source).folders_made == (("Empty",), ("Empty", "inner"))
    assert store.merge(source).folders_made == ()


def test_a_folder_of_a_name_that_is_no_more_allowed_is_merged_once(store: Store, tmp_path: Path) -> None:
    with store.database.transaction(ACTOR) as txn:
        root = mailboxes.root(txn, mailboxes.find(txn, "anna"))
        dots = folders.insert(txn, root.mailbox, root.folder_id, "..").folder_id
    source = store.snapshot(tmp_path / "snapshot")
    with store.database.transaction(ACTOR) as txn:
        folders.delete(txn, dots)
    assert store.merge(source).folders_made == (("__",),)
    assert store.merge(source).folders_made == ()


def test_properties_of_a_folder_do_not_come_back_with_it(store: Store, tmp_path: Path) -> None:
    store.add(("Team",), CORPUS[:1])
    with store.database.transaction(ACTOR) as txn:
        folders.set_property(txn, store.folder_id("Team"), "permissions", {"Default": 1})
    source = store.snapshot(tmp_path / "snapshot")
    with store.database.transaction(ACTOR) as txn:
        folders.delete(txn, store.folder_id("Team"), with_contents=True)
    store.merge(source)
    with store.database.read(ACTOR) as read:
        assert set(folders.get(read, store.folder_id("Team")).properties) == {"recovered_from"}


def test_copies_of_one_message_are_counted(store: Store, tmp_path: Path) -> None:
    """Two were there: with one left, one comes back; another of the same bytes stands for it."""
    ids = store.add(("Inbox",), CORPUS[:1] * 2)
    source = store.snapshot(tmp_path / "snapshot")
    store.delete(ids[:1])
    assert store.merge(source, MergeOptions(dry_run=True)).merged_count == 1
    store.add(("Sent Items",), CORPUS[:1])
    assert store.merge(source).merged_count == 0


def test_ids_given_out_again_after_a_restore_are_not_taken_for_the_same(store: Store, tmp_path: Path) -> None:
    source_place, earlier = tmp_path / "later", tmp_path / "earlier"
    store.snapshot(earlier).dismount()
    store.add(("Later",), CORPUS[:3])
    source = store.snapshot(source_place)
    store.database.dismount()
    shutil.rmtree(store.path)
    shutil.copytree(earlier, store.path)
    store.database.mount()
    store.clock.advance_ms(1000)
    store.add(("Other",), CORPUS[3:6])
    with source.read(ACTOR) as read:
        assert (
            store.folder_id("Other")
            == folders.by_path(read, mailboxes.find(read, "anna").root_id, "Later").folder_id
        ), "the premise: the same numbers were given out"
    assert store.merge(source).merged_count == 3
    assert store.held() == {("Later",): CORPUS[:3], ("Other",): CORPUS[3:6]}


# -- other targets


def test_another_store_gets_everything_in_the_same_folders_once(
    store: Store, other: Store, tmp_path: Path
) -> None:
    store.add(("Inbox",), CORPUS[:3])
    store.add(("Lists",), CORPUS[2:5])
    source = store.snapshot(tmp_path / "snapshot")
    other.add(("lists",), CORPUS[3:4])
    first = other.merge(source)
    assert (first.merged_count, first.duplicates_count) == (5, 1)
    counts = Counter(raw for raws in other.held().values() for raw in raws)
    assert counts == Counter(CORPUS[:3] + CORPUS[2:5])
    assert other.held()["Inbox",] == CORPUS[:3]
    before = other.state()
    assert other.merge(source).duplicates_count == 6
    assert other.state() == before
    assert other.is_sound()


def test_another_mailbox_of_the_same_store_shares_the_content(store: Store, tmp_path: Path) -> None:
    store.add(("Inbox",), CORPUS)
    store.add_mailbox("bob")
    source = store.snapshot(tmp_path / "snapshot")
    before = store.content_bytes()
    assert store.merge(source, box="bob").merged_count == len(CORPUS)
    assert store.held("bob") == {("Inbox",): CORPUS}
    assert store.content_bytes() == before
    assert store.is_sound()


def test_a_copy_is_complete_in_a_folder_of_its_own(store: Store, tmp_path: Path) -> None:
    store.clock.set_ms(1_764_028_800_000)
    store.add(("Inbox",), CORPUS[:2])
    store.add(("Lists", "zope"), CORPUS[2:4])
    source = store.snapshot(tmp_path / "snapshot")
    report = store.merge(source, COPY)
    assert (report.merged_count, report.duplicates_count) == (4, 0)
    name = "Recovered Data 2025-11-25"
    assert store.held() == {
        ("Inbox",): CORPUS[:2],
        ("Lists", "zope"): CORPUS[2:4],
        (name, "Inbox"): CORPUS[:2],
        (name, "Lists", "zope"): CORPUS[2:4],
    }


def test_a_second_copy_of_the_same_state_changes_nothing_and_of_another_state_is_new(
    store: Store, tmp_path: Path
) -> None:
    (lost,) = store.add(("Inbox",), CORPUS[:1])
    source = store.snapshot(tmp_path / "snapshot")
    store.merge(source, COPY)
    store.clock.advance_ms(86_400_000)
    before = store.state()
    assert store.merge(source, COPY).merged_count == 0
    assert store.state() == before
    store.delete([lost])
    assert store.merge(source).merged_count == 1, "what is in the copy is not back where it was"
    later = store.snapshot(tmp_path / "later")
    assert store.merge(later, COPY).merged_count == 2


@pytest.mark.parametrize("format", ["eml", "mbox", "maildir"])
def test_files_get_what_the_filter_takes(store: Store, tmp_path: Path, format: ExportFormat) -> None:
    store.add(("Inbox",), CORPUS[:3])
    store.add(("Lists", "zope"), CORPUS[3:6])
    options = MergeOptions(filter=MergeFilter(folders=(("lists",),)))
    target = FileTarget(tmp_path / "out", format)
    dry = merge_mailbox(store.database, store.anna.guid, target, ACTOR, options._replace(dry_run=True))
    assert not target.out.exists()
    report = merge_mailbox(store.database, store.anna.guid, target, ACTOR, options)
    assert (dry.merged_count, dry.merged_bytes) == (report.merged_count, report.merged_bytes)
    assert report.filtered_count == 3
    assert sorted(item.raw for item in read_mail_files(target.out, format)) == sorted(CORPUS[3:6])
    with pytest.raises(AlreadyExists):
        merge_mailbox(store.database, store.anna.guid, target, ACTOR)


def test_files_that_were_not_finished_are_written_anew(store: Store, tmp_path: Path) -> None:
    store.add(("Inbox",), CORPUS[:3])
    target = FileTarget(tmp_path / "out", "eml")

    def stop(progress: MergeProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_mailbox(store.database, store.anna.guid, target, ACTOR, progress=stop)
    merge_mailbox(store.database, store.anna.guid, target, ACTOR)
    assert [item.raw for item in read_mail_files(target.out, "eml")] == CORPUS[:3]
    assert [path.name for path in target.out.iterdir()] == ["Inbox"]


# -- filters


@pytest.mark.parametrize(
    ("wanted", "subjects"),
    [
        (MergeFilter(), {"Plan", "plan B", "Other"}),
        (MergeFilter(since_ms=2000), {"plan B", "Other"}),
        (MergeFilter(before_ms=2000), {"Plan"}),
        (MergeFilter(since_ms=2000, before_ms=3000), {"plan B"}),
        (MergeFilter(subjects=("PLAN",)), {"Plan"}),
        (MergeFilter(subjects_containing=("pLan",)), {"Plan", "plan B"}),
        (MergeFilter(subjects=("other",), subjects_containing=(" b",)), {"plan B", "Other"}),
        (MergeFilter(folders=(("a",),)), {"Plan", "plan B"}),
        (MergeFilter(folders=(("A", "B"), ("C",))), {"plan B", "Other"}),
        (MergeFilter(folders=(("A",),), folders_excluded=(("A", "B"),)), {"Plan"}),
        (MergeFilter(folders_excluded=(("A",),)), {"Other"}),
        (MergeFilter(attachments=("REPORT.pdf",)), {"plan B"}),
        (MergeFilter(attachments=("größe.pdf",)), {"Other"}),
        (MergeFilter(attachments=("report",)), set()),
        (MergeFilter(attachments_containing=("Port",)), {"plan B"}),
        (MergeFilter(subjects=("Plan",), attachments_containing=("port",)), set()),
    ],
)
def test_a_filter_takes_what_it_says(
    store: Store, other: Store, wanted: MergeFilter, subjects: set[str]
) -> None:
    attached = b"""Content-Type: multipart/mixed; boundary=x\n\n--x\n\ntext\n--x
Content-Type: application/pdf\nContent-Disposition: attachment; filename="Report.pdf"
Content-Transfer-Encoding: base64\n\nQUJD\n--x--\n"""
    mails = [
        (("A",), b"Subject: Plan\n\n.\n", 1000),
        (("A", "B"), b"Subject: plan B\n" + attached, 2000),
        (("C",), b"Subject: Other\n" + attached.replace(b"Report", b"=?utf-8?q?Gr=C3=B6=C3=9Fe?="), 3000),
    ]
    for path, raw, received_ms in mails:
        with store.database.transaction(ACTOR) as txn:
            at = folders.ensure(txn, store.anna.root_id, path).folder_id
            prepared = messages.prepare(store.database.files, raw)
            messages.append(txn, at, prepared, received_ms=received_ms)
    report = other.merge(store.database, MergeOptions(filter=wanted))
    assert (report.merged_count, report.filtered_count) == (len(subjects), 3 - len(subjects))
    found = {raw.split(b"\n")[0][9:].decode() for raws in other.held().values() for raw in raws}
    assert found == subjects


# -- archive


def test_what_is_archived_is_in_the_target_and_no_longer_in_the_source(store: Store, other: Store) -> None:
    store.add(("Inbox",), CORPUS[:4])
    store.add(("Sent Items",), CORPUS[4:6])
    other.add(("Inbox",), CORPUS[:1])
    options = ARCHIVE._replace(filter=MergeFilter(folders=(("Inbox",),)))
    report = other.merge(store.database, options)
    assert (report.merged_count, report.duplicates_count, report.removed_count) == (3, 1, 4)
    assert other.held() == {("Inbox",): CORPUS[:4]}
    assert store.held() == {("Sent Items",): CORPUS[4:6]}
    assert store.is_sound()
    assert other.is_sound()


@pytest.mark.parametrize("format", ["eml", "mbox", "maildir"])
def test_what_is_archived_to_files_was_read_again_there(
    store: Store, tmp_path: Path, format: ExportFormat
) -> None:
    raws = [*CORPUS[:2], CORPUS[0], b"From me\n>From x\n\0\r\n", b""]
    store.add(("Inbox",), raws)
    target = FileTarget(tmp_path / "out", format)
    report = merge_mailbox(store.database, store.anna.guid, target, ACTOR, ARCHIVE)
    there = Counter(item.raw for item in read_mail_files(target.out, format))
    left = Counter(raw for kept in store.held().values() for raw in kept)
    assert there + left >= Counter(raws)
    assert report.removed_count == len(raws) - sum(left.values()) >= 4
    assert report.unproven_count == sum(left.values())


def test_what_cannot_be_read_again_in_the_target_stays_in_the_source(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(("Inbox",), CORPUS[:3])
    read = content_store.read
    monkeypatch.setattr(content_store, "read", lambda *args: b"" if read(*args) == CORPUS[1] else read(*args))
    report = other.merge(store.database, ARCHIVE)
    assert (report.removed_count, report.unproven_count) == (2, 1)
    monkeypatch.undo()
    assert store.held() == {("Inbox",): CORPUS[1:2]}


def test_only_a_live_source_can_be_archived_and_none_into_itself(store: Store, tmp_path: Path) -> None:
    source = store.snapshot(tmp_path / "snapshot")
    with pytest.raises(Refused):
        store.merge(source, ARCHIVE)
    with pytest.raises(Refused):
        store.merge(store.database)


# -- many mailboxes


def test_mailboxes_are_matched_by_guid_then_by_name(store: Store, other: Store, tmp_path: Path) -> None:
    for name in ("bob", "carl", "dora"):
        store.add_mailbox(name)
    source = store.snapshot(tmp_path / "snapshot")
    with store.database.transaction(ACTOR) as txn:
        mailboxes.rename(txn, mailboxes.find(txn, "bob").guid, "robert")
        mailboxes.purge(txn, mailboxes.find(txn, "carl").guid)
        mailboxes.purge(txn, mailboxes.find(txn, "dora").guid)
    other.add_mailbox("CARL")
    matches = match_mailboxes(source, [other.database, store.database], ACTOR)
    assert [(each.source.name, each.target_name, each.by) for each in matches] == [
        ("anna", "anna", "guid"),
        ("bob", "robert", "guid"),
        ("carl", "CARL", "name"),
        ("dora", "", "none"),
    ]
    assert matches[0].target == MailboxTarget(store.database, store.anna.guid)
    third = Store(tmp_path / "third", 3)
    third.add_mailbox("carl")
    databases = [third.database, other.database]
    assert match_mailboxes(source, databases, ACTOR, ["carl"])[0].by == "several"
    third.database.dismount()
    assert match_mailboxes(source, databases, ACTOR, ["Carl"])[0].by == "name"
    with pytest.raises(NotFound):
        match_mailboxes(source, databases, ACTOR, ["nobody"])


def test_a_mailbox_that_fails_does_not_keep_the_others(store: Store, other: Store) -> None:
    store.add_mailbox("bob")
    store.add(("Inbox",), CORPUS[:1])
    store.add(("Inbox",), CORPUS[1:2], box="bob")
    with store.database.read(ACTOR) as read:
        bob = mailboxes.find(read, "bob").guid
    gone = MergeTask(store.anna.guid, MailboxTarget(other.database, b"nobody's mailbox"))
    good = MergeTask(bob, MailboxTarget(other.database, other.anna.guid))
    first, second = merge_mailboxes(store.database, [gone, good], ACTOR)
    assert first.mailbox == "anna"
    assert "no mailbox" in first.error
    assert (second.mailbox, second.merged_count, second.error) == ("bob", 1, "")
    assert other.held() == {("Inbox",): CORPUS[1:2]}


# -- damage, dry run, reading little


def test_damaged_messages_are_listed_and_the_others_come(store: Store, tmp_path: Path) -> None:
    ids = store.add(("Inbox",), CORPUS[:6])
    with store.database.read(ACTOR) as read:
        places = [content_store.content_record(read, messages.get(read, each).digest) for each in ids[1:3]]
    source = store.snapshot(tmp_path / "snapshot")
    source.dismount()
    for place in places:
        with source.stream.path(place.segment).open("r+b") as file:
            file.seek(place.offset + place.length - 1)
            last = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([last[0] ^ 1]))
    source.mount(read_only=True)
    store.delete(ids)
    report = store.merge(source)
    assert (report.merged_count, report.damaged_count) == (4, 2)
    assert [(each.folder, each.message_id) for each in report.damaged] == [
        (("Inbox",), each) for each in ids[1:3]
    ]
    assert store.held() == {("Inbox",): [CORPUS[0], *CORPUS[3:6]]}
    assert store.is_sound()


def test_a_dry_run_says_what_comes_and_writes_nothing(store: Store, tmp_path: Path) -> None:
    ids = store.add(("Inbox",), CORPUS[:3])
    store.add(("Lists", "zope"), CORPUS[3:5])
    source = store.snapshot(tmp_path / "snapshot")
    store.delete(ids[:1])
    with store.database.transaction(ACTOR) as txn:
        folders.delete(txn, store.folder_id("Lists"), with_contents=True)
    before = store.state()
    dry = store.merge(source, MergeOptions(dry_run=True))
    assert store.state() == before
    assert dry == store.merge(source)
    assert {each.path: (each.merged_count, each.merged_bytes) for each in dry.folders} == {
        ("Inbox",): (1, len(CORPUS[0])),
        ("Lists", "zope"): (2, len(CORPUS[3]) + len(CORPUS[4])),
    }


class CountingFrames:
    """Frames that remember where they were read."""

    def __init__(self, database: Database | RecoveryDatabase) -> None:
        self.read_at: list[tuple[int, int]] = []
        with database.read(ACTOR) as read:
            self._frames = read.files.frames
            read.files.frames = self

    def read(self, segment: int, offset: int, length: int) -> Frame:
        self.read_at.append((segment, offset))
        return self._frames.read(segment, offset, length)


def test_no_content_is_read_that_the_target_holds_and_none_twice(
    store: Store, other: Store, tmp_path: Path
) -> None:
    ids = store.add(("Inbox",), [*CORPUS, *CORPUS[:3]])
    source = store.snapshot(tmp_path / "snapshot")
    frames = CountingFrames(source)
    store.delete(ids[:1])
    assert store.merge(source).merged_count == 1
    assert frames.read_at == [], "another message of the target holds the same content"
    store.delete(ids[5:6])
    store.merge(source)
    read_one = len(frames.read_at)
    assert 0 < read_one < 10
    other.merge(source)
    assert len(frames.read_at) - read_one >= len(CORPUS)
    assert max(Counter(frames.read_at[read_one:]).values()) == 1
    read_all = len(frames.read_at)
    other.merge(source)
    assert len(frames.read_at) == read_all


def test_content_kept_with_a_dictionary_comes_back_the_same(store: Store, other: Store) -> None:
    store.add(("Inbox",), CORPUS[:2])
    data = b"".join(CORPUS)[:50_000]
    frame = build_frame(FrameKind.DICTIONARY, Codec.PLAIN, 0, len(data), digest_of(data), data)
    with store.database.transaction(ACTOR) as txn:
        place = txn.append_frame(frame)
        record = DictionaryRecord(place.segment, place.offset, len(frame))
        txn.insert(Table.DICTIONARY, segment_key(1), record)
    store.database.files.dictionaries.add(1, data)
    store.add(("Inbox",), CORPUS[2:])
    with store.database.read(ACTOR) as read:
        last = content_store.content_record(read, store.items("Inbox")[-1].digest)
        placed = last.segment, last.offset, last.length
        assert read.files.frames.read(*placed).dictionary == 1, "the premise"
    other.merge(store.database)
    assert other.held() == {("Inbox",): CORPUS}
    assert other.is_sound()


# -- while the target is in use


def test_what_the_target_loses_meanwhile_is_read_again(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held content that is freed between the look at the target and the transaction is fetched in that."""
    store.add(("Inbox",), [CORPUS[0], LARGE + b"one", LARGE + b"two"])
    lost = other.add(("Sent Items",), [CORPUS[0]] + [LARGE + b"one"] * 2)
    transaction = Database.transaction

    def transaction_after_deletes(
        database: Database, actor: Actor
    ) -> AbstractContextManager[WriteTransaction]:
        if database is other.database and lost:
            ids = [lost.pop() for _ in range(len(lost))]
            other.delete(ids)
        return transaction(database, actor)

    options = MergeOptions(filter=MergeFilter(folders=(("Inbox",),)))
    monkeypatch.setattr(Database, "transaction", transaction_after_deletes)
    box = MailboxTarget(other.database, other.add_mailbox("bob").guid)
    merge_mailbox(store.database, store.anna.guid, box, ACTOR, options)
    assert held(other.database, "bob") == {("Inbox",): [CORPUS[0], LARGE + b"one", LARGE + b"two"]}
    assert other.is_sound()


def test_two_merges_at_once_add_a_message_once(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(("Inbox",), CORPUS[:6])
    monkeypatch.setattr(merge_run, "BATCH_MESSAGES", 2)
    target = MailboxTarget(other.database, other.anna.guid)
    reports = []

    def merge_again(progress: MergeProgress) -> None:
        if not reports:
            reports.append(merge_mailbox(store.database, store.anna.guid, target, ACTOR))

    report = merge_mailbox(store.database, store.anna.guid, target, ACTOR, progress=merge_again)
    assert (reports[0].merged_count, reports[0].duplicates_count) == (4, 2)
    assert (report.merged_count, report.duplicates_count) == (2, 4)
    assert other.held() == {("Inbox",): CORPUS[:6]}


# -- from a backup


def test_a_snapshot_in_a_repository_gives_back_what_was_lost_and_fetches_no_other_content(group: Any) -> None:
    database = group.databases[0]
    group.deliver(database, group.corpus())
    snapshot = group.snapshot()
    lost = list(range(0, len(group.corpus()), 10))
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.find(txn, "anna")
        items = list(folders.messages(txn, anna.roles["inbox"]))
        for number in lost:
            messages.delete(txn, items[number].message_id)
    found = restorable_databases(snapshot, ["Store 1"])[0]
    place = group.directory / "mount"
    place.mkdir()
    restore_records(group.repository, found, place)
    with open_snapshot_mount(group.repository, found, place) as source:
        frames = CountingFrames(source)
        target = MailboxTarget(database, anna.guid)
        report = merge_mailbox(source, anna.guid, target, Actor.administrator("a"))
        assert report.merged_count == len(lost)
        assert len(lost) <= len(frames.read_at) < len(lost) * 4
        again = merge_mailbox(source, anna.guid, target, Actor.administrator("a"))
        assert again.merged_count == 0
    assert Counter(group.contents(database)) == Counter(group.corpus())


def test_merges_and_removals_leave_events(store: Store, other: Store) -> None:
    texts: list[str] = []

    class Listener:
        def report(self, event: Event) -> None:
            texts.append(event.text)

    store.add(("Inbox",), CORPUS[:3])
    store.database.reporter = other.database.reporter = Listener()
    other.merge(store.database, MergeOptions(dry_run=True))
    assert texts == []
    other.merge(store.database, ARCHIVE)
    assert texts == [
        "3 messages of mailbox anna were merged into anna by test; 0 are damaged.",
        "3 messages of mailbox anna were archived and removed by test.",
    ]


def test_damaged_records_are_listed_and_the_rest_comes(store: Store, other: Store) -> None:
    ids = store.add(("Inbox",), CORPUS[:5])
    store.add(("Lists",), CORPUS[5:7])
    store.add(("Post",), CORPUS[7:9])
    with store.database.read(ACTOR) as read:
        damaged = [messages.get(read, each) for each in (ids[0], ids[2], ids[3])]
    rows: dict[bytes, bytes | None] = {item_key(each.folder_id, each.uid): b"damage" for each in damaged}
    store.database.files.env.apply(
        {Table.ITEM: rows, Table.FOLDER: {id_key(store.folder_id("Lists")): b"damage"}}
    )
    report = other.merge(store.database)
    assert other.held() == {("Inbox",): [CORPUS[1], CORPUS[4]], ("Post",): CORPUS[7:9]}
    assert [each.folder for each in report.damaged] == [()] + [("Inbox",)] * 3
    assert report.damaged_count == 4


def test_what_the_target_deletes_before_it_is_proven_stays_in_the_source(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one store the content would still be there: the source itself holds it."""
    store.add(("Inbox",), CORPUS[:3])
    bob = store.add_mailbox("bob")
    held_before = store.add(("Inbox",), CORPUS[:1], box="bob")
    proven = MailboxDestination.proven

    def proven_after_deletes(destination: MailboxDestination, batch: Any) -> Any:
        merged = store.items("Inbox", box="bob")[-1].message_id
        store.delete([*held_before, merged])
        return proven(destination, batch)

    monkeypatch.setattr(MailboxDestination, "proven", proven_after_deletes)
    target = MailboxTarget(store.database, bob.guid)
    report = merge_mailbox(store.database, store.anna.guid, target, ACTOR, ARCHIVE)
    assert (report.merged_count, report.duplicates_count) == (2, 1)
    assert (report.removed_count, report.unproven_count) == (1, 2)
    assert store.held() == {("Inbox",): [CORPUS[0], CORPUS[2]]}
    assert store.held("bob") == {("Inbox",): [CORPUS[1]]}
