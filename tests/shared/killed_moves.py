"""Moves of a mailbox that are killed in the process of the test, and what they leave."""

from __future__ import annotations

from typing import Any, Final

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import MailboxRecord, Table
from pillarbox.store.engine.database import Database
from pillarbox.store.mail import mailboxes, messages
from pillarbox.store.server import Server
from pillarbox.store.upkeep import move_mailbox

ACTOR: Final = Actor.task("test")
FIRST, SECOND, THIRD = "Mailbox Store", "Second", "Third"
MAIL: Final = [b"Subject: %d\r\n\r\nhello" % number for number in range(3)]
BEFORE: Final = ["copied", "complete"]
"""Places at which a move is killed while its source is there."""
EVERYWHERE: Final = [*BEFORE, "moved"]


class Killed(BaseException):
    """The process is gone: not an error that anything may catch."""


def kill_move(server: Server, place: str, to: str = SECOND) -> None:
    """Move anna, and be killed when the copy is made, when it is complete, or when the source is gone."""

    def killed(*_: object) -> None:
        raise Killed

    named = move_mailbox._Move._name_copy

    def name_and_die(self: Any, *words: Any) -> None:
        named(self, *words)
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(move_mailbox, "finish_move", killed)
        if place == "complete":
            patch.setattr(move_mailbox._Move, "_name_copy", name_and_die)
        server.mailboxes.move(ACTOR, "anna", to, progress=killed if place == "copied" else None)


def deliver(server: Server, raw: bytes) -> None:
    """Bring a message to anna, wherever she is."""
    database, box = server.mailboxes.find("anna")
    with database.transaction(ACTOR) as txn:
        messages.deliver(txn, [box.guid], messages.prepare(txn.files, raw))


def delete(server: Server) -> None:
    """By a transaction alone, as a program does that knows of no other database."""
    database, box = server.mailboxes.find("anna")
    with database.transaction(ACTOR) as txn:
        mailboxes.purge(txn, box.guid)


def boxes_in(database: Database) -> list[MailboxRecord]:
    """All mailboxes of a database, hidden or not."""
    with database.read(ACTOR) as read:
        return [box for _, box in read.records(Table.MAILBOX, b"", None)]
