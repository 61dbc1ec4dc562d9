"""Delivery of one message from a mail transport: deliver."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from pillarbox.store.errors import (
    AccessDenied,
    Dismounted,
    InvalidContent,
    PillarboxError,
    ReadOnly,
    RecoveryNeeded,
    Refused,
    UnsupportedVersion,
)
from pillarbox.tools.error_data import error_data, error_of
from pillarbox.tools.options import JSON, SERVER, tell_error
from pillarbox.tools.output import show, warn
from pillarbox.tools.parameters import complete_mailbox
from pillarbox.tools.serving.performing import operation
from pillarbox.tools.standard_input import read_message

# The codes of sysexits.h, which transports go by. With any other one a transport gives the message up.
NO_MESSAGE: Final = 65
NO_MAILBOX: Final = 67
REFUSED: Final = 69
TRY_AGAIN: Final = 75
NO_RIGHT: Final = 77

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
    delivered: list[dict[str, str]] = []
    try:
        raw = read_message()
        with operation(server, "message.deliver") as perform:
            outcome = perform(mailboxes=list(mailbox_names), items=[raw])
            delivered = outcome["delivered"]
            if missing := error_of(outcome["missing"]):
                raise NoSuchMailbox(missing)
    except Exception as error:  # a fault of the program must not cost the message either
        if not delivered:
            _end_with(error, as_json)
        # It is durable: told otherwise, the transport would deliver it again, or return it.
        warn([f"pillarbox: the message is delivered; after that: {error}"])
    try:
        _show(delivered, as_json)
    except OSError:  # nobody reads it, or there is no room for it
        sys.stdout = io.StringIO()  # Python flushes it once more at its end


def _show(delivered: list[dict[str, str]], as_json: bool) -> None:
    show(delivered, [f"Delivered to {each['mailbox']}." for each in delivered], as_json)


def _end_with(error: Exception, as_json: bool) -> NoReturn:
    code = exit_code_for(error)
    told = error.error if isinstance(error, NoSuchMailbox) else error
    tell_error(error_data(told, code), as_json=as_json)
    sys.exit(code)
