"""A server as a whole: init, status, mount, dismount."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pillarbox
from pillarbox.store.engine.database_limits import Edition
from pillarbox.store.errors import Dismounted, PillarboxError, WriterBusy
from pillarbox.tools.backup_rows import backup_data, backup_lines
from pillarbox.tools.options import ACTOR, JSON, SERVER
from pillarbox.tools.output import counted, local_time, percent_text, show, size_text
from pillarbox.tools.parameters import DATABASE
from pillarbox.tools.serving.performing import operation

if TYPE_CHECKING:
    from pillarbox.store.engine.transaction import Reader
    from pillarbox.store.storage_group import StorageGroup


@click.command()
@SERVER
@click.option(
    "--edition",
    type=click.Choice([each.value for each in Edition]),
    default="standard",
    show_default=True,
    help="What it may grow to: one storage group of 75 GB databases, or four of 8,000 GB ones.",
)
@JSON
def init(server: Path, edition: str, as_json: bool) -> None:
    """Make a new server in the directory SERVER, which must be new or empty.

    It has one storage group with a mailbox store and a public folder store.

    \b
    pillarbox init /srv/mail
    pillarbox init /srv/mail --edition enterprise
    """
    pillarbox.Server.create(server, Edition(edition)).close()
    show({"server": str(server), "edition": edition}, [f"{server} is ready ({edition})."], as_json)


@click.command("edition")
@SERVER
@click.argument("edition", type=click.Choice([edition.value for edition in Edition]))
@JSON
def set_edition(server: Path, edition: str, as_json: bool) -> None:
    """Change the edition of a server: how many storage groups and databases it may have, how large.

    A database without a limit of its own has the default of the new edition, 18 GB or 8,000 GB. Refused when
    the server has more, or higher limits, than the new edition allows.

    \b
    pillarbox edition /srv/mail enterprise
    """
    with pillarbox.Server.open(server, mount=False) as opened:
        opened.set_edition(Edition(edition))
    show({"server": str(server), "edition": edition}, [f"{server} is of the edition {edition}."], as_json)


# -- status


@click.command()
@SERVER
@JSON
def status(server: Path, as_json: bool) -> None:
    """Databases, their sizes against their limits, their last backups, and mailboxes.

    A database is mounted when it can be; one that was dismounted, or cannot be mounted, says why. Ends with
    21 when one that should be mounted is not; one that `pillarbox dismount` has dismounted, or that another
    process has, is well.

    \b
    pillarbox status /srv/mail
    """
    from pillarbox.backup.replaced import replaced_databases

    with pillarbox.Server.open(server, read_only=True) as opened:
        found = [
            _database_status(opened, group, database)
            for group in opened.groups.values()
            for database in group.databases.values()
        ]
        edition, replaced = opened.edition.value, replaced_databases(opened)
        apart = [label for label, why in opened.not_mounted.items() if not isinstance(why, WriterBusy)]
    lines = [f"{server}: edition {edition}", *_status_lines(found)]
    if replaced:
        size = size_text(sum(each.size_bytes for each in replaced))
        lines.append(f"{counted(len(replaced), 'replaced database')} kept after restores: {size}")
        lines.append("  `pillarbox backup discard-replaced` removes what restores replaced")
    show(found, lines, as_json)
    if apart:
        raise Dismounted(
            f"not mounted, and should be: {', '.join(apart)}",
            hint="what stands beside it says why; `pillarbox check` looks for damage",
        )


def _database_status(
    server: pillarbox.Server, group: StorageGroup, database: pillarbox.Database
) -> dict[str, Any]:
    from pillarbox.backup.replaced import replaced_of
    from pillarbox.store.disk.file_lock import is_locked
    from pillarbox.store.engine.database import LOCK, MountState
    from pillarbox.store.server_config import KIND_TEXTS
    from pillarbox.store.upkeep.last_backup import read_last_backup

    mounted = database.state is not MountState.DISMOUNTED
    found: dict[str, Any] = {
        "group": group.name,
        "database": database.name,
        "kind": KIND_TEXTS[database.kind],
        "state": (MountState.MOUNTED if mounted else MountState.DISMOUNTED).value,
        "in_use": is_locked(database.path / LOCK),
        "mount_at_startup": server.mounts_at_startup(database.label),
        "replaced_bytes": sum(each.size_bytes for each in replaced_of(server, database)),
        "backups": backup_data(read_last_backup(server.backups_path, database.guid), server.backup_rules),
    }
    try:
        if mounted:
            return {**found, **_sizes(database), **_contents(database)}
        reason: object = server.not_mounted.get(database.label)
    except PillarboxError as error:
        reason = error
    return {**found, "error": str(reason or "it is set not to be mounted: `pillarbox mount` ends that")}


def _begun_text(age_ms: int | None) -> str:
    return "" if age_ms is None else f", begun {counted(age_ms // 60_000, 'minute')} ago,"


def _sizes(database: pillarbox.Database) -> dict[str, Any]:
    from pillarbox.store.upkeep import sizes

    return {
        "logical_size_bytes": sizes.logical_size_bytes(database),
        "physical_size_bytes": sizes.physical_size_bytes(database),
        "limit_bytes": database.limits.limit_bytes,
        "threshold_bytes": database.limits.threshold_bytes,
        "last_size_check_ms": sizes.last_size_check_ms(database),
        "held_space": None if (held := sizes.held_space(database)) is None else held._asdict(),
    }


def _contents(database: pillarbox.Database) -> dict[str, Any]:
    from pillarbox.store.disk.tables import DatabaseKind

    with database.read(ACTOR) as read:
        if database.kind == DatabaseKind.PUBLIC_FOLDER_STORE:
            folders = [found for _, found in pillarbox.public_folders.walk(read)]
            return {"folders": len(folders), "messages": sum(each.messages_count for each in folders)}
        return {"mailboxes": _mailboxes(read)}


def _mailboxes(read: Reader) -> list[dict[str, Any]]:
    return [
        {
            "mailbox": box.name,
            "messages": box.messages_count,
            "size_bytes": box.size,
            "disconnected": box.state == pillarbox.mailboxes.DISCONNECTED,
        }
        for box in pillarbox.mailboxes.all_of(read)
    ]


def _status_lines(databases: list[dict[str, Any]]) -> Iterator[str]:
    group = None
    for each in databases:
        if each["group"] != group:
            group = each["group"]
            yield f"{group}"
        use = ", in use by another process" if each["in_use"] else ""
        yield f"  {each['database']} ({each['kind']}): {each['state']}{use}"
        if "error" in each:
            yield f"    {each['error']}"
            yield from (f"    {line}" for line in backup_lines(each["backups"]))
            continue
        used, limit = each["logical_size_bytes"], each["limit_bytes"]
        yield (
            f"    {size_text(used)} of {size_text(limit)} used ({percent_text(used, limit)}),"
            f" {size_text(each['physical_size_bytes'])} on disk"
        )
        yield f"    size checked {local_time(each['last_size_check_ms']) or 'never'}"
        if held := each["held_space"]:
            yield (
                f"    process {held['process_id']}{_begun_text(held['age_ms'])} reads a state"
                f" {counted(held['transactions_count'], 'transaction')} old:"
            )
            yield f"    {size_text(held['held_bytes'])} of the property file wait for it to end"
        yield from (f"    {line}" for line in backup_lines(each["backups"]))
        if "folders" in each:
            yield f"    {counted(each['folders'], 'public folder')}, {counted(each['messages'], 'message')}"
            continue
        for box in each["mailboxes"]:
            apart = "  disconnected" if box["disconnected"] else ""
            size = size_text(box["size_bytes"])
            yield f"    {box['mailbox']:24} {box['messages']:>8,} messages  {size:>10}{apart}"


# -- mount, dismount


@click.command()
@SERVER
@DATABASE
@JSON
def mount(server: Path, database_name: str, as_json: bool) -> None:
    """Prove that DATABASE can be mounted, and have it mounted from now on.

    A command holds no mount for longer than it runs: this mounts the database once and lets it go again.
    From now on it is mounted whenever the server is opened; a running `pillarbox serve` mounts it at once, a
    running `pillarbox limits watch` within a minute.

    \b
    pillarbox mount /srv/mail "Mailbox Store"
    """
    with operation(server, "database.mount") as perform:
        label = perform(database=database_name)
    data = {"database": label, "mount_at_startup": True}
    show(data, [f"{label} can be mounted, and is whenever the server is opened."], as_json)


@click.command()
@SERVER
@DATABASE
@JSON
def dismount(server: Path, database_name: str, as_json: bool) -> None:
    """Keep DATABASE dismounted until `pillarbox mount`.

    It is not mounted when the server is opened. A process that has it mounted now keeps it to its end; a
    running `pillarbox serve` lets go of it at once, a running `pillarbox limits watch` within a minute.

    \b
    pillarbox dismount /srv/mail "Mailbox Store"
    """
    with operation(server, "database.dismount") as perform:
        found = perform(database=database_name)
    label, in_use = found["database"], found["in_use"]
    lines = [f"{label} stays dismounted until `pillarbox mount`."]
    if in_use:
        lines.append("Another process has it mounted still.")
    show({"database": label, "mount_at_startup": False, "in_use": in_use}, lines, as_json)
