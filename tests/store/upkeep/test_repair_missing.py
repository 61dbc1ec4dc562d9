"""A repair where transactions are missing says so, mixes no moments, and gives no number out again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from mailbox_stores import mailbox_store

from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.frame_scan import scan_frames
from pillarbox.store.disk.mailbox_names import MailboxNames
from pillarbox.store.disk.stream import FrameKind
from pillarbox.store.disk.tables import DatabaseKind, ItemRecord
from pillarbox.store.engine import tables_proof
from pillarbox.store.engine.change_feed import ChangeKind, changes
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import ReadTransaction
from pillarbox.store.errors import Corrupt, Refused
from pillarbox.store.ids import guid_text
from pillarbox.store.mail import folders, mailboxes, messages, public_folders
from pillarbox.store.mail.delivery import deliver
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.maintenance import compact
from pillarbox.store.upkeep.repair import repair_database

ACTOR = Actor.task("test")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A database with an empty mailbox, mounted; a segment takes two messages."""
    made = mailbox_store(tmp_path / "db", Tuning(segment_bytes=4_000, remove_beside=False))
    made.create()
    made.mount()
    with made.transaction(ACTOR) as txn:
        mailboxes.create(txn, "anna")
    yield made
    made.dismount()


def delivered(database: Database, count: int) -> list[ItemRecord]:
    rng = random.Random(count)
    raws = [b"Subject: %d\r\n\r\n" % number + rng.randbytes(3_000) for number in range(count)]
    return [item for raw in raws for item in deliver(database, ACTOR, "anna", raw)]


def lose_tables(database: Database) -> None:
    database.dismount()
    (database.path / "properties" / "data.mdb").write_bytes(b"")


def repaired(database: Database) -> tuple[str, ...]:
    """What a repair says that it dropped; the database is mounted again, and clean."""
    database.dismount()
    report = repair_database(database)
    database.mount()
    assert check_database(database, ACTOR).findings == ()
    return report.dropped


def inbox(database: Database) -> list[ItemRecord]:
    with database.read(ACTOR) as read:
        return list(folders.messages(read, mailboxes.find(read, "anna").roles["inbox"]))


def cut_last_transaction(database: Database, segment: int) -> None:
    redo = [
        (offset, length)
        for offset, length, frame in scan_frames(database.stream, segment)
        if frame is not None and frame.kind == FrameKind.REDO
    ]
    path = database.stream.path(segment)
    path.write_bytes(path.read_bytes()[: sum(redo[-2]) if len(redo) > 1 else redo[0][0]])


def test_numbers_of_transactions_that_are_gone_do_not_come_again(database: Database) -> None:
    *kept, lost = delivered(database, 4)
    with database.read(ACTOR) as read:
        seen = changes(read, CNSet()).cnset
    lose_tables(database)
    cut_last_transaction(database, database.stream.segments()[-1])
    repaired(database)
    assert [item.uid for item in inbox(database)] == [item.uid for item in kept]
    (new,) = deliver(database, ACTOR, "anna", b"Subject: another\r\n\r\n")
    assert new.uid > lost.uid and new.message_id > lost.message_id
    with database.read(ACTOR) as read, pytest.raises(Refused, match="future"):
        changes(read, seen)


def test_what_a_client_knows_of_messages_that_are_kept_stays_right(database: Database) -> None:
    kept = delivered(database, 3)
    with database.read(ACTOR) as read:
        seen = changes(read, CNSet()).cnset
        before = folders.get(read, kept[0].folder_id)
    lose_tables(database)
    repaired(database)
    (new,) = deliver(database, ACTOR, "anna", b"Subject: another\r\n\r\n")
    with database.read(ACTOR) as read:
        assert folders.get(read, before.folder_id).uid_validity == before.uid_validity
        assert [change.object_id for change in changes(read, seen, before.folder_id)] == [new.message_id]


def test_tables_that_are_gone_after_a_clean_end_leave_no_number_out(database: Database) -> None:
    (*_, last) = delivered(database, 3)
    lose_tables(database)
    repaired(database)
    (new,) = deliver(database, ACTOR, "anna", b"Subject: another\r\n\r\n")
    assert new.uid == last.uid + 1


def test_a_repair_that_loses_nothing_leaves_no_number_out(database: Database) -> None:
    (*_, last) = delivered(database, 3)
    repaired(database)
    (new,) = deliver(database, ACTOR, "anna", b"Subject: another\r\n\r\n")
    assert new.uid == last.uid + 1


def test_transactions_that_nothing_tells_of_are_named(database: Database) -> None:
    items = delivered(database, 6)
    segment = database.stream.segments()[1]
    lose_tables(database)
    path = database.stream.path(segment)
    path.write_bytes(path.read_bytes()[:5_000])
    (cut, named) = repaired(database)
    assert cut.endswith("are no whole frame")
    assert named.startswith("transactions ") and "are missing in the stream: what they deleted" in named
    assert len(inbox(database)) < len(items)


def test_a_stream_that_ends_before_its_checkpoint_is_named(database: Database) -> None:
    delivered(database, 4)
    lose_tables(database)
    database.stream.path(database.stream.segments()[-1]).unlink()
    (named,) = repaired(database)
    assert named.startswith("the stream ends with transaction ") and named.endswith("which is missing")


@pytest.mark.parametrize("has_tables", [True, False])
def test_a_segment_that_is_not_there_is_named_with_its_transactions(
    database: Database, has_tables: bool
) -> None:
    delivered(database, 8)
    missing = database.stream.segments()[1:3]
    if has_tables:
        database.dismount()
    else:
        lose_tables(database)
    for segment in missing:
        database.stream.path(segment).unlink()
    named = [text for text in repaired(database) if text.startswith(f"segments {missing[0]} to {missing[1]}")]
    (text,) = named
    assert ("are missing in the stream" in text) is has_tables and "with transactions " in text
    assert not [text for text in repaired(database) if "segments" in text], "it is named once"


def test_a_segment_of_a_far_number_costs_no_time_or_memory(database: Database) -> None:
    delivered(database, 1)
    lose_tables(database)
    (segment,) = database.stream.segments()
    database.stream.path(99_999_999).write_bytes(database.stream.path(segment).read_bytes())
    assert any(
        text.startswith(f"segments {segment + 1} to 99999998 are not there") for text in repaired(database)
    )


def test_a_mailbox_of_which_only_its_name_is_left_is_named(database: Database) -> None:
    database.dismount()
    names = database.mailbox_names = MailboxNames(database.path.parent / "names", database.guid)
    database.mount()
    before = len(database.stream.segments())
    delivered(database, 3)
    with database.transaction(ACTOR) as txn:
        bert = mailboxes.create(txn, "Bert")
    lose_tables(database)
    for segment in database.stream.segments()[before:]:
        database.stream.path(segment).unlink()
    assert len(names.read()) == 2
    told = f"mailbox 'bert' ({guid_text(bert.guid)}) had a name, and nothing else tells of it"
    assert told in repaired(database)
    assert len(names.read()) == 1


def test_a_name_that_a_killed_process_left_is_no_loss(database: Database) -> None:
    database.dismount()
    names = database.mailbox_names = MailboxNames(database.path.parent / "names", database.guid)
    database.mount()
    delivered(database, 3)
    names.add([(b"carl", bytes(16))])
    assert repaired(database) == ()


@pytest.mark.parametrize("has_tables", [True, False])
def test_a_segment_that_ends_a_transaction_early_is_repaired(database: Database, has_tables: bool) -> None:
    items = delivered(database, 6)
    segment = database.stream.segments()[1]
    if has_tables:
        database.dismount()
    else:
        lose_tables(database)
    cut_last_transaction(database, segment)
    if has_tables:
        database.mount()
        assert not check_database(database, ACTOR).clean
    repaired(database)
    kept = {item.message_id for item in inbox(database)}
    assert len(kept) == 5 and kept < {item.message_id for item in items}
    database.dismount()
    assert repair_database(database).lost == (), "it is lost once"
    database.mount()


def test_segments_that_compaction_gave_back_are_not_missing(database: Database) -> None:
    items = delivered(database, 6)
    for item in items[2:4]:
        with database.transaction(ACTOR) as txn:
            messages.delete(txn, item.message_id)
    before = database.stream.segments()
    assert compact(database, ACTOR) > 0
    left = database.stream.segments()
    assert left[0] == before[0] and not set(before) <= set(left)
    lose_tables(database)
    assert repaired(database) == ()
    assert len(inbox(database)) == 4


def test_a_message_whose_way_out_is_missing_is_in_one_place(database: Database) -> None:
    item, *others = delivered(database, 3)
    with database.read(ACTOR) as read:
        junk = mailboxes.find(read, "anna").roles["junk"]
    before = database.stream.segments()
    with database.transaction(ACTOR) as txn:
        messages.move(txn, item.message_id, junk)
        messages.append(
            txn, junk, messages.prepare(database.files, b"\r\n" + random.Random(9).randbytes(5_000))
        )
    (lost,) = set(database.stream.segments()) - set(before)
    with database.transaction(ACTOR) as txn:
        messages.set_flags(txn, item.message_id, add=["\\Seen"])
    lose_tables(database)
    database.stream.path(lost).unlink()
    repaired(database)
    assert {found.message_id for found in inbox(database)} == {each.message_id for each in others}
    with database.read(ACTOR) as read:
        assert messages.get(read, item.message_id).folder_id == junk


def test_messages_of_a_deleted_folder_are_told_of_after_a_repair_too(database: Database) -> None:
    with database.transaction(ACTOR) as txn:
        lists = folders.create(txn, mailboxes.find(txn, "anna").root_id, "Lists").folder_id
        item = messages.append(txn, lists, messages.prepare(database.files, b"Subject: a\r\n\r\n"))
    with database.read(ACTOR) as read:
        seen = changes(read, CNSet()).cnset
    delivered(database, 6)
    with database.transaction(ACTOR) as txn:
        folders.delete(txn, lists, with_contents=True)
    lose_tables(database)
    path = database.stream.path(database.stream.segments()[1])
    path.write_bytes(path.read_bytes()[:60])
    assert repaired(database)
    database.finish_removals()
    with database.read(ACTOR) as read:
        gone = {change.object_id for change in changes(read, seen) if change.kind is ChangeKind.DELETED}
    assert {lists, item.message_id} <= gone


def damage_last_redo(database: Database) -> None:
    """Bend a byte of the last transaction that was made."""
    segment = database.stream.segments()[-1]
    frames = scan_frames(database.stream, segment)
    redo = [place for *place, frame in frames if frame is not None and frame.kind == FrameKind.REDO]
    offset, length = redo[-1]
    with database.stream.path(segment).open("r+b") as file:
        file.seek(offset + length - 1)
        byte = file.read(1)
        file.seek(offset + length - 1)
        file.write(bytes([byte[0] ^ 1]))


def deleted_by_a_damaged_transaction(database: Database) -> ItemRecord:
    deleted, *_ = delivered(database, 3)
    with database.transaction(ACTOR) as txn:
        messages.delete(txn, deleted.message_id)
    damage_last_redo(database)
    deliver(database, ACTOR, "anna", b"Subject: after\r\n\r\n")
    return deleted


def test_mail_that_a_damaged_transaction_deleted_stays_gone_where_the_tables_tell_of_it(
    database: Database,
) -> None:
    deleted = deleted_by_a_damaged_transaction(database)
    database.dismount()
    report = repair_database(database)
    assert (report.recovered, report.lost) == (0, ())
    database.mount()
    assert deleted.message_id not in {item.message_id for item in inbox(database)}
    with database.read(ACTOR) as read:
        assert [box.name for box in mailboxes.all_of(read)] == ["anna"]


def test_mail_that_may_be_back_from_its_deletion_is_told_of(database: Database) -> None:
    deleted = deleted_by_a_damaged_transaction(database)
    lose_tables(database)
    report = repair_database(database)
    assert any("what they deleted or moved may be there still" in text for text in report.dropped)
    assert "1 more in anna: Inbox than it had: deleted mail may be back" in report.restored
    database.mount()
    assert deleted.message_id in {item.message_id for item in inbox(database)}


def test_each_message_that_comes_back_without_its_place_is_named(database: Database) -> None:
    deliver(database, ACTOR, "anna", b"From: bert@example.org\r\nSubject: in one piece\r\n\r\nx")
    damage_last_redo(database)
    lose_tables(database)
    report = repair_database(database)
    assert report.recovered == 1 and report.recovered_messages == ("'in one piece' of bert@example.org",)
    database.mount()


def test_in_a_public_folder_store_what_has_no_place_comes_back_below_lost_and_found(tmp_path: Path) -> None:
    raw = b"From: bert@example.org\r\nSubject: in one piece\r\n\r\nx"
    kind = DatabaseKind.PUBLIC_FOLDER_STORE
    tuning = Tuning(remove_beside=False)
    public = Database(tmp_path / "public", b"p" * 16, "Public", kind, clock=VirtualClock(), tuning=tuning)
    public.create()
    public.mount()
    with public.transaction(ACTOR) as txn:
        public_folders.create_tree(txn)
        news = folders.create(txn, public_folders.root_id(txn), "News")
    prepared = messages.prepare(public.files, raw)
    with public.transaction(ACTOR) as txn:
        messages.append(txn, news.folder_id, prepared)
    damage_last_redo(public)
    lose_tables(public)
    report = repair_database(public)
    assert (report.recovered, report.recovered_to) == (1, "")
    public.mount()
    with public.read(ACTOR) as read:
        folder = folders.by_path(read, public_folders.root_id(read), "Lost and Found/Recovered")
        (item,) = folders.messages(read, folder.folder_id)
        assert messages.content(read, item) == raw
    assert check_database(public, ACTOR).clean
    public.dismount()


def test_any_other_byte_where_damage_was_let_go_is_new_damage(database: Database) -> None:
    """What a repair lets go is remembered by its place and its digest."""
    delivered(database, 2)
    segment = database.stream.segments()[-1]
    damage_last_redo(database)
    repaired(database)
    places = [place for *place, frame in scan_frames(database.stream, segment) if frame is None]
    assert places, "the damage is there still, and was passed over"
    path = database.stream.path(segment)
    for offset, length in places:
        for at in (offset, offset + length // 2, offset + length - 1):
            whole = path.read_bytes()
            changed = bytearray(whole)
            changed[at] ^= 0x40
            with path.open("r+b") as file:
                file.write(changed)
            found = check_database(database, ACTOR).findings
            assert any(each.file == str(path) for each in found), at
            with path.open("r+b") as file:
                file.write(whole)
    assert check_database(database, ACTOR).clean


@pytest.mark.parametrize("first", [-4, -3, -2])
def test_transactions_that_have_changed_places_are_told_still(database: Database, first: int) -> None:
    """As after two pages of a segment have: the later one stands before the earlier one, both whole."""
    items = deliver(database, ACTOR, "anna", b"Subject: first\r\n\r\n")
    with database.transaction(ACTOR) as txn:
        lists = folders.create(txn, mailboxes.find(txn, "anna").root_id, "Lists")
    for number in range(3):
        items += deliver(database, ACTOR, "anna", b"Subject: %d\r\n\r\n" % number + b"x" * number)
    with database.transaction(ACTOR) as txn:
        messages.move(txn, items[0].message_id, lists.folder_id)
        messages.delete(txn, items[1].message_id)
    with database.read(ACTOR) as read:
        before = [(item.message_id, messages.content(read, item)) for item in every_message(read)]
    lose_tables(database)
    path, ends = database.stream.path(1), redo_ends(database)
    whole = path.read_bytes()
    start, middle, end = ends[first - 1], ends[first], ends[first + 1]
    path.write_bytes(whole[:start] + whole[middle:end] + whole[start:middle] + whole[end:])
    report = repair_database(database)
    assert (report.lost, report.recovered) == ((), 0)
    database.mount()
    with database.read(ACTOR) as read:
        assert [(item.message_id, messages.content(read, item)) for item in every_message(read)] == before
    assert check_database(database, ACTOR).clean
    lose_tables(database)
    assert repair_database(database).lost == ()
    database.mount()
    with database.read(ACTOR) as read:
        assert [(item.message_id, messages.content(read, item)) for item in every_message(read)] == before


def every_message(read: ReadTransaction) -> list[ItemRecord]:
    root_id = mailboxes.find(read, "anna").root_id
    return [
        item for _, folder in folders.walk(read, root_id) for item in folders.messages(read, folder.folder_id)
    ]


def redo_ends(database: Database) -> list[int]:
    """Where the transactions of the first segment end."""
    return [
        offset + length
        for offset, length, frame in scan_frames(database.stream, 1)
        if frame is not None and frame.kind == FrameKind.REDO
    ]


def test_tables_whose_pages_the_verifier_refuses_take_no_place(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = delivered(database, 2)
    database.dismount()
    with monkeypatch.context() as patch:
        patch.setattr(tables_proof, "verify_tables", lambda path: ["page 7 is bent"])
        with pytest.raises(Corrupt, match="page 7 is bent"):
            repair_database(database)
    database.mount()
    assert inbox(database) == kept
