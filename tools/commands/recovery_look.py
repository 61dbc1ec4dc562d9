"""`recovery mailboxes`, `look` and `show`: a look into what is recovered, before anything is merged."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pillarbox
from pillarbox.store.clock import SystemClock
from pillarbox.store.errors import NotFound
from pillarbox.tools.commands.folder import folder_line, folder_rows
from pillarbox.tools.commands.message import envelope_line, show_raw
from pillarbox.tools.mail_rows import envelope
from pillarbox.tools.options import ACTOR, JSON, SERVER
from pillarbox.tools.output import counted, show, show_each, size_text
from pillarbox.tools.parameters import COUNT
from pillarbox.tools.recovery_sources import (
    ONE_DATABASE,
    Keys,
    find_recovered,
    group_of,
    mounted_databases,
)
from pillarbox.tools.repository_options import keys
from pillarbox.tools.tree import find_message

if TYPE_CHECKING:
    from pillarbox.backup.merge.merge_mailbox import MailboxMatch

MAILBOX = click.argument("mailbox_name", metavar="MAILBOX")


@click.command()
@SERVER
@ONE_DATABASE
@keys
@JSON
def mailboxes(
    server: Path, database_name: str, passphrase_file: Path | None, key_file: Path | None, as_json: bool
) -> None:
    """The mailboxes in the recovery storage group, and the live mailbox that each would be merged into.

    It is found by GUID, or else by name.

    \b
    pillarbox recovery mailboxes /srv/mail
    """
    from pillarbox.backup.merge.merge_mailbox import match_mailboxes
    from pillarbox.backup.recovery_group import RecoveryGroup

    with (
        pillarbox.Server.open(server, read_only=True) as opened,
        RecoveryGroup.open(opened, clock=SystemClock()) as group,
    ):
        rows = [
            _match_data(database.name, match)
            for database in mounted_databases(group, database_name, Keys(passphrase_file, key_file))
            for match in match_mailboxes(database, opened.databases(), ACTOR)
        ]
    show(rows, [_match_line(each) for each in rows] or ["There are no mailboxes in it."], as_json)


def _match_data(database: str, match: MailboxMatch) -> dict[str, Any]:
    return {
        "database": database,
        "mailbox": match.source.name,
        "messages": match.source.messages_count,
        "size_bytes": match.source.size,
        "live_mailbox": match.target_name if match.target else None,
        "matched_by": match.by,
    }


def _match_line(row: dict[str, Any]) -> str:
    where = {
        "none": "no live mailbox",
        "several": "several live mailboxes of this name",
    }.get(row["matched_by"], f"live: {row['live_mailbox']}")
    bulk = f"{counted(row['messages'], 'message')}, {size_text(row['size_bytes'])}"
    return f"{row['database']}: {row['mailbox']}  {bulk}  ({where})"


@click.command()
@SERVER
@MAILBOX
@click.argument("folder_path", metavar="[FOLDER]", default="")
@ONE_DATABASE
@click.option("--limit", type=COUNT, help="List at most this many messages.")
@keys
@JSON
def look(
    server: Path,
    mailbox_name: str,
    folder_path: str,
    database_name: str,
    limit: int | None,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """The folders of a recovered mailbox, or with / the public ones, or the messages of FOLDER.

    No content is fetched.

    \b
    pillarbox recovery look /srv/mail anna
    pillarbox recovery look /srv/mail anna Lists/2002 --limit 20
    pillarbox recovery look /srv/mail / Announcements
    """
    with (
        pillarbox.Server.open(server, read_only=True, mount=False) as opened,
        group_of(opened, mailbox_name) as group,
    ):
        databases = mounted_databases(group, database_name, Keys(passphrase_file, key_file))
        database, tree = find_recovered(databases, mailbox_name)
        with database.read(ACTOR) as read:
            if folder_path:
                found = pillarbox.folders.by_path(read, tree.root_id, folder_path)
                items = islice(pillarbox.folders.messages(read, found.folder_id), limit)
                empty = "There are no messages in it."
                show_each(map(envelope, items), envelope_line, as_json, empty=empty)
            else:
                show_each(folder_rows(read, tree.root_id), folder_line, as_json)


@click.command("show")
@SERVER
@MAILBOX
@click.argument("message_id", metavar="MESSAGE-ID")
@ONE_DATABASE
@keys
@JSON
def show_(
    server: Path,
    mailbox_name: str,
    message_id: str,
    database_name: str,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Print a recovered message byte for byte; MESSAGE-ID is as `recovery look` shows it.

    \b
    pillarbox recovery show /srv/mail anna 1-2f > message.eml
    """
    with (
        pillarbox.Server.open(server, read_only=True, mount=False) as opened,
        group_of(opened, mailbox_name) as group,
    ):
        databases = mounted_databases(group, database_name, Keys(passphrase_file, key_file))
        database, tree = find_recovered(databases, mailbox_name)
        with database.read(ACTOR) as read:
            item = find_message(read, tree.guid, message_id)
            if item is None:
                raise NotFound(
                    f"{mailbox_name} has no message {message_id} there",
                    hint="see which it has with `pillarbox recovery look`",
                )
            show_raw(item, pillarbox.messages.content(read, item), as_json)
