"""Restores of databases, to a directory or a server; they are commands of `pillarbox backup`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import click

import pillarbox
from pillarbox.store.clock import SystemClock
from pillarbox.store.errors import Incomplete
from pillarbox.tools.options import JSON, PATH, SERVER
from pillarbox.tools.output import (
    Step,
    confirm,
    confirm_at_terminal,
    counted,
    counting,
    local_time,
    progress,
    show,
    size_text,
    warn,
)
from pillarbox.tools.parameters import YES
from pillarbox.tools.repository_options import (
    DATABASES,
    GROUP,
    OF,
    REPOSITORY,
    SNAPSHOT,
    keys,
    location_of,
    open_repository,
)
from pillarbox.tools.serving.performing import let_go
from pillarbox.tools.snapshot_rows import raise_lost

if TYPE_CHECKING:
    from pillarbox.backup.find_snapshot import FoundDatabases
    from pillarbox.backup.new_server import NewServerPlan
    from pillarbox.backup.replaced import ReplacedDatabase
    from pillarbox.backup.repository.repository import Repository, Snapshot
    from pillarbox.backup.restore import Fill, RestoredDatabase
    from pillarbox.backup.restore_plan import PlannedRestore

    Done = tuple[Snapshot, RestoredDatabase]


@click.command()
@REPOSITORY
@SNAPSHOT
@click.option("--to", "directory", type=PATH, help="Restore into this directory.")
@click.option("--server", type=PATH, help="Restore to this server.")
@click.option("--new-server", type=PATH, help="Make a server in this directory, from the repository alone.")
@click.option("--as-copy", is_flag=True, help="With --new-server: it serves beside the one it is made from.")
@GROUP
@OF
@DATABASES
@click.option("--all", "all_", is_flag=True, help="With --server: all its databases, damaged or not.")
@click.option("--keep-going", is_flag=True, help="Restore what is whole, and name the rest.")
@click.option("--thorough", is_flag=True, help="With --to: run the store's integrity check as well.")
@YES
@keys
@JSON
def restore(
    repo: str,
    snapshot: str,
    directory: Path | None,
    server: Path | None,
    new_server: Path | None,
    as_copy: bool,
    group_name: str | None,
    of: str | None,
    names: tuple[str, ...],
    all_: bool,
    keep_going: bool,
    thorough: bool,
    yes: bool,
    passphrase_file: Path | None,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Restore databases of a snapshot to a directory or a server, or make a server of a repository.

    With --to they are put into DIR/GROUP/DATABASE. With --server they replace the server's databases of the
    same GUID, all or none, when all are restored and proven: those that --database names, else those that are
    damaged or missing, as their mount or their last check says, or --all. It says first what is newer than
    the snapshot and would go, and asks; what was replaced stays until `pillarbox backup discard-replaced`.
    While the server has a recovery storage group, mailbox stores go there instead, unless its override is
    set. Every byte is proven against what was backed up; with --keep-going what is damaged is left out, and
    each message named that is lost so, by folder, subject and sender.

    With --new-server a server is made from the repository alone, as it was then: edition, storage groups,
    databases, limits, mail. It takes the identity of the one that is gone, or with --as-copy its own.

    \b
    pillarbox backup restore /backup/mail latest --to /restored
    pillarbox backup restore /backup/mail latest --server /srv/mail
    pillarbox backup restore /backup/mail latest --new-server /srv/mail
    """
    from pillarbox.backup.find_snapshot import find_for_server, find_snapshot
    from pillarbox.backup.recovery_group import goes_to_recovery_group
    from pillarbox.backup.restore_plan import plan_restore
    from pillarbox.backup.salvage import salvage_files
    from pillarbox.backup.snapshot_owner import mark_of

    if sum(place is not None for place in (directory, server, new_server)) != 1:
        raise click.UsageError("say where to restore to: --to, --server or --new-server")
    if new_server is not None and (names or group_name):
        raise click.UsageError("a new server is made of all that its snapshots hold")
    if names and all_:
        raise click.UsageError("say --database or --all, not both")
    repository = open_repository(repo, passphrase_file, key_file)
    fill = salvage_files if keep_going else None
    if new_server is not None:
        _make_server(repository, snapshot, new_server, of, as_copy, fill, as_json)
        return
    if directory is not None:
        found = find_snapshot(repository, snapshot, group=group_name, of=of)
        done = _to_directory(repository, found, directory, names, thorough, fill, as_json)
    else:
        assert server is not None, "one of the two"
        with _for_restore(server), pillarbox.Server.open(server) as opened:
            meant = find_for_server(
                repository, snapshot, mark_of(opened), of=of, group=group_name, names=names
            )
            if goes_to_recovery_group(opened):
                meant = meant if names else _for_recovery(meant)
            else:
                meant = _confirmed(plan_restore(opened, meant, named=bool(names), all_=all_), yes)
            done = _to_server(repository, repo, meant, opened, of is not None, fill, as_json)
    data = {"snapshot": done[0][0].id, "restored": [_done_data(each) for each in done]}
    show(data, _done_lines(done), as_json)
    raise_lost([message for _, database in done for message in database.lost])


@contextmanager
def _for_restore(server: Path) -> Iterator[None]:
    """Have a serving process let go of its databases, unless what is restored goes to the recovery group."""
    from pillarbox.backup.recovery_group import goes_to_recovery_group

    with pillarbox.Server.open(server, mount=False) as looked_at:
        replaces = not goes_to_recovery_group(looked_at)
    with let_go(server) if replaces else nullcontext():
        yield


def _for_recovery(found: Sequence[FoundDatabases]) -> list[FoundDatabases]:
    """Choose what goes to the recovery storage group, and say on stderr what does not."""
    from pillarbox.backup.find_snapshot import mailbox_stores

    stores = mailbox_stores(found)
    taken = {database.guid for each in stores for database in each.databases}
    left = [database.name for each in found for database in each.databases if database.guid not in taken]
    if left:
        warn(
            [
                f"pillarbox: not restored, since the recovery storage group takes mailbox stores only:"
                f" {', '.join(left)}",
                "  `pillarbox recovery override SERVER on` has restores go over the server's databases",
            ]
        )
    return stores


def _make_server(
    repository: Repository,
    snapshot: str,
    directory: Path,
    of: str | None,
    as_copy: bool,
    fill: Fill | None,
    as_json: bool,
) -> None:
    from pillarbox.backup.new_server import make_new_server, plan_new_server

    plan = plan_new_server(repository, snapshot, of=of)
    with progress("restoring", as_json) as step:
        snapshots = list({each.snapshot.id: each.snapshot for each in plan.databases}.values())
        done = make_new_server(
            repository,
            plan,
            directory,
            as_copy=as_copy,
            fill=fill,
            clock=SystemClock(),
            rng=SystemRandom(),
            progress=_counting(snapshots, step),
        )
    data = {
        "server": str(directory),
        "edition": plan.config.edition.value,
        "has_config": plan.has_config,
        "restored": [_done_data(each) for each in done],
        "missing": list(plan.missing),
    }
    show(data, _server_lines(directory, plan, done), as_json)
    raise_lost([message for _, database in done for message in database.lost])
    if plan.missing:
        raise Incomplete(
            f"no snapshot holds {', '.join(plan.missing)}, which the server had",
            hint="look for it in another repository; `pillarbox database create` makes an empty one",
        )


def _server_lines(directory: Path, plan: NewServerPlan, done: Sequence[Done]) -> Iterator[str]:
    yield f"{directory} is a server (edition {plan.config.edition.value})."
    for snapshot, database in done:
        yield f"  {database.group}/{database.name}: as of {local_time(snapshot.time_ms)}"
    if len({snapshot.time_ms for snapshot, _ in done}) > 1:
        yield "Its databases are of different times: the newest snapshot that holds each was taken."
    if not plan.has_config:
        yield "The snapshots are older than settings in them: edition, limits and directories are defaults."


def _to_directory(
    repository: Repository,
    snapshot: Snapshot,
    directory: Path,
    names: tuple[str, ...],
    thorough: bool,
    fill: Fill | None,
    as_json: bool,
) -> list[Done]:
    from pillarbox.backup.restore import restore_to_directory

    with progress("restoring", as_json) as step:
        restored = restore_to_directory(
            repository,
            snapshot,
            directory,
            names=names,
            clock=SystemClock(),
            thorough=thorough,
            fill=fill,
            progress=_counting([snapshot], step),
        )
    return [(snapshot, each) for each in restored]


def _to_server(
    repository: Repository,
    repo: str,
    meant: Sequence[FoundDatabases],
    server: pillarbox.Server,
    foreign: bool,
    fill: Fill | None,
    as_json: bool,
) -> list[Done]:
    from pillarbox.backup.recovery_group import restore_to_server

    done = []
    with progress("restoring", as_json) as step:
        told = _counting([each.snapshot for each in meant], step)
        for each in meant:
            _, restored = restore_to_server(
                repository,
                location_of(repo),
                each.snapshot,
                server,
                names=each.names,
                foreign=foreign,
                fill=fill,
                clock=SystemClock(),
                progress=told,
            )
            done += [(each.snapshot, database) for database in restored]
    return done


def _counting(snapshots: Sequence[Snapshot], step: Step | None) -> Any:
    from pillarbox.backup.snapshot import snapshot_databases

    entries = [entry for snapshot in snapshots for entry, _ in snapshot_databases(snapshot)]
    return step and counting(step, sum(int(entry.get("stream_bytes") or 0) for entry in entries))


def _confirmed(planned: Sequence[PlannedRestore], yes: bool) -> list[FoundDatabases]:
    """The plan, by snapshot, once it is confirmed. Raises Refused."""
    from pillarbox.backup.find_snapshot import FoundDatabases

    if not yes:
        warn(map(_planned_line, planned))
    confirm_at_terminal(f"Restore over {counted(len(planned), 'database')}?", yes)
    found: dict[str, FoundDatabases] = {}
    for each in planned:
        before = found.get(each.snapshot.id, FoundDatabases(each.snapshot, ()))
        found[each.snapshot.id] = before._replace(databases=(*before.databases, each.database))
    return list(found.values())


def _planned_line(planned: PlannedRestore) -> str:
    what = "what is newer cannot be counted, and would go"
    if planned.newer is not None:
        messages, boxes = planned.newer
        what = f"{counted(messages, 'message')} and {counted(boxes, 'mailbox')} are newer, and would go"
    when = f"{local_time(planned.snapshot.time_ms)}, snapshot {planned.snapshot.id[:12]}"
    return f"{planned.target.label}, since {planned.reason}, to its state of {when}: {what}."


def _done_data(done: Done) -> dict[str, Any]:
    snapshot, database = done
    return {
        "snapshot": snapshot.id,
        "time_ms": snapshot.time_ms,
        "database": database.name,
        "group": database.group,
        "path": str(database.path),
        "replaced": str(database.replaced) if database.replaced else None,
        "lost": [each._asdict() for each in database.lost],
    }


def _done_lines(done: Sequence[Done]) -> Iterator[str]:
    for snapshot, database in done:
        yield f"{database.name} is restored at {database.path}, as of {local_time(snapshot.time_ms)}."
        if database.replaced is not None:
            yield f"  What it replaced is at {database.replaced} until `pillarbox backup discard-replaced`."


# -- what was replaced


@click.command("discard-replaced")
@SERVER
@YES
@JSON
def discard_replaced_(server: Path, yes: bool, as_json: bool) -> None:
    """Remove for good what restores over databases of SERVER replaced, and give its space back.

    \b
    pillarbox backup discard-replaced /srv/mail
    """
    from pillarbox.backup.replaced import discard_replaced, replaced_databases

    with pillarbox.Server.open(server, read_only=True, mount=False) as opened:
        found = replaced_databases(opened)
        if found and not yes:
            warn(f"{each.path}: {size_text(each.size_bytes)}" for each in found)
        if found:
            confirm(f"Remove {counted(len(found), 'replaced database')}?", yes)
        gone = discard_replaced(opened)
    show([_replaced_data(each) for each in gone], _discarded_lines(gone), as_json)


def _replaced_data(replaced: ReplacedDatabase) -> dict[str, Any]:
    return {"database": replaced.database, "path": str(replaced.path), "size_bytes": replaced.size_bytes}


def _discarded_lines(gone: Sequence[ReplacedDatabase]) -> Iterator[str]:
    freed_bytes = sum(each.size_bytes for each in gone)
    yield f"{counted(len(gone), 'replaced database')} removed, {size_text(freed_bytes)} given back."
