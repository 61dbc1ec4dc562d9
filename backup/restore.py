"""Restore: databases of a snapshot back to files, complete and checked before they replace anything.

The rules of DOMAIN.md "Backup" and "Recovery storage group": a database goes back only over the one of the
same GUID; while a recovery storage group is present a restore goes there, unless the override is set; the
recovery group takes mailbox stores of one source group only, of the same administrative group, from a known
version on.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple

from pillarbox.backup.database_snapshot import (
    SEGMENT_CHUNK_BYTES,
    Progress,
    StoredDatabase,
    StoredSegment,
    read_stored_chunks,
    read_stored_database,
    read_stored_segment,
    read_stored_segments,
)
from pillarbox.backup.replaced import put_away, replaced_beside
from pillarbox.backup.repository.damage import damaged_file
from pillarbox.backup.repository.pack import BlobId
from pillarbox.backup.repository.repository import Repository, Snapshot
from pillarbox.backup.snapshot import (
    FIRST_ADMINISTRATIVE_GROUP,
    OF_ANOTHER_PROGRAM,
    server_guid_of,
    snapshot_databases,
)
from pillarbox.store.access import Actor
from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.clock import Clock
from pillarbox.store.disk.env import DATA_FILE, Env
from pillarbox.store.disk.file_lock import REPLACING, FileLock
from pillarbox.store.disk.redo import read_redo
from pillarbox.store.disk.stream import Position, disk_error, flush_directory, parse_frame, segment_name
from pillarbox.store.disk.tables import DatabaseKind, refuse_unknown_layout
from pillarbox.store.engine.checkpointer import FlushedState, write_clean_checkpoint
from pillarbox.store.engine.database import LOCK, PROPERTIES, STREAM, Database, MountState
from pillarbox.store.engine.replay import TableWriter, mark_restored, read_state
from pillarbox.store.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    DiskFull,
    InvalidContent,
    InvalidName,
    NotFound,
    PillarboxError,
    Refused,
    WriterBusy,
)
from pillarbox.store.events import EventId
from pillarbox.store.ids import COUNTER_MAX, guid_text
from pillarbox.store.mail import folders
from pillarbox.store.names import name_key
from pillarbox.store.server_config import KIND_TEXTS
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.move_copies import take_for_unused, unused_copies
from pillarbox.store.upkeep.repair_rebuild import LostMessage

_UNFINISHED: Final = ".restoring"
_THREADS: Final = 4  # of which two work, as a rule, while the others wait for the disk to flush a file
# More than a database gives out between its last backup or capture and its loss.
_NUMBERS_LEFT_OUT: Final = 1 << 24
RECOVERY_TITLES: Final = {
    DatabaseKind.MAILBOX_STORE: "recovery storage group",
    DatabaseKind.PUBLIC_FOLDER_STORE: "public folder recovery group",
}
"""What a server's recovery group is called that takes databases of a kind."""


@dataclass(frozen=True)
class RestorableDatabase:
    """A database in a snapshot: what the manifest says of it, and its root tree.

    `server_guid` is empty where the snapshot was taken before servers had GUIDs.
    """

    guid: bytes
    name: str
    kind: DatabaseKind
    group: str
    server: str
    administrative_group: str
    layout: int
    root: BlobId
    server_guid: bytes = b""

    @property
    def source(self) -> RecoverySource:
        """The storage group that it comes from."""
        return RecoverySource(self.server, self.group, self.server_guid)


class RecoverySource(NamedTuple):
    """A storage group of a server; `server_guid` is empty where it is not known."""

    server: str
    group: str
    server_guid: bytes = b""

    def is_same(self, other: RecoverySource) -> bool:
        """True when both are one storage group: by the servers' GUIDs or, where one has none, their names."""
        if self.server_guid and other.server_guid:
            return (self.server_guid, self.group) == (other.server_guid, other.group)
        return (self.server, self.group) == (other.server, other.group)


@dataclass(frozen=True)
class RestoredDatabase:
    """A database that was restored, where its files are, those that they replaced, and messages that are lost
    because the snapshot is damaged (salvage.py).
    """

    guid: bytes
    name: str
    group: str
    path: Path
    replaced: Path | None = None
    lost: tuple[LostMessage, ...] = ()


Fill = Callable[..., tuple[LostMessage, ...]]


def restorable_databases(snapshot: Snapshot, names: Collection[str] = ()) -> list[RestorableDatabase]:
    """The databases of a snapshot, or those of the given names, in any case.

    Raises NotFound, InvalidContent.
    """
    found = [_restorable(snapshot, entry, root) for entry, root in snapshot_databases(snapshot)]
    wanted = {name_key(name): name for name in names}
    missing = wanted.keys() - {name_key(each.name) for each in found}
    if missing:
        raise NotFound(
            f"the snapshot has no database {wanted[min(missing)]!r}",
            hint="see what it holds with `pillarbox backup show`",
        )
    return [each for each in found if not names or name_key(each.name) in wanted]


def _restorable(snapshot: Snapshot, entry: Mapping[str, Any], root: BlobId) -> RestorableDatabase:
    manifest = snapshot.manifest
    try:
        return RestorableDatabase(
            entry["guid"],
            check_path_part(entry["name"]),
            DatabaseKind(entry["kind"]),
            check_path_part(str(manifest["group"])),
            str(manifest["server"]),
            str(manifest["administrative_group"]),
            int(manifest["layout"]),
            root,
            server_guid_of(snapshot),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidContent(
            f"a snapshot's database is described in a way that is not ours: {error}"
        ) from error


def check_path_part(name: str) -> str:
    """`name` itself when it is safe as the name of one folder, even from an enemy. Raises InvalidName."""
    too_long = len(name.encode(errors="replace")) > 255 - len(_UNFINISHED)
    if name in ("", ".", "..") or too_long or any(letter in "/\\\0" for letter in name):
        raise InvalidName(
            f"{name[:80]!r} cannot be the name of a folder", hint="the repository is not to be trusted"
        )
    return name


# --- rules --------------------------------------------------------------------------------------------------


class Destination(Enum):
    """Where a restore that names no directory goes."""

    ORIGINAL = "original"
    RECOVERY_GROUP = "recovery group"


@dataclass(frozen=True)
class ServerState:
    """The state of the server for the rules: the GUIDs of its databases, its recovery group and override.

    `recovery_source` is the storage group that the databases in the recovery group come from.
    """

    database_guids: Collection[bytes]
    administrative_group: str = FIRST_ADMINISTRATIVE_GROUP
    has_recovery_group: bool = False
    recovery_override: bool = False
    recovery_source: RecoverySource | None = None


def choose_destination(databases: Sequence[RestorableDatabase], server: ServerState) -> Destination:
    """Where a restore goes. Raises Refused when it may not go there, and Conflict for another GUID."""
    if server.has_recovery_group and not server.recovery_override:
        refuse_for_recovery(databases, server)
        return Destination.RECOVERY_GROUP
    for database in databases:
        refuse_layout(database)
        if database.guid not in server.database_guids:
            raise refuse_another_guid(database)
    return Destination.ORIGINAL


def refuse_another_guid(database: RestorableDatabase) -> Conflict:
    """The refusal to put a database over one that is not the same."""
    return Conflict(
        f"the server has no database of GUID {guid_text(database.guid)}, that of {database.name!r}",
        hint="restore it to a directory with --to, or make a recovery storage group",
    )


def refuse_for_recovery(
    databases: Sequence[RestorableDatabase],
    server: ServerState,
    kind: DatabaseKind = DatabaseKind.MAILBOX_STORE,
) -> None:
    """Raises Refused for what the recovery group that takes databases of a kind does not take."""
    title = RECOVERY_TITLES[kind]
    for database in databases:
        refuse_layout(database)
        if database.kind is not kind:
            raise Refused(
                f"{database.name!r} is no {KIND_TEXTS[kind]}; the {title} takes no other",
                hint=f"name {KIND_TEXTS[kind]}s, or have restores go over the server's databases:"
                " `pillarbox recovery override SERVER on`",
            )
        if database.administrative_group != server.administrative_group:
            raise Refused(
                f"{database.name!r} comes from administrative group {database.administrative_group!r}, "
                f"the server belongs to {server.administrative_group!r}"
            )
    sources = [database.source for database in databases]
    if server.recovery_source is not None:
        sources.append(server.recovery_source)
    if not all(source.is_same(sources[0]) for source in sources[1:]):
        raise Refused(
            f"the {title} holds databases of one storage group at a time",
            hint="remove those that are there with `pillarbox recovery dismount` first",
        )


def refuse_layout(database: RestorableDatabase) -> None:
    """Raise UnsupportedVersion for a database of an older or newer program than this one can mount."""
    refuse_unknown_layout(database.layout, database.name)


# --- to a directory -----------------------------------------------------------------------------------------


def restore_to_directory(
    repository: Repository,
    snapshot: Snapshot,
    directory: PathLike,
    *,
    names: Collection[str] = (),
    clock: Clock,
    thorough: bool = False,
    fill: Fill | None = None,
    progress: Progress | None = None,
) -> list[RestoredDatabase]:
    """Restore databases of a snapshot to `<directory>/<storage group>/<database>`, ready to be mounted.

    Each appears there complete, proven to be byte for byte what was backed up, or not at all. `thorough` also
    proves that what was backed up was whole: it runs the integrity check, which reads every message. `fill`
    takes the place of `restore_files`: `salvage_files` goes on over damage. `progress` is told bytes of the
    stream as they are written. Raises AlreadyExists, NotFound, DiskFull; WriterBusy while another process
    restores to the same place; Corrupt when the repository or what it holds is damaged.
    """
    directory = as_path(directory, "directory")
    restored = []
    chosen = restorable_databases(snapshot, names)
    for each in chosen:
        refuse_layout(each)
        path = directory / each.group / each.name
        _refuse_existing(path)
        restored.append(RestoredDatabase(each.guid, each.name, each.group, path))
    finished = []
    for database, done in zip(chosen, restored, strict=True):
        with _unfinished(done.path) as unfinished:
            _refuse_existing(done.path)  # another process may have been quicker
            write = fill or restore_files
            lost = write(repository, database, unfinished, clock=clock, thorough=thorough, progress=progress)
            rename_durably(unfinished, done.path)
        finished.append(replace(done, lost=lost))
    return finished


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise AlreadyExists(
            f"{path} exists already",
            hint="restore to another directory, or name the databases that are not there with --database",
        )


def rename_durably(path: Path, new: Path) -> None:
    """Move a finished directory to its place. Raises DiskFull, PillarboxError."""
    try:
        path.rename(new)
        flush_directory(new.parent)
    except OSError as error:
        raise disk_error(error, str(new)) from error


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A place beside `path` for what becomes it; what is left there in the end, or from before, goes.

    Raises WriterBusy while another process has it.
    """
    place = path.with_name(path.name + _UNFINISHED)
    descriptor = _take_place(place, path)
    try:
        _clear(place)
        yield place
    finally:
        if _is_at(place, descriptor):
            shutil.rmtree(place, ignore_errors=True)
        os.close(descriptor)


def _take_place(place: Path, path: Path) -> int:
    """Make a directory where it is missing, and lock it: nobody else then clears it. The open descriptor."""
    while True:
        try:
            make_directories(place)
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise disk_error(error, str(place)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise WriterBusy(
                f"{path} is being restored by another process", hint="wait until it has ended"
            ) from error
        if _is_at(place, descriptor):  # who had it may have put it into its place since it was opened
            return descriptor
        os.close(descriptor)


def make_directories(path: Path) -> None:
    """Make a directory and those above it that are missing, durably. Raises OSError."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in missing:
        flush_directory(made.parent)


def _clear(place: Path) -> None:
    try:
        for each in list(place.iterdir()):
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            else:
                each.unlink()
    except OSError as error:
        raise disk_error(error, str(place)) from error


def _is_at(place: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(place.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def restore_files(
    repository: Repository,
    database: RestorableDatabase,
    directory: PathLike,
    *,
    clock: Clock,
    thorough: bool,
    progress: Progress | None = None,
) -> tuple[LostMessage, ...]:
    """Write the files of one database into a new `directory`, cleanly closed, and prove that they mount.

    No message is ever lost: the empty answer is for what else fills a directory (salvage.py).
    They carry the restore mark. `thorough` is that of `restore_to_directory`. Raises Corrupt when anything is
    not what was backed up; the files must not be used then.
    """
    directory = as_path(directory, "directory")
    stored = read_restorable(repository, database)
    segments = read_stored_segments(repository, stored).values()
    try:
        (directory / PROPERTIES).mkdir(parents=True)
        (directory / STREAM).mkdir()
        _refuse_too_large(directory, stored, sum(each.size_bytes for each in segments))
        _write_files(repository, stored, directory, progress)
        for each in (directory / STREAM, directory / PROPERTIES, directory):
            flush_directory(each)
    except OSError as error:
        raise disk_error(error, str(directory)) from error
    close_cleanly(repository, stored, directory)
    _prove_whole(database, directory, clock, thorough)
    return ()


def read_restorable(repository: Repository, database: RestorableDatabase) -> StoredDatabase:
    """The root tree of a database. Raises Corrupt when it is another one's, NotFound, InvalidContent."""
    stored = read_stored_database(repository, database.root)
    if stored.guid != database.guid:
        raise damaged_file(f"the snapshot's tree for database {database.name!r} holds another database")
    return stored


def restore_records(
    repository: Repository,
    database: RestorableDatabase,
    directory: PathLike,
    *,
    progress: Progress | None = None,
) -> None:
    """Write the tables of one database into a new `directory`, and nothing else of it: to mount a snapshot.

    `progress` is told bytes of image and redo as they come.
    Raises Corrupt, NotFound, InvalidContent, DiskFull; what was written is of no use then.
    """
    directory = as_path(directory, "directory")
    stored = read_restorable(repository, database)
    try:
        (directory / PROPERTIES).mkdir(parents=True)
        _refuse_too_large(directory, stored)
        write_image(repository, stored, directory / PROPERTIES / DATA_FILE, progress)
        for each in (directory / PROPERTIES, directory):
            flush_directory(each)
    except OSError as error:
        raise disk_error(error, str(directory)) from error
    env = Env(directory / PROPERTIES)
    try:
        _apply_redo(repository, stored, env)
    finally:
        env.close()
    if progress is not None:
        progress(stored.redo_bytes)


def _refuse_too_large(directory: Path, stored: StoredDatabase, stream_bytes: int = 0) -> None:
    """Raises DiskFull now, not when all space is gone: an enemy's few blobs can stand for any size."""
    wanted_bytes = stored.image_bytes + stored.redo_bytes + stream_bytes
    free_bytes = shutil.disk_usage(directory).free
    if wanted_bytes > free_bytes:
        raise DiskFull(
            f"{directory}: {wanted_bytes} bytes are to be restored, {free_bytes} are free on the disk",
            hint="free some disk space, or restore to another disk",
        )


def _not_more(chunks: Iterable[bytes], size_bytes: int, what: str) -> Iterator[bytes]:
    """The chunks, for as long as they are no more than was said."""
    for chunk in chunks:
        size_bytes -= len(chunk)
        if size_bytes < 0:
            raise damaged_file(f"{what} is larger than the snapshot says")
        yield chunk


def _write_files(
    repository: Repository, stored: StoredDatabase, directory: Path, progress: Progress | None
) -> None:
    """The tables as of their image, and the stream; while one file is flushed the next is read.

    The image is one file, which one thread writes: it comes first, or all would wait for it in the end.
    """

    def write_segment(number: int, tree_id: BlobId) -> None:
        segment = read_stored_segment(repository, number, tree_id)
        _write_segment(repository, segment, directory / STREAM / segment_name(number), progress)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="pillarbox-restore") as threads:
        written = [threads.submit(write_image, repository, stored, directory / PROPERTIES / DATA_FILE)]
        written += [threads.submit(write_segment, *each) for each in stored.segments]
        try:
            for each in written:
                each.result()
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def write_image(
    repository: Repository, stored: StoredDatabase, path: Path, progress: Progress | None = None
) -> None:
    with path.open("wb") as file:
        chunks = read_stored_chunks(repository, stored.image)
        for chunk in _not_more(chunks, stored.image_bytes, "the image of the tables"):
            file.write(chunk)
            if progress is not None:
                progress(len(chunk))
        if file.tell() != stored.image_bytes:
            raise damaged_file(f"the image of the tables has {file.tell()} bytes, not {stored.image_bytes}")
        file.flush()
        os.fsync(file.fileno())


def _write_segment(
    repository: Repository, segment: StoredSegment, path: Path, progress: Progress | None
) -> None:
    places: dict[BlobId, list[int]] = {}
    for index, blob_id in enumerate(segment.chunks):
        places.setdefault(blob_id, []).append(index * SEGMENT_CHUNK_BYTES)
    with path.open("wb") as file:
        for blob_id, data in repository.read_many(places):
            for offset in places[blob_id]:
                if len(data) != min(SEGMENT_CHUNK_BYTES, segment.size_bytes - offset):
                    raise damaged_file(
                        f"a chunk of segment {segment.number} at {offset} has {len(data)} bytes"
                    )
                file.seek(offset)
                file.write(data)
                if progress is not None:
                    progress(len(data))
        file.flush()
        os.fsync(file.fileno())


def close_cleanly(repository: Repository, stored: StoredDatabase, directory: Path) -> None:
    """Bring the tables up to the snapshot's moment, set the restore mark, and write the checkpoint of a clean
    dismount.
    """
    env = Env(directory / PROPERTIES)
    try:
        _apply_redo(repository, stored, env)
        mark_restored(env)
        env.sync()
        pin = env.pin()
        env.keep(pin)
        flushed = FlushedState(stored.sequence, stored.position)
        write_clean_checkpoint(directory, stored.guid, env, pin.meta_pages, flushed)
    finally:
        env.close()


def _apply_redo(repository: Repository, stored: StoredDatabase, env: Env) -> None:
    """Bring tables from the moment of their image to that of the snapshot, durably."""
    env.make_missing_tables()  # the database may have been taken over by a newer program in between
    tables = TableWriter(env)
    chunks = read_stored_chunks(repository, stored.redo)
    frames = b"".join(_not_more(chunks, stored.redo_bytes, "the redo of a database"))
    offset = 0
    while offset < len(frames):
        frame = parse_frame(frames, offset, "the snapshot's redo")
        tables.add(read_redo(frame, Position(1, 0), "the snapshot's redo"))
        offset += frame.length
    tables.flush()
    sequence = read_state(env).sequence
    if sequence != stored.sequence:
        raise damaged_file(f"the restored tables end with transaction {sequence}, not {stored.sequence}")
    env.sync()


def _prove_whole(database: RestorableDatabase, directory: Path, clock: Clock, thorough: bool) -> None:
    restored = Database(directory, database.guid, database.name, database.kind, clock=clock)
    restored.mount(read_only=True)
    try:
        report = check_database(restored, Actor.task("restore")) if thorough else None
    finally:
        restored.dismount()
    if report is not None and not report.clean:
        raise Corrupt(
            f"database {database.name!r} as it was backed up is damaged: {report.findings[0]}",
            hint="restore an older snapshot, or repair the restored files of this one",
        )


# --- to the original place ----------------------------------------------------------------------------------


def restore_in_place(
    repository: Repository,
    snapshot: Snapshot,
    databases: Iterable[Database],
    *,
    names: Collection[str],
    kept_in: PathLike,
    server: ServerState,
    clock: Clock,
    fill: Fill | None = None,
    progress: Progress | None = None,
) -> list[RestoredDatabase]:
    """Put the named databases of a snapshot in the place of those of the same GUID among `databases`.

    All are restored and thoroughly checked before the first is dismounted; then they are exchanged, all or
    none, mounted when they were, and what they replace is kept in `kept_in` (replaced.py). `fill` is that of
    `restore_to_directory`. Change numbers
    and UIDs that were given out since the backup do not come again: numbers are left out, and folders get
    another UIDVALIDITY. Raises Conflict when none has the GUID, Refused when none is named or a recovery
    storage group stands in the way
    (`recovery_group.restore_to_server` restores to it), WriterBusy while another process has one mounted or
    restores it, and as `restore_to_directory`; what was there is there then.
    """
    kept_in = as_path(kept_in, "kept_in")
    if not names:
        raise Refused("no database to be replaced is named", hint="name those that are to be restored")
    chosen = restorable_databases(snapshot, names)
    if choose_destination(chosen, server) is not Destination.ORIGINAL:
        raise Refused(
            "a recovery storage group is present: restores go there",
            hint='set "Recovery SG Override" to 1 to restore in place',
        )
    targets = {database.guid: database for database in databases}
    put_back_interrupted(targets[each.guid] for each in chosen)
    for each in chosen:
        put_away(targets[each.guid].path, kept_in)  # of a restore that was killed after the exchange
    pairs = [(each, targets[each.guid]) for each in chosen]
    lost: dict[bytes, tuple[LostMessage, ...]] = {}
    for _, target in pairs:
        if target.state is not MountState.MOUNTED:
            with _kept_from_others(target):
                pass  # found now, and not when all is written
    with unfinished_all([target.path for _, target in pairs]) as places:
        for (each, _), place in zip(pairs, places, strict=True):
            write = fill or restore_files
            lost[each.guid] = write(repository, each, place, clock=clock, thorough=True, progress=progress)
        snapshots = repository.snapshots()
        for (_, target), place in zip(pairs, places, strict=True):
            restored = Database(place, target.guid, target.name, target.kind, clock=target.clock)
            go_on_with_new_numbers(restored, last_number(target, snapshots))
        exchange([(target, place) for (_, target), place in zip(pairs, places, strict=True)])
    finished = []
    for each, target in pairs:
        target.report(EventId.RESTORE_FINISHED, snapshot=snapshot.id)
        replaced = _put_away_or_leave(target.path, kept_in)
        done = RestoredDatabase(each.guid, each.name, each.group, target.path, replaced, lost[each.guid])
        finished.append(done)
    return finished


def _put_away_or_leave(database: Path, kept_in: Path) -> Path | None:
    """Where the files are that were replaced; on a disk without room for another directory, beside."""
    try:
        return put_away(database, kept_in)
    except PillarboxError:
        return replaced_beside(database)


def last_number(database: Database, snapshots: Iterable[Snapshot]) -> int:
    """The highest counter of change numbers that a database, or a backup of it, is known to have come to."""
    found = [0]
    for snapshot in snapshots:
        with suppress(*OF_ANOTHER_PROGRAM):
            states = [
                each.get("state") for each, _ in snapshot_databases(snapshot) if each["guid"] == database.guid
            ]
            found += [
                each[0] for each in states if isinstance(each, list) and each and isinstance(each[0], int)
            ]
    with suppress(PillarboxError), database.read(Actor.task("restore")) as read:
        found.append(read.state().counter)
    return max(each for each in found if each <= COUNTER_MAX // 2)


def go_on_with_new_numbers(restored: Database, last: int) -> None:
    """Let a restored database, which is not mounted, go on with numbers that nobody has seen.

    Clients, captures and merges know messages by change number or UID: what was given out after the backup,
    up to `last` or somewhat beyond, must not come to mean something else.
    """
    restored.mount()
    try:
        with restored.transaction(Actor.task("restore")) as txn:
            txn.leave_out_numbers(max(last, txn.counter) + _NUMBERS_LEFT_OUT)
            unused = unused_copies(txn)
            for folder_id in [record.folder_id for record in folders.all_of(txn)]:
                folders.renew_uid_validity(txn, folder_id)
            take_for_unused(txn, unused)
    finally:
        restored.dismount()


@contextmanager
def unfinished_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """A place beside each of `paths` for what becomes it; what is left in the end, or from before, goes."""
    if not paths:
        yield []
        return
    with _unfinished(paths[0]) as first, unfinished_all(paths[1:]) as rest:
        yield [first, *rest]


def exchange(pairs: Sequence[tuple[Database, Path]]) -> None:
    """Put restored files in the place of databases' own: of all of them or, when one cannot be, of none.

    Mounted before, a database is mounted after. The replaced files stay beside the restored ones when each of
    these is mounted, and are put back when one cannot be. Raises WriterBusy while another process has one
    mounted.
    """
    states = [target.state for target, _ in pairs]
    done: list[tuple[Database, Path]] = []
    try:
        for target, restored in pairs:
            target.dismount("it is being restored")
            with _kept_from_others(target):
                if target.mailbox_names is not None:
                    target.mailbox_names.forget()  # those of the backup are others
                _replace(target.path, restored)
            done.append((target, restored))
        _mount_as_before(pairs, states)
        for target, _ in pairs:
            _note_mailbox_names(target)
    except BaseException:
        for target, restored in done:
            target.dismount("its files are being put back")
            _put_back(target.path, restored)
        _mount_as_before(pairs, states)
        raise


def _note_mailbox_names(database: Database) -> None:
    """Write down the names of the mailboxes in a restored database, as each mount for writing does."""
    if database.mailbox_names is not None and database.state is MountState.DISMOUNTED:
        reason = database.dismount_reason
        database.mount()
        database.dismount(reason)


def put_back_interrupted(databases: Iterable[Database]) -> None:
    """Put back the files of databases that a crash during a restore in place left without any.

    A restore in place does it first; call it when a mount says that the files are not there, and
    `<database>.replaced` is beside them. Raises PillarboxError when the disk fails.
    """
    for database in databases:
        replaced = replaced_beside(database.path)
        if replaced.exists() and not database.path.exists():
            rename_durably(replaced, database.path)


@contextmanager
def _kept_from_others(database: Database) -> Iterator[None]:
    if not database.path.is_dir():
        yield
        return
    with closing(FileLock(database.path / LOCK, f"database {database.name}", database.clock, word=REPLACING)):
        yield


def _replace(path: Path, restored: Path) -> None:
    if path.exists():
        rename_durably(path, replaced_beside(path))
    try:
        rename_durably(restored, path)
    except BaseException:
        _put_back(path, restored)
        raise


def _put_back(path: Path, restored: Path) -> None:
    if path.exists() and not restored.exists():
        rename_durably(path, restored)
    if replaced_beside(path).exists():
        rename_durably(replaced_beside(path), path)


def _mount_as_before(pairs: Sequence[tuple[Database, Path]], states: Sequence[MountState]) -> None:
    for (target, _), was in zip(pairs, states, strict=True):
        if was is not MountState.DISMOUNTED:
            target.mount(read_only=was is MountState.READ_ONLY)
