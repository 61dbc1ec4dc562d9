"""Folders of mailboxes and public folders: create, list, show, rename, move, copy, delete; and of an
organisation: find, settings, referral."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pillarbox
from pillarbox.tools.mail_rows import folder_row, placed_folder_row
from pillarbox.tools.options import ACTOR, JSON, SERVER
from pillarbox.tools.output import counted, local_time, progress, show, size_text
from pillarbox.tools.parameters import (
    FOLDER,
    FOLDER_OR_ALL,
    MAILBOX,
    YES,
    complete_mailbox,
    complete_target,
    moment,
)
from pillarbox.tools.serving.performing import operation
from pillarbox.tools.tree import find_tree

if TYPE_CHECKING:
    from pillarbox.store.engine.transaction import Reader

TO = click.option(
    "--to",
    "target_path",
    metavar="FOLDER",
    required=True,
    shell_complete=complete_target,
    help="Into this folder; / is the top.",
)
TO_MAILBOX = click.option(
    "--to-mailbox",
    "target_name",
    metavar="MAILBOX",
    default="",
    shell_complete=complete_mailbox,
    help="Whose folder --to is, when it is another mailbox of the same database.",
)


@click.group("folder")
def folder_() -> None:
    """Folders of a mailbox. FOLDER is a path like Lists/2002.

    MAILBOX may be /, or /DATABASE, for the public folders of the server.
    """


def folder_line(each: dict[str, Any]) -> str:
    """A folder in a listing."""
    size = size_text(each["size_bytes"])
    return f"{each['messages']:>8,} messages {each['unread']:>8,} unread {size:>10}  {each['folder']}"


def folder_rows(reader: Reader, folder_id: int, prefix: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Each folder below one, by path."""
    return (
        folder_row("/".join(path), each) for path, each in pillarbox.folders.walk(reader, folder_id, prefix)
    )


@folder_.command("create")
@SERVER
@MAILBOX
@FOLDER
@click.option(
    "--parents", "-p", is_flag=True, help="Make what is missing above it; one that is there is fine."
)
@JSON
def create(server: Path, mailbox_name: str, folder_path: str, parents: bool, as_json: bool) -> None:
    """Make a folder.

    \b
    pillarbox folder create /srv/mail anna Lists
    pillarbox folder create /srv/mail anna Lists/2002/May --parents
    pillarbox folder create /srv/mail / Forum
    """
    with operation(server, "folder.create") as perform:
        data = perform(mailbox=mailbox_name, folder=folder_path, parents=parents)
    show(data, [f"Folder {data['folder']} is there."], as_json)


@folder_.command("list")
@SERVER
@MAILBOX
@FOLDER_OR_ALL
@JSON
def list_folders(server: Path, mailbox_name: str, folder_path: str, as_json: bool) -> None:
    """All folders of a mailbox, or those in FOLDER.

    \b
    pillarbox folder list /srv/mail anna
    pillarbox folder list /srv/mail anna Lists
    """
    with pillarbox.Server.open(server, read_only=True) as opened:
        tree = find_tree(opened, mailbox_name)
        with tree.database.read(ACTOR) as read:
            top = tree.folder(read, folder_path)
            found = list(folder_rows(read, top.folder_id, pillarbox.folders.path_of(read, top.folder_id)))
    show(found, map(folder_line, found) if found else ["There are no folders in it."], as_json)


@folder_.command("show")
@SERVER
@MAILBOX
@FOLDER
@JSON
def show_folder(server: Path, mailbox_name: str, folder_path: str, as_json: bool) -> None:
    """One folder: its identity, its messages, its size.

    \b
    pillarbox folder show /srv/mail anna Inbox
    """
    with pillarbox.Server.open(server, read_only=True) as opened:
        tree = find_tree(opened, mailbox_name)
        with tree.database.read(ACTOR) as read:
            data = placed_folder_row(read, tree.folder(read, folder_path))
    lines = [
        f"{data['folder'] or 'the top'}: {counted(data['messages'], 'message')}, {data['unread']} unread,"
        f" {size_text(data['size_bytes'])}",
        f"id {data['id']}, made {local_time(data['created_ms'])},"
        f" UID validity {data['uid_validity']}, next UID {data['uid_next']}",
    ]
    show(data, lines, as_json)


@folder_.command("rename")
@SERVER
@MAILBOX
@FOLDER
@click.argument("name")
@JSON
def rename(server: Path, mailbox_name: str, folder_path: str, name: str, as_json: bool) -> None:
    """Give a folder another name, which is no path. Standard folders keep theirs.

    \b
    pillarbox folder rename /srv/mail anna Lists/2002 old
    """
    with operation(server, "folder.rename") as perform:
        data = perform(mailbox=mailbox_name, folder=folder_path, name=name)
    show(data, [f"The folder is called {data['folder']}."], as_json)


@folder_.command("move")
@SERVER
@MAILBOX
@FOLDER
@TO
@TO_MAILBOX
@JSON
def move(
    server: Path, mailbox_name: str, folder_path: str, target_path: str, target_name: str, as_json: bool
) -> None:
    """Put a folder, with all that is in it, into another.

    \b
    pillarbox folder move /srv/mail anna Lists/2002 --to Archive
    pillarbox folder move /srv/mail anna Archive/2002 --to /
    """
    with operation(server, "folder.move") as perform:
        data = perform(mailbox=mailbox_name, folder=folder_path, to=target_path, to_mailbox=target_name)
    show(data, [f"The folder is {data['folder']}."], as_json)


@folder_.command("copy")
@SERVER
@MAILBOX
@FOLDER
@TO
@TO_MAILBOX
@click.option("--name", default="", help="What the copy is called; as the folder is without it.")
@JSON
def copy(
    server: Path,
    mailbox_name: str,
    folder_path: str,
    target_path: str,
    target_name: str,
    name: str,
    as_json: bool,
) -> None:
    """Copy a folder, with all that is in it, into another. Its mail takes no further space.

    \b
    pillarbox folder copy /srv/mail anna Lists --to Archive --name Lists-2024
    """
    with (
        progress("copying", as_json) as step,
        operation(server, "folder.copy", step=step) as perform,
    ):
        data = perform(
            mailbox=mailbox_name, folder=folder_path, to=target_path, to_mailbox=target_name, name=name
        )
    show(data, [f"The copy is {data['folder']}, of {counted(data['messages'], 'message')}."], as_json)


@folder_.command("delete")
@SERVER
@MAILBOX
@FOLDER
@click.option(
    "--with-contents", is_flag=True, help="Also when it holds messages or folders: they go with it."
)
@YES
@JSON
def delete(
    server: Path, mailbox_name: str, folder_path: str, with_contents: bool, yes: bool, as_json: bool
) -> None:
    """Delete a folder, for good. Standard folders stay.

    \b
    pillarbox folder delete /srv/mail anna Lists/empty
    pillarbox folder delete /srv/mail anna Lists --with-contents
    """
    with operation(server, "folder.delete", yes=yes) as perform:
        perform(mailbox=mailbox_name, folder=folder_path, with_contents=with_contents)
    show({"deleted": folder_path}, [f"Folder {folder_path} is gone."], as_json)


# -- public folders of an organisation


def _public(_: click.Context, __: click.Parameter, value: str) -> str:
    if not value.startswith("/"):
        raise click.BadParameter("settings that servers share are those of public folders: say /")
    return value


PUBLIC = click.argument("mailbox_name", metavar="MAILBOX", callback=_public)
RIGHTS = click.option(
    "--rights", "rights", metavar="RIGHT", multiple=True, help="Such as read-items; may be said again."
)


@folder_.command("find")
@SERVER
@PUBLIC
@FOLDER_OR_ALL
@click.option("--name", default="", metavar="TEXT", help="Names that contain it, in any case.")
@click.option("--subject", default="", metavar="ACCOUNT", help="Who has the --rights by an entry of its own.")
@RIGHTS
@click.option("--replica", default="", metavar="NAME", help="Folders with a replica on this server.")
@click.option("--created-from", callback=moment, metavar="TIME", help="Made at this time or later.")
@click.option("--created-to", callback=moment, metavar="TIME", help="Made before this time.")
@click.option("--modified-from", callback=moment, metavar="TIME", help="Changed at this time or later.")
@click.option("--modified-to", callback=moment, metavar="TIME", help="Changed before this time.")
@click.option("--newer-than", type=click.IntRange(0), metavar="DAYS", help="Made less than so many days ago.")
@click.option("--older-than", type=click.IntRange(0), metavar="DAYS", help="Made more than so many days ago.")
@JSON
def find(
    server: Path,
    mailbox_name: str,
    folder_path: str,
    name: str,
    subject: str,
    rights: tuple[str, ...],
    replica: str,
    created_from: int | None,
    created_to: int | None,
    modified_from: int | None,
    modified_to: int | None,
    newer_than: int | None,
    older_than: int | None,
    as_json: bool,
) -> None:
    """Public folders that meet all that is asked, in the whole tree or below FOLDER.

    \b
    pillarbox folder find /srv/mail / --name news --replica paris
    pillarbox folder find /srv/mail / Forum --subject anna --rights edit-all
    """
    if newer_than is not None and older_than is not None:
        raise click.UsageError("say --newer-than or --older-than")
    if rights and not subject:
        raise click.UsageError("--rights are those of an account: say --subject ACCOUNT too")
    age = [("newer than", newer_than), ("older than", older_than)]
    with operation(server, "folder.find") as perform:
        found = perform(
            below=folder_path,
            name=name,
            subject=subject,
            rights=list(rights),
            replicated_to=replica,
            created=_between(created_from, created_to),
            modified=_between(modified_from, modified_to),
            age=next(([how, str(days)] for how, days in age if days is not None), []),
        )
    lines = (f"{local_time(each['created_ms'])}  {each['folder']}" for each in found)
    show(found, lines if found else ["There is none."], as_json)


def _between(first_ms: int | None, last_ms: int | None) -> list[int]:
    if first_ms is None and last_ms is None:
        return []
    return [first_ms or 0, (1 << 62) if last_ms is None else last_ms]


@folder_.command("settings")
@SERVER
@PUBLIC
@FOLDER
@click.option("--schedule", metavar="SCHEDULE", help="When its changes are sent; `none`: as the servers'.")
@click.option("--priority", type=click.Choice(["urgent", "normal", "low"]), help="Which go first.")
@click.option("--grant", metavar="ACCOUNT", help="Give --rights beside those that it has.")
@click.option("--set", "set_", metavar="ACCOUNT", help="Give exactly --rights.")
@click.option("--revoke", metavar="ACCOUNT", help="Take its entry out: it has what Default has.")
@RIGHTS
@click.option(
    "--overwrite",
    type=click.Choice(["permissions", "replica list", "schedule", "priority"]),
    multiple=True,
    help="Give all folders below it this setting of its own; may be said again.",
)
@click.option("--recursive", is_flag=True, help="Change all folders below it too.")
@JSON
def settings(
    server: Path,
    mailbox_name: str,
    folder_path: str,
    schedule: str | None,
    priority: str | None,
    grant: str | None,
    set_: str | None,
    revoke: str | None,
    rights: tuple[str, ...],
    overwrite: tuple[str, ...],
    recursive: bool,
    as_json: bool,
) -> None:
    """Replicas, schedule, priority and permissions of a public folder, which all servers go by; or change
    them.

    \b
    pillarbox folder settings /srv/mail / Forum
    pillarbox folder settings /srv/mail / Forum --schedule "every 30 min"
    pillarbox folder settings /srv/mail / Forum --priority low --recursive
    pillarbox folder settings /srv/mail / Forum --grant anna --rights read-items
    pillarbox folder settings /srv/mail / Forum --overwrite permissions
    """
    asked = [(how, who) for how, who in (("add", grant), ("replace", set_), ("remove", revoke)) if who]
    if len(asked) > 1 or (rights and not (grant or set_)):
        raise click.UsageError("say one of --grant, --set and --revoke, the first two with --rights")
    action, subject = asked[0] if asked else ("", "")
    outcome = None
    if schedule is not None or priority or asked or overwrite:
        with operation(server, "folder.change_settings") as perform:
            outcome = perform(
                folder=folder_path,
                schedule="" if schedule == "none" else schedule,
                priority=priority or "",
                action=action,
                subject=subject,
                rights=list(rights),
                overwrite=list(overwrite),
                recursive=recursive,
            )
    with operation(server, "folder.settings") as perform:
        data = perform(folder=folder_path)
    data = data if outcome is None else {**data, **outcome}
    show(data, _settings_lines(data), as_json)


def _settings_lines(data: dict[str, Any]) -> Iterator[str]:
    if "changed" in data:
        yield f"{counted(data['changed'], 'folder')} changed."
        yield from (f"{each['folder']} stays as it is: {each['reason']}" for each in data["skipped"])
    yield f"{data['folder']}: priority {data['priority']}"
    yield f"schedule {data['schedule']}{'' if data['own_schedule'] else ', that of the server'}"
    for each in data["replicas"]:
        yield f"  replica on {each['server']}: {each['state'].replace('_', ' ')}"
    for subject, names in data["rights"].items():
        yield f"  {subject}: {', '.join(names) or 'no rights'}"


@folder_.command("referral")
@SERVER
@PUBLIC
@FOLDER
@click.option("--client", default="", metavar="ACCOUNT", help="Who asks; each comes back to the same server.")
@JSON
def referral(server: Path, mailbox_name: str, folder_path: str, client: str, as_json: bool) -> None:
    """The server to which a client is sent that asks SERVER for the content of FOLDER, and why.

    \b
    pillarbox folder referral /srv/mail / Forum --client anna
    """
    with operation(server, "folder.referral") as perform:
        data = perform(folder=folder_path, client=client)
    lines = [f"To {data['server']}." if data["server"] else "To no server: none is fit."]
    for each in data["order"]:
        cost = "no way" if each["cost"] is None else f"cost {each['cost']}"
        lines.append(f"  {each['server']}: {each['unfit'] or cost}")
    show(data, lines, as_json)
