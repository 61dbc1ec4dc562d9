"""Sizes of a database, and what its size check remembers."""

from __future__ import annotations

import random

from pillarbox.store.access import Actor
from pillarbox.store.engine.database import Database
from pillarbox.store.mail import mailboxes, messages
from pillarbox.store.upkeep.sizes import (
    last_size_check_ms,
    logical_size_bytes,
    physical_size_bytes,
    record_size_check,
)

ACTOR = Actor.task("test")


def test_the_logical_size_falls_when_mail_is_deleted(database: Database) -> None:
    raw = b"Subject: x\r\n\r\n" + random.Random(1).randbytes(200_000)
    prepared = messages.prepare(database.files, raw)
    with database.transaction(ACTOR) as txn:
        item = messages.append(txn, mailboxes.create(txn, "anna").roles["inbox"], prepared)
    full = logical_size_bytes(database)
    with database.transaction(ACTOR) as txn:
        messages.delete(txn, item.message_id)
    assert full - logical_size_bytes(database) > 190_000
    assert physical_size_bytes(database) >= full


def test_the_time_of_the_size_check_is_kept(database: Database) -> None:
    assert last_size_check_ms(database) is None
    record_size_check(database, 123)
    database.dismount()
    database.mount()
    assert last_size_check_ms(database) == 123
