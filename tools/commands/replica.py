"""Replicas of public folders: add, remove, replace, list, move-all, migrate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pillarbox.tools.operations.replicas import NOT_KNOWN
from pillarbox.tools.options import JSON, SERVER
from pillarbox.tools.output import Step, counted, local_time, progress, show, size_text
from pillarbox.tools.repository_options import GROUP, OF, keys, open_repository
from pillarbox.tools.serving.performing import PerformNamed, operation, operations

if TYPE_CHECKING:
    from pillarbox.replication.node.snapshot_source import SnapshotSource

FOLDER: Final = click.argument("folder_path", metavar="FOLDER")
NAMES: Final = click.argument("names", metavar="NAME...", nargs=-1, required=True)
RECURSIVE: Final = click.option("--recursive", is_flag=True, help="With all folders below it.")
SOURCE: Final = click.option("--from", "source", metavar="NAME", required=True, help="The server to empty.")
_QUESTIONS_MAX: Final = 10  # each is asked again where something else arrived in between
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
@click.option(
    "--from-snapshot",
    "seed",
    nargs=2,
    metavar="REPO SNAPSHOT",
    help="Fill SERVER's own replica with what the server of this snapshot had.",
)
@GROUP
@OF
@keys
@JSON
def add(
    server: Path,
    folder_path: str,
    names: tuple[str, ...],
    recursive: bool,
    seed: tuple[str, str] | None,
    group_name: str | None,
    of: str | None,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Have servers hold a replica of FOLDER too; the others fill it.

    With --from-snapshot a backup of any server of the organisation fills it, and only what was changed since
    comes from the others. The one NAME is SERVER itself then. Nothing that was deleted since comes back.
    Refused where that server held none of the folders.

    \b
    pillarbox replica add /srv/mail Forum paris
    pillarbox replica add /srv/mail Forum paris rome --recursive
    pillarbox replica add /srv/mail Forum paris \\
        --from-snapshot /media/disk/backup latest
    """
    if seed is None:
        with operation(server, "replica.add") as perform:
            data = perform(folder=folder_path, servers=list(names), recursive=recursive)
        show(data, _outcome_lines(data), as_json)
        return
    if len(names) != 1:
        raise click.UsageError("--from-snapshot fills one replica: name SERVER itself")
    with (
        _source(seed, (group_name, of), (passphrase_file, key_file)) as source,
        operations(server) as perform_named,
        progress("seeding", as_json) as step,
    ):
        begun = perform_named(
            "replica.begin_seeding",
            folder=folder_path,
            server=names[0],
            recursive=recursive,
            offer=source.offer,
            held=source.held.encode(),
        )
        asked = [(each["folder"], each["message"]) for each in begun["requests"]]
        seeded = [_seed_folder(source, perform_named, *each, step) for each in asked]
    told = {name: begun[name] for name in ("changed", "skipped", "not_in_snapshot")}
    data = {**told, "seeded": seeded}
    show(data, _seeded_lines(data), as_json)


@contextmanager
def _source(
    seed: tuple[str, str],
    told_apart: tuple[str | None, str | None],
    opened_by: tuple[Path | None, Path | None],
) -> Iterator[SnapshotSource]:
    from pillarbox.backup.find_snapshot import find_snapshot
    from pillarbox.tools.snapshot_replicas import snapshot_source

    repo, name = seed
    group, of = told_apart
    repository = open_repository(repo, *opened_by, only_reads=True)
    with snapshot_source(repository, find_snapshot(repository, name, group=group, of=of)) as source:
        yield source


def _seed_folder(
    source: SnapshotSource, perform: PerformNamed, folder: str, asked: bytes, step: Step | None
) -> dict[str, Any]:
    """Have one folder filled; how many items the snapshot had for it."""
    items_count = source.items_count(asked)
    question: bytes | None = asked

    def told(done: int) -> None:
        if step:
            step(done, items_count, folder)

    for _ in range(_QUESTIONS_MAX):
        if question is None:
            break
        question = perform("replica.seed", items=source.answer(question, told))
    return {"folder": folder, "items": items_count}


def _seeded_lines(data: dict[str, Any]) -> Iterator[str]:
    yield from _outcome_lines(data)
    for each in data["seeded"]:
        yield f"{each['folder']}: {counted(each['items'], 'item')} from the snapshot"
    for folder in data["not_in_snapshot"]:
        yield f"{folder}: not in the snapshot, the other servers fill it over the links"


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

    Only a server that holds one itself is told by the others how far they are. Their items and size are of
    the items that are here.

    \b
    pillarbox replica list /srv/mail Forum
    """
    with operation(server, "replica.list") as perform:
        found = perform(folder=folder_path)
    show(found, _replica_lines(found, folder_path), as_json)


def _replica_lines(found: list[dict[str, Any]], folder_path: str) -> Iterator[str]:
    yield from map(replica_line, found)
    if is_unknown(found):
        yield f"This server holds no replica of {folder_path}: ask one that does how far they are."


def is_unknown(found: list[dict[str, Any]]) -> bool:
    """True for the replicas of a folder of which the server that was asked holds none."""
    return any(each["state"] == NOT_KNOWN for each in found)


def replica_line(each: dict[str, Any]) -> str:
    """A replica for a person."""
    told = []
    if each["items"] is not None:
        told += [f"{each['items']:,} items", size_text(each["size_bytes"])]
    if each["lacks"]:
        told.append(f"lacks {each['lacks']:,} of ours")
    if each["offers"]:
        told.append(f"up to {each['offers']:,} changes are missing here")
    if each["received_ms"]:
        told.append(f"last received {local_time(each['received_ms'])}")
    if each["heard_ms"]:
        told.append(f"as of {local_time(each['heard_ms'])}")
    return f"{each['server']:20} {each['site']:12} {each['state']:16} {', '.join(told)}"


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
@click.option("--report", "counts", is_flag=True, help="Count only, which is the rule.")
@click.option("--add", "adds", is_flag=True, help="Add replicas on --to where --from has one.")
@click.option("--remove", "removes", is_flag=True, help="Remove those of --from that --to holds all of.")
@click.option("--public", "is_public", is_flag=True, help="Public folders alone.")
@click.option("--system", "is_system", is_flag=True, help="System folders alone.")
@JSON
def migrate(
    server: Path,
    source: str,
    target: str,
    counts: bool,
    adds: bool,
    removes: bool,
    is_public: bool,
    is_system: bool,
    as_json: bool,
) -> None:
    """Move folders between two servers of one site in two steps, with counts before and after.

    \b
    pillarbox replica migrate /srv/mail --from old --to new --add
    pillarbox replica migrate /srv/mail --from old --to new --report
    pillarbox replica migrate /srv/mail --from old --to new --remove
    """
    if counts + adds + removes > 1:
        raise click.UsageError("say one of --report, --add and --remove: each is a step of its own")
    step = "add" if adds else "remove" if removes else "report"
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
