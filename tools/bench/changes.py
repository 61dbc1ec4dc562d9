"""Flag, move and delete messages, in one transaction and one by one, beside SQLite with the same indexes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import ItemRecord
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.mail import folders, messages
from pillarbox.tools.bench.pillarbox_side import new_target
from pillarbox.tools.bench.report import CHANGES, Change, Figure, change_name

ONE_BY_ONE_COUNT: Final = 500
_ACTOR: Final = Actor.task("bench")

# A row of a message, and an index for each that Pillarbox keeps of one: place, four views, two feeds.
_SCHEMA: Final = """
pragma journal_mode = wal; pragma synchronous = full;
create table message(id integer primary key, folder, uid, date, subject, sender, recipients, cc, digest, size,
    internet_message_id, conversation, flags, modseq);
create unique index place on message(folder, uid);
create index by_date on message(folder, date);
create index by_subject on message(folder, subject);
create index by_sender on message(folder, sender);
create index by_size on message(folder, size);
create index feed on message(modseq);
create index folder_feed on message(folder, modseq);
"""
_SQL: Final[dict[Change, str]] = {
    "flag": "update message set flags = flags | 1, modseq = :number where id = :id",
    "move": "update message set folder = 2, uid = :number, modseq = :number where id = :id",
    "delete": "delete from message where id = :id",
}


def changes(root: Path, count: int) -> Iterator[Figure]:
    """Change `count` messages in one transaction and up to 500 one by one, on both sides in turn."""
    with new_target(root / "changes") as target, closing(sqlite3.connect(root / "changes.sqlite")) as peer:
        single_count = min(count, ONE_BY_ONE_COUNT)
        target.deliver_all((_message(number) for number in range(count + single_count)), processes=0)
        with target.database.read(_ACTOR) as read:
            items = list(folders.messages(read, target.folder_id))
            parent_id = folders.get(read, target.folder_id).parent_id
        with target.database.transaction(_ACTOR) as txn:
            other_id = folders.create(txn, parent_id, "Other").folder_id
        _fill(peer, items)
        numbers = iter(range(1 << 40, 1 << 41))
        together = [item.message_id for item in items[:count]]
        singly = [item.message_id for item in items[count:]]

        def change(what: Change) -> Callable[[WriteTransaction, int], object]:
            if what == "flag":
                return lambda txn, message_id: messages.set_flags(txn, message_id, add=["\\Flagged"])
            if what == "move":
                return lambda txn, message_id: messages.move(txn, message_id, other_id)
            return messages.delete

        for what in CHANGES:
            for ids, batch in ((together, count), (singly, 1)):
                start = time.perf_counter()
                for at in range(0, len(ids), batch):
                    with target.database.transaction(_ACTOR) as txn:
                        for message_id in ids[at : at + batch]:
                            change(what)(txn, message_id)
                name = change_name(what, is_one_by_one=batch == 1)
                yield Figure(f"Pillarbox, {name}", len(ids), time.perf_counter() - start)
                start = time.perf_counter()
                for at in range(0, len(ids), batch):
                    with peer:
                        for message_id in ids[at : at + batch]:
                            peer.execute(_SQL[what], {"id": message_id, "number": next(numbers)})
                yield Figure(f"SQLite, {name}", len(ids), time.perf_counter() - start)


def _fill(peer: sqlite3.Connection, items: Sequence[ItemRecord]) -> None:
    peer.executescript(_SCHEMA)
    rows = [
        (
            *(item.message_id, item.uid, item.date_ms, item.subject, item.sender, item.to, item.cc),
            *(item.digest, item.size, item.internet_message_id, item.conversation, item.uid),
        )
        for item in items
    ]
    with peer:
        peer.executemany("insert into message values (?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)", rows)


def _message(number: int) -> bytes:
    sender = number % 977
    return (
        b"Message-ID: <%d@example.org>\nFrom: Sender %d <sender%d@example.org>\nSubject: thing %d\n"
        b"Date: Mon, 1 Jan 2024 00:00:00 +0000\n\nbody %d\n" % (number, sender, sender, number % 5003, number)
    )
