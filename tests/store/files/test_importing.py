"""Mail files come into a mailbox byte for byte, in folders of their names; once, however often it is run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind, ItemRecord, Table
from pillarbox.store.engine import disk_floor
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import DiskFull, NotFound
from pillarbox.store.events import Event, EventId
from pillarbox.store.files import importing as import_module
from pillarbox.store.files.importing import ImportProgress, import_mail
from pillarbox.store.files.mail_item import MailItem
from pillarbox.store.files.maildir import MaildirWriter
from pillarbox.store.files.mbox import Dialect, MboxWriter, read_mbox
from pillarbox.store.mail import folders, mailboxes, messages

DATA = Path(__file__).resolve().parents[2] / "data"
LISTS = DATA / "lists.mbox"
SPAM = DATA / "spam"
ACTOR = Actor.administrator("test")


class Events:
    def __init__(self) -> None:
        self.seen: list[Event] = []

    def report(self, event: Event) -> None:
        self.seen.append(event)


class Box:
    """A database with one mailbox, and what is in it."""

    def __init__(self, path: Path) -> None:
        self.events = Events()
        self.clock = VirtualClock(1_700_000_000_000)
        self.database = Database(
            path, b"d" * 16, "DB", DatabaseKind.MAILBOX_STORE, clock=self.clock, reporter=self.events
        )
        self.database.create()
        self.database.mount()
        with self.database.transaction(ACTOR) as txn:
            self.guid = mailboxes.create(txn, "anna").guid

    def run(self, *paths: Path, dialect: Dialect | None = None) -> import_module.ImportReport:
        return import_mail(self.database, ACTOR, self.guid, paths, dialect=dialect)

    def items(self, path: str) -> list[ItemRecord]:
        with self.database.read(ACTOR) as read:
            root = mailboxes.get(read, self.guid).root_id
            return list(folders.messages(read, folders.by_path(read, root, path).folder_id))

    def raws(self, path: str) -> list[bytes]:
        with self.database.read(ACTOR) as read:
            return [messages.content(read, item) for item in self.items(path)]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "db")
    yield made
    made.database.dismount()


def mail(number: int) -> bytes:
    return b"Subject: number %d\nDate: Tue, 01 Oct 2002 10:00:00 +0000\n\nbody %d\n" % (number, number)


@pytest.mark.parametrize("dialect", ["mboxo", "mboxrd", "mboxcl", "mboxcl2"])
def test_an_mbox_of_each_dialect_becomes_a_folder_of_its_name(
    box: Box, tmp_path: Path, dialect: Dialect
) -> None:
    raws = [item.raw for item in read_mbox(LISTS)]
    path = tmp_path / "Old lists.mbox"
    with path.open("wb") as file:
        writer = MboxWriter(file, dialect)
        for raw in raws:
            writer.add(MailItem(raw, received_ms=1_033_000_000_000))
    report = box.run(path, dialect=dialect)
    assert (report.messages_count, report.damaged_count, report.unreadable_count) == (24, 0, 0)
    assert report.folders == (("Old lists",),)
    assert box.raws("Old lists") == raws
    assert {item.received_ms for item in box.items("Old lists")} == {1_033_000_000_000}


def test_a_lone_eml_goes_to_the_inbox_and_a_directory_becomes_a_folder(box: Box) -> None:
    lone = SPAM / "00164.eml"
    report = box.run(lone, SPAM)
    assert box.raws("Inbox") == [lone.read_bytes()]
    assert box.raws("spam") == [path.read_bytes() for path in sorted(SPAM.iterdir())]
    assert report.messages_count == 7


def test_a_tree_keeps_its_inner_folders(box: Box, tmp_path: Path) -> None:
    inner = tmp_path / "archive" / "2002" / "deep"
    inner.mkdir(parents=True)
    (inner / "1.eml").write_bytes(mail(1))
    (tmp_path / "archive" / "2.eml").write_bytes(mail(2))
    (tmp_path / "archive" / "lists.mbox").write_bytes(LISTS.read_bytes())
    box.run(tmp_path / "archive")
    assert box.raws("archive") == [mail(2)]
    assert box.raws("archive/2002/deep") == [mail(1)]
    assert len(box.raws("archive/lists")) == 24


def test_a_maildirs_flags_keywords_and_times_come_with_it(box: Box, tmp_path: Path) -> None:
    writer = MaildirWriter(tmp_path / "Mail")
    writer.add((), MailItem(mail(1), ("\\Seen", "$Forwarded", "work"), 1_033_000_000_000))
    writer.add(("A", "B"), MailItem(mail(2)))
    box.run(tmp_path / "Mail")
    [item] = box.items("Mail")
    assert set(messages.flag_names(item)) == {"\\Seen", "$Forwarded", "work"}
    assert item.received_ms == 1_033_000_000_000
    assert box.raws("Mail/A/B") == [mail(2)]


def test_a_message_of_unknown_receipt_was_received_when_it_was_sent(box: Box, tmp_path: Path) -> None:
    (tmp_path / "sent.eml").write_bytes(mail(1))
    (tmp_path / "future.eml").write_bytes(b"Date: Tue, 01 Oct 2052 10:00:00 +0000\n\nx\n")
    box.run(tmp_path / "sent.eml", tmp_path / "future.eml")
    assert [item.received_ms for item in box.items("Inbox")] == [1_033_466_400_000, box.clock.now_ms()]


def test_an_import_run_again_adds_only_what_is_new(box: Box, tmp_path: Path) -> None:
    path = tmp_path / "lists.mbox"
    path.write_bytes(LISTS.read_bytes())
    box.run(path, SPAM, SPAM / "00164.eml")
    again = box.run(path, SPAM, SPAM / "00164.eml")
    assert (again.messages_count, again.present_count) == (0, 31)
    with path.open("ab") as file:
        file.write(b"From x@y Tue Oct  1 10:00:00 2002\n" + mail(7) + b"\n")
    assert box.run(path).messages_count == 1
    assert box.raws("lists")[-1] == mail(7)


def test_what_a_source_holds_twice_is_there_twice_however_often_it_is_imported(
    box: Box, tmp_path: Path
) -> None:
    path = tmp_path / "twice.mbox"
    with path.open("wb") as file:
        writer = MboxWriter(file)
        for number in (1, 2, 1):
            writer.add(MailItem(mail(number)))
    box.run(path)
    box.run(path)
    assert box.raws("twice") == [mail(1), mail(2), mail(1)]


def test_an_interrupted_import_goes_on_where_it_stopped(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module, "BATCH_MESSAGES", 5)
    seen: list[ImportProgress] = []

    def stop(progress: ImportProgress) -> None:
        seen.append(progress)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_mail(box.database, ACTOR, box.guid, [LISTS], progress=stop)
    assert [progress.messages_read for progress in seen] == [5, 10]
    assert len(box.raws("lists")) == 10
    report = box.run(LISTS)
    assert (report.messages_count, report.present_count) == (14, 10)
    assert box.raws("lists") == [item.raw for item in read_mbox(LISTS)]


def test_damaged_messages_are_imported_and_listed(box: Box, tmp_path: Path) -> None:
    path = tmp_path / "cut.mbox"
    path.write_bytes(
        b"From x@y Tue Oct  1 10:00:00 2002\n" + mail(1) + b"\nFrom x@y Tue Oct  1 10:00:00 2002\nSubj"
    )
    report = box.run(path)
    assert report.messages_count == 2
    [remark] = report.damaged
    assert remark.source == str(path)
    assert path.read_bytes()[remark.position :].startswith(b"From x@y")
    assert box.raws("cut") == [mail(1), b"Subj"]
    [event] = [event for event in box.events.seen if event.event_id == EventId.IMPORT_FINISHED_DAMAGED]
    assert event.details == {"messages": 2, "mailbox": "anna", "damaged": 1}


def test_files_that_are_no_mail_or_empty_are_listed_and_the_others_imported(box: Box, tmp_path: Path) -> None:
    (tmp_path / "notes.bin").write_bytes(b"\0\1\2")
    (tmp_path / "empty.eml").write_bytes(b"")
    report = box.run(tmp_path / "notes.bin", tmp_path / "empty.eml", SPAM)
    assert report.messages_count == 6
    assert [remark.source for remark in report.unreadable] == [
        str(tmp_path / "notes.bin"),
        str(tmp_path / "empty.eml"),
    ]
    assert [remark.reason for remark in report.unreadable] == ["is no mail file", "the file is empty"]


@pytest.mark.parametrize("name", ["closed", "box/.closed", "box/.Lists/cur"])
def test_a_directory_that_may_not_be_read_is_listed_and_the_others_imported(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for folder_path in ((), ("Lists",), ("closed",), ("open",)):
        MaildirWriter(tmp_path / "mail" / "box").add(folder_path, MailItem(mail(1)))
    (tmp_path / "mail" / "closed").mkdir()
    (tmp_path / "mail" / "z.eml").write_bytes(mail(2))
    closed, stat, scandir = tmp_path / "mail" / name, os.stat, os.scandir

    def guarded_stat(path: Path, **asked: Any) -> os.stat_result:
        if closed in Path(path).parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **asked)

    def guarded_scandir(path: Path) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "stat", guarded_stat)
    monkeypatch.setattr(os, "scandir", guarded_scandir)
    report = box.run(tmp_path / "mail")
    assert report.messages_count == (5 if name == "closed" else 4)
    [remark] = report.unreadable
    assert closed in (Path(remark.source), Path(remark.source) / "cur")
    assert remark.reason.endswith("cannot be read: Permission denied")


def test_mail_files_beside_the_messages_of_a_maildir_are_listed(box: Box, tmp_path: Path) -> None:
    for name in ("cur/1.a:2,S", "new/2.a", "Lists/1.eml", "old.mbox", "dovecot.index"):
        (tmp_path / "mail" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mail" / name).write_bytes(name.encode())
    report = box.run(tmp_path / "mail")
    assert (report.messages_count, report.passed_over_count) == (2, 2)
    assert {Path(remark.source).name for remark in report.passed_over} == {"1.eml", "old.mbox"}
    assert {remark.reason for remark in report.passed_over} == {"is beside the messages of a maildir"}


def test_a_path_that_is_not_there_stops_an_import_before_it_begins(box: Box, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="missing"):
        box.run(LISTS, tmp_path / "missing")
    with pytest.raises(NotFound):
        box.items("lists")


def test_a_full_disk_stops_an_import_with_what_was_committed_kept(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module, "BATCH_MESSAGES", 5)
    free = iter([1 << 40, 0])
    monkeypatch.setattr(disk_floor, "free_disk_bytes", lambda _: next(free))
    with pytest.raises(DiskFull):
        import_mail(box.database, ACTOR, box.guid, [LISTS], progress=lambda _: box.clock.advance_ms(60_000))
    assert len(box.raws("lists")) == 5


def test_a_large_import_trains_a_dictionary_once_and_is_smaller_for_it(
    tmp_path: Path, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = [item.raw.split(b"\n\n", 1)[0] for item in read_mbox(LISTS)]
    raws = [
        headers[each % len(headers)] + b"\nX-Number: %d\n\nHello\n" % (each * 7919) for each in range(700)
    ]
    (tmp_path / "in").mkdir()
    for number, raw in enumerate(raws):
        (tmp_path / "in" / f"{number:04}.eml").write_bytes(raw)
    monkeypatch.setattr(import_module, "BATCH_MESSAGES", 20)
    monkeypatch.setattr(import_module, "_TRAIN_AFTER_MESSAGES", 550)
    report = box.run(tmp_path / "in")
    assert report.messages_count == 700
    with box.database.read(ACTOR) as read:
        assert read.view.count(Table.DICTIONARY) == 1
        sizes = [read.record(Table.CONTENT, item.digest).length for item in box.items("in")]
    assert sum(sizes[-50:]) < 0.8 * sum(sizes[:50])
    assert box.raws("in") == raws
    box.run(tmp_path / "in")
    with box.database.read(ACTOR) as read:
        assert read.view.count(Table.DICTIONARY) == 1
