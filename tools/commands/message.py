"""Messages: list, show, search, flag, move, copy, delete; and the short forms `pillarbox list` and `show`."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import pillarbox
from pillarbox.store.mail.flags import FLAG_BITS, FLAGGED, SEEN
from pillarbox.tools.commands.folder import TO, TO_MAILBOX, folder_line, folder_rows
from pillarbox.tools.mail_rows import Row, envelope
from pillarbox.tools.options import ACTOR, JSON, SERVER
from pillarbox.tools.output import (
    confirm,
    counted,
    fitted,
    local_time,
    printable,
    show,
    show_each,
    size_text,
)
from pillarbox.tools.parameters import (
    COUNT,
    FOLDER,
    FOLDER_OR_ALL,
    MAILBOX,
    YES,
    complete_folder,
    moment,
    size,
)
from pillarbox.tools.serving.performing import operation
from pillarbox.tools.standard_input import read_message
from pillarbox.tools.tree import Tree, find_tree

if TYPE_CHECKING:
    from pillarbox.store.disk.tables import ItemRecord
    from pillarbox.store.engine.transaction import Reader

_PAGE: Final = 1000  # a reading is over after so many: it must not hold the database's old pages for long
_MARKS: Final = (("\\Answered", "a"), ("\\Flagged", "!"), ("\\Draft", "d"), ("\\Deleted", "x"))

IDS = click.argument("message_ids", metavar="MESSAGE-ID...", nargs=-1, required=True)


@click.group("message")
def message_() -> None:
    """Messages of a mailbox. MESSAGE-ID is as listings show it, like 1-2f.

    MAILBOX may be /, or /DATABASE, for the public folders of the server.
    """


def envelope_line(row: Row) -> str:
    """A message in a listing."""
    flags = row["flags"]
    marks = "".join(mark for flag, mark in _MARKS if flag in flags)
    shown = ("" if SEEN in flags else "N") + marks + ("@" if row["has_attachment"] else "")
    shown += "C" if row["is_conflict"] else ""
    when = local_time(row["received_ms"] if row["date_ms"] is None else row["date_ms"])
    sender = fitted(printable(row["from"]), 30)
    place = f"  [{row['folder']}]" if "folder" in row else ""
    bulk = size_text(row["size_bytes"])
    return f"{row['id']:>8}  {when:22} {bulk:>10} {shown:4} {sender}  {row['subject']}{place}"


# -- listing

SORTS: Final = ("date", "size", "subject", "sender")  # those of `views.Sort`
Command = Callable[..., None]


def _view_options(command: Command) -> Command:
    for option in reversed(
        (
            click.option(
                "--sort",
                type=click.Choice(SORTS),
                default=SORTS[0],
                show_default=True,
                help="What to sort by.",
            ),
            click.option("--reverse", is_flag=True, help="The last first: newest, largest, Z to A."),
            click.option("--limit", type=COUNT, help="List at most this many."),
            click.option(
                "--after", default="", metavar="MESSAGE-ID", help="Go on behind this message of the listing."
            ),
        )
    ):
        command = option(command)
    return command


def _list(
    server: Path,
    mailbox_name: str,
    folder_path: str,
    sort: str,
    reverse: bool,
    limit: int | None,
    after: str,
    as_json: bool,
) -> None:
    with pillarbox.Server.open(server, read_only=True) as opened:
        tree = find_tree(opened, mailbox_name)
        order = pillarbox.views.Sort[sort.upper()]
        with tree.database.read(ACTOR) as read:
            folder_id = tree.folder(read, folder_path).folder_id
            start = pillarbox.views.position(tree.message(read, after), order) if after else None
        items = _view(tree, folder_id, order, reverse, start)
        show_each(
            map(envelope, islice(items, limit)), envelope_line, as_json, empty="There are no messages in it."
        )


def _view(
    tree: Tree, folder_id: int, sort: pillarbox.views.Sort, reverse: bool, after: bytes | None
) -> Iterator[ItemRecord]:
    while True:
        with tree.database.read(ACTOR) as read:
            page = pillarbox.views.page(
                read, folder_id, sort=sort, descending=reverse, after=after, limit=_PAGE
            )
        yield from page.items
        after = page.next
        if after is None:
            return


@message_.command("list")
@SERVER
@MAILBOX
@FOLDER
@_view_options
@JSON
def list_messages(**asked: Any) -> None:
    """The messages of a folder.

    Marks: N not read, a answered, ! flagged, d draft, x to be deleted, @ has an attachment.

    \b
    pillarbox message list /srv/mail anna Inbox
    pillarbox message list /srv/mail anna Inbox --sort size --reverse --limit 10
    pillarbox message list /srv/mail anna Inbox --limit 100 --after 1-2f
    """
    _list(**asked)


@click.command("list")
@SERVER
@MAILBOX
@FOLDER_OR_ALL
@_view_options
@JSON
def list_(server: Path, mailbox_name: str, folder_path: str, as_json: bool, **asked: Any) -> None:
    """The folders of a mailbox, or the messages of FOLDER.

    Marks: N not read, a answered, ! flagged, d draft, x to be deleted, @ has an attachment.

    \b
    pillarbox list /srv/mail anna
    pillarbox list /srv/mail anna Lists/2002 --sort date --reverse --limit 20
    """
    if folder_path:
        _list(server, mailbox_name, folder_path, as_json=as_json, **asked)
        return
    with pillarbox.Server.open(server, read_only=True) as opened:
        tree = find_tree(opened, mailbox_name)
        with tree.database.read(ACTOR) as read:
            found = list(folder_rows(read, tree.root_id))
    show(found, map(folder_line, found), as_json)


# -- search


def _flag_name(text: str) -> str:
    """`seen`, `flagged` and the like as IMAP flags; anything else is a keyword."""
    names = {name.lower().lstrip("\\"): name for name in FLAG_BITS}
    return names.get(text.lower().lstrip("\\"), text)


@message_.command("search")
@SERVER
@MAILBOX
@click.option(
    "--folder",
    "folder_path",
    metavar="FOLDER",
    default="",
    shell_complete=complete_folder,
    help="In this folder and those in it.",
)
@click.option("--from", "sender", default="", help="The sender's name or address holds this.")
@click.option("--to", default="", help="The names or addresses of To or Cc hold this.")
@click.option("--subject", default="", help="The subject holds this.")
@click.option("--text", default="", help="Subject, sender or recipients hold this.")
@click.option("--message-id", "internet_message_id", default="", help="The field Message-ID holds this.")
@click.option("--since", "since_ms", callback=moment, metavar="DATE", help="Of that day or moment, or later.")
@click.option("--before", "before_ms", callback=moment, metavar="DATE", help="Before that day or moment.")
@click.option("--larger", "larger_than_bytes", callback=size, metavar="SIZE", help="Larger than 100K, 2.5M.")
@click.option(
    "--smaller", "smaller_than_bytes", callback=size, metavar="SIZE", help="Smaller than 100K, 2.5M."
)
@click.option("--unread", is_flag=True, help="Not read yet.")
@click.option("--flagged", is_flag=True, help="Flagged.")
@click.option("--keyword", default="", help="With this keyword or flag.")
@click.option("--has-attachment", is_flag=True, help="With an attachment.")
@click.option("--limit", type=COUNT, help="List at most this many.")
@JSON
def search(
    server: Path,
    mailbox_name: str,
    folder_path: str,
    unread: bool,
    flagged: bool,
    keyword: str,
    has_attachment: bool,
    limit: int | None,
    as_json: bool,
    **envelope_holds: Any,
) -> None:
    """Find messages by what their envelopes hold; all that is asked for must hold. Case does not matter.

    Days begin and end on the local clock, as 2002-08-31; a moment is 2002-08-31T18:30.

    \b
    pillarbox message search /srv/mail anna --from miller --since 2024-01-01
    pillarbox message search /srv/mail anna --larger 1M --has-attachment
    pillarbox message search /srv/mail anna --unread --json
    """
    flags = ([FLAGGED] if flagged else []) + ([_flag_name(keyword)] if keyword else [])
    query = pillarbox.views.Query(
        flags=tuple(flags),
        without_flag=SEEN if unread else "",
        has_attachment=True if has_attachment else None,
        **envelope_holds,
    )
    with pillarbox.Server.open(server, read_only=True) as opened:
        tree = find_tree(opened, mailbox_name)
        with tree.database.read(ACTOR) as read:
            found = islice(_search(read, tree, folder_path, query), limit)
            show_each(found, envelope_line, as_json, empty="No message was found.")


def _search(read: Reader, tree: Tree, folder_path: str, query: pillarbox.views.Query) -> Iterator[Row]:
    top = tree.folder(read, folder_path)
    path = pillarbox.folders.path_of(read, top.folder_id)
    for inner, found in ((path, top), *pillarbox.folders.walk(read, top.folder_id, path)):
        for item in pillarbox.views.search(read, found.folder_id, query):
            yield {**envelope(item), "folder": "/".join(inner)}


# -- showing


@message_.command("show")
@SERVER
@MAILBOX
@click.argument("message_id", metavar="MESSAGE-ID")
@JSON
def show_message(server: Path, mailbox_name: str, message_id: str, as_json: bool) -> None:
    """A message to read: its fields, its text, its attachments by name. `pillarbox show` gives its bytes.

    \b
    pillarbox message show /srv/mail anna 1-2f
    """
    from pillarbox.tools.readable import readable

    path, item, raw = _read(server, mailbox_name, message_id)
    text = readable(raw)
    fields = [
        ("Folder", path),
        ("Date", local_time(item.received_ms if item.date_ms is None else item.date_ms)),
        ("From", item.sender),
        ("To", item.to),
        ("Cc", item.cc),
        ("Subject", item.subject),
        ("Flags", " ".join(pillarbox.messages.flag_names(item))),
        *(("Attachment", f"{each.name} ({each.content_type})") for each in text.attachments),
    ]
    data = {
        **envelope(item),
        "folder": path,
        "text": text.text,
        "attachments": [each._asdict() for each in text.attachments],
    }
    lines = [f"{name + ':':12} {value}" for name, value in fields if value]
    show(data, [*lines, "", *text.text.splitlines()], as_json)


@click.command("show")
@SERVER
@MAILBOX
@click.argument("message_id", metavar="MESSAGE-ID")
@JSON
def show_(server: Path, mailbox_name: str, message_id: str, as_json: bool) -> None:
    """Print a message byte for byte as it came. MESSAGE-ID is as `pillarbox list` shows it.

    On a terminal, bytes that could steer it are shown as blanks; in a file or pipe nothing is changed.

    \b
    pillarbox show /srv/mail anna 1-2f
    pillarbox show /srv/mail anna 1-2f > message.eml
    """
    _, item, raw = _read(server, mailbox_name, message_id)
    show_raw(item, raw, as_json)


def show_raw(item: ItemRecord, raw: bytes, as_json: bool) -> None:
    """Print a message byte for byte; where a terminal shows it, what could steer it is a blank."""
    if as_json or sys.stdout.isatty():
        text = raw.decode("utf-8", "replace")
        show({**envelope(item), "content": text, **_bytes_beside(text, raw)}, text.splitlines(), as_json)
        return
    sys.stdout.buffer.write(raw)
    sys.stdout.buffer.flush()


def _bytes_beside(text: str, raw: bytes) -> dict[str, str]:
    """The bytes of a message for JSON, where its text is not all of them."""
    return {} if text.encode() == raw else {"content_base64": b64encode(raw).decode()}


def _read(server: Path, mailbox_name: str, message_id: str) -> tuple[str, ItemRecord, bytes]:
    """The path of its folder, the record and the bytes of a message."""
    with pillarbox.Server.open(server, read_only=True) as opened:
        tree = find_tree(opened, mailbox_name)
        with tree.database.read(ACTOR) as read:
            item = tree.message(read, message_id)
            return tree.path_of(read, item), item, pillarbox.messages.content(read, item)


# -- changing


@message_.command("flag")
@SERVER
@MAILBOX
@IDS
@click.option(
    "--add", multiple=True, metavar="FLAG", help="Set it: seen, flagged, answered, draft, deleted, a keyword."
)
@click.option("--remove", multiple=True, metavar="FLAG", help="Take it off.")
@JSON
def flag(
    server: Path,
    mailbox_name: str,
    message_ids: tuple[str, ...],
    add: tuple[str, ...],
    remove: tuple[str, ...],
    as_json: bool,
) -> None:
    """Set flags and keywords of messages, and take them off; all or none.

    \b
    pillarbox message flag /srv/mail anna 1-2f 1-30 --add seen --remove flagged
    pillarbox message flag /srv/mail anna 1-2f --add project-x
    """
    if not (add or remove):
        raise click.UsageError("say what to --add or --remove")
    adds, removes = list(map(_flag_name, add)), list(map(_flag_name, remove))
    with operation(server, "message.flag") as perform:
        changed = perform(mailbox=mailbox_name, messages=list(message_ids), add=adds, remove=removes)
    show(changed, [f"{each['id']:>8}  {' '.join(each['flags'])}" for each in changed], as_json)


@message_.command("move")
@SERVER
@MAILBOX
@IDS
@TO
@TO_MAILBOX
@JSON
def move(**asked: Any) -> None:
    """Put messages into another folder; they keep their ids. All or none.

    \b
    pillarbox message move /srv/mail anna 1-2f 1-30 --to Lists/2002
    """
    _put("message.move", "moved to", **asked)


@message_.command("copy")
@SERVER
@MAILBOX
@IDS
@TO
@TO_MAILBOX
@JSON
def copy(**asked: Any) -> None:
    """Put copies of messages, with ids of their own, into a folder. They take no further space. All or none.

    \b
    pillarbox message copy /srv/mail anna 1-2f --to Archive --to-mailbox bert
    """
    _put("message.copy", "copied to", **asked)


def _put(
    name: str,
    done: str,
    server: Path,
    mailbox_name: str,
    message_ids: tuple[str, ...],
    target_path: str,
    target_name: str,
    as_json: bool,
) -> None:
    with operation(server, name) as perform:
        items = perform(
            mailbox=mailbox_name, messages=list(message_ids), to=target_path, to_mailbox=target_name
        )
    show(items, [f"{counted(len(items), 'message')} {done} {target_path}."], as_json)


@message_.command("edit")
@SERVER
@MAILBOX
@click.argument("message_id", metavar="MESSAGE-ID")
@JSON
def edit(server: Path, mailbox_name: str, message_id: str, as_json: bool) -> None:
    """Put the message on standard input in the place of a message of a public folder; its id and flags stay.

    What is edited at two servers that have not heard of each other is a conflict: `replication conflicts`.

    \b
    pillarbox message edit /srv/mail / 1-2f < corrected.eml
    """
    raw = read_message()
    with operation(server, "message.edit") as perform:
        edited = perform(mailbox=mailbox_name, message=message_id, items=[raw])
    show(edited, [envelope_line(edited)], as_json)


@message_.command("delete")
@SERVER
@MAILBOX
@IDS
@YES
@JSON
def delete(server: Path, mailbox_name: str, message_ids: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete messages for good; all or none.

    \b
    pillarbox message delete /srv/mail anna 1-2f 1-30
    """
    confirm(f"Delete {counted(len(set(message_ids)), 'message')} for good?", yes)

    with operation(server, "message.delete") as perform:
        deleted = perform(mailbox=mailbox_name, messages=list(message_ids))
    show(
        {"deleted": deleted},
        [f"{counted(len(deleted), 'message')} deleted."],
        as_json,
    )
