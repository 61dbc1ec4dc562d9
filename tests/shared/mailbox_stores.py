"""A mailbox store of fixed identity, clock and randomness, the mail for it, and all that it holds."""

from __future__ import annotations

import random
from pathlib import Path

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind, ItemRecord
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.files.mbox import read_mbox
from pillarbox.store.mail import folders, mailboxes, messages

_DATA = Path(__file__).resolve().parents[1] / "data"


def mailbox_store(path: Path, tuning: Tuning) -> Database:
    """The database of a path, neither made nor mounted."""
    return Database(
        path,
        b"x" * 16,
        "Mail",
        DatabaseKind.MAILBOX_STORE,
        clock=VirtualClock(),
        rng=random.Random(1),
        tuning=tuning,
    )


def real_mail() -> list[bytes]:
    """The messages of tests/data: mailing lists, then spam."""
    lists = [item.raw for item in read_mbox(_DATA / "lists.mbox")]
    return lists + [path.read_bytes() for path in sorted((_DATA / "spam").glob("*.eml"))]


def held(database: Database) -> list[tuple[ItemRecord, bytes]]:
    """Each message of a mounted mailbox store, with its bytes."""
    found = []
    with database.read(Actor.task("test")) as reader:
        for box in mailboxes.all_of(reader):
            for _, folder in folders.walk(reader, box.root_id):
                items = folders.messages(reader, folder.folder_id)
                found += [(item, messages.content(reader, item)) for item in items]
    return found
