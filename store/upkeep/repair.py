"""Repair: keep all that is whole of a damaged database, and say what is not (RELIABILITY.md, 2).

New tables are built beside the old ones, from what the old ones still tell and from the stream, or from the
whole stream when they tell nothing. Then everything that follows from something else is computed again. The
new tables take the place of the old ones only when a check finds nothing wrong with them. Segments of the
stream are never changed but for a damaged header, which says nothing that is not known; what else is damaged
there stays there, with nothing naming it.

What a repair changes is in no redo record: a repaired database needs a new full backup. Memory grows with
the number of messages, by some 200 bytes each.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from pillarbox.store.access import Actor
from pillarbox.store.content.blocks import Dictionaries, digest_of
from pillarbox.store.disk.checkpoint import (
    CHECKPOINT_FILE,
    Checkpoint,
    boot_identity,
    read_checkpoint,
    refuse_newer_program,
    write_checkpoint,
)
from pillarbox.store.disk.env import DATA_FILE, Env, put_back_meta_pages, scratch_env
from pillarbox.store.disk.file_lock import FileLock
from pillarbox.store.disk.frame_scan import scan_frames
from pillarbox.store.disk.redo import read_redo
from pillarbox.store.disk.stream import SEGMENT_HEADER_BYTES, FrameKind, Position, flush_directory
from pillarbox.store.disk.tables import (
    IDENTITY_KEY,
    LAYOUT_VERSION_MIN,
    PRIMARY,
    STATE_KEY,
    FolderRecord,
    Hidden,
    IdentityRecord,
    ItemRecord,
    MailboxRecord,
    ObjectKind,
    Record,
    SegmentRecord,
    StateRecord,
    Table,
    TombstoneRecord,
    decode_record,
    derived_entries,
    encode_record,
    id_key,
    pair_key,
    segment_key,
    split_pair_key,
)
from pillarbox.store.engine import content_store
from pillarbox.store.engine.changed_rows import ChangedTables
from pillarbox.store.engine.database import LOCK, PROPERTIES, STREAM, Database, MountState, empty_tables
from pillarbox.store.engine.transaction import Changes, DatabaseFiles, ReadTransaction
from pillarbox.store.errors import Corrupt, NotFound, PillarboxError, Refused, UnsupportedVersion
from pillarbox.store.events import EventId
from pillarbox.store.ids import LOCAL_BASE, counter_of, guid_text, id_text, local_counter
from pillarbox.store.mail.counters import FolderSums, MailboxSums
from pillarbox.store.mail.folders import GENERIC, all_of
from pillarbox.store.mail.mailboxes import CONNECTED, STANDARD_FOLDERS
from pillarbox.store.names import name_key
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.check_findings import Finding
from pillarbox.store.upkeep.last_check import keep_last_check

WORK: Final = "repair.new"
BEFORE: Final = ".before-repair"
RECOVERED: Final = "Recovered"
_ROWS_PER_APPLY: Final = 20_000


_DamagedRows = dict[tuple[int, bytes], bytes]  # (table, key): value, as they were found


class LostMessage(NamedTuple):
    """A message whose content is damaged, and which is therefore gone."""

    folder: str
    uid: int
    subject: str
    sender: str
    internet_message_id: str
    reason: str


class RepairReport(NamedTuple):
    """What a repair kept, what it could not, and what stays damaged in the stream.

    `from_stream` tells that the tables were of no use; `dropped` names damaged records and stretches of the
    stream in words; `unheld` counts contents that no message holds and that were let go.
    """

    kept: int
    lost: tuple[LostMessage, ...]
    from_stream: bool
    dropped: tuple[str, ...]
    restored: tuple[str, ...]
    unheld: int
    damaged_stream: tuple[Finding, ...]


def repair_database(database: Database) -> RepairReport:
    """Rebuild the tables of a dismounted database; the old ones stay until the new ones are proved.

    Takes as much free disk space as the property file twice. Raises Refused when it is mounted, WriterBusy
    when another process has it, DiskFull, UnsupportedVersion for records of a newer program, and Corrupt when
    the new tables fail the check: then all is as it was.
    """
    if database.state is not MountState.DISMOUNTED:
        raise Refused(f"database {database.name} is mounted", hint="dismount it first: `pillarbox dismount`")
    if not (database.path / STREAM).is_dir():
        raise NotFound(f"there is no database at {database.path}", hint="restore it from a backup")
    refuse_newer_program(database.path)
    lock = FileLock(database.path / LOCK, f"database {database.name}", database.clock)
    try:
        _undo_interrupted(database.path)
        report = _Repair(database).run()
    finally:
        shutil.rmtree(database.path / WORK, ignore_errors=True)
        lock.close()
    keep_last_check(database, 0)  # the new tables were proved
    database.report(EventId.REPAIR_FINISHED, kept=report.kept, lost=len(report.lost))
    return report


def _undo_interrupted(path: Path) -> None:
    """Put back what a repair that was interrupted while it replaced the files had moved away."""
    shutil.rmtree(path / WORK, ignore_errors=True)
    checkpoint, properties = path / CHECKPOINT_FILE, path / PROPERTIES
    old_checkpoint, old_properties = _before(checkpoint), _before(properties)
    if not checkpoint.exists():
        if old_properties.exists():
            shutil.rmtree(properties, ignore_errors=True)
            old_properties.rename(properties)
        if old_checkpoint.exists():
            old_checkpoint.rename(checkpoint)
    _remove_old(path)


def _remove_old(path: Path) -> None:
    shutil.rmtree(_before(path / PROPERTIES), ignore_errors=True)
    _before(path / CHECKPOINT_FILE).unlink(missing_ok=True)


def _before(path: Path) -> Path:
    return path.with_name(path.name + BEFORE)


class _Repair:
    """One run: gather what is whole, rebuild, prove, replace."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stream = database.stream
        self._work = database.path / WORK
        self._dropped: list[str] = []
        self._sequence = 0
        self._unreadable = ""
        self._mailbox_names: dict[bytes, bytes] = {}

    def run(self) -> RepairReport:
        headers = self._restore_headers()
        from_stream = not self._try_tables()
        if from_stream:
            self._start_anew()
            self._dropped.append(f"the tables: {self._unreadable}")
            with scratch_env(self._work / PROPERTIES) as env:
                empty_tables(env)
                self._replay(env, 0)
                rebuild = self._rebuild(env)
        else:
            with scratch_env(self._work / PROPERTIES) as env:
                rebuild = self._rebuild(env)
        damaged = self._prove()
        self._replace()
        return RepairReport(
            rebuild.kept,
            tuple(rebuild.lost),
            from_stream,
            tuple(self._dropped),
            (*headers, *rebuild.restored),
            rebuild.unheld,
            damaged,
        )

    def _restore_headers(self) -> list[str]:
        """Without its header nothing of a segment can be read, however whole it is."""
        return [
            f"the header of {self._stream.path(segment)}"
            for segment in self._stream.segments()
            if self._stream.restore_header(segment)
        ]

    def _start_anew(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir()
        self._dropped.clear()
        self._sequence = 0

    # -- gathering

    def _try_tables(self) -> bool:
        """Take over every record of the old tables that is whole; False when they cannot be read."""
        self._start_anew()
        source = self._work / "source"
        try:
            self._copy_properties(source)
            with scratch_env(source) as old, scratch_env(self._work / PROPERTIES) as env:
                damaged = self._copy_records(old, env)
                with env.view() as view:
                    state: Any = decode_record(Table.META, STATE_KEY, view.get(Table.META, STATE_KEY) or b"")
                self._replay(env, state.sequence, damaged)
        except UnsupportedVersion:
            raise  # tables of a newer program are no damage
        except (PillarboxError, OSError, ValueError) as error:
            self._unreadable = str(error)
            return False
        finally:
            shutil.rmtree(source, ignore_errors=True)
        return True

    def _copy_properties(self, target: Path) -> None:
        checkpoint = read_checkpoint(self._database.path)
        target.mkdir()
        shutil.copyfile(self._database.path / PROPERTIES / DATA_FILE, target / DATA_FILE)
        if not checkpoint.clean and checkpoint.boot != boot_identity():
            put_back_meta_pages(target, checkpoint.meta_pages)

    def _copy_records(self, old: Env, env: Env) -> _DamagedRows:
        """The rows that are not whole; the stream may still tell what they were."""
        damaged: _DamagedRows = {}
        with old.view() as view:
            for table in PRIMARY:
                rows: dict[bytes, bytes | None] = {}
                for key, value in view.scan(table, b"", None):
                    try:
                        decode_record(table, key, value)
                    except Corrupt:
                        damaged[table, key] = value
                        continue
                    rows[key] = value
                    if len(rows) >= _ROWS_PER_APPLY:
                        env.apply({table: rows})
                        rows = {}
                env.apply({table: rows})
        return damaged

    def _replay(self, env: Env, held: int, damaged: _DamagedRows | None = None) -> None:
        """Put the rows of all whole redo records into the tables: those after `held`, and of damaged rows.

        A row is damaged in its value, or in its key, and then its value tells which one it was.
        """
        changes: Changes = ChangedTables()
        waiting = dict(damaged or {})
        by_value = {(table, value): key for (table, key), value in waiting.items()}
        unknown = set(waiting)
        rows_count = 0
        self._sequence = held
        for sequence, rows in self._redo():
            self._sequence = max(self._sequence, sequence)
            for number, key, value in rows:
                of_this_value = None if value is None else by_value.get((number, value))
                if sequence > held or (number, key) in waiting or of_this_value is not None:
                    changes[Table(number)][key] = value
                    if of_this_value is not None:
                        waiting.pop((number, of_this_value), None)
                        unknown.discard((number, of_this_value))
                    waiting.pop((number, key), None) if sequence > held else None
                    rows_count += 1
            if rows_count >= _ROWS_PER_APPLY:
                env.apply(changes)
                changes, rows_count = ChangedTables(), 0
        env.apply(changes)
        self._name_unknown(env, unknown)

    def _name_unknown(self, env: Env, damaged: set[tuple[int, bytes]]) -> None:
        with env.view() as view:
            for number, key in sorted(damaged):
                if view.get(Table(number), key) is None:
                    self._dropped.append(f"{Table(number).name.lower()}[{key.hex()}] is damaged")

    def _redo(self) -> Iterator[tuple[int, tuple[tuple[int, bytes, bytes | None], ...]]]:
        """Every whole transaction of every segment, in order; what is damaged is named and passed over."""
        for segment in self._stream.segments():
            path = str(self._stream.path(segment))
            for offset, length, frame in scan_frames(self._stream, segment):
                if frame is None:
                    self._dropped.append(f"{length} bytes at {offset} of {path} are no whole frame")
                elif frame.kind == FrameKind.REDO:
                    try:
                        redo = read_redo(frame, Position(segment, offset + length), path)
                    except Corrupt as error:
                        self._dropped.append(str(error))
                        continue
                    yield redo.sequence, redo.rows

    # -- rebuilding and replacing

    def _rebuild(self, env: Env) -> _Rebuild:
        rebuild = _Rebuild(self._database, env, self._sequence, records_lost=bool(self._dropped))
        rebuild.run()
        env.sync()
        pin = env.pin()
        pin.transaction.abort()
        numbers = self._stream.segments()
        # A segment of its own: what stands at the end of the last one may be damaged, and stays as it is.
        position = Position(max(numbers, default=0) + 1, SEGMENT_HEADER_BYTES)
        self._checkpoint = Checkpoint(
            self._database.guid, True, boot_identity(), self._sequence, position, pin.meta_pages
        )
        write_checkpoint(self._work, self._checkpoint)
        return rebuild

    def _prove(self) -> tuple[Finding, ...]:
        """Check the new tables; damage of the stream itself is all that may be left."""
        (self._work / STREAM).symlink_to((self._database.path / STREAM).absolute())
        old = self._database
        proved = Database(self._work, old.guid, old.name, old.kind, clock=old.clock, rng=old.rng)
        proved.mount(read_only=True)
        try:
            findings = check_database(proved, Actor.task("repair")).findings
            with proved.read(Actor.task("repair")) as read:
                self._mailbox_names = dict(read.indexes(Table.MAILBOX_NAME, b"", None))
        finally:
            proved.dismount()
        for finding in findings:
            if finding.table:
                raise Corrupt(f"the repaired tables are not whole: {finding}; nothing was changed")
        work, path = str(self._work), str(old.path)
        return tuple(finding._replace(file=finding.file.replace(work, path, 1)) for finding in findings)

    def _replace(self) -> None:
        """Without a checkpoint nothing mounts, so that a crash in here never mixes old and new."""
        path, names = self._database.path, self._database.mailbox_names
        if names is not None:
            names.forget()  # a mailbox that is found again may have any name
        for name in (CHECKPOINT_FILE, PROPERTIES):
            if (path / name).exists():
                (path / name).rename(_before(path / name))
                flush_directory(path)
        try:
            flush_directory(self._work / PROPERTIES)
            (self._work / PROPERTIES).rename(path / PROPERTIES)
            flush_directory(path)  # a checkpoint in place must not meet the old tables
            write_checkpoint(path, self._checkpoint)
        except BaseException:
            _undo_interrupted(path)
            raise
        if names is not None:
            names.replace(self._mailbox_names)
        _remove_old(path)


class _Rebuild:
    """Makes the tables agree with one another and with the stream, from the records that are there."""

    def __init__(self, database: Database, env: Env, sequence: int, *, records_lost: bool) -> None:
        self._records_lost = records_lost
        self._database = database
        self._env = env
        self._sequence = sequence
        self._now_ms = database.clock.now_ms()
        self._files = DatabaseFiles(database.guid, env, database.stream, Dictionaries(), database.rng)
        self._changes: Changes = ChangedTables()
        self._rows = 0
        self._counter = 0
        self._whole: dict[bytes, int] = {}
        self._problems: dict[bytes, str] = {}
        self._blocks: Counter[bytes] = Counter()
        self._folders: dict[int, FolderSums] = {}
        self._totals = [0, 0]  # content bytes, live bytes
        self.kept = 0
        self.unheld = 0
        self.lost: list[LostMessage] = []
        self.restored: list[str] = []

    def run(self) -> None:
        self._find_counter()
        self._check_identity()
        self._prove_content()
        self._sum_items()
        self._restore_standard_folders()
        self._restore_folders()
        self._restore_mailboxes()
        self._count_folders_and_mailboxes()
        self._count_references()
        self._count_segments()
        self._write_state()
        self._derive()

    @contextmanager
    def _reading(self) -> Iterator[ReadTransaction]:
        self._flush()
        with ReadTransaction(self._files, self._env.view(), Actor.task("repair")) as reader:
            yield reader
        self._flush()

    def _put(self, table: Table, key: bytes, record: Record | None) -> None:
        value = None if record is None else encode_record(table, key, record)
        self._put_value(table, key, value)

    def _put_value(self, table: Table, key: bytes, value: bytes | None) -> None:
        self._changes[table][key] = value
        self._rows += 1
        if self._rows >= _ROWS_PER_APPLY:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._env.apply(self._changes)
            self._changes, self._rows = ChangedTables(), 0

    def _next_cn(self) -> int:
        self._counter += 1
        return LOCAL_BASE | self._counter

    def _find_counter(self) -> None:
        """No number may be given out a second time."""
        with self._reading() as reader:
            state: StateRecord | None = reader.record(Table.META, STATE_KEY)
            highest = state.counter if state else 0
            for _, item in reader.records(Table.ITEM, b"", None):
                highest = max(highest, *map(local_counter, (item.modseq, item.message_id)))
            for _, found in reader.records(Table.FOLDER, b"", None):
                numbers = found.highest_cn, found.change_cn, found.folder_id
                highest = max(highest, *map(local_counter, numbers))
            for _, box in reader.records(Table.MAILBOX, b"", None):
                highest = max(highest, local_counter(box.change_cn))
            for key, _ in reader.records(Table.TOMBSTONE, b"", None):
                highest = max(highest, local_counter(split_pair_key(key)[1]))
        self._counter = highest

    def _check_identity(self) -> None:
        with self._reading() as reader:
            if reader.record(Table.META, IDENTITY_KEY) is None:
                made = IdentityRecord(
                    layout_version=LAYOUT_VERSION_MIN,  # every upgrade step is taken at the next mount
                    guid=self._database.guid,
                    kind=self._database.kind,
                    created_ms=self._now_ms,
                    roots={},
                )
                self._put(Table.META, IDENTITY_KEY, made)
                self.restored.append("the identity of the database")

    # -- messages

    def _prove_content(self) -> None:
        with self._reading() as reader:
            for key, record in reader.records(Table.DICTIONARY, b"", None):
                try:
                    frame = self._database.stream.read(record.segment, record.offset, record.length)
                    self._files.dictionaries.add(int.from_bytes(key, "big"), frame.payload)
                except PillarboxError as error:
                    self.restored.append(f"dictionary {int.from_bytes(key, 'big')} is lost: {error}")
                    self._put(Table.DICTIONARY, key, None)
            for key, _ in reader.records(Table.CONTENT, b"", None):
                try:
                    if digest_of(content_store.read(reader, key)) != key:
                        raise Corrupt("its bytes are not those that were stored")
                    self._whole[key] = 0
                except (PillarboxError, ValueError, TypeError) as error:
                    self._problems[key] = str(error)

    def _sum_items(self) -> None:
        with self._reading() as reader:
            for key, item in reader.records(Table.ITEM, b"", None):
                if item.digest not in self._whole:
                    self._remove(reader, key, item)
                    continue
                self._whole[item.digest] += 1
                self.kept += 1
                self._folders.setdefault(item.folder_id, FolderSums()).add(item)

    def _remove(self, reader: ReadTransaction, key: bytes, item: ItemRecord) -> None:
        """Take a message out whose content is lost; who follows the folder is told as of any deletion."""
        reason = self._problems.get(item.digest, "the record of its content is lost")
        found: FolderRecord | None = reader.record(Table.FOLDER, id_key(item.folder_id))
        name = id_text(item.folder_id)
        if found is not None:
            box: MailboxRecord | None = reader.record(Table.MAILBOX, found.mailbox) if found.mailbox else None
            name = f"{box.name}: {found.name}" if box else found.name
        self.lost.append(
            LostMessage(name, item.uid, item.subject, item.sender, item.internet_message_id, reason)
        )
        self._put(Table.ITEM, key, None)
        cn = self._next_cn()
        gone = TombstoneRecord(
            kind=ObjectKind.MESSAGE_GONE,
            object_id=item.message_id,
            uid=item.uid,
            deleted_ms=self._now_ms,
            moved_to=0,
            arrived_cn=item.arrived_cn,
        )
        self._put(Table.TOMBSTONE, pair_key(item.folder_id, cn), gone)
        self._folders.setdefault(item.folder_id, FolderSums()).note(item.uid, cn)

    # -- folders and mailboxes

    def _folder(self, folder_id: int, mailbox: bytes, parent_id: int, name: str) -> FolderRecord:
        validity = counter_of(folder_id) & 0xFFFFFFFF or 1
        record = FolderRecord(
            folder_id=folder_id,
            mailbox=mailbox,
            parent_id=parent_id,
            name=name,
            kind=GENERIC,
            uid_validity=validity,
            uid_next=1,
            messages_count=0,
            unread_count=0,
            size=0,
            highest_cn=folder_id,
            change_cn=self._next_cn(),
            created_ms=self._now_ms,
            properties={},
        )
        self._put(Table.FOLDER, id_key(folder_id), record)
        return record

    def _restore_standard_folders(self) -> None:
        """Lost folders that a mailbox's record names have their place and their name."""
        with self._reading() as reader:
            for guid, box in reader.records(Table.MAILBOX, b"", None):
                taken = {name_key(each.name) for each in all_of(reader) if each.parent_id == box.root_id}
                if reader.record(Table.FOLDER, id_key(box.root_id)) is None:
                    self._folder(box.root_id, guid, 0, guid_text(guid))
                    self.restored.append(f"the root folder of mailbox {box.name}")
                for role, folder_id in box.roles.items():
                    if reader.record(Table.FOLDER, id_key(folder_id)) is None:
                        name = STANDARD_FOLDERS.get(role, role)
                        if name_key(name) in taken:
                            name = f"{RECOVERED} {id_text(folder_id)}"
                        self._folder(folder_id, guid, box.root_id, name)
                        self.restored.append(f"folder {name} of mailbox {box.name}")

    def _restore_folders(self) -> None:
        """Folders that messages name and that are lost get a record again, in a place of their own."""
        with self._reading() as reader:
            lost = [
                folder_id
                for folder_id, sums in self._folders.items()
                if sums.messages and reader.record(Table.FOLDER, id_key(folder_id)) is None
            ]
            if not lost:
                return
            identity: Any = reader.record(Table.META, IDENTITY_KEY)
            is_public = identity is not None and not any(reader.records(Table.MAILBOX, b"", None))
            mailbox, root_id = b"", 0
            if is_public and identity.roots:
                root_id = next(iter(identity.roots.values()))
            elif not is_public:
                mailbox = self._files.rng.getrandbits(128).to_bytes(16, "big")
                root_id = self._folder(self._next_cn(), mailbox, 0, guid_text(mailbox)).folder_id
            for folder_id in lost:
                name = f"{RECOVERED} {id_text(folder_id)}"
                self._folder(folder_id, mailbox, root_id, name)
                self.restored.append(f"folder {name}")

    def _restore_mailboxes(self) -> None:
        """A mailbox is known by its root folder too; a folder whose parent is lost goes to the root."""
        with self._reading() as reader:
            folders = {
                record.folder_id: record
                for _, record in reader.records(Table.FOLDER, b"", None)
                if record.hidden != Hidden.REMOVED
            }
            roots = {each.mailbox: each for each in folders.values() if each.mailbox and not each.parent_id}
            for guid in sorted({each.mailbox for each in folders.values() if each.mailbox}):
                root = roots.get(guid) or self._folder(self._next_cn(), guid, 0, guid_text(guid))
                roots[guid] = folders[root.folder_id] = root
                if reader.record(Table.MAILBOX, guid) is None:
                    self._restore_mailbox(guid, root, folders)
            for record in list(folders.values()):
                parent = folders.get(record.parent_id)
                if record.parent_id and (parent is None or parent.mailbox != record.mailbox):
                    parent_id = roots[record.mailbox].folder_id if record.mailbox else 0
                    name = f"{RECOVERED} {id_text(record.folder_id)}"
                    moved = record._replace(parent_id=parent_id, name=name, change_cn=self._next_cn())
                    self._put(Table.FOLDER, id_key(record.folder_id), moved)
                    self.restored.append(f"folder {record.name} as {name}")

    def _restore_mailbox(self, guid: bytes, root: FolderRecord, folders: dict[int, FolderRecord]) -> None:
        """Its name is lost, and the standard folders are known by theirs."""
        roles = {
            role: each.folder_id
            for role, title in STANDARD_FOLDERS.items()
            for each in folders.values()
            if each.mailbox == guid and each.name == title and each.parent_id == root.folder_id
        }
        for role, title in STANDARD_FOLDERS.items():
            if role not in roles:
                made = self._folder(self._next_cn(), guid, root.folder_id, title)
                roles[role] = made.folder_id
                folders[made.folder_id] = made
        name = f"{RECOVERED} {guid_text(guid)}"
        record = MailboxRecord(
            guid=guid,
            name=name,
            user=b"",
            state=CONNECTED,
            disconnected_ms=0,
            root_id=root.folder_id,
            roles=roles,
            size=0,
            messages_count=0,
            change_cn=self._next_cn(),
            properties={},
        )
        self._put(Table.MAILBOX, guid, record)
        self.restored.append(f"mailbox {name}")

    def _count_folders_and_mailboxes(self) -> None:
        mailboxes: dict[bytes, MailboxSums] = {}
        with self._reading() as reader:
            for key, _ in reader.records(Table.TOMBSTONE, b"", None):
                folder_id, cn = split_pair_key(key)
                self._folders.setdefault(folder_id, FolderSums()).note(0, cn)
            for key, record in reader.records(Table.FOLDER, b"", None):
                if record.hidden == Hidden.REMOVED:
                    continue
                sums = self._folders.get(record.folder_id, FolderSums())
                mailboxes.setdefault(record.mailbox, MailboxSums()).add(sums.counts)
                self._put(Table.FOLDER, key, sums.corrected(record))
            for key, record in reader.records(Table.MAILBOX, b"", None):
                self._put(Table.MAILBOX, key, mailboxes.get(key, MailboxSums()).corrected(record))
            for key, _ in reader.records(Table.SEEN, b"", None):
                if reader.view.get(Table.FOLDER, key[:8]) is None:
                    self._put(Table.SEEN, key, None)

    # -- content

    def _count_references(self) -> None:
        with self._reading() as reader:
            for key, record in reader.records(Table.CONTENT, b"", None):
                held = self._whole.get(key, 0)
                self.unheld += key in self._whole and not held
                self._put(Table.CONTENT, key, record._replace(references=held) if held else None)
                if held:
                    self._blocks.update(digest for part in record.parts for digest in part[4])
            for key, record in reader.records(Table.BLOCK, b"", None):
                held = self._blocks[key]
                self._put(Table.BLOCK, key, record._replace(references=held) if held else None)

    def _count_segments(self) -> None:
        live: Counter[int] = Counter()
        with self._reading() as reader:
            for table in (Table.CONTENT, Table.BLOCK, Table.DICTIONARY):
                for _, record in reader.records(table, b"", None):
                    live[record.segment] += record.length
            for key, _ in reader.records(Table.SEGMENT, b"", None):
                self._put(Table.SEGMENT, key, None)
        for number in self._database.stream.segments():
            content_bytes = sum(
                length
                for _, length, frame in scan_frames(self._database.stream, number)
                if frame is not None and frame.kind != FrameKind.REDO
            )
            if content_bytes or live[number]:
                record = SegmentRecord(content_bytes=content_bytes, live_bytes=live[number])
                self._put(Table.SEGMENT, segment_key(number), record)
            self._totals[0] += content_bytes
            self._totals[1] += live[number]

    def _write_state(self) -> None:
        with self._reading() as reader:
            old: StateRecord | None = reader.record(Table.META, STATE_KEY)
            state = StateRecord(
                sequence=self._sequence,
                counter=self._counter,
                content_bytes=self._totals[0],
                live_bytes=self._totals[1],
                checked_ms=old.checked_ms if old else 0,
                restored=self._records_lost or bool(self.lost) or old is None or old.restored,
                above_limit_ms=old.above_limit_ms if old else 0,
            )
            self._put(Table.META, STATE_KEY, state)

    def _derive(self) -> None:
        with self._reading() as reader:
            for table in PRIMARY:
                for key, record in reader.records(table, b"", None):
                    for (index, index_key), value in derived_entries(table, key, record).items():
                        self._put_value(index, index_key, value)
