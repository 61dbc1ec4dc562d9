"""Replicas of public folders: add, remove, replace, list, move-all, migrate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from pillarbox.tools.options import JSON, SERVER
from pillarbox.tools.output import counted, local_time, show, size_text
from pillarbox.tools.serving.performing import operation

FOLDER: Final = click.argument("folder_path", metavar="FOLDER")
NAMES: Final = click.argument("names", metavar="NAME", nargs=-1, required=True)
RECURSIVE: Final = click.option("--recursive", is_flag=True, help="With all folders below it.")
SOURCE: Final = click.option("--from", "source", metavar="NAME", required=True, help="The server to empty.")
TARGET: Final = click.option("--to", "target", metavar="NAME", required=True, help="The server to fill.")


@click.group()
def replica() -> None:
    """Replicas of public folders. NAME is a server of the organisation, FOLDER a path like Forum/2002.

    A change is one of the hierarchy: it gets to all servers, and they do what it asks for.
    """


@replica.command("add")
@SERVER
@FOLDER
@NAMES
@RECURSIVE
@JSON
def add(server: Path, folder_path: str, names: tuple[str, ...], recursive: bool, as_json: bool) -> None:
    """Have servers hold a replica of FOLDER too; the others fill it.

    \b
    pillarbox replica add /srv/mail Forum paris
    pillarbox replica add /srv/mail Forum paris rome --recursive
    """
    with operation(server, "replica.add") as perform:
        data = perform(folder=folder_path, servers=list(names), recursive=recursive)
    show(data, _outcome_lines(data), as_json)


@replica.command("remove")
@SERVER
@FOLDER
@NAMES
@RECURSIVE
@JSON
def remove(server: Path, folder_path: str, names: tuple[str, ...], recursive: bool, as_json: bool) -> None:
    """Have servers let go of FOLDER, once another replica holds all that they have.

    Until then they are delete pending. The last replica stays.

    \b
    pillarbox replica remove /srv/mail Forum rome
    """
    with operation(server, "replica.remove") as perform:
        data = perform(folder=folder_path, servers=list(names), recursive=recursive)
    show(data, _outcome_lines(data), as_json)


@replica.command("replace")
@SERVER
@FOLDER
@click.argument("old")
@click.argument("new")
@RECURSIVE
@JSON
def replace(server: Path, folder_path: str, old: str, new: str, recursive: bool, as_json: bool) -> None:
    """Have the server NEW hold FOLDER in the place of OLD, which leaves when NEW holds all of it.

    \b
    pillarbox replica replace /srv/mail Forum rome milan
    """
    with operation(server, "replica.replace") as perform:
        data = perform(folder=folder_path, old=old, new=new, recursive=recursive)
    show(data, _outcome_lines(data), as_json)


def _outcome_lines(data: dict[str, Any]) -> Iterator[str]:
    yield f"{counted(data['changed'], 'change')} made."
    for each in data["skipped"]:
        yield f"{each['folder']} stays as it is: {each['reason']}"


@replica.command("list")
@SERVER
@FOLDER
@JSON
def list_replicas(server: Path, folder_path: str, as_json: bool) -> None:
    """The replicas of FOLDER, and how far each is, as SERVER knows.

    \b
    pillarbox replica list /srv/mail Forum
    """
    with operation(server, "replica.list") as perform:
        found = perform(folder=folder_path)
    show(found, map(replica_line, found), as_json)


def replica_line(each: dict[str, Any]) -> str:
    """A replica for a person."""
    told = f"as of {local_time(each['heard_ms'])}" if each["heard_ms"] else ""
    held = f"{each['items']:,} items, {size_text(each['size_bytes'])}" if each["items"] is not None else told
    lacks = f", lacks {each['lacks']:,} of ours" if each["lacks"] else ""
    offers = f", up to {each['offers']:,} changes are missing here" if each["offers"] else ""
    return f"{each['server']:20} {each['site']:12} {each['state']:16} {held}{lacks}{offers}"


@replica.command("move-all")
@SERVER
@SOURCE
@TARGET
@JSON
def move_all(server: Path, source: str, target: str, as_json: bool) -> None:
    """Replace every replica of one server by one of another, in any site.

    Each leaves when the other server holds all of it. Run it again to see what is still to go: with none
    left the server may be retired.

    \b
    pillarbox replica move-all /srv/mail --from rome --to milan
    """
    with operation(server, "replica.move_all") as perform:
        data = perform(source=source, target=target)
    lines = [
        f"{counted(data['moved'], 'replica')} now being replaced; {counted(data['to_go'], 'folder')} of"
        f" {size_text(data['size_bytes'])} still on {source}."
    ]
    show(data, lines, as_json)


@replica.command("migrate")
@SERVER
@SOURCE
@TARGET
@click.option("--report", "step", flag_value="report", default=True, help="Count only, which is the rule.")
@click.option("--add", "step", flag_value="add", help="Add replicas on --to where --from has one.")
@click.option("--remove", "step", flag_value="remove", help="Remove those of --from that --to holds all of.")
@click.option("--public", "is_public", is_flag=True, help="Public folders alone.")
@click.option("--system", "is_system", is_flag=True, help="System folders alone.")
@JSON
def migrate(
    server: Path, source: str, target: str, step: str, is_public: bool, is_system: bool, as_json: bool
) -> None:
    """Move folders between two servers of one site in two steps, with counts before and after.

    \b
    pillarbox replica migrate /srv/mail --from old --to new --add
    pillarbox replica migrate /srv/mail --from old --to new --report
    pillarbox replica migrate /srv/mail --from old --to new --remove
    """
    kinds = ["public folders"] * (is_public or not is_system) + ["system folders"] * (
        is_system or not is_public
    )
    with operation(server, "replica.migrate") as perform:
        data = perform(source=source, target=target, kinds=kinds, step=step)
    show(data, _migration_lines(data, step), as_json)


def _migration_lines(data: dict[str, Any], step: str) -> Iterator[str]:
    if step != "report":
        yield f"{counted(data['changed'], 'folder')} changed."
    for when in ("before", "after") if step != "report" else ("after",):
        for kind, counts in data[when].items():
            yield (
                f"{when if step != 'report' else 'now':7} {kind}: {counts['on_source']} on the source,"
                f" {counts['on_target']} on the target, {counts['on_both']} on both,"
                f" {counts['replicated']} complete on the target, {counts['leaving']} leaving"
            )
