"""Delivery of one message from a mail transport: deliver."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

import pillarbox
from pillarbox.store.access import Actor
from pillarbox.store.errors import (
    AccessDenied,
    Dismounted,
    InvalidContent,
    InvalidName,
    NotFound,
    PillarboxError,
    ReadOnly,
    RecoveryNeeded,
    Refused,
    UnsupportedVersion,
)
from pillarbox.store.ids import id_text
from pillarbox.tools.options import JSON, SERVER, tell_error
from pillarbox.tools.output import show, warn
from pillarbox.tools.parameters import complete_mailbox
from pillarbox.tools.standard_input import read_message

if TYPE_CHECKING:
    from pillarbox.store.disk.tables import ItemRecord, MailboxRecord

    Recipients = dict[pillarbox.Database, list[MailboxRecord]]
    Delivered = list[tuple[pillarbox.Database, MailboxRecord, ItemRecord]]

# The codes of sysexits.h, which transports go by. With any other one a transport gives the message up.
NO_MESSAGE: Final = 65
NO_MAILBOX: Final = 67
REFUSED: Final = 69
TRY_AGAIN: Final = 75
NO_RIGHT: Final = 77

TRANSPORT: Final = Actor.transport()
_WAIT_MS: Final = 30_000  # transports deliver several messages at once, each by a process of its own
# Refused as things are: an administrator, or another process, changes that.
_MAY_PASS: Final = (Dismounted, ReadOnly, RecoveryNeeded, UnsupportedVersion)


class NoSuchMailbox(Exception):
    """A recipient is not there; `error` is what the server says of it."""

    def __init__(self, error: PillarboxError) -> None:
        super().__init__(str(error))
        self.error = error


def exit_code_for(error: Exception) -> int:
    """The exit code for a transport: to try again unless the same call cannot ever succeed."""
    if isinstance(error, NoSuchMailbox):
        return NO_MAILBOX
    if isinstance(error, InvalidContent):
        return NO_MESSAGE
    if isinstance(error, AccessDenied):
        return NO_RIGHT
    return REFUSED if isinstance(error, Refused) and not isinstance(error, _MAY_PASS) else TRY_AGAIN


@click.command("deliver")
@SERVER
@click.argument(
    "mailbox_names", metavar="MAILBOX...", nargs=-1, required=True, shell_complete=complete_mailbox
)
@JSON
def deliver_message(server: Path, mailbox_names: tuple[str, ...], as_json: bool) -> None:
    """Deliver the message on standard input to the Inbox of each MAILBOX: to all, or to none.

    For mail transports: when it ends with 0 the message is durable. Other codes are those that transports
    know: 65 no message, 67 no such mailbox, 69 refused for good, 77 no right, 75 for all that may pass. It
    waits up to 30 seconds for other processes.

    \b
    pillarbox deliver /srv/mail anna < letter.eml
    pillarbox deliver /srv/mail anna bert < letter.eml
    """
    delivered: Delivered = []
    try:
        raw = read_message()
        with pillarbox.Server.open(server, wait_ms=_WAIT_MS) as opened:
            recipients = _find(opened, mailbox_names)
            delivered = _deliver(recipients, raw)
    except Exception as error:  # a fault of the program must not cost the message either
        if not delivered:
            _end_with(error, as_json)
        # It is durable: told otherwise, the transport would deliver it again, or return it.
        warn([f"pillarbox: the message is delivered; after that: {error}"])
    try:
        _show(delivered, as_json)
    except OSError:  # nobody reads it, or there is no room for it
        sys.stdout = io.StringIO()  # Python flushes it once more at its end


def _show(delivered: Delivered, as_json: bool) -> None:
    show(
        [
            {"mailbox": box.name, "database": database.label, "id": id_text(item.message_id)}
            for database, box, item in delivered
        ],
        [f"Delivered to {box.name}." for _, box, _ in delivered],
        as_json,
    )


def _end_with(error: Exception, as_json: bool) -> NoReturn:
    code = exit_code_for(error)
    told = error.error if isinstance(error, NoSuchMailbox) else error
    tell_error(str(told), code, type(told), getattr(told, "hint", ""), as_json=as_json)
    sys.exit(code)


def _find(server: pillarbox.Server, names: Sequence[str]) -> Recipients:
    """The mailboxes of these names, each once, by database. Raises NoSuchMailbox, and what may pass."""
    found: Recipients = {}
    for name in names:
        try:
            database, box = server.mailboxes.find(name)
        except (NotFound, InvalidName) as error:
            raise NoSuchMailbox(error) from error
        boxes = found.setdefault(database, [])
        if box not in boxes:
            boxes.append(box)
    return found


def _deliver(recipients: Recipients, raw: bytes) -> Delivered:
    """Deliver in each database; what the ones before took is deleted again when one refuses."""
    delivered: Delivered = []
    try:
        for database, boxes in recipients.items():
            items = pillarbox.deliver(database, TRANSPORT, [box.guid for box in boxes], raw)
            delivered += [(database, box, item) for box, item in zip(boxes, items, strict=True)]
    except BaseException:
        for database, _, item in delivered:
            with database.transaction(TRANSPORT) as txn:
                pillarbox.messages.delete(txn, item.message_id)
        raise
    return delivered
