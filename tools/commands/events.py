"""The event log: list; what the diagnostic categories write: diagnostics show and set."""

from __future__ import annotations

from pathlib import Path

import click

import pillarbox
from pillarbox.store.errors import InvalidName, NotFound
from pillarbox.store.events import EVENTS, Category, Event, Level, Severity
from pillarbox.tools.options import JSON, SERVER
from pillarbox.tools.output import event_line, show, show_each, warn
from pillarbox.tools.parameters import COUNT, complete_database, moment

CATEGORIES = click.Choice([each.value for each in Category])


@click.group()
def events() -> None:
    """The event log of a server (docs/operations.md lists all events)."""


@events.command("list")
@SERVER
@click.option("--since", "since_ms", callback=moment, metavar="DATE", help="Of that day or moment, or later.")
@click.option("--id", "event_id", type=int, help="With this number.")
@click.option("--category", type=CATEGORIES, metavar="CATEGORY", help="Of this category.")
@click.option(
    "--severity", type=click.Choice([each.value for each in Severity]), help="Of at least this severity."
)
@click.option("--database", "database_name", shell_complete=complete_database, help="Of this database.")
@click.option("--limit", type=COUNT, help="List at most this many.")
@click.option("--oldest-first", is_flag=True, help="In the order they happened; the newest first without it.")
@JSON
def list_events(
    server: Path,
    since_ms: int | None,
    event_id: int | None,
    category: str | None,
    severity: str | None,
    database_name: str | None,
    limit: int | None,
    oldest_first: bool,
    as_json: bool,
) -> None:
    """Events, the newest first.

    The log calls a database as it was called then; one that is gone, or has another name now, is found by
    what it was called. Mounts and dismounts of single commands are not in it; `pillarbox events diagnostics
    set SERVER system.general minimum` has them written.

    \b
    pillarbox events list /srv/mail --limit 20
    pillarbox events list /srv/mail --severity warning --since 2024-12-01
    pillarbox events list /srv/mail --id 9690 --database "Mailbox Store"
    """
    if event_id is not None and event_id not in EVENTS:
        raise click.BadParameter(f"{event_id} is no event: docs/operations.md lists them", param_hint="--id")
    with pillarbox.Server.open(server, read_only=True, mount=False) as opened:
        found = opened.events.query(
            since_ms=since_ms,
            event_id=event_id,
            category=category,
            severity_min=Severity(severity) if severity else None,
            databases=None if database_name is None else _labels(opened, database_name),
            limit=limit,
            newest_first=not oldest_first,
        )
        show_each(map(Event._asdict, found), event_line, as_json, empty="There are no such events.")
    if found.damaged_count:
        warn([f"pillarbox: {found.damaged_count} damaged lines of the log were passed over"])


def _labels(server: pillarbox.Server, name: str) -> set[str]:
    """The names of a database in the log: its label now, or while another group had one of its name.

    What the server does not know, or not well enough, is of the log's past, when that holds events of it; if
    not, raises NotFound or InvalidName.
    """
    try:
        found = server.database(name)
    except (NotFound, InvalidName):
        if not any(server.events.query(databases={name}, limit=1)):
            raise
        return {name}
    groups = (group.name for group in server.groups.values() if found in group.databases.values())
    return {found.label, *(f"{group}/{found.name}" for group in groups)}


@events.group()
def diagnostics() -> None:
    """Show how much each diagnostic category writes: none, minimum, medium or maximum."""


@diagnostics.command("show")
@SERVER
@JSON
def show_diagnostics(server: Path, as_json: bool) -> None:
    """The level of each category (docs/operations.md, "Categories").

    \b
    pillarbox events diagnostics show /srv/mail
    """
    with pillarbox.Server.open(server, read_only=True, mount=False) as opened:
        levels = {each.value: opened.diagnostics().level(each).name.lower() for each in Category}
    show(levels, [f"{category:24} {level}" for category, level in levels.items()], as_json)


@diagnostics.command("set")
@SERVER
@click.argument("category", metavar="CATEGORY", type=CATEGORIES)
@click.argument("level", type=click.Choice([each.name.lower() for each in Level], case_sensitive=False))
@JSON
def set_diagnostics(server: Path, category: str, level: str, as_json: bool) -> None:
    """Set the level of a category: public_folder.general at medium tells of each public folder deleted.

    \b
    pillarbox events diagnostics set /srv/mail public_folder.general medium
    """
    with pillarbox.Server.open(server, mount=False) as opened:
        opened.set_diagnostics(category, level)
    show({category: level}, [f"{category} is at {level}."], as_json)
