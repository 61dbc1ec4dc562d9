"""Repair: keep all that is whole of a damaged database, and say what is not (RELIABILITY.md, 2).

The stream is the truth: new tables are built beside the old ones from the whole stream, and from the old
tables what it lacks (`repair_gather`). All content is read, to find what is whole (`repair_content`). Then
everything that follows from something else is computed again (`repair_rebuild`). Whole content that no
message holds, and that nobody has deleted, comes back as a message. The new tables take the place of the old
ones only when a check finds nothing wrong with them and no message is missing.

Segments of the stream are never changed but for a damaged header, which says nothing that is not known; what
else is damaged there stays, remembered as let go (`let_go`). What a repair puts right is written to the
stream as transactions, so that the stream alone tells it again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from pillarbox.store.access import Actor
from pillarbox.store.disk.checkpoint import (
    CHECKPOINT_FILE,
    boot_identity,
    read_checkpoint,
    refuse_newer_program,
)
from pillarbox.store.disk.env import DATA_FILE, Env, put_back_meta_pages, scratch_env
from pillarbox.store.disk.file_lock import REPLACING, FileLock
from pillarbox.store.disk.stream import SEGMENT_HEADER_BYTES, Position, flush_directory, segment_name
from pillarbox.store.disk.tables import DatabaseKind, FolderRecord, Table
from pillarbox.store.engine import content_store
from pillarbox.store.engine.checkpointer import FlushedState, Tuning, write_clean_checkpoint
from pillarbox.store.engine.database import LOCK, PROPERTIES, STREAM, Database, MountState
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import Corrupt, DiskFull, NotFound, PillarboxError, Refused
from pillarbox.store.events import EventId
from pillarbox.store.ids import guid_text
from pillarbox.store.mail import folders, mailboxes, messages, public_folders
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.check_findings import Finding
from pillarbox.store.upkeep.last_check import keep_last_check
from pillarbox.store.upkeep.repair_draft import Draft
from pillarbox.store.upkeep.repair_gather import Gathered, OldTables, Stretch, gather
from pillarbox.store.upkeep.repair_rebuild import RECOVERED, LostMessage, Rebuild
from pillarbox.store.upkeep.repair_undo import WORK, before, keep_first_new, undo_or_tidy

LOST_AND_FOUND: Final = "Lost and Found"
_ROWS_PER_TRANSACTION: Final = 2_000


class RepairReport(NamedTuple):
    """The messages that a repair kept and lost, and the damage that stays in the stream.

    `from_stream` tells that the tables were of no use; `dropped` names damaged records and stretches of the
    stream in words; `recovered` counts contents of which no record told any more whose message they are, and
    that came back as messages in a folder of `recovered_to`, the name of a mailbox. `recovered_messages`
    names each of them: one may have been deleted by a transaction that is damaged. `names_unknown` tells that
    others may have got the names of its mailboxes meanwhile: the next mount for writing looks, and gives such
    a mailbox another.
    """

    kept: int
    lost: tuple[LostMessage, ...]
    from_stream: bool
    dropped: tuple[str, ...]
    restored: tuple[str, ...]
    recovered: int
    recovered_to: str
    recovered_messages: tuple[str, ...]
    damaged_stream: tuple[Finding, ...]
    names_unknown: bool


def repair_database(database: Database, *, recovered_to: str = "") -> RepairReport:
    """Rebuild the tables of a dismounted database; the old ones stay until the new ones are proved.

    `recovered_to` names the mailbox whose folder "Recovered" takes what comes back without its record; it is
    made where there is none. By default it is called "Recovered" and the GUID of the database. In a public
    folder store that folder lies in "Lost and Found".
    Takes as much free disk space as the property file twice. Raises Refused when it is mounted, WriterBusy
    when another process has it, DiskFull, UnsupportedVersion for records of a newer program, and Corrupt when
    the new tables fail the check: then all is as it was.
    """
    if database.state is not MountState.DISMOUNTED:
        raise Refused(f"database {database.name} is mounted", hint="dismount it first: `pillarbox dismount`")
    if not (database.path / STREAM).is_dir():
        raise NotFound(f"there is no database at {database.path}", hint="restore it from a backup")
    refuse_newer_program(database.path)
    lock = FileLock(database.path / LOCK, f"database {database.name}", database.clock, word=REPLACING)
    try:
        undo_or_tidy(database.path, database.stream)
        try:
            report = _Repair(database, recovered_to).run()
        finally:
            undo_or_tidy(database.path, database.stream)
    finally:
        lock.close()
    keep_last_check(database, 0)  # the new tables were proved
    database.report(EventId.REPAIR_FINISHED, kept=report.kept, lost=len(report.lost))
    return report


class _Repair:
    """One run: gather what is whole, rebuild, bring back, prove, replace.

    Everything is made in a database of its own, which has the segments of the old one as links and writes a
    new one. What is put right is written there as transactions too: so the stream alone tells all of it.
    """

    def __init__(self, database: Database, recovered_to: str) -> None:
        self._database = database
        self._stream = database.stream
        self._work = database.path / WORK
        self._recovered_to = recovered_to or f"{RECOVERED} {guid_text(database.guid)}"
        self._is_public = database.kind == DatabaseKind.PUBLIC_FOLDER_STORE
        self._actor = Actor.task("repair")
        self._mailbox_names: dict[bytes, bytes] = {}
        self._brought_back: list[str] = []

    def run(self) -> RepairReport:
        headers = self._restore_headers()
        self._work.mkdir()
        flush_directory(self._database.path)  # the record of new segments must be found in it
        with scratch_env(self._work / PROPERTIES) as env:
            draft = Draft(self._database, env)
            gathered = gather(self._database, draft, self._copy_tables())
            rebuild = Rebuild(self._database, draft, gathered)
            rebuild.run()
            self._write_checkpoint(env, gathered)
        self._link_segments()
        self._write_and_prove(draft, gathered, rebuild)
        only_named = list(self._mailboxes_only_named(gathered))
        names = self._database.mailbox_names
        names_unknown = names is not None and not names.is_known()
        self._replace(gathered.segment)
        return RepairReport(
            kept=rebuild.kept,
            lost=tuple(rebuild.lost),
            from_stream=bool(gathered.unreadable),
            dropped=(
                *gathered.dropped,
                *gathered.perhaps_missing,
                *gathered.unread,
                *rebuild.dropped,
                *only_named,
            ),
            restored=(*headers, *rebuild.restored),
            recovered=len(rebuild.unaccounted),
            recovered_to=self._recovered_to if rebuild.unaccounted and not self._is_public else "",
            recovered_messages=tuple(self._brought_back),
            damaged_stream=tuple(self._finding(stretch) for stretch in gathered.stretches),
            names_unknown=names_unknown,
        )

    def _copy_tables(self) -> OldTables:
        """A copy of the old tables as they were left, or as they were at the checkpoint."""
        copy = self._work / "source"
        checkpoint = None
        try:
            copy.mkdir()
            with suppress(Corrupt):  # each row proves itself, whatever the state it is from
                checkpoint = read_checkpoint(self._database.path)
            shutil.copyfile(self._database.path / PROPERTIES / DATA_FILE, copy / DATA_FILE)
            if checkpoint and not checkpoint.clean and checkpoint.boot != boot_identity():
                put_back_meta_pages(copy, checkpoint.meta_pages)
        except DiskFull:
            raise
        except (PillarboxError, OSError) as error:
            return OldTables(copy, checkpoint, str(error))
        return OldTables(copy, checkpoint, "")

    def _finding(self, stretch: Stretch) -> Finding:
        path = str(self._stream.path(stretch.segment))
        return Finding("", b"", path, stretch.offset, f"{stretch.length} bytes are no whole frame", "")

    def _restore_headers(self) -> list[str]:
        """Without its header nothing of a segment can be read, however whole it is."""
        return [
            f"the header of {self._stream.path(segment)}"
            for segment in self._stream.segments()
            if self._stream.restore_header(segment)
        ]

    def _write_checkpoint(self, env: Env, gathered: Gathered) -> None:
        env.sync()
        pin = env.pin()
        pin.transaction.abort()
        # A segment of its own: what stands at the end of the last one may be damaged, and stays as it is.
        position = Position(gathered.segment, SEGMENT_HEADER_BYTES)
        flushed = FlushedState(gathered.sequence, position)
        write_clean_checkpoint(self._work, self._database.guid, env, pin.meta_pages, flushed)

    def _link_segments(self) -> None:
        directory = self._work / STREAM
        directory.mkdir()
        for segment in self._stream.segments():
            (directory / segment_name(segment)).symlink_to(self._stream.path(segment).absolute())

    # -- in the new database

    def _write_and_prove(self, draft: Draft, gathered: Gathered, rebuild: Rebuild) -> None:
        old = self._database
        # Rows of what was deleted are left to the repaired database: they are counted here.
        tuning = Tuning(remove_beside=False)
        made = Database(self._work, old.guid, old.name, old.kind, clock=old.clock, rng=old.rng, tuning=tuning)
        made.mount()
        try:
            self._write_again(made, draft.changed)
            for digest in rebuild.unaccounted:
                self._bring_back(made, digest)
            self._prove(made, rebuild, gathered)
        finally:
            made.dismount()

    def _write_again(self, made: Database, changed: set[tuple[Table, bytes]]) -> None:
        """Write what differs from the stream to the stream."""
        places = sorted(changed)
        for start in range(0, len(places), _ROWS_PER_TRANSACTION):
            with made.transaction(self._actor) as txn:
                for table, key in places[start : start + _ROWS_PER_TRANSACTION]:
                    txn.put(table, key, txn.record(table, key))

    def _bring_back(self, made: Database, digest: bytes) -> None:
        with made.read(self._actor) as reader:
            raw = content_store.read(reader, digest)
        prepared = messages.prepare(made.files, raw)
        with made.transaction(self._actor) as txn:
            item = messages.append(txn, self._recovery_folder(txn).folder_id, prepared)
        self._brought_back.append(f"{item.subject!r} of {item.sender}")

    def _recovery_folder(self, txn: WriteTransaction) -> FolderRecord:
        if self._is_public:
            root_id = public_folders.create_tree(txn)[public_folders.IPM_SUBTREE]
            return folders.ensure(txn, root_id, (LOST_AND_FOUND, RECOVERED))
        try:
            box = mailboxes.find(txn, self._recovered_to)
        except NotFound:
            box = mailboxes.create(txn, self._recovered_to)
        return folders.ensure(txn, box.root_id, (RECOVERED,))

    def _prove(self, made: Database, rebuild: Rebuild, gathered: Gathered) -> None:
        """Nothing but segments that the disk does not give may be found, and no message may be missing."""
        report = check_database(made, self._actor)
        with made.read(self._actor) as reader:
            self._mailbox_names = dict(reader.indexes(Table.MAILBOX_NAME, b"", None))
        for finding in report.findings:
            if finding.table or not gathered.unread:
                raise Corrupt(f"the repaired tables are not whole: {finding}; nothing was changed")
        expected = rebuild.kept + len(rebuild.unaccounted)
        if report.messages != expected:
            raise Corrupt(
                f"the repaired tables have {report.messages} messages, not {expected}; nothing was changed"
            )

    def _mailboxes_only_named(self, gathered: Gathered) -> Iterator[str]:
        """Mailboxes that the file of names has, and no record any more. Where it is not known, none.

        A name is written before its mailbox is made, and is let go after that is deleted. So where the stream
        has all transactions, a name alone is what a process left that was killed in between.
        """
        names = self._database.mailbox_names
        if names is None or not names.is_known():
            return
        if gathered.is_end_known and not (gathered.stretches or gathered.perhaps_missing or gathered.unread):
            return
        held = set(self._mailbox_names.values())
        for key, guid in sorted(names.read().items()):
            if guid not in held:
                name = key.decode(errors="replace")
                yield f"mailbox {name!r} ({guid_text(guid)}) had a name, and nothing else tells of it"

    def _replace(self, first_new: int) -> None:
        """Without a checkpoint nothing mounts, so that a crash in here never mixes old and new."""
        path, names = self._database.path, self._database.mailbox_names
        were_known = names is not None and names.is_known()
        if names is not None:
            names.forget()  # a mailbox that is found again may have any name
        for name in (CHECKPOINT_FILE, PROPERTIES):
            if (path / name).exists():
                (path / name).rename(before(path / name))
                flush_directory(path)  # a checkpoint in place must not meet the old tables
        # Not sooner: while the old checkpoint is there, others may write segments of these numbers.
        keep_first_new(path, first_new)
        for segment in [made for made in (self._work / STREAM).iterdir() if not made.is_symlink()]:
            segment.rename(path / STREAM / segment.name)
        flush_directory(path / STREAM)
        (self._work / PROPERTIES).rename(path / PROPERTIES)
        flush_directory(path / PROPERTIES)
        flush_directory(path)
        (self._work / CHECKPOINT_FILE).rename(path / CHECKPOINT_FILE)
        flush_directory(path)
        if names is not None and were_known:  # else the next mount looks for names that others have got since
            names.replace(self._mailbox_names)
