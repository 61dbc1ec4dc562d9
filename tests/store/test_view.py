"""What is promised of views: sorted, each message once, paged from any point, searched without bodies."""

from __future__ import annotations

import pytest

from pillarbox.store import mailbox, message, view
from pillarbox.store.access import Actor
from pillarbox.store.database import Database
from pillarbox.store.errors import InvalidSetting, NotFound
from pillarbox.store.tables import ItemRecord

ACTOR = Actor.task("test")
SUBJECTS = ("beta", "Re: alpha", "Gamma", "alpha", "delta")


@pytest.fixture
def inbox(database: Database) -> int:
    prepared = [
        message.prepare(
            database.files,
            b"Subject: %s\r\nFrom: %s@example.com\r\nDate: Mon, %d Jan 2024 10:00:00 +0000\r\n\r\n%s"
            % (subject.encode(), b"zyxwv"[at : at + 1], 5 - at, b"x" * (at * 37 % 11)),
        )
        for at, subject in enumerate(SUBJECTS)
    ]
    with database.transaction(ACTOR) as txn:
        inbox = mailbox.create(txn, "anna").roles["inbox"]
        for each in prepared:
            message.append(txn, inbox, each)
    return inbox


def key_of(sort: view.Sort, item: ItemRecord) -> object:
    keys = {
        view.Sort.DATE: item.date_ms,
        view.Sort.SIZE: item.size,
        view.Sort.SUBJECT: item.subject.removeprefix("Re: ").casefold(),
        view.Sort.SENDER: item.sender,
    }
    return keys[sort]


@pytest.mark.parametrize("sort", list(view.Sort))
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_pages_put_together_are_the_whole_view_in_order(
    database: Database, inbox: int, sort: view.Sort, descending: bool, limit: int
) -> None:
    found: list[ItemRecord] = []
    after = None
    with database.read(ACTOR) as read:
        while True:
            page = view.page(read, inbox, sort=sort, descending=descending, after=after, limit=limit)
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
        first = view.page(read, inbox, sort=view.Sort.DATE, limit=2)
    with database.transaction(ACTOR) as txn:
        message.delete(txn, first.items[1].message_id)
    with database.read(ACTOR) as read:
        rest = view.page(read, inbox, sort=view.Sort.DATE, after=first.next)
    assert [item.uid for item in rest.items] == [3, 2, 1]


@pytest.mark.parametrize("sort", list(view.Sort))
@pytest.mark.parametrize("descending", [False, True])
def test_a_page_begins_behind_any_message_of_the_view(
    database: Database, inbox: int, sort: view.Sort, descending: bool
) -> None:
    with database.read(ACTOR) as read:
        whole = view.page(read, inbox, sort=sort, descending=descending).items
        for at, item in enumerate(whole):
            after = view.position(item, sort)
            rest = view.page(read, inbox, sort=sort, descending=descending, after=after).items
            assert rest == whole[at + 1 :]


def test_search_looks_at_envelopes(database: Database, inbox: int) -> None:
    with database.transaction(ACTOR) as txn:
        message_id = message.get_by_uid(txn, inbox, 3).message_id
        message.set_flags(txn, message_id, add=["\\Flagged"])
    with database.read(ACTOR) as read:

        def uids(**query: object) -> list[int]:
            return [item.uid for item in view.search(read, inbox, view.Query(**query))]  # type: ignore[arg-type]

        assert uids(subject="ALPHA") == [2, 4]
        assert uids(sender="z@example") == [1]
        assert uids(flags=("\\Flagged",)) == [3]
        assert uids(without_flag="\\Flagged") == [1, 2, 4, 5]
        sizes = {item.uid: item.size for item in view.search(read, inbox, view.Query())}
        middle = sorted(sizes.values())[2]
        assert uids(larger_than_bytes=middle) == [uid for uid, size in sizes.items() if size > middle]
        assert uids(smaller_than_bytes=middle) == [uid for uid, size in sizes.items() if size < middle]
        assert len(uids(larger_than_bytes=middle - 1, smaller_than_bytes=middle + 1)) >= 1
        assert uids(text="nowhere") == []
        assert uids() == [1, 2, 3, 4, 5]


def test_a_folder_that_is_not_there_is_not_an_empty_one(database: Database) -> None:
    with database.read(ACTOR) as read, pytest.raises(NotFound):
        view.page(read, 1)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_page_of_nothing_is_refused_and_is_not_the_end(database: Database, inbox: int, limit: int) -> None:
    with database.read(ACTOR) as read, pytest.raises(InvalidSetting, match="cannot be"):
        view.page(read, inbox, limit=limit)
