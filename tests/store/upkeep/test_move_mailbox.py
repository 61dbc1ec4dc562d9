"""A mailbox arrives in its new database as it was left, whatever happens meanwhile, and is there once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind, FolderRecord, ItemRecord, MailboxRecord, Table
from pillarbox.store.engine.change_feed import changes
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.database_limits import Edition
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import (
    AlreadyExists,
    Corrupt,
    DiskFull,
    Dismounted,
    NotFound,
    PillarboxError,
    Refused,
)
from pillarbox.store.files.mbox import read_mbox
from pillarbox.store.ids import parse_id
from pillarbox.store.mail import delivery, folders, mailboxes, messages
from pillarbox.store.server import FIRST_GROUP, Server
from pillarbox.store.upkeep import move_mailbox
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.maintenance import train_dictionary
from pillarbox.store.upkeep.move_mailbox import MailboxMove, MoveProgress
from pillarbox.store.upkeep.repair import repair_database

DATA = Path(__file__).resolve().parents[2] / "data"
ACTOR = Actor.task("test")
USER = b"u" * 16
FIRST, SECOND, THIRD = "Mailbox Store", "Second", "Third"
MAIL = [item.raw for item in read_mbox(DATA / "lists.mbox")][:12]
MAIL += [path.read_bytes() for path in sorted((DATA / "spam").glob("*.eml"))[:4]]
MAIL += [b"", b"\0\xff no header at all\r", b"Subject: \xe9\r\n\r\nLatin"]


class Killed(BaseException):
    """The process is gone: not an error that anything may catch."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Two mailbox stores; the first has the mailboxes anna and bert. Moves go in small batches."""
    monkeypatch.setattr(move_mailbox, "BATCH_MESSAGES", 5)
    rng = random.Random(1)
    with Server.create(tmp_path / "server", Edition.ENTERPRISE, clock=VirtualClock(), rng=rng) as made:
        made.create_database(FIRST_GROUP, SECOND, DatabaseKind.MAILBOX_STORE)
        with made.database(FIRST).transaction(ACTOR) as txn:
            fill(txn, mailboxes.create(txn, "Anna", user=USER))
            bert = mailboxes.create(txn, "bert")
            for raw in MAIL[:6]:
                messages.deliver(txn, [bert.guid], messages.prepare(txn.files, raw))
        yield made


def fill(txn: WriteTransaction, box: MailboxRecord) -> None:
    """Mail of all kinds in nested folders, with everything that a message or folder can carry."""
    mailboxes.set_property(txn, box.guid, "language", "de")
    lists = folders.create(txn, box.root_id, "Lists")
    inner = folders.create(txn, lists.folder_id, "Übung")
    folders.set_property(txn, inner.folder_id, "color", [1, "red"])
    folders.create(txn, box.roles["inbox"], "Empty")
    places = [box.roles["inbox"], lists.folder_id, inner.folder_id]
    for number, raw in enumerate(MAIL):
        flags = [("\\Seen", "$Work"), ("\\Flagged",), ()][number % 3]
        item = messages.append(
            txn,
            places[number % 2 + number % 3 // 2],
            messages.prepare(txn.files, raw),
            flags=flags,
            received_ms=1000 + number,
            properties={"number": number},
        )
        messages.set_categories(txn, item.message_id, ["Red", "Ünder"][: number % 3])
    messages.move(txn, item.message_id, box.roles["deleted"])
    messages.copy(txn, item.message_id, lists.folder_id)


def described(database: Database, name: str) -> dict[str, Any]:
    """All of a mailbox, with ids as what they stand for."""
    with database.read(ACTOR) as read:
        box = mailboxes.find(read, name)
        walked = {
            each.folder_id: (path, each)
            for path, each in [((), mailboxes.root(read, box)), *folders.walk(read, box.root_id)]
        }
        paths = {folder_id: path for folder_id, (path, _) in walked.items()}
        return {
            "mailbox": (box.guid, box.name, box.user, box.state, box.disconnected_ms, box.properties),
            "sums": (box.size, box.messages_count),
            "roles": {role: paths[folder_id] for role, folder_id in box.roles.items()},
            "folders": {path: folder_facts(each) for path, each in walked.values()},
            "messages": {
                path: sorted(message_facts(read, item, paths) for item in folders.messages(read, folder_id))
                for folder_id, path in paths.items()
            },
        }


def folder_facts(record: FolderRecord) -> tuple[Any, ...]:
    counts = (record.messages_count, record.unread_count, record.size)
    return (record.name, record.kind, record.created_ms, record.properties, *counts)


def message_facts(read: Reader, item: ItemRecord, paths: dict[int, tuple[str, ...]]) -> Any:
    former = item.properties.get(messages.FORMER_FOLDER)
    properties = {
        **item.properties,
        messages.FORMER_FOLDER: paths.get(parse_id(former) or 0) if former else None,
    }
    shown = item._replace(
        folder_id=0, uid=0, message_id=0, arrived_cn=0, change_cn=0, read_cn=0, properties={}
    )
    return messages.content(read, item), repr(sorted(properties.items())), repr(shown)


def assert_clean(server: Server) -> None:
    for database in server.databases():
        assert check_database(database, ACTOR).findings == ()


def move(server: Server, to: str, **options: Any) -> MailboxMove:
    return server.mailboxes.move(ACTOR, "anna", to, **options)


def test_no_number_of_the_mailbox_comes_to_mean_something_else(server: Server) -> None:
    """A client compares UIDVALIDITY and ids, whatever database they are of."""

    def numbers(database: Database) -> dict[str, tuple[int, int]]:
        with database.read(ACTOR) as read:
            box = mailboxes.find(read, "anna")
            return {
                "/".join(path): (each.uid_validity, each.highest_cn)
                for path, each in folders.walk(read, box.root_id)
            }

    def ids(database: Database) -> set[int]:
        with database.read(ACTOR) as read:
            walked = [each.folder_id for _, each in folders.walk(read, mailboxes.find(read, "anna").root_id)]
            return {*walked, *(item.message_id for each in walked for item in folders.messages(read, each))}

    places = [server.database(FIRST), server.database(SECOND)]
    given = ids(places[0])
    for source, target in (places, places[::-1], places):
        before = numbers(source)
        with source.read(ACTOR) as read:
            state = changes(read, CNSet()).cnset
        move(server, target.name)
        after = numbers(target)
        assert before.keys() == after.keys()
        for path, (uid_validity, highest_cn) in after.items():
            assert uid_validity > before[path][0]
            assert highest_cn > before[path][1] or not highest_cn
        assert not given & ids(target)
        given |= ids(target)
        if target is not places[0]:
            with target.read(ACTOR) as read, pytest.raises(Refused, match="another database"):
                changes(read, state)


def edit(server: Server, change: Callable[[WriteTransaction, MailboxRecord], None]) -> None:
    """Change the mailbox anna in the first store."""
    with server.database(FIRST).transaction(ACTOR) as txn:
        change(txn, mailboxes.find(txn, "anna"))


def no_mailbox_but(server: Server, database: str, *names: str) -> None:
    """Also none that hides."""
    with server.database(database).read(ACTOR) as read:
        assert [box.name for box in mailboxes.all_of(read)] == list(names)
        assert [box.name for _, box in read.records(Table.MAILBOX, b"", None)] == list(names)


# -- what arrives


def test_a_mailbox_arrives_byte_for_byte_with_all_that_belongs_to_it(server: Server) -> None:
    before, bert = described(server.database(FIRST), "anna"), described(server.database(FIRST), "bert")
    moved = move(server, SECOND)
    assert described(server.database(SECOND), "anna") == before
    assert (moved.mailbox, moved.guid, moved.damaged) == ("Anna", before["mailbox"][0], ())
    assert (moved.size_bytes, moved.messages_count) == before["sums"]
    assert moved.folders_count == len(before["folders"]) - 1
    no_mailbox_but(server, FIRST, "bert")
    no_mailbox_but(server, SECOND, "Anna")
    assert described(server.database(FIRST), "bert") == bert, "who shared content still has it"
    assert_clean(server)
    move(server, FIRST)
    assert described(server.database(FIRST), "anna") == before
    assert_clean(server)


def test_mail_goes_where_the_mailbox_is_now(server: Server) -> None:
    move(server, SECOND)
    database, box = server.mailboxes.find("ANNA")
    prepared = messages.prepare(database.files, b"Subject: later\n\nx")
    with database.transaction(ACTOR) as txn:
        (item,) = messages.deliver(txn, [box.guid], prepared)
    assert database.name == SECOND and item.folder_id == box.roles["inbox"]
    assert server.mailboxes.rename(ACTOR, "anna", "anne")[0] is database
    assert_clean(server)


def test_content_that_the_target_has_is_not_stored_again(server: Server) -> None:
    target = server.database(SECOND)
    with target.transaction(ACTOR) as txn:
        carl = mailboxes.create(txn, "carl")
        for raw in MAIL:
            messages.deliver(txn, [carl.guid], messages.prepare(txn.files, raw))
    with target.read(ACTOR) as read:
        before = read.state().content_bytes
    move(server, SECOND)
    with target.read(ACTOR) as read:
        assert read.state().content_bytes == before
    with target.transaction(ACTOR) as txn:
        mailboxes.purge(txn, carl.guid)
    assert described(target, "anna")["sums"][1] == len(MAIL) + 1
    assert_clean(server)


def test_mail_compressed_with_a_dictionary_of_the_source_is_read_in_the_target(server: Server) -> None:
    source = server.database(FIRST)
    heads = [raw.split(b"\n\n", 1)[0] for raw in MAIL[:12]]
    raws = [heads[each % 12] + f"\nX-Number: {each * 7919}\n\nHello {each}\n".encode() for each in range(540)]
    with source.transaction(ACTOR) as txn:
        bert = mailboxes.find(txn, "bert").guid
        for raw in raws[:520]:
            messages.deliver(txn, [bert], messages.prepare(txn.files, raw))
    assert train_dictionary(source, ACTOR) == 1
    prepared = [messages.prepare(source.files, raw) for raw in raws[520:]]
    edit(server, lambda txn, box: [messages.deliver(txn, [box.guid], each) for each in prepared] and None)
    before = described(source, "anna")
    move(server, SECOND)
    assert described(server.database(SECOND), "anna") == before
    assert_clean(server)


def test_a_disconnected_mailbox_stays_so(server: Server) -> None:
    edit(server, lambda txn, box: mailboxes.disconnect(txn, box.guid) and None)
    before = described(server.database(FIRST), "anna")
    move(server, SECOND)
    assert described(server.database(SECOND), "anna") == before
    assert before["mailbox"][3] == mailboxes.DISCONNECTED


# -- changes meanwhile


def in_folder(txn: WriteTransaction, box: MailboxRecord, path: str) -> list[ItemRecord]:
    return list(folders.messages(txn, folders.by_path(txn, box.root_id, path).folder_id))


def flag(txn: WriteTransaction, box: MailboxRecord) -> None:
    for item in in_folder(txn, box, "Lists"):
        messages.set_flags(txn, item.message_id, add=["\\Seen", "$Later"], remove=["\\Flagged"])
        messages.set_categories(txn, item.message_id, ["Blue"])


def unflag(txn: WriteTransaction, box: MailboxRecord) -> None:
    for item in in_folder(txn, box, "Inbox"):
        messages.set_flags(txn, item.message_id, remove=["\\Seen"])


def move_messages(txn: WriteTransaction, box: MailboxRecord) -> None:
    first, second = in_folder(txn, box, "Inbox"), in_folder(txn, box, "Lists")
    messages.move(txn, first[0].message_id, second[0].folder_id)
    messages.move(txn, second[-1].message_id, box.roles["drafts"])
    messages.set_flags(txn, second[-1].message_id, add=["\\Draft"])


def delete_messages(txn: WriteTransaction, box: MailboxRecord) -> None:
    for item in in_folder(txn, box, "Inbox")[::2]:
        messages.delete(txn, item.message_id)


def deliver(txn: WriteTransaction, box: MailboxRecord) -> None:
    for number in range(9):
        raw = b"Subject: new %d\n\n" % number + b"text " * 3000
        messages.deliver(txn, [box.guid], messages.prepare(txn.files, raw))
    messages.copy(txn, in_folder(txn, box, "Inbox")[0].message_id, box.roles["sent"])


def swap_folder_names(txn: WriteTransaction, box: MailboxRecord) -> None:
    lists = folders.by_path(txn, box.root_id, "Lists")
    other = folders.create(txn, box.root_id, "Other")
    folders.rename(txn, lists.folder_id, "For a moment")
    folders.rename(txn, other.folder_id, "Lists")
    folders.rename(txn, lists.folder_id, "Other")


def replace_folder(txn: WriteTransaction, box: MailboxRecord) -> None:
    """A new one of the same name, the old one's mail rescued into it, its inner folder moved elsewhere."""
    old = folders.by_path(txn, box.root_id, "Lists")
    folders.move(txn, folders.by_path(txn, box.root_id, "Lists/Übung").folder_id, box.roles["inbox"])
    folders.rename(txn, old.folder_id, "Old")
    new = folders.create(txn, box.root_id, "Lists")
    messages.move(txn, in_folder(txn, box, "Old")[0].message_id, new.folder_id)
    folders.delete(txn, old.folder_id, with_contents=True)


def take_folder_of_another(txn: WriteTransaction, box: MailboxRecord) -> None:
    """The messages of a folder that comes from another mailbox, or goes there, do not change by that."""
    bert = mailboxes.find(txn, "bert")
    mine = folders.by_path(txn, box.root_id, "Lists")
    others = folders.create(txn, bert.root_id, "From bert")
    for item in in_folder(txn, bert, "Inbox"):
        messages.move(txn, item.message_id, others.folder_id)
    folders.move(txn, mine.folder_id, bert.root_id)
    folders.move(txn, others.folder_id, box.root_id)


def rename_mailbox(txn: WriteTransaction, box: MailboxRecord) -> None:
    mailboxes.rename(txn, box.guid, "ANNA")
    mailboxes.set_property(txn, box.guid, "language", "fr")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "change",
    [
        flag,
        unflag,
        move_messages,
        delete_messages,
        deliver,
        swap_folder_names,
        replace_folder,
        take_folder_of_another,
        rename_mailbox,
    ],
)
def test_what_changes_during_the_copy_is_carried_over(
    server: Server, change: Callable[[WriteTransaction, MailboxRecord], None], batch: int
) -> None:
    calls: list[dict[str, Any]] = []

    def between(progress: MoveProgress) -> None:
        calls.append({})
        if len(calls) == batch:
            edit(server, change)
            calls[0] = described(server.database(FIRST), "anna")

    untouched = described(server.database(FIRST), "anna")
    move(server, SECOND, progress=between)
    assert calls[0] and calls[0] != untouched
    assert described(server.database(SECOND), "anna") == calls[0]
    assert_clean(server)


class HardWork:
    """Seeded changes of the mailboxes anna and bert: deliveries, flags, moves and deletions of all kinds."""

    def __init__(self, server: Server, seed: int) -> None:
        self._server = server
        self._rng = random.Random(seed)
        self._number = 0

    def do(self, count: int) -> None:
        """Make so many changes, some of them together; those that cannot be made are left out."""
        while count > 0:
            together = min(count, self._rng.randrange(1, 6))
            with self._server.database(FIRST).transaction(ACTOR) as txn:
                for _ in range(together):
                    with suppress(PillarboxError):
                        self._rng.choice(self._KINDS)(self, txn)
            count -= together
        if self._rng.random() < 0.3:
            self._server.database(FIRST).finish_removals()

    def _box(self, txn: WriteTransaction) -> MailboxRecord:
        return mailboxes.find(txn, "anna" if self._rng.random() < 0.85 else "bert")

    def _folder(self, txn: WriteTransaction) -> FolderRecord:
        walked = [found for _, found in folders.walk(txn, self._box(txn).root_id)]
        return self._rng.choice(walked)

    def _message(self, txn: WriteTransaction) -> ItemRecord:
        walked = folders.walk(txn, self._box(txn).root_id)
        full = [found.folder_id for _, found in walked if found.messages_count]
        return self._rng.choice(list(folders.messages(txn, self._rng.choice(full))))

    def _name(self) -> str:
        self._number += 1
        return self._rng.choice(["Lists", "Other", f"new {self._number}"])

    def _deliver(self, txn: WriteTransaction) -> None:
        self._number += 1
        raw = b"Subject: %d\n\n" % self._number + self._rng.choice([b"", b"text " * 3000, MAIL[0]])
        messages.deliver(txn, self._rng.choice(["anna", ["anna", "bert"]]), messages.prepare(txn.files, raw))

    def _flag(self, txn: WriteTransaction) -> None:
        flags = self._rng.sample(["\\Seen", "\\Flagged", "$Work", "later"], 2)
        messages.set_flags(txn, self._message(txn).message_id, add=flags[:1], remove=flags[1:])

    def _put_into_category(self, txn: WriteTransaction) -> None:
        messages.set_categories(txn, self._message(txn).message_id, [self._name()])

    def _set_property(self, txn: WriteTransaction) -> None:
        messages.set_property(txn, self._message(txn).message_id, "colour", self._name())
        folders.set_property(txn, self._folder(txn).folder_id, "colour", self._name())

    def _move(self, txn: WriteTransaction) -> None:
        messages.move(txn, self._message(txn).message_id, self._folder(txn).folder_id)

    def _copy(self, txn: WriteTransaction) -> None:
        messages.copy(txn, self._message(txn).message_id, self._folder(txn).folder_id)

    def _delete(self, txn: WriteTransaction) -> None:
        messages.delete(txn, self._message(txn).message_id)

    def _create_folder(self, txn: WriteTransaction) -> None:
        folders.create(txn, self._folder(txn).folder_id, self._name())

    def _rename_folder(self, txn: WriteTransaction) -> None:
        folders.rename(txn, self._folder(txn).folder_id, self._name())

    def _move_folder(self, txn: WriteTransaction) -> None:
        into = self._rng.choice([self._folder(txn).folder_id, self._box(txn).root_id])
        folders.move(txn, self._folder(txn).folder_id, into)

    def _copy_folder(self, txn: WriteTransaction) -> None:
        messages.copy_folder(txn, self._folder(txn).folder_id, self._box(txn).root_id, self._name())

    def _delete_folder(self, txn: WriteTransaction) -> None:
        folders.delete(txn, self._folder(txn).folder_id, with_contents=True)

    _KINDS = (
        *(_deliver, _deliver, _flag, _flag, _put_into_category, _set_property, _move, _move, _copy, _delete),
        *(_create_folder, _create_folder, _rename_folder, _move_folder, _copy_folder, _delete_folder),
    )


def move_beside_hard_work(server: Server, seed: int) -> None:
    rng = random.Random(seed)
    work = HardWork(server, seed)
    work.do(rng.randrange(40))
    left: list[dict[str, Any]] = [described(server.database(FIRST), "anna")]

    def between(_: MoveProgress) -> None:
        work.do(rng.randrange(12))
        left.append(described(server.database(FIRST), "anna"))

    moved = move(server, SECOND, progress=between)
    assert described(server.database(SECOND), "anna") == left[-1]
    assert (moved.size_bytes, moved.messages_count) == left[-1]["sums"]
    assert_clean(server)
    server.database(SECOND).finish_removals()
    assert_clean(server)


@pytest.mark.parametrize("seed", range(4))
def test_a_mailbox_that_works_hard_arrives_as_it_was_left(
    server: Server, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move_mailbox, "_FEW_CHANGES", 2)
    move_beside_hard_work(server, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 200))
def test_campaign_of_moves_beside_hard_work(
    server: Server, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move_mailbox, "_FEW_CHANGES", 2)
    move_beside_hard_work(server, seed)


def test_after_the_first_pass_a_move_asks_the_feed_and_lists_no_folder(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rounds take as long as the changes are many, however large the mailbox is."""
    left: list[dict[str, Any]] = []
    carry_over = move_mailbox._Move._catch_up

    def refuse(*_: object) -> None:
        raise AssertionError("a folder is listed")

    def carry_over_by_the_feed(*arguments: Any) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(folders, "messages", refuse)
            return carry_over(*arguments)

    def between(_: MoveProgress) -> None:
        if not left:
            edit(server, flag)
            edit(server, delete_messages)
            edit(server, replace_folder)
            left.append(described(server.database(FIRST), "anna"))

    monkeypatch.setattr(move_mailbox._Move, "_catch_up", carry_over_by_the_feed)
    move(server, SECOND, progress=between)
    assert left and described(server.database(SECOND), "anna") == left[0]


def test_a_mailbox_that_never_rests_is_moved_all_the_same(server: Server) -> None:
    raws: list[bytes] = []

    def between(_: MoveProgress) -> None:
        for _ in range(move_mailbox._FEW_CHANGES + 1):
            raws.append(b"Subject: %d\n\n" % len(raws))
        new = raws[-move_mailbox._FEW_CHANGES - 1 :]
        files = server.database(FIRST).files
        prepared = [messages.prepare(files, raw) for raw in new]
        edit(server, lambda txn, box: [messages.deliver(txn, [box.guid], each) for each in prepared] and None)

    moved = move(server, SECOND, progress=between)
    assert moved.messages_count == len(MAIL) + 1 + len(raws)
    assert_clean(server)


def test_mail_that_was_acknowledged_while_it_moved_there_and_back_is_there_once(server: Server) -> None:
    delivered: list[list[bytes]] = [[], []]

    def keep_delivering(mine: list[bytes], who: int) -> None:
        while len(mine) < 60:
            raw = b"Subject: %d-%d\n\n" % (who, len(mine)) + b"text " * 20 * len(mine)
            database, box = server.mailboxes.find("anna")
            prepared = messages.prepare(database.files, raw)
            try:
                with database.transaction(ACTOR) as txn:
                    messages.deliver(txn, [box.guid], prepared)
            except NotFound:
                continue  # it has gone since it was found
            mine.append(raw)

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(keep_delivering, mine, who) for who, mine in enumerate(delivered)]
        moves = 0
        while not all(writer.done() for writer in writers):
            move(server, FIRST if moves % 2 else SECOND)
            moves += 1
        for writer in writers:
            writer.result()
    listed = described(server.mailboxes.find("anna")[0], "anna")["messages"]
    found = Counter(raw for each in listed.values() for raw, _, _ in each)
    assert all(found[raw] == 1 for mine in delivered for raw in mine)
    assert sum(found.values()) == len(MAIL) + 1 + sum(map(len, delivered))
    assert moves
    assert_clean(server)


# -- interruptions


def test_nothing_is_acknowledged_into_the_copy_of_a_mailbox_that_is_being_moved_back(server: Server) -> None:
    first, box = server.mailboxes.find("anna")
    move(server, SECOND)
    tried: list[str] = []

    def deliver_to_where_it_was(_: MoveProgress) -> None:
        with pytest.raises(NotFound):
            delivery.deliver(first, Actor.transport(), [box.guid], b"Subject: late\n\nx")
        with first.transaction(ACTOR) as txn, pytest.raises(NotFound):
            copy = txn.record(Table.MAILBOX, box.guid)
            messages.append(txn, copy.root_id, messages.prepare(txn.files, b"Subject: late\n\nx"))
        with first.read(ACTOR) as read:
            assert [found.name for found in mailboxes.all_of(read)] == ["bert"]
        tried.append("late")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        move(server, FIRST, progress=deliver_to_where_it_was)
    assert tried and server.mailboxes.find("anna")[0].name == SECOND
    assert_clean(server)


def test_after_two_interrupted_moves_there_and_back_the_mailbox_is_found(server: Server) -> None:
    first, second = server.database(FIRST), server.database(SECOND)
    before = described(first, "anna")

    def killed(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(move_mailbox, "finish_move", killed)
        move(server, SECOND)
    with pytest.raises(Killed):
        move(server, FIRST, progress=killed)
    assert server.mailboxes.find("anna")[0] is second
    move(server, FIRST)
    assert described(first, "anna") == before
    with pytest.raises(NotFound), second.read(ACTOR) as read:
        mailboxes.find(read, "anna")
    assert_clean(server)


def test_a_copy_that_an_interrupted_move_left_takes_no_name_in_a_repair(server: Server) -> None:
    second = server.database(SECOND)

    def killed(*_: object) -> None:
        raise Killed

    with pytest.raises(Killed):
        move(server, SECOND, progress=killed)
    source, box = server.mailboxes.find("anna")
    with source.transaction(ACTOR) as txn:
        mailboxes.purge(txn, box.guid)
    _, made = server.mailboxes.create(ACTOR, "anna", second.label)
    second.dismount()
    assert repair_database(second).restored == ()
    second.mount()
    assert server.mailboxes.find("anna")[1].guid == made.guid
    assert_clean(server)


def test_after_a_move_back_was_interrupted_at_its_end_the_mailbox_is_found(server: Server) -> None:
    """Both databases have it then, each marked as moved from the other."""
    first, second = server.database(FIRST), server.database(SECOND)
    before = described(first, "anna")
    original = move_mailbox._Move._name_copy

    def killed(*_: object) -> None:
        raise Killed

    def name_and_die(self: Any, *words: Any) -> None:
        original(self, *words)
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(move_mailbox, "finish_move", killed)
        move(server, SECOND)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(move_mailbox._Move, "_name_copy", name_and_die)
        move(server, FIRST)
    assert server.mailboxes.find("anna")[0] is second
    move(server, FIRST)
    assert server.mailboxes.find("anna")[0] is first and described(first, "anna") == before
    no_mailbox_but(server, SECOND)
    assert_clean(server)


@contextmanager
def killed_at(databases: list[Database], number: int, *, after: bool) -> Iterator[list[int]]:
    """End the process at the commit of that number, counted over the databases: before it, or after it."""
    commits: list[int] = []

    def dying(transaction: Callable[[Actor], Any]) -> Callable[[Actor], Any]:
        @contextmanager
        def wrapped(actor: Actor) -> Iterator[WriteTransaction]:
            with transaction(actor) as txn:
                yield txn
                commits.append(1)
                if len(commits) == number and not after:
                    raise Killed
                mine = len(commits)
            if mine == number and after:
                raise Killed

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for database in databases:
            patch.setattr(database, "transaction", dying(database.transaction))
        yield commits


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_commit_one_whole_mailbox_is_found_and_the_next_move_ends_it(
    server: Server, after: bool
) -> None:
    """There and back again, each time one commit further."""
    first, second = server.database(FIRST), server.database(SECOND)
    before = described(first, "anna")
    for number in range(1, 100):
        source, target = (first, second) if number % 2 else (second, first)
        with killed_at([first, second], number, after=after) as commits:
            try:
                move(server, target.name)
            except Killed:
                pass
            else:
                assert number > len(commits) > 8
                return
        database, box = server.mailboxes.find("anna")
        found = described(database, "anna")
        was_moved = database is target and not box.moved_from
        assert found == before
        if was_moved:
            assert after, "there is nothing left to do after the last commit alone"
        elif after:
            assert move(server, target.name).messages_count == before["sums"][1]
        else:  # by the library alone, which is told where it was
            again = move_mailbox.move_mailbox(source, box.guid, target, ACTOR)
            assert again.messages_count == before["sums"][1]
        assert server.mailboxes.find("anna")[0] is target
        assert described(target, "anna") == before
        with source.read(ACTOR) as read:
            assert read.record(Table.MAILBOX, box.guid) is None
        assert check_database(source, ACTOR).clean and check_database(target, ACTOR).clean
    raise AssertionError("the move never came to its end")


def test_mail_that_comes_between_two_tries_is_not_lost(server: Server) -> None:
    """Killed when the copy is complete and named: the old mailbox is still the one."""
    second = server.database(SECOND)

    class Named(Exception):
        pass

    original = move_mailbox._Move._name_copy

    def name_and_die(self: Any, *words: Any) -> None:
        original(self, *words)
        raise Named

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(move_mailbox._Move, "_name_copy", name_and_die)
        with pytest.raises(Named):
            move(server, SECOND)
    no_mailbox_but(server, SECOND, "Anna")
    assert server.mailboxes.find("anna")[0].name == FIRST
    server.dismount(FIRST)
    with pytest.raises(Dismounted):
        server.mailboxes.find("anna")
    server.mount(FIRST)
    edit(server, deliver)
    before = described(server.database(FIRST), "anna")
    move(server, SECOND)
    assert described(second, "anna") == before
    no_mailbox_but(server, FIRST, "bert")
    assert_clean(server)


def test_after_an_interruption_it_may_go_elsewhere_instead(server: Server) -> None:
    server.create_database(FIRST_GROUP, THIRD, DatabaseKind.MAILBOX_STORE)
    before = described(server.database(FIRST), "anna")

    def die(_: MoveProgress) -> None:
        raise Killed

    with pytest.raises(Killed):
        move(server, SECOND, progress=die)
    assert server.mailboxes.find("anna")[0].name == FIRST
    move(server, THIRD)
    assert described(server.database(THIRD), "anna") == before
    no_mailbox_but(server, SECOND)
    assert_clean(server)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5])
def test_an_error_after_any_batch_leaves_everything_as_it_was(server: Server, batch: int) -> None:
    before = described(server.database(FIRST), "anna")
    calls: list[MoveProgress] = []

    def fail(progress: MoveProgress) -> None:
        calls.append(progress)
        if len(calls) == batch:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError):
        move(server, SECOND, progress=fail)
    assert described(server.database(FIRST), "anna") == before
    no_mailbox_but(server, SECOND)
    assert calls[-1].messages_count <= calls[-1].messages_total == len(MAIL) + 1
    assert_clean(server)


def test_a_mailbox_whose_rows_cannot_be_removed_now_is_moved_all_the_same(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = described(server.database(FIRST), "anna")

    def fail(database: Database) -> None:
        raise DiskFull("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "finish_removals", fail)
        moved = move(server, SECOND)
    assert moved.messages_count == before["sums"][1]
    assert described(server.database(SECOND), "anna") == before
    server.database(FIRST).finish_removals()
    no_mailbox_but(server, FIRST, "bert")
    assert_clean(server)


# -- damage, and what is refused


def damage(server: Server, count: int) -> list[int]:
    """Damage the content of as many messages that only anna has; their ids."""
    source = server.database(FIRST)
    with source.read(ACTOR) as read:
        box = mailboxes.find(read, "anna")
        found = [
            item
            for _, each in folders.walk(read, box.root_id)
            for item in folders.messages(read, each.folder_id)
            if read.record(Table.CONTENT, item.digest).references == 1
        ][:count]
        places = [read.record(Table.CONTENT, item.digest) for item in found]
    for place in places:
        with source.stream.path(place.segment).open("r+b") as file:
            file.seek(place.offset + place.length - 2)
            data = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([data[0] ^ 1]))
    return [item.message_id for item in found]


def test_damaged_messages_are_left_behind_as_far_as_allowed_and_listed(server: Server) -> None:
    before = described(server.database(FIRST), "anna")
    ids = damage(server, 2)
    with pytest.raises(Corrupt, match="is damaged") as caught:
        move(server, SECOND, skip_damaged_max=1)
    assert caught.value.file
    no_mailbox_but(server, SECOND)
    assert server.mailboxes.find("anna")[0].name == FIRST
    moved = move(server, SECOND, skip_damaged_max=2)
    assert [each.message_id for each in moved.damaged] == ids
    assert {each.folder for each in moved.damaged} <= {"/".join(path) for path in before["messages"]}
    assert moved.messages_count == before["sums"][1] - 2
    after = described(server.database(SECOND), "anna")
    lost = 0
    for path, listed in before["messages"].items():
        assert [each for each in listed if each in after["messages"][path]] == after["messages"][path]
        lost += len(listed) - len(after["messages"][path])
    assert lost == 2
    assert check_database(server.database(SECOND), ACTOR).clean
    no_mailbox_but(server, FIRST, "bert")


def test_a_damaged_message_is_listed_also_when_its_folder_goes_meanwhile(server: Server) -> None:
    def put_first(txn: WriteTransaction, box: MailboxRecord) -> None:
        first = folders.create(txn, box.root_id, "A")
        messages.append(txn, first.folder_id, messages.prepare(txn.files, b"Subject: alone\n\n"))

    def rescue(txn: WriteTransaction, box: MailboxRecord) -> None:
        first = folders.by_path(txn, box.root_id, "A")
        messages.move(txn, lost, folders.by_path(txn, box.root_id, "Lists").folder_id)
        folders.delete(txn, first.folder_id, with_contents=True)

    calls: list[MoveProgress] = []

    def between(progress: MoveProgress) -> None:
        calls.append(progress)
        if len(calls) == 1:
            edit(server, rescue)

    edit(server, put_first)
    (lost,) = damage(server, 1)
    moved = move(server, SECOND, skip_damaged_max=1, progress=between)
    assert [each.message_id for each in moved.damaged] == [lost]


def test_a_damaged_record_keeps_the_mailbox_where_it_is(server: Server) -> None:
    """It could not be purged there."""
    source = server.database(FIRST)
    with source.read(ACTOR) as read:
        box = mailboxes.find(read, "anna")
        item = next(folders.messages(read, box.roles["deleted"]))
    source.files.env.apply({Table.CONTENT: {item.digest: b"damage"}})
    with pytest.raises(Corrupt) as caught:
        move(server, SECOND, skip_damaged_max=10)
    assert caught.value.table == "content"
    no_mailbox_but(server, SECOND)
    assert server.mailboxes.find("anna")[0] is source


def test_what_cannot_be_is_refused_and_nothing_changes(server: Server) -> None:
    before = described(server.database(FIRST), "anna")
    with pytest.raises(Refused, match="already"):
        move(server, FIRST)
    with pytest.raises(Refused, match="public folder store"):
        move(server, "Public Folder Store")
    with pytest.raises(NotFound):
        move(server, "nowhere")
    with pytest.raises(NotFound):
        server.mailboxes.move(ACTOR, "nobody", SECOND)
    with pytest.raises(Refused, match="being moved"):
        move(server, SECOND, progress=lambda _: move(server, SECOND) and None)
    with server.database(SECOND).transaction(ACTOR) as txn:
        mailboxes.create(txn, "anna")
    source, guid = server.database(FIRST), before["mailbox"][0]
    with pytest.raises(AlreadyExists):
        move_mailbox.move_mailbox(source, guid, server.database(SECOND), ACTOR)
    with pytest.raises(NotFound):
        move_mailbox.move_mailbox(source, b"?" * 16, server.database(SECOND), ACTOR)
    assert described(source, "anna") == before
    no_mailbox_but(server, SECOND, "anna")
    assert_clean(server)
