"""The upkeep of databases: check, repair, maintain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pillarbox
from pillarbox.store.errors import NoPermission, PillarboxError, RecoveryNeeded, Retryable
from pillarbox.tools.error_data import error_of
from pillarbox.tools.options import ACTOR, JSON, SERVER
from pillarbox.tools.output import Step, confirm, counted, progress, show, size_text
from pillarbox.tools.parameters import DATABASE, YES, complete_database
from pillarbox.tools.serving.performing import let_go, operation

if TYPE_CHECKING:
    from pillarbox.store.upkeep.check import CheckReport
    from pillarbox.store.upkeep.repair import RepairReport


@click.command()
@SERVER
@JSON
@click.pass_context
def check(ctx: click.Context, server: Path, as_json: bool) -> None:
    """Prove every database whole: each record, index, reference, counter, and byte of mail.

    No mail is changed, and others may go on working. Databases that are dismounted are checked as well. What
    is found is kept for `pillarbox status` and `pillarbox backup restore`.
    Ends with 0 when all is clean, with 1 when damage was found.

    \b
    pillarbox check /srv/mail
    """
    with pillarbox.Server.open(server, read_only=True, mount=False) as opened:
        results = [_check_one(opened, each, as_json) for each in opened.databases()]
    findings = [f"{each['database']}: {finding}" for each in results for finding in each["findings"]]
    messages = sum(each.get("messages", 0) for each in results)
    show(
        {"clean": not findings, "findings": findings, "databases": results},
        findings
        or [f"No damage was found: {counted(len(results), 'database')}, {counted(messages, 'message')}."],
        as_json,
    )
    ctx.exit(1 if findings else 0)


def _check_one(server: pillarbox.Server, database: pillarbox.Database, as_json: bool) -> dict[str, Any]:
    from pillarbox.store.upkeep.last_check import keep_last_check

    try:
        with progress(f"checking {database.label}", as_json) as step:
            report = _check_after_recovery(database, step)
    except (Retryable, NoPermission):  # which say nothing of what is there
        raise
    except PillarboxError as error:
        return {"database": database.label, "findings": [str(error)]}
    keep_last_check(database, len(report.findings))
    return {"database": database.label, **_check_data(report)}


def _check_after_recovery(database: pillarbox.Database, step: Step | None) -> CheckReport:
    from pillarbox.store.upkeep.check import check_dismounted

    def told(done: int, total: int) -> None:
        if step is not None:
            step(done, total, "")

    try:
        return check_dismounted(database, ACTOR, progress=told)
    except RecoveryNeeded:
        database.recover()  # as every command that reads; its pages were proved sound
        return check_dismounted(database, ACTOR, progress=told)


def _check_data(report: CheckReport) -> dict[str, Any]:
    return {
        "findings": [str(finding) for finding in report.findings],
        "records": report.records,
        "messages": report.messages,
        "bytes_read": report.bytes_read,
    }


@click.command()
@SERVER
@DATABASE
@click.option(
    "--recovered-to",
    "recovered_to",
    metavar="MAILBOX",
    default="",
    help="Whose folder Recovered takes mail of which nothing tells where it was; made if needed.  "
    "[default: a mailbox of its own]",
)
@YES
@JSON
def repair(server: Path, database_name: str, recovered_to: str, yes: bool, as_json: bool) -> None:
    """Rebuild what `pillarbox check` finds wrong in DATABASE, from all that is whole; say what is lost.

    No other process may have it mounted. Needs free disk of twice the size of the property file. Take a full
    backup of a repaired database.

    \b
    pillarbox repair /srv/mail "Mailbox Store"
    """
    from pillarbox.store.upkeep.repair import repair_database

    with pillarbox.Server.open(server, mount=False) as opened:
        database = opened.database(database_name)
        confirm(f"Rebuild the tables of {database.label}?", yes)
        with let_go(server, database.label), progress(f"repairing {database.label}", as_json):
            report = repair_database(database, recovered_to=recovered_to)
    show({"database": database.label, **_repair_data(report)}, _repair_lines(report), as_json)


@click.command()
@SERVER
@click.argument("database_name", metavar="[DATABASE]", default="", shell_complete=complete_database)
@JSON
def maintain(server: Path, database_name: str, as_json: bool) -> None:
    """Do now what a database needs each day: purge, train a dictionary, give space back to the disk.

    All databases that are mounted, or DATABASE. For a timer, at night; what is interrupted goes on next time.

    \b
    pillarbox maintain /srv/mail
    """
    with (
        progress("maintaining", as_json) as step,
        operation(server, "database.maintain", step=step) as perform,
    ):
        found = perform(database=database_name)
    rows = found["maintained"]
    show(rows, [_maintenance_line(each) for each in rows], as_json)
    if reason := error_of(found["not_mounted"]):
        raise reason


def _maintenance_line(row: dict[str, Any]) -> str:
    trained = ", a dictionary was trained" if row["dictionary"] else ""
    return (
        f"{row['database']}: {counted(row['purged_mailboxes'], 'mailbox')} purged{trained},"
        f" {size_text(row['freed_bytes'])} given back, {size_text(row['free_bytes'])} free in its files"
    )


def _repair_data(report: RepairReport) -> dict[str, Any]:
    return {
        "kept": report.kept,
        "lost": [each._asdict() for each in report.lost],
        "from_stream": report.from_stream,
        "dropped": list(report.dropped),
        "restored": list(report.restored),
        "recovered": report.recovered,
        "recovered_to": report.recovered_to,
        "recovered_messages": list(report.recovered_messages),
        "damaged_stream": [str(finding) for finding in report.damaged_stream],
        "names_unknown": report.names_unknown,
    }


def _repair_lines(report: RepairReport) -> Iterator[str]:
    yield f"{counted(report.kept, 'message')} kept whole, {counted(len(report.lost), 'message')} lost."
    if report.from_stream:
        yield "The tables were of no use: all was rebuilt from the stream."
    for each in report.lost:
        yield f"  lost: {each.folder}, UID {each.uid}: {each.subject!r} from {each.sender} ({each.reason})"
    yield from (f"  dropped: {each}" for each in report.dropped)
    yield from (f"  made anew: {each}" for each in report.restored)
    if report.recovered:
        box = report.recovered_to
        folder = f"Recovered of mailbox {box}" if box else "Lost and Found/Recovered"
        yield f"  {counted(report.recovered, 'message')} whose place nothing tells came back in {folder}."
        yield from (f"  came back: {each}" for each in report.recovered_messages)
    yield from (f"  damaged, and no longer used: {finding}" for finding in report.damaged_stream)
    if report.names_unknown:
        yield "  The names of its mailboxes were not known: one that another mailbox has by now"
        yield "  is called `NAME 2` from the next mount for writing on, and gives 50 until then."
