"""Check: prove every record, index row, reference, counter, frame and message of a database.

A check reads one state and changes nothing, beside the writer. One damaged thing never hides another: what
cannot be read is named, and the check goes on behind it. Memory grows with folders and damage, and not with
messages: references are counted in passes over a part of the digests each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pillarbox.store.access import Actor
from pillarbox.store.disk.env import DATA_FILE
from pillarbox.store.disk.tables import DERIVED, Table
from pillarbox.store.engine.database import Database, MountState
from pillarbox.store.engine.tables_proof import problems_of_pages
from pillarbox.store.errors import Corrupt, UnsupportedVersion
from pillarbox.store.events import EventId
from pillarbox.store.upkeep.check_content import ContentCheck
from pillarbox.store.upkeep.check_findings import SHAPE_ERRORS, CheckedState, Finding
from pillarbox.store.upkeep.check_indexes import IndexCheck
from pillarbox.store.upkeep.check_records import RecordsCheck
from pillarbox.store.upkeep.check_stream import StreamCheck
from pillarbox.store.upkeep.check_unsound import UnsoundCheck
from pillarbox.store.upkeep.verification import copied_tables, told_without_room


class CheckReport(NamedTuple):
    """The objects that a check went through, and its findings. `bytes_read` is of messages."""

    findings: tuple[Finding, ...]
    records: int
    messages: int
    bytes_read: int
    segments: int

    @property
    def clean(self) -> bool:
        """True when nothing is damaged."""
        return not self.findings


def check_database(
    database: Database, actor: Actor, *, progress: Callable[[int, int], None] | None = None
) -> CheckReport:
    """Prove a mounted database whole, at one moment; it may be mounted for reading only.

    `progress(done, total)` is called with counts of records. The result is reported as event 20030 or 20031.
    Raises Dismounted; Retryable when too many reads are open; UnsupportedVersion for records of a newer
    program. Damage is returned, not raised.
    """
    report = None
    with told_without_room(database):  # without room all else is proved
        report = _check_pages(database)
    return _reported(database, report or _check_records(database, actor, progress))


def check_dismounted(
    database: Database, actor: Actor, *, progress: Callable[[int, int], None] | None = None
) -> CheckReport:
    """`check_database` of a database that this process has not mounted, and that it mounts for reading only.

    Bent pages are named before LMDB sees them. Raises RecoveryNeeded when the database is to be mounted for
    writing first; Retryable, UnsupportedVersion, AccessDenied.
    """
    report = None
    with told_without_room(database):
        report = _check_pages(database)
    if report is not None:
        return _reported(database, report)
    try:
        database.mount(read_only=True)
    except Corrupt as error:
        finding = Finding("", b"", error.file, error.offset, str(error), "")
        return _reported(database, CheckReport((finding,), 0, 0, 0, 0))
    try:
        return _reported(database, _check_records(database, actor, progress))
    finally:
        database.dismount()


def _reported(database: Database, report: CheckReport) -> CheckReport:
    if report.clean:
        database.report(EventId.CHECK_FINISHED)
    else:
        database.report(EventId.CHECK_FOUND_DAMAGE, damaged=len(report.findings))
    return report


def _check_pages(database: Database) -> CheckReport | None:
    """The report of damage when the pages are not sound; None when they are, and LMDB may read them.

    Raises DiskFull, Retryable.
    """
    check = UnsoundCheck(database)
    try:
        with copied_tables(database) as copy:
            problems = problems_of_pages(copy, database.clock, database.report)
            change = _changed_pages(database)
            if change is not None:
                check.found(change)
            elif not problems:
                return None
            check.check_pages(copy, problems)
    except Corrupt as error:
        check.found(error)
    check.check_stream()
    return CheckReport(tuple(check.findings), check.records, check.messages, 0, check.segments)


def _changed_pages(database: Database) -> Corrupt | None:
    try:
        database.prove_tables()
    except Corrupt as error:
        if database.state is MountState.DISMOUNTED or Path(error.file).name == DATA_FILE:
            return error  # damage of the checkpoint of a mounted one is named with all else
    return None


def _check_records(
    database: Database, actor: Actor, progress: Callable[[int, int], None] | None
) -> CheckReport:
    with database.read(actor) as reader:
        return _check(CheckedState(database, reader, progress))


def _check(checked: CheckedState) -> CheckReport:
    """All checks, in an order in which later ones can use what earlier ones summed up."""
    records, indexes = RecordsCheck(checked), IndexCheck(checked)
    content = ContentCheck(checked, records)
    stream = StreamCheck(checked, content)
    checked.attempt(stream.check_checkpoint, "the checkpoint")
    checked.attempt(stream.check_meta, "the identity")
    for table, check in (
        (Table.ITEM, records.check_item),
        (Table.TOMBSTONE, records.check_tombstone),
        (Table.SEEN, records.check_seen),
        (Table.FOLDER, records.check_folder),
        (Table.MAILBOX, records.check_mailbox),
        (Table.DICTIONARY, content.check_dictionary),
        (Table.BLOCK, content.check_block),
        (Table.CONTENT, content.check_content),
        (Table.SEGMENT, stream.sum_segment),
    ):
        _check_table(checked, table, indexes, check)
    for table, held in ((Table.CONTENT, content.items_held), (Table.BLOCK, content.blocks_held)):
        checked.attempt(partial(content.check_references, table, held), f"references in {table.name.lower()}")
    checked.attempt(stream.check_segments, "the stream")
    checked.attempt(partial(stream.check_state, records.highest_cn, records.highest_id), "the state")
    for table in sorted(DERIVED):
        checked.attempt(partial(indexes.check_surplus, table), f"table {table.name.lower()}")
    checked.attempt(content.name_damaged_messages, "messages")
    return CheckReport(
        tuple(checked.findings),
        checked.records_count,
        checked.count(Table.ITEM) - records.versions_count,
        content.bytes_read,
        stream.segments_count,
    )


def _check_table(
    checked: CheckedState, table: Table, indexes: IndexCheck, check: Callable[[bytes, Any], None]
) -> None:
    for key, record in checked.decoded(table, naming=True):
        try:
            if checked.view.get(table, key) is None:
                checked.found(table, key, "is not found by its key", checked.key_text(table, key))
            indexes.check_rows_of(table, key, record)
            check(key, record)
        except UnsupportedVersion:
            raise
        except SHAPE_ERRORS as error:
            checked.found(table, key, error, checked.key_text(table, key))
