"""What is promised of views: sorted, each message once, paged from any point, searched without bodies."""

from __future__ import annotations

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import ItemRecord, Table, item_key
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import Corrupt, InvalidSetting, NotFound
from pillarbox.store.mail import mailboxes, messages, views

ACTOR = Actor.task("test")
SUBJECTS = ("beta", "Re: alpha", "Gamma", "alpha", "delta")


@pytest.fixture
def inbox(database: Database) -> int:
    prepared = [
        messages.prepare(
            database.files,
            b"Subject: %s\r\nFrom: %s@example.com\r\nDate: Mon, %d Jan 2024 10:00:00 +0000\r\n\r\n%s"
            % (subject.encode(), b"zyxwv"[at : at + 1], 5 - at, b"x" * (at * 37 % 11)),
        )
        for at, subject in enumerate(SUBJECTS)
    ]
    with database.transaction(ACTOR) as txn:
        inbox = mailboxes.create(txn, "anna").roles["inbox"]
        for each in prepared:
            messages.append(txn, inbox, each)
    return inbox


def key_of(sort: views.Sort, item: ItemRecord) -> object:
    keys = {
        views.Sort.DATE: item.date_ms,
        views.Sort.SIZE: item.size,
        views.Sort.SUBJECT: item.subject.removeprefix("Re: ").casefold(),
        views.Sort.SENDER: item.sender,
    }
    return keys[sort]


@pytest.mark.parametrize("sort", list(views.Sort))
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_pages_put_together_are_the_whole_view_in_order(
    database: Database, inbox: int, sort: views.Sort, descending: bool, limit: int
) -> None:
    found: list[ItemRecord] = []
    after = None
    with database.read(ACTOR) as read:
        while True:
            page = views.page(read, inbox, sort=sort, descending=descending, after=after, limit=limit)
            assert len(page.items) <= limit
            found += page.items
            after = page.next
            if after is None:
                break
    assert sorted(item.uid for item in found) == [1, 2, 3, 4, 5]
    keys = [key_of(sort, item) for item in found]
    assert keys == sorted(keys, reverse=descending)  # type: ignore[type-var]


def test_a_page_goes_on_where_its_last_message_was_though_that_is_gone(
    database: Database, inbox: int
) -> None:
    with database.read(ACTOR) as read:
        first = views.page(read, inbox, sort=views.Sort.DATE, limit=2)
    with database.transaction(ACTOR) as txn:
        messages.delete(txn, first.items[1].message_id)
    with database.read(ACTOR) as read:
        rest = views.page(read, inbox, sort=views.Sort.DATE, after=first.next)
    assert [item.uid for item in rest.items] == [3, 2, 1]


@pytest.mark.parametrize("sort", list(views.Sort))
@pytest.mark.parametrize("descending", [False, True])
def test_a_page_begins_behind_any_message_of_the_view(
    database: Database, inbox: int, sort: views.Sort, descending: bool
) -> None:
    with database.read(ACTOR) as read:
        whole = views.page(read, inbox, sort=sort, descending=descending).items
        for at, item in enumerate(whole):
            after = views.position(item, sort)
            rest = views.page(read, inbox, sort=sort, descending=descending, after=after).items
            assert rest == whole[at + 1 :]


def test_search_looks_at_envelopes(database: Database, inbox: int) -> None:
    with database.transaction(ACTOR) as txn:
        message_id = messages.get_by_uid(txn, inbox, 3).message_id
        messages.set_flags(txn, message_id, add=["\\Flagged"])
    with database.read(ACTOR) as read:

        def uids(**query: object) -> list[int]:
            return [item.uid for item in views.search(read, inbox, views.Query(**query))]  # type: ignore[arg-type]

        assert uids(subject="ALPHA") == [2, 4]
        assert uids(sender="z@example") == [1]
        assert uids(flags=("\\Flagged",)) == [3]
        assert uids(without_flag="\\Flagged") == [1, 2, 4, 5]
        sizes = {item.uid: item.size for item in views.search(read, inbox, views.Query())}
        middle = sorted(sizes.values())[2]
        assert uids(larger_than_bytes=middle) == [uid for uid, size in sizes.items() if size > middle]
        assert uids(smaller_than_bytes=middle) == [uid for uid, size in sizes.items() if size < middle]
        assert len(uids(larger_than_bytes=middle - 1, smaller_than_bytes=middle + 1)) >= 1
        assert uids(text="nowhere") == []
        assert uids() == [1, 2, 3, 4, 5]


def test_a_folder_that_is_not_there_is_not_an_empty_one(database: Database) -> None:
    with database.read(ACTOR) as read, pytest.raises(NotFound):
        views.page(read, 1)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_page_of_nothing_is_refused_and_is_not_the_end(database: Database, inbox: int, limit: int) -> None:
    with database.read(ACTOR) as read, pytest.raises(InvalidSetting, match="cannot be"):
        views.page(read, inbox, limit=limit)


def test_a_row_of_a_message_that_is_not_there_is_damage(database: Database, inbox: int) -> None:
    database.files.env.apply({Table.ITEM: {item_key(inbox, 3): None}})
    with database.read(ACTOR) as read, pytest.raises(Corrupt, match="the view names it") as raised:
        views.page(read, inbox)
    assert (raised.value.table, raised.value.key) == ("item", item_key(inbox, 3))
