"""What is promised of messages: content once and byte for byte, ids for life, UIDs never twice, flags."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.content.envelope import header_end
from pillarbox.store.disk.tables import MailboxRecord, Table
from pillarbox.store.engine.change_feed import changes
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import InvalidSetting, NotFound, Refused
from pillarbox.store.events import Event
from pillarbox.store.mail import folders, mailboxes, messages, public_folders
from pillarbox.store.mail.views import Query, search
from pillarbox.store.upkeep.check import check_database

DATA = Path(__file__).parents[2] / "data"
ACTOR = Actor.task("test")


def raw_message(number: int, body_bytes: int = 200) -> bytes:
    body = bytes(32 + (at * 7 + number) % 90 for at in range(body_bytes))
    return b"Subject: number %d\r\nFrom: a@example.com\r\n\r\n" % number + body


def new_mailbox(database: Database, name: str = "anna") -> MailboxRecord:
    with database.transaction(ACTOR) as txn:
        return mailboxes.create(txn, name)


def add(database: Database, folder_id: int, raw: bytes, **options: object) -> int:
    prepared = messages.prepare(database.files, raw)
    with database.transaction(ACTOR) as txn:
        return messages.append(txn, folder_id, prepared, **options).message_id  # type: ignore[arg-type]


def content(database: Database, message_id: int) -> bytes:
    with database.read(ACTOR) as read:
        return messages.content(read, messages.get(read, message_id))


def test_any_bytes_come_back_exactly(database: Database) -> None:
    inbox = new_mailbox(database).roles["inbox"]
    hostile = [b"", b"\0", b"\r", b"Subject: x", bytes(range(256)) * 300, raw_message(1, 100_000)]
    ids = [add(database, inbox, raw) for raw in hostile]
    database.dismount()
    database.mount()
    assert [content(database, each) for each in ids] == hostile


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n" + b"text " * 2000,
        b"Subject: no blank line",
        b"A: b\r\n" * 300_000,
        b"A: b\r\r" + b"\n" * 5000,
        b"Subject: x\r\n\r\n" + b"text " * 2000 + b"\r\n\r\n",
        *(path.read_bytes() for path in sorted(DATA.rglob("*.eml"))),
    ],
    ids=lambda raw: raw[:20].decode(errors="replace"),
)
def test_a_header_is_read_by_itself(database: Database, raw: bytes) -> None:
    message_id = add(database, new_mailbox(database).roles["inbox"], raw)
    with database.read(ACTOR) as read:
        assert messages.header(read, messages.get(read, message_id)) == raw[: header_end(raw)]


def test_a_message_that_is_gone_by_now_is_not_found_and_no_damage(database: Database) -> None:
    events: list[Event] = []
    database.reporter = SimpleNamespace(report=events.append)  # type: ignore[assignment]
    inbox = new_mailbox(database).roles["inbox"]
    message_id = add(database, inbox, raw_message(1))
    with database.read(ACTOR) as read:
        item = messages.get(read, message_id)
    with database.transaction(ACTOR) as txn:
        messages.move(
            txn, message_id, folders.create(txn, folders.get(txn, inbox).parent_id, "Later").folder_id
        )
    with database.read(ACTOR) as read:
        assert messages.content(read, item) == raw_message(1)
    with database.transaction(ACTOR) as txn:
        messages.delete(txn, message_id)
    for reads in (messages.content, messages.header):
        with pytest.raises(NotFound), database.read(ACTOR) as read:
            reads(read, item)
    assert not events


def test_one_delivery_to_500_mailboxes_stores_its_content_once_and_the_last_delete_frees_it(
    database: Database,
) -> None:
    with database.transaction(ACTOR) as txn:
        guids = [mailboxes.create(txn, f"user {number}").guid for number in range(500)]
    raw = raw_message(7, 50_000)
    prepared = messages.prepare(database.files, raw)
    with database.read(ACTOR) as read:
        before = read.state()
    with database.transaction(ACTOR) as txn:
        items = messages.deliver(txn, guids, prepared)
    with database.read(ACTOR) as read:
        stored = read.state().live_bytes - before.live_bytes
        assert 0 < stored < len(raw) + 1000
        assert len({item.message_id for item in items}) == 500
        assert messages.content(read, messages.get(read, items[499].message_id)) == raw
    with database.transaction(ACTOR) as txn:
        for item in items[:499]:
            messages.delete(txn, item.message_id)
    assert content(database, items[499].message_id) == raw
    with database.transaction(ACTOR) as txn:
        messages.delete(txn, items[499].message_id)
    with database.read(ACTOR) as read:
        assert read.state().live_bytes == before.live_bytes
        assert read.view.count(Table.CONTENT) == read.view.count(Table.BLOCK) == 0


def test_a_delivery_to_a_missing_mailbox_reaches_nobody(database: Database) -> None:
    anna = new_mailbox(database)
    prepared = messages.prepare(database.files, raw_message(1))
    with pytest.raises(NotFound), database.transaction(ACTOR) as txn:
        messages.deliver(txn, [anna.guid, b"no mailbox here."], prepared)
    with database.read(ACTOR) as read:
        assert mailboxes.get(read, anna.guid).messages_count == 0
        assert read.view.count(Table.CONTENT) == 0


def test_a_message_prepared_while_its_content_was_there_is_stored_after_that_was_freed(
    database: Database,
) -> None:
    inbox = new_mailbox(database).roles["inbox"]
    raw = raw_message(3, 9000)
    first = add(database, inbox, raw)
    prepared = messages.prepare(database.files, raw)
    with database.transaction(ACTOR) as txn:
        messages.delete(txn, first)
        again = messages.append(txn, inbox, prepared)
    assert content(database, again.message_id) == raw


def test_a_moved_message_keeps_its_id_and_gets_a_new_uid(database: Database) -> None:
    anna = new_mailbox(database)
    inbox, sent = anna.roles["inbox"], anna.roles["sent"]
    message_id = add(database, inbox, raw_message(1))
    with database.transaction(ACTOR) as txn:
        assert messages.move(txn, message_id, sent).uid == 1
    with database.transaction(ACTOR) as txn:
        assert messages.move(txn, message_id, inbox).uid == 2
    with database.read(ACTOR) as read:
        item = messages.get(read, message_id)
        assert (item.folder_id, item.uid) == (inbox, 2)
        assert list(folders.messages(read, sent)) == []
    assert content(database, message_id) == raw_message(1)


def test_uids_are_never_given_out_twice(database: Database) -> None:
    inbox = new_mailbox(database).roles["inbox"]
    seen: set[int] = set()
    for number in range(6):
        message_id = add(database, inbox, raw_message(number))
        with database.read(ACTOR) as read:
            uid = messages.get(read, message_id).uid
        assert uid not in seen
        seen.add(uid)
        with database.transaction(ACTOR) as txn:
            messages.delete(txn, message_id)
        database.dismount()
        database.mount()


def test_flags_and_keywords_are_added_and_removed(database: Database) -> None:
    inbox = new_mailbox(database).roles["inbox"]
    message_id = add(database, inbox, raw_message(1), flags=["\\Seen", "work"])
    with database.transaction(ACTOR) as txn:
        item = messages.set_flags(txn, message_id, add=["\\Flagged", "later"], remove=["\\Seen", "work"])
    assert messages.flag_names(item) == ("\\Flagged", "later")
    with database.read(ACTOR) as read:
        assert folders.get(read, inbox).unread_count == 1
    with database.transaction(ACTOR) as txn:
        before = txn.counter
        messages.set_flags(txn, message_id, add=["later"])
        assert txn.counter == before, "setting what is set is no change"
    with pytest.raises(InvalidSetting), database.transaction(ACTOR) as txn:
        messages.set_flags(txn, message_id, add=["\\Nonsense"])


@pytest.mark.parametrize(
    ("adds", "removes", "named"),
    [(["\\Seen"], ["\\Seen"], r"\\Seen"), (["a", "work"], ["Work", "b"], "work")],
)
def test_what_is_to_be_added_and_removed_at_once_is_refused(
    database: Database, adds: list[str], removes: list[str], named: str
) -> None:
    message_id = add(database, new_mailbox(database).roles["inbox"], raw_message(1))
    with pytest.raises(InvalidSetting, match=rf"^{named} cannot be both"), database.transaction(ACTOR) as txn:
        messages.set_flags(txn, message_id, add=adds, remove=removes)


def test_neither_flags_nor_keywords_have_their_case(database: Database) -> None:
    inbox = new_mailbox(database).roles["inbox"]
    message_id = add(database, inbox, raw_message(1), flags=["\\SEEN", "Work", "work", "later"])
    with database.transaction(ACTOR) as txn:
        assert messages.flag_names(messages.get(txn, message_id)) == ("\\Seen", "Work", "later")
        before = txn.counter
        messages.set_flags(txn, message_id, add=["\\seen", "wORK"])
        assert txn.counter == before, "setting what is set is no change"
        item = messages.set_flags(txn, message_id, add=["next"], remove=["LATER"])
        assert messages.flag_names(item) == ("\\Seen", "Work", "next")
        for flags in (("\\seen", "work"), ("NEXT",)):
            assert [each.uid for each in search(txn, inbox, Query(flags=flags))] == [item.uid]


@pytest.mark.parametrize("word", ["", "two words", "x" * 256, "a]", "\xe4rger"])
def test_what_cannot_be_a_keyword_is_told_what_can(word: str) -> None:
    with pytest.raises(InvalidSetting, match="cannot be a keyword") as caught:
        messages.parse_flags([word])
    assert "1 to 255 visible ASCII characters" in caught.value.hint
    assert messages.parse_flags(["x" * 255, "$A-z~[}"]) == (0, ("x" * 255, "$A-z~[}"))


def test_a_copy_lives_on_its_own(database: Database) -> None:
    anna = new_mailbox(database)
    original = add(database, anna.roles["inbox"], raw_message(1, 5000))
    with database.transaction(ACTOR) as txn:
        copied = messages.copy(txn, original, anna.roles["sent"]).message_id
        messages.delete(txn, original)
    assert copied != original
    assert content(database, copied) == raw_message(1, 5000)


def test_categories_and_properties_are_kept(database: Database) -> None:
    message_id = add(database, new_mailbox(database).roles["inbox"], raw_message(1))
    with database.transaction(ACTOR) as txn:
        messages.set_categories(txn, message_id, ["red", "blue", "red"])
        messages.set_property(txn, message_id, "colour", 7)
    with database.read(ACTOR) as read:
        item = messages.get(read, message_id)
        assert (item.categories, item.properties) == (("red", "blue"), {"colour": 7})


def test_a_copied_folder_holds_all_that_the_first_one_holds(database: Database) -> None:
    anna = new_mailbox(database)
    with database.transaction(ACTOR) as txn:
        inner = folders.ensure(txn, anna.root_id, ("Lists", "Python"))
    add(database, inner.folder_id, raw_message(1))
    with database.transaction(ACTOR) as txn:
        lists = folders.by_path(txn, anna.root_id, "Lists")
        copied = messages.copy_folder(txn, lists.folder_id, anna.root_id, "Lists again")
    with database.read(ACTOR) as read:
        found = folders.by_path(read, anna.root_id, "Lists again/Python")
        items = list(folders.messages(read, found.folder_id))
        assert [messages.content(read, item) for item in items] == [raw_message(1)]
        assert found.folder_id != inner.folder_id and copied.name == "Lists again"


def test_a_refused_append_holds_nothing(database: Database) -> None:
    inbox = new_mailbox(database).roles["inbox"]
    prepared = messages.prepare(database.files, raw_message(1))
    with database.transaction(ACTOR) as txn:
        with pytest.raises(InvalidSetting):
            messages.append(txn, inbox, prepared, flags=["bad flag"])
        folders.create(txn, folders.get(txn, inbox).parent_id, "Lists")
    assert check_database(database, ACTOR).clean


def test_nothing_is_delivered_to_a_disconnected_mailbox_until_it_is_reconnected(database: Database) -> None:
    guid = new_mailbox(database).guid
    prepared = messages.prepare(database.files, raw_message(1))
    with database.transaction(ACTOR) as txn:
        mailboxes.disconnect(txn, guid)
    with pytest.raises(Refused, match="disconnected"), database.transaction(ACTOR) as txn:
        messages.deliver(txn, [guid], prepared)
    with database.transaction(ACTOR) as txn:
        mailboxes.reconnect(txn, guid)
        assert messages.deliver(txn, [guid], prepared)


@pytest.mark.parametrize("number", [-1, 0, 1 << 32, 1 << 64])
def test_numbers_that_no_key_holds_are_of_nothing(database: Database, number: int) -> None:
    with database.read(ACTOR) as read:
        for look in (
            lambda: messages.get(read, number),
            lambda: messages.get_by_uid(read, 1, number),
            lambda: messages.get_by_uid(read, number, 1),
            lambda: folders.get(read, number),
            lambda: mailboxes.get(read, b"x" * (number % 600)),
        ):
            with pytest.raises(NotFound):
                look()


@pytest.mark.parametrize("number", [-5, 7, (1 << 64) - 1, 1 << 64])
def test_a_folder_that_cannot_exist_holds_nothing(database: Database, number: int) -> None:
    with database.read(ACTOR) as read:
        assert list(folders.messages(read, number)) == list(folders.children(read, number)) == []
        assert list(folders.walk(read, number)) == []
        assert folders.find(read, number, "Inbox") is None
        assert list(changes(read, CNSet(), number)) == []
        assert public_folders.read_uids(read, number).intervals == ()


@pytest.mark.parametrize(("after_uid", "uids"), [(-5, [1, 2]), (-1, [1, 2]), (1, [2]), (1 << 70, [])])
def test_messages_are_those_above_any_number(database: Database, after_uid: int, uids: list[int]) -> None:
    inbox = new_mailbox(database).roles["inbox"]
    for number in range(2):
        add(database, inbox, raw_message(number))
    with database.read(ACTOR) as read:
        assert [item.uid for item in folders.messages(read, inbox, after_uid)] == uids
