"""A mailbox goes out to files and comes back the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import AlreadyExists, Corrupt
from pillarbox.store.files.eml import read_tree
from pillarbox.store.files.exporting import ExportFormat, ExportProgress, export_mail
from pillarbox.store.files.importing import import_mail
from pillarbox.store.files.maildir import read_maildir
from pillarbox.store.files.mbox import read_mbox
from pillarbox.store.mail import folders, mailboxes, messages

DATA = Path(__file__).resolve().parents[2] / "data"
LISTS = DATA / "lists.mbox"
SPAM = DATA / "spam"
ACTOR = Actor.administrator("test")


class Box:
    """A mailbox with mail in its Inbox, a folder, and a folder in that."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path, b"d" * 16, "DB", DatabaseKind.MAILBOX_STORE)
        self.database.create()
        self.database.mount()
        with self.database.transaction(ACTOR) as txn:
            self.record = mailboxes.create(txn, "anna")
        self.guid = self.record.guid
        import_mail(self.database, ACTOR, self.guid, [SPAM / "00164.eml", LISTS, SPAM])
        with self.database.transaction(ACTOR) as txn:
            outer = folders.by_path(txn, self.record.root_id, "lists")
            folders.move(txn, folders.by_path(txn, self.record.root_id, "spam").folder_id, outer.folder_id)
            first = next(folders.messages(txn, outer.folder_id))
            messages.set_flags(txn, first.message_id, add=["\\Flagged", "work"])
            self.first = messages.get(txn, first.message_id)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "db")
    yield made
    made.database.dismount()


LISTS_RAW = [item.raw for item in read_mbox(LISTS)]
SPAM_RAW = [path.read_bytes() for path in sorted(SPAM.iterdir())]


@pytest.mark.parametrize("format", ["eml", "mbox"])
def test_files_hold_every_message_byte_for_byte_in_its_folder(
    box: Box, tmp_path: Path, format: ExportFormat
) -> None:
    report = export_mail(box.database, ACTOR, box.guid, tmp_path / "out", format)
    assert (report.messages_count, report.folders_count, report.damaged) == (31, 3, ())
    found: dict[tuple[str, ...], list[bytes]] = {}
    for path, item in read_tree(tmp_path / "out"):
        found.setdefault(path, []).append(item.raw)
    assert found == {("Inbox",): SPAM_RAW[:1], ("lists",): LISTS_RAW, ("lists", "spam"): SPAM_RAW}


def test_a_maildir_has_the_inbox_at_its_root_and_the_flags(box: Box, tmp_path: Path) -> None:
    export_mail(box.database, ACTOR, box.guid, tmp_path / "out", "maildir")
    found: dict[tuple[str, ...], set[bytes]] = {}
    flags = {}
    for path, item in read_maildir(tmp_path / "out"):
        found.setdefault(path, set()).add(item.raw)
        flags[item.raw] = item.flags
    assert found == {(): {SPAM_RAW[0]}, ("lists",): set(LISTS_RAW), ("lists", "spam"): set(SPAM_RAW)}
    assert {"\\Flagged", "work"} <= set(flags[LISTS_RAW[0]])


@pytest.mark.parametrize("format", ["eml", "mbox", "maildir"])
def test_folders_named_as_the_parts_of_a_maildir_come_back(
    box: Box, tmp_path: Path, format: ExportFormat
) -> None:
    with box.database.transaction(ACTOR) as txn:
        for name in ("cur", "New", "tmp"):
            made = folders.create(txn, folders.create(txn, box.record.root_id, name).folder_id, name)
            messages.copy(txn, box.first.message_id, made.folder_id)
    report = export_mail(box.database, ACTOR, box.guid, tmp_path / "out", format)
    found = read_maildir(tmp_path / "out") if format == "maildir" else read_tree(tmp_path / "out")
    assert report.messages_count == len(list(found)) == 34


def test_folders_whose_names_become_the_same_on_disk_stay_apart(box: Box, tmp_path: Path) -> None:
    with box.database.transaction(ACTOR) as txn:
        for name in ("a:b", "a?b"):
            made = folders.create(txn, box.record.root_id, name)
            messages.copy(txn, box.first.message_id, made.folder_id)
    export_mail(box.database, ACTOR, box.guid, tmp_path / "out", "mbox")
    for name in ("a_b.mbox", "a_b-2.mbox"):
        assert [item.raw for item in read_mbox(tmp_path / "out" / name)] == LISTS_RAW[:1]


@pytest.mark.parametrize("inside", [True, False])
def test_an_export_does_not_touch_what_is_there(box: Box, tmp_path: Path, inside: bool) -> None:
    kept = tmp_path / "out" / "kept" if inside else tmp_path / "out"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("kept")
    with pytest.raises(AlreadyExists) as raised:
        export_mail(box.database, ACTOR, box.guid, tmp_path / "out", "eml")
    assert raised.value.hint
    assert kept.read_text() == "kept"


def test_a_message_that_cannot_be_read_is_listed_and_the_others_go_out(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = messages.content

    def damaged(reader, item):  # type: ignore[no-untyped-def]
        if item.message_id == box.first.message_id:
            raise Corrupt("segment 1 at 99: damaged")
        return whole(reader, item)

    monkeypatch.setattr(messages, "content", damaged)
    progress: list[ExportProgress] = []
    report = export_mail(box.database, ACTOR, box.guid, tmp_path / "out", "eml", progress=progress.append)
    assert report.messages_count == 30
    assert [(each.folder, each.message_id) for each in report.damaged] == [(("lists",), box.first.message_id)]
    assert progress[-1].messages_count == 30
    assert progress[-1].messages_total == 31


@pytest.mark.parametrize("format", ["eml", "mbox", "maildir"])
def test_an_export_is_on_the_disk_before_it_counts_as_finished(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: ExportFormat
) -> None:
    out = tmp_path / "out"
    mark = out / ".pillarbox-unfinished"
    fsync, unlink, flushed, seen = os.fsync, Path.unlink, set[Path](), list[set[Path]]()

    def record_fsync(descriptor: int) -> None:
        fsync(descriptor)
        flushed.add(Path(f"/proc/self/fd/{descriptor}").readlink())

    def record_unlink(path: Path, **asked: bool) -> None:
        if path == mark:
            seen.append(set(flushed))
            flushed.clear()
        unlink(path, **asked)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "unlink", record_unlink)
    export_mail(box.database, ACTOR, box.guid, out, format, progress=lambda _: seen.append(set(flushed)))
    assert out in seen[0], "the mark is there before any mail is"
    assert {out, *out.rglob("*")} <= seen[-1]
    assert flushed == {out}, "the mark is gone for good"
