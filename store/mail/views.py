"""Listings of a folder: sorted, paged from any point, and searched by envelope; bodies are never touched."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from itertools import islice
from typing import Final, NamedTuple

from pillarbox.store.arguments import check_kind
from pillarbox.store.disk.tables import ItemRecord, Table, id_key, view_sorts
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.errors import Corrupt, InvalidSetting
from pillarbox.store.mail import folders
from pillarbox.store.mail.messages import has_flag, parse_flags
from pillarbox.store.mail.rights import Right, require
from pillarbox.store.names import SORT_KEY_BYTES_MAX

_UID_BYTES: Final = 4
_NUMBER_BYTES: Final = 8
_NUMBERS: Final = (
    "since_ms",
    "before_ms",
    "larger_than_bytes",
    "smaller_than_bytes",
    "received_since_ms",
    "received_before_ms",
)


class Sort(Enum):
    """The order of a view; the value is the kind of its rows.

    Subjects are in the order of the first 24 bytes of their base subject, senders of those of their name.
    """

    DATE = b"d"
    SIZE = b"s"
    SUBJECT = b"j"
    SENDER = b"f"


class Page(NamedTuple):
    """Some messages of a view, and where the next page begins: None at the end."""

    items: list[ItemRecord]
    next: bytes | None


def page(
    reader: Reader,
    folder_id: int,
    *,
    sort: Sort = Sort.DATE,
    descending: bool = False,
    after: bytes | None = None,
    limit: int = 100,
) -> Page:
    """One page of a folder, in O(log n + page). `after` is the `next` of another page of the same view.

    A message that was changed meanwhile may be met again or not at all. Raises NotFound, InvalidSetting for a
    limit below 1 and for an `after` that no page of this order gave, Corrupt.
    """
    require(reader, Right.READ_ITEMS, folder_id)
    check_kind(sort, "sort", Sort, "one of `views.Sort`, such as `Sort.DATE`")
    check_kind(limit, "limit", int, "the number of messages on a page")
    if limit < 1:
        raise InvalidSetting(f"a page of {limit} messages cannot be", hint="a limit is 1 or more")
    folders.get(reader, folder_id)
    prefix = id_key(folder_id) + sort.value
    start, stop = prefix, prefix[:-1] + bytes([prefix[-1] + 1])
    if after is not None:
        _refuse_no_place(after, sort)
        start, stop = (start, prefix + after) if descending else (prefix + after + b"\0", stop)
    items: list[ItemRecord] = []
    last = b""
    for key, _ in islice(reader.indexes(Table.VIEW, start, stop, reverse=descending), limit):
        items.append(_item_of(reader, key))
        last = key[len(prefix) :]
    return Page(items, last if len(items) == limit else None)


def _item_of(reader: Reader, view_key: bytes) -> ItemRecord:
    key = view_key[:_NUMBER_BYTES] + view_key[-_UID_BYTES:]
    item: ItemRecord | None = reader.record(Table.ITEM, key)
    if item is None:
        raise Corrupt(f"item[{key.hex()}] is missing, the view names it", table="item", key=key)
    return item


def _refuse_no_place(after: bytes, sort: Sort) -> None:
    """Raises InvalidSetting unless `after` is a sort key of that order with a UID behind it."""
    hint = f"give `next` of another page in the order {sort.name}, or `position` of a message"
    check_kind(after, "after", bytes, "`next` of another page")
    key = after[:-_UID_BYTES]
    if sort in (Sort.DATE, Sort.SIZE):
        fits = len(key) == _NUMBER_BYTES
    else:
        fits = len(key) <= SORT_KEY_BYTES_MAX + 1 and key.find(b"\0") == len(key) - 1
    if len(after) <= _UID_BYTES or not fits:
        raise InvalidSetting("this is no place in the view", hint=hint)


def position(item: ItemRecord, sort: Sort) -> bytes:
    """Where a message is in a view: given to `page` as `after`, it goes on behind that message."""
    return dict(view_sorts(item))[sort.value] + item.uid.to_bytes(4, "big")


class Query(NamedTuple):
    """The conditions on a message's envelope; empty ones hold always. Text is compared without case.

    `since_ms` and `before_ms` bound the date (ms UTC) as the views sort by it, `received_since_ms` and
    `received_before_ms` when it was received. `flags` are IMAP flags (`\\Seen`) and keywords that it must
    have, `without_flag` is one that it must not have. Of long fields only what records keep is looked at:
    998 characters of a subject or sender, 2000 of To and of Cc.
    """

    text: str = ""
    subject: str = ""
    sender: str = ""
    to: str = ""
    internet_message_id: str = ""
    since_ms: int | None = None
    before_ms: int | None = None
    flags: tuple[str, ...] = ()
    has_attachment: bool | None = None
    larger_than_bytes: int | None = None
    smaller_than_bytes: int | None = None
    without_flag: str = ""
    received_since_ms: int | None = None
    received_before_ms: int | None = None

    def check(self) -> None:
        """Raises InvalidArgument for a condition of a wrong type, InvalidSetting for what is no flag."""
        for name in ("text", "subject", "sender", "to", "internet_message_id", "without_flag"):
            check_kind(getattr(self, name), name, str, "a str, empty for no condition")
        for name in _NUMBERS:
            if getattr(self, name) is not None:
                check_kind(getattr(self, name), name, int, "a number, None for no condition")
        parse_flags(self.flags)
        parse_flags(filter(None, (self.without_flag,)))

    def matches(self, item: ItemRecord) -> bool:
        """True when a message fulfils the conditions."""
        everything = "\n".join((item.subject, item.sender, item.to, item.cc))
        date_ms = item.received_ms if item.date_ms is None else item.date_ms
        return (
            _holds(everything, self.text)
            and _holds(item.subject, self.subject)
            and _holds(item.sender, self.sender)
            and _holds(f"{item.to}\n{item.cc}", self.to)
            and _holds(item.internet_message_id, self.internet_message_id)
            and (self.since_ms is None or date_ms >= self.since_ms)
            and (self.before_ms is None or date_ms < self.before_ms)
            and (self.received_since_ms is None or item.received_ms >= self.received_since_ms)
            and (self.received_before_ms is None or item.received_ms < self.received_before_ms)
            and all(has_flag(item, flag) for flag in self.flags)
            and not (self.without_flag and has_flag(item, self.without_flag))
            and self.has_attachment in (None, item.has_attachment)
            and (self.larger_than_bytes is None or item.size > self.larger_than_bytes)
            and (self.smaller_than_bytes is None or item.size < self.smaller_than_bytes)
        )


def _holds(text: str, wanted: str) -> bool:
    return not wanted or wanted.casefold() in text.casefold()


def search(reader: Reader, folder_id: int, query: Query) -> Iterator[ItemRecord]:
    """The messages of a folder that a query matches, by UID. Raises NotFound, and as `Query.check`."""
    require(reader, Right.READ_ITEMS, folder_id)
    check_kind(query, "query", Query, "a `views.Query`, such as `Query(text=...)`")
    query.check()
    folders.get(reader, folder_id)
    return filter(query.matches, folders.messages(reader, folder_id))
