"""A copy of a folder is there as a whole, as the folder was when it began, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.disk.tables import DatabaseKind, FolderRecord, Hidden, Table
from pillarbox.store.engine import change_feed, pace, withheld
from pillarbox.store.engine.change_feed import ChangeKind
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.group_store import GroupStore
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.errors import (
    AlreadyExists,
    DiskFull,
    Dismounted,
    NotFound,
    PillarboxError,
    Refused,
    TooManyMessages,
)
from pillarbox.store.mail import copying, delivery, folders, mailboxes, messages, public_folders
from pillarbox.store.mail.copying import CopyProgress, copy_folder
from pillarbox.store.upkeep import maintenance, repair
from pillarbox.store.upkeep.check import check_database
from tests.conftest import OpenDatabase

ACTOR = Actor.task("test")
COUNT = 23


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "Pace", lambda: pace.Pace(5))


@pytest.fixture
def lists(database: Database) -> FolderRecord:
    """A folder of a mailbox `anna` with another one below it, and messages of all kinds in both."""
    with database.transaction(ACTOR) as txn:
        anna = mailboxes.create(txn, "anna")
        folder = folders.create(txn, anna.root_id, "Lists")
        inner = folders.create(txn, folder.folder_id, "Inner")
        for number in range(COUNT):
            item = messages.append(
                txn,
                (folder, inner)[number % 2].folder_id,
                messages.prepare(database.files, b"Subject: %d\r\n\r\nbody %d" % (number, number)),
                flags=[("\\Seen", "$Work"), ("\\Flagged",), ()][number % 3],
                received_ms=1000 + number,
                properties={"number": number},
            )
            messages.set_categories(txn, item.message_id, ["Red"][: number % 2])
    return folder


def anna_of(database: Database) -> Any:
    with database.read(ACTOR) as read:
        return mailboxes.find(read, "anna")


def facts(reader: Reader, folder_id: int) -> dict[tuple[str, ...], Any]:
    """All that a folder holds, with the folders below it, but for ids and UIDs."""
    walked = [((), folders.get(reader, folder_id)), *folders.walk(reader, folder_id)]
    return {
        path: (
            (found.messages_count, found.unread_count, found.size),
            [
                (
                    messages.content(reader, item),
                    item._replace(
                        folder_id=0, uid=0, message_id=0, arrived_cn=0, change_cn=0, read_cn=0, properties={}
                    ),
                    repr(item.properties),
                )
                for item in folders.messages(reader, found.folder_id)
            ],
        )
        for path, found in walked
    }


def facts_of(database: Database, folder_id: int) -> dict[tuple[str, ...], Any]:
    with database.read(ACTOR) as read:
        return facts(read, folder_id)


def copy(database: Database, lists: FolderRecord, name: str = "Copy", **options: Any) -> FolderRecord:
    return copy_folder(database, ACTOR, lists.folder_id, anna_of(database).root_id, name, **options)


def once(do: Callable[[], object]) -> Callable[[CopyProgress], None]:
    """A `progress` that does something between the first two batches."""
    told: list[CopyProgress] = []

    def progress(at: CopyProgress) -> None:
        told.append(at)
        if len(told) == 1:
            do()

    return progress


def nothing_is_left(database: Database) -> None:
    """Of a copy that was given up, once its rows are removed."""
    assert check_database(database, ACTOR).clean
    database.finish_removals()
    report = check_database(database, ACTOR)
    assert report.clean and report.messages == COUNT
    with database.read(ACTOR) as read:
        assert read.view.count(Table.ITEM) == COUNT and read.view.count(Table.REMOVAL) == 0
        assert "Copy" not in [found.name for found in folders.children(read, anna_of(database).root_id)]
        assert not [found for _, found in read.records(Table.FOLDER, b"", None) if found.hidden]


def test_a_copy_holds_what_the_folder_held(database: Database, lists: FolderRecord) -> None:
    before, held = facts_of(database, lists.folder_id), anna_of(database)
    told: list[CopyProgress] = []
    made = copy(database, lists, progress=told.append)
    assert (made.name, made.parent_id) == ("Copy", held.root_id)
    assert facts_of(database, made.folder_id) == before == facts_of(database, lists.folder_id)
    anna = anna_of(database)
    assert (anna.messages_count, anna.size) == (2 * held.messages_count, 2 * held.size)
    assert [at.messages_count for at in told] == [5, 10, 15, 20, 23]
    assert {at.messages_total for at in told} == {COUNT}
    with database.read(ACTOR) as read:
        walked = [made, *(found for _, found in folders.walk(read, made.folder_id))]
        for found in walked:
            uids = [item.uid for item in folders.messages(read, found.folder_id)]
            assert uids == list(range(1, found.messages_count + 1)) and found.uid_next == len(uids) + 1
            newest = max(item.modseq for item in folders.messages(read, found.folder_id))
            assert found.highest_cn == newest
        items = [item for _, item in read.records(Table.ITEM, b"", None)]
        assert len({item.message_id for item in items}) == 2 * COUNT
        assert read.view.count(Table.CONTENT) == COUNT, "content is stored once"
    assert check_database(database, ACTOR).clean


def test_a_copy_in_one_transaction_is_the_same(database: Database, lists: FolderRecord) -> None:
    made = copy(database, lists)
    with database.transaction(ACTOR) as txn:
        other = messages.copy_folder(txn, lists.folder_id, anna_of(database).root_id, "Other")
    assert facts_of(database, made.folder_id) == facts_of(database, other.folder_id)


def test_a_copy_holds_messages_as_they_were_when_it_began(database: Database, lists: FolderRecord) -> None:
    """Also those that are deleted meanwhile, whose content goes with them."""
    before = facts_of(database, lists.folder_id)

    def change() -> None:
        with database.transaction(ACTOR) as txn:
            for _, found in list(folders.walk(txn, anna_of(database).root_id)):
                for item in list(folders.messages(txn, found.folder_id))[1::2]:
                    messages.delete(txn, item.message_id)
                for item in list(folders.messages(txn, found.folder_id)):
                    messages.set_flags(txn, item.message_id, add=["late"])
            prepared = messages.prepare(database.files, b"Subject: late\r\n\r\nx")
            messages.append(txn, lists.folder_id, prepared)
            folders.rename(txn, lists.folder_id, "Renamed")
            folders.create(txn, lists.folder_id, "Late")
        maintenance.compact(database, ACTOR)

    made = copy(database, lists, progress=once(change))
    assert facts_of(database, made.folder_id) == before
    assert check_database(database, ACTOR).clean


def test_the_source_may_go_and_the_copy_may_lie_in_it(database: Database, lists: FolderRecord) -> None:
    before = facts_of(database, lists.folder_id)
    inside = copy_folder(database, ACTOR, lists.folder_id, lists.folder_id, "Copy")
    assert facts_of(database, inside.folder_id) == before

    def delete() -> None:
        with database.transaction(ACTOR) as txn:
            folders.delete(txn, lists.folder_id, with_contents=True)
        database.finish_removals()

    made = copy_folder(database, ACTOR, inside.folder_id, anna_of(database).root_id, progress=once(delete))
    assert facts_of(database, made.folder_id) == before
    assert check_database(database, ACTOR).clean


def test_nobody_meets_a_copy_before_it_is_complete(database: Database, lists: FolderRecord) -> None:
    held = anna_of(database)

    def look() -> None:
        with database.transaction(ACTOR) as txn:
            hidden = [found for _, found in txn.records(Table.FOLDER, b"", None) if found.hidden]
            assert {found.hidden for found in hidden} == {Hidden.COPYING} and len(hidden) == 2
            assert mailboxes.find(txn, "anna") == held
            assert folders.find(txn, held.root_id, "Copy") is None
            items = [item for _, item in txn.records(Table.ITEM, b"", None)]
            copied = [item for item in items if item.folder_id in {found.folder_id for found in hidden}]
            assert copied
            for found in hidden:
                assert list(folders.messages(txn, found.folder_id)) == []
                with pytest.raises(NotFound, match="no folder"):
                    folders.get(txn, found.folder_id)
            with pytest.raises(NotFound):
                messages.get(txn, copied[0].message_id)
            told = {change.object_id for change in change_feed.changes(txn, CNSet())}
            assert not told & {item.message_id for item in copied} and hidden[0].folder_id not in told
        assert check_database(database, ACTOR).clean

    made = copy(database, lists, progress=once(look))
    with database.read(ACTOR) as read:
        assert folders.find(read, held.root_id, "copy") == made


def followed(reader: Reader, since: CNSet, limit: int | None = None) -> tuple[list[Any], CNSet]:
    changes = change_feed.changes(reader, since)
    return list(changes), changes.cnset


def test_the_feed_tells_of_all_of_a_copy_once_it_is_complete(database: Database, lists: FolderRecord) -> None:
    """Whoever followed it meanwhile is told of nothing before, and of all of it then, once."""
    with database.read(ACTOR) as read:
        _, state = followed(read, CNSet())
    states = [state]

    def follow() -> None:
        delivery.deliver(database, ACTOR, "anna", b"Subject: meanwhile\r\n\r\nx")
        with database.read(ACTOR) as read:
            told, seen = followed(read, states[-1])
        assert [(change.kind, change.item and change.item.subject) for change in told] == [
            (ChangeKind.NEW, "meanwhile")
        ]
        states.append(seen)

    made = copy(database, lists, progress=lambda at: follow())
    with database.read(ACTOR) as read:
        told, seen = followed(read, states[-1])
        inner = next(folders.children(read, made.folder_id))
        copied = {
            item.message_id for each in (made, inner) for item in folders.messages(read, each.folder_id)
        }
        assert {change.kind for change in told} == {ChangeKind.NEW}
        expected = copied | {made.folder_id, inner.folder_id}
        assert sorted(change.object_id for change in told) == sorted(expected)
        assert followed(read, seen)[0] == []
        item = next(folders.messages(read, made.folder_id))
    with database.transaction(ACTOR) as txn:
        messages.move(txn, item.message_id, inner.folder_id)
    with database.read(ACTOR) as read:
        late = {change.object_id: change.kind for change in followed(read, states[-1])[0]}
        assert late[item.message_id] is ChangeKind.NEW, "it was never told of before"


def test_a_walk_through_the_feed_page_by_page_does_not_pass_over_a_copy(
    database: Database, lists: FolderRecord
) -> None:
    """Its numbers are lower than those that the first pages told of."""
    pages: list[change_feed.ChangesPage] = []

    def begin() -> None:
        for _ in range(2):
            delivery.deliver(database, ACTOR, "anna", b"Subject: meanwhile\r\n\r\nx")
        with database.read(ACTOR) as read:
            total = len(list(change_feed.changes(read, CNSet())))
            pages.append(change_feed.changes(read, CNSet()).page(total - 1))

    made = copy(database, lists, progress=once(begin))
    with database.read(ACTOR) as read:
        rest = change_feed.changes(read, CNSet())
        page = rest.page(1000, pages[0].next)
        known = {change.object_id for change in (*pages[0].changes, *page.changes)}
        known |= {change.object_id for change in change_feed.changes(read, rest.cnset)}
        items = {item.message_id for item in folders.messages(read, made.folder_id)}
        assert items | {made.folder_id} <= known


def test_an_old_walk_through_the_feed_begins_anew_after_many_copies(
    database: Database, lists: FolderRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withheld, "_INTERVALS_MAX", 2)
    with database.read(ACTOR) as read:
        page = change_feed.changes(read, CNSet()).page(3)
    for number in range(4):
        copy(database, lists, f"Copy {number}")
    with database.read(ACTOR) as read, pytest.raises(Refused, match="copied since"):
        change_feed.changes(read, CNSet()).page(3, page.next)
    with database.read(ACTOR) as read:
        assert len(list(change_feed.changes(read, CNSet()))) > 5 * COUNT


class Interrupted(BaseException):
    """An interrupt of the program."""


@pytest.mark.parametrize("error", [ZeroDivisionError, Interrupted, KeyboardInterrupt])
def test_of_a_copy_that_fails_nothing_is_left(
    database: Database, lists: FolderRecord, error: type[BaseException]
) -> None:
    before = facts_of(database, lists.folder_id)

    def fail() -> None:
        raise error

    with pytest.raises(error):
        copy(database, lists, progress=once(fail))
    with database.read(ACTOR) as read:
        told, state = followed(read, CNSet())
        assert "Copy" not in str(told)
    nothing_is_left(database)
    with database.read(ACTOR) as read:
        assert followed(read, state)[0] == [], "nobody was told of it, so nobody is told that it is gone"
    assert facts_of(database, lists.folder_id) == before
    assert copy(database, lists).name == "Copy"


@pytest.mark.parametrize(
    ("where", "name", "calls_count", "error"),
    [(folders, "insert", 2, Interrupted()), (GroupStore, "store", 1, DiskFull("full"))],
)
def test_a_copy_that_did_not_begin_takes_no_other_with_it(
    database: Database,
    lists: FolderRecord,
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
    calls_count: int,
    error: BaseException,
) -> None:
    """Undone, it has given out no numbers: another copy that waited for its turn gets the same."""
    has_begun, go_on = threading.Event(), threading.Event()
    copied: list[FolderRecord] = []

    def wait() -> None:
        has_begun.set()
        assert go_on.wait(10)

    other = threading.Thread(target=lambda: copied.append(copy(database, lists, progress=once(wait))))
    work, give_up = getattr(where, name), copying._Copy._give_up

    def fail(*given: Any, **named: Any) -> Any:
        nonlocal calls_count
        calls_count -= 1
        if not calls_count:
            raise error
        return work(*given, **named)

    def give_up_late(failed: Any) -> None:
        other.start()
        assert has_begun.wait(10)
        give_up(failed)

    monkeypatch.setattr(where, name, fail)
    monkeypatch.setattr(copying._Copy, "_give_up", give_up_late)
    with pytest.raises(type(error)):
        copy(database, lists)
    go_on.set()
    other.join(10)
    assert [each.name for each in copied] == ["Copy"]
    assert facts_of(database, copied[0].folder_id) == facts_of(database, lists.folder_id)


def test_a_copy_whose_process_ended_is_removed_by_the_next_mount(
    database: Database, lists: FolderRecord, tmp_path: Path
) -> None:
    """A process that reads the database meanwhile does not meet it."""

    def end() -> None:
        database.dismount("its process ended")

    with pytest.raises(Dismounted):
        copy(database, lists, progress=once(end))
    database.mount(read_only=True)
    with database.read(ACTOR) as read:
        hidden = [found for _, found in read.records(Table.FOLDER, b"", None) if found.hidden]
        assert {found.hidden for found in hidden} == {Hidden.COPYING}
        assert list(folders.walk(read, hidden[0].folder_id)) == []
    database.dismount()
    database.mount()
    nothing_is_left(database)
    assert copy(database, lists).name == "Copy"


def test_a_repair_removes_an_incomplete_copy(database: Database, lists: FolderRecord) -> None:
    with pytest.raises(Dismounted):
        copy(database, lists, progress=once(database.dismount))
    (database.path / "properties" / "data.mdb").unlink()
    repair.repair_database(database)
    database.mount()
    nothing_is_left(database)


def in_anna(database: Database, change: Callable[..., object]) -> Callable[[], None]:
    def do() -> None:
        with database.transaction(ACTOR) as txn:
            change(txn, mailboxes.find(txn, "anna"))

    return do


def test_a_copy_that_has_no_place_any_more_is_given_up(database: Database, lists: FolderRecord) -> None:
    with database.transaction(ACTOR) as txn:
        parent = folders.create(txn, anna_of(database).root_id, "Parent").folder_id
    for name, change, error in (
        ("One", lambda txn, anna: folders.create(txn, parent, "one"), AlreadyExists),
        ("Two", lambda txn, anna: folders.delete(txn, parent, with_contents=True), NotFound),
    ):
        with pytest.raises(error):
            copy_folder(
                database, ACTOR, lists.folder_id, parent, name, progress=once(in_anna(database, change))
            )
        nothing_is_left(database)


def test_a_copy_goes_with_its_parent_to_another_mailbox(database: Database, lists: FolderRecord) -> None:
    with database.transaction(ACTOR) as txn:
        parent = folders.create(txn, anna_of(database).root_id, "Parent").folder_id
        bert = mailboxes.create(txn, "bert")
    move = in_anna(database, lambda txn, anna: folders.move(txn, parent, bert.root_id))
    made = copy_folder(database, ACTOR, lists.folder_id, parent, progress=once(move))
    with database.read(ACTOR) as read:
        assert made.mailbox == bert.guid
        assert mailboxes.get(read, bert.guid).messages_count == COUNT
        assert folders.path_of(read, made.folder_id) == ("Parent", "Lists")
    assert check_database(database, ACTOR).clean


def test_a_copy_is_refused_before_it_begins(database: Database, lists: FolderRecord) -> None:
    root = anna_of(database).root_id
    with database.read(ACTOR) as read:
        counter = read.state().counter
    for folder_id, parent_id, name, error in (
        (lists.folder_id, root, "Lists", AlreadyExists),
        (lists.folder_id, 12345, "", NotFound),
        (12345, root, "", NotFound),
        (lists.folder_id, root, "a/b", PillarboxError),
    ):
        with pytest.raises(error):
            copy_folder(database, ACTOR, folder_id, parent_id, name)
    with database.transaction(ACTOR), pytest.raises(Refused, match="transaction"):
        copy(database, lists)
    with database.read(ACTOR) as read:
        assert read.state().counter == counter


def test_deliveries_go_on_between_the_batches(database: Database, lists: FolderRecord) -> None:
    def deliver() -> None:
        thread = threading.Thread(
            target=lambda: delivery.deliver(database, ACTOR, "anna", b"Subject: meanwhile\r\n\r\nx")
        )
        thread.start()
        thread.join()

    copy(database, lists, progress=lambda at: deliver())
    with database.read(ACTOR) as read:
        assert len(list(folders.messages(read, anna_of(database).roles["inbox"]))) == 5
    assert check_database(database, ACTOR).clean


def test_public_folders_are_copied(open_database: OpenDatabase, tmp_path: Path) -> None:
    database = open_database(tmp_path / "public", kind=DatabaseKind.PUBLIC_FOLDER_STORE)
    with database.transaction(ACTOR) as txn:
        public_folders.create_tree(txn)
        news = public_folders.create(txn, "News")
        messages.append(txn, news.folder_id, messages.prepare(database.files, b"Subject: x\r\n\r\nx"))
    made = copy_folder(database, ACTOR, news.folder_id, news.parent_id, "News again")
    assert facts_of(database, made.folder_id) == facts_of(database, news.folder_id)
    assert made.mailbox == b"" and check_database(database, ACTOR).clean


def test_one_transaction_copies_a_bounded_number_of_messages(
    database: Database, lists: FolderRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "COPIES_MAX", COUNT)
    root = anna_of(database).root_id
    with database.transaction(ACTOR) as txn:
        made = messages.copy_folder(txn, lists.folder_id, root, "Copy")
        item = next(folders.messages(txn, made.folder_id))
        with pytest.raises(TooManyMessages) as refused:
            messages.copy(txn, item.message_id, lists.folder_id)
        assert "copy_folder" in refused.value.hint
    with database.transaction(ACTOR) as txn:
        messages.copy(txn, item.message_id, lists.folder_id)
    with database.transaction(ACTOR) as txn:
        with pytest.raises(TooManyMessages):
            messages.copy_folder(txn, lists.folder_id, root, "Too many")
        assert folders.find(txn, root, "Too many") is None
    assert copy(database, lists, "Not too many").messages_count == lists.messages_count + 13
