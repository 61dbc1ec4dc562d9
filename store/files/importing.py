"""Import of mail files into a mailbox or the public folders: mbox, Maildir, EML, directories of these.

Each mbox file and each directory becomes a folder of its name, a directory's inner folders below it; a lone
EML file goes to the Inbox, which public folders do not have. Messages are committed in batches; in a large
import other processes make the next messages ready meanwhile (`prepare_processes`).

An import may be run again, after an interruption or to fetch what has come since: what its folder already
holds, byte for byte and as often as the source does, is not added again. Nothing is kept for this: the
folders themselves are what the source is compared with, so an import cannot remember what was never written.
What a user deleted or moved out of the folder meanwhile therefore comes again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from pillarbox.store.access import Actor
from pillarbox.store.arguments import PathLike, as_path, check_several
from pillarbox.store.batches import batches
from pillarbox.store.disk.tables import Table
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import InvalidContent, PillarboxError, Refused
from pillarbox.store.events import EventId
from pillarbox.store.files.eml import MailKind, classify, read_eml, read_tree
from pillarbox.store.files.mail_item import MailItem, path_text
from pillarbox.store.files.maildir import is_named_as_mail, read_maildir
from pillarbox.store.files.mbox import Dialect, read_mbox
from pillarbox.store.files.prepare_processes import prepare_all
from pillarbox.store.mail import folders, mailboxes, messages, public_folders
from pillarbox.store.mail.flags import SEEN
from pillarbox.store.mail.messages import PreparedMessage
from pillarbox.store.names import folder_name
from pillarbox.store.upkeep.maintenance import train_dictionary

BATCH_MESSAGES: Final = 1024
BATCH_BYTES: Final = 16 << 20
# Enough to train a dictionary on, and early: what was stored before it stays as it is.
_TRAIN_AFTER_MESSAGES: Final = 1000
# An archive of nothing but broken files must not fill the memory with its own report.
_LISTED_MAX: Final = 10_000

FolderPath = tuple[str, ...]
Found = tuple[FolderPath, MailItem]


class Remark(NamedTuple):
    """Something wrong with a message or file: `source` is the file, `position` the byte offset in it."""

    source: str
    position: int
    reason: str


class ImportProgress(NamedTuple):
    """The progress of an import. `bytes_total` counts the files and is about what `bytes_read` ends at."""

    messages_read: int
    bytes_read: int
    bytes_total: int
    source: str


class ImportReport(NamedTuple):
    """The outcome of an import.

    `messages_count` were added, the `damaged_count` damaged ones among them; `present_count` were in their
    folder already. `damaged`, `unreadable` (files nothing could be read of) and `passed_over` (files in
    directories that are no mail) list the first 10,000 each.
    """

    messages_count: int
    present_count: int
    size_bytes: int
    folders: tuple[FolderPath, ...]
    damaged_count: int
    damaged: tuple[Remark, ...]
    unreadable_count: int
    unreadable: tuple[Remark, ...]
    passed_over_count: int
    passed_over: tuple[Remark, ...]


def import_mail(
    database: Database,
    actor: Actor,
    mailbox_guid: bytes,
    paths: PathLike | Iterable[PathLike],
    *,
    given: Sequence[MailItem] = (),
    dialect: Dialect | None = None,
    progress: Callable[[ImportProgress], None] | None = None,
    processes: int | None = 0,
) -> ImportReport:
    """Import mail files into a mailbox, or with no GUID into the public folders of a public folder store.

    `paths` are one path or many, each a str or a Path.
    Messages that are `given` are in no file: they go to the Inbox, like lone EML files, before all others.

    Every batch is durable when `progress` is next called. In public folders what was read by whom the files
    are of is unread: read state is each user's own there.

    A database without a zstd dictionary gets one, if it pays, from the first thousand messages on. In a
    large import up to `processes` other processes help (`prepare_processes`); None: as many as keep the cores
    busy. A damaged message is imported as it is. A file that cannot be read is listed, and the others go on.
    `dialect` is that of the mbox files, found by looking at each when None. `progress` is called in this
    thread after each batch. Raises NotFound for a mailbox or path that is not there, Refused for a lone EML
    file or a mailbox store without a GUID (before anything is imported), Dismounted, DiskFull; what was
    committed before stays, and the same import goes on there.
    """
    files = MailFiles(paths, dialect)
    total = files.total_bytes() if progress else 0

    def tell(at: ImportProgress) -> None:
        if progress:
            progress(at._replace(bytes_total=total))

    given_first: Iterator[Found] = (((), item) for item in given)
    report = import_found(
        database,
        actor,
        mailbox_guid,
        chain(given_first, files),
        lone=[*(item.source for item in given), *files.lone],
        progress=tell,
        processes=processes,
    )
    return report._replace(
        unreadable_count=files.unreadable.count,
        unreadable=tuple(files.unreadable.listed),
        passed_over_count=files.passed_over.count,
        passed_over=tuple(files.passed_over.listed),
    )


def import_found(
    database: Database,
    actor: Actor,
    mailbox_guid: bytes,
    found: Iterable[Found],
    *,
    lone: Iterable[str] = (),
    progress: Callable[[ImportProgress], None] | None = None,
    processes: int | None = 0,
) -> ImportReport:
    """Import messages that were found, each with the path of its folder, empty for the Inbox.

    `lone` are the sources of those that go to the Inbox, as far as they are known before. The report lists no
    files, and `progress` knows no `bytes_total`: who reads files knows of them. All else is as in
    `import_mail`.
    """
    with database.read(actor) as read:
        if mailbox_guid:
            name = mailboxes.get(read, mailbox_guid).name
        else:
            public_folders.root_id(read)
            name = f"/{database.label}"
            _refuse_lone_messages(lone)
    run = _Import(database, actor, mailbox_guid)
    with closing(prepare_all(database.files, iter(found), _raw_of, processes)) as ready:
        for batch in batches(ready, lambda each: len(each[1].raw), BATCH_MESSAGES, BATCH_BYTES):
            run.commit(batch)
            run.train_when_due()
            if progress:
                last = batch[-1][0][1].source
                progress(ImportProgress(run.read_count, run.read_bytes, 0, last))
    report = run.report()
    _report_event(database, name, report)
    return report


class MailFiles:
    """Mail in files: iterating over it gives each message with the path of its folder, as they are read.

    `unreadable` and `passed_over` list what was met on the way that is no mail, or could not be read; `lone`
    are the EML files, which go to no folder.
    """

    def __init__(self, paths: PathLike | Iterable[PathLike], dialect: Dialect | None = None) -> None:
        """`paths` are one path or many, `dialect` is that of the mbox files. Raises NotFound."""
        several = [paths] if isinstance(paths, str | os.PathLike) else paths
        check_several(several, "paths", "a path or a list of paths")
        self.unreadable = Remarks()
        self.passed_over = Remarks()
        self._dialect = dialect
        self._paths = [as_path(path, "paths") for path in several]
        kinds = [_kind(path, self.unreadable) for path in self._paths]
        self._sources = [(path, kind) for path, kind in zip(self._paths, kinds, strict=True) if kind]
        self.lone = [path_text(path) for path, kind in self._sources if kind == "eml"]

    def total_bytes(self) -> int:
        """The size of all files, as far as they can be seen."""
        return sum(_tree_bytes(path) for path in self._paths)

    def __iter__(self) -> Iterator[Found]:
        for path, item in _read_all(self._sources, self._dialect, self.unreadable, self.passed_over):
            if item.damage and not item.raw:
                self.unreadable.add(item.source, item.position, item.damage)
            else:
                yield path, item


def _refuse_lone_messages(sources: Iterable[str]) -> None:
    for source in sources:
        raise Refused(
            f"{source}: public folders have no Inbox that a lone message could go to",
            hint="put it into a directory: that becomes a folder of its name",
        )


class Remarks:
    """The remarks to be listed, up to an upper bound."""

    def __init__(self) -> None:
        self.count = 0
        self.listed: list[Remark] = []

    def add(self, source: str, position: int, reason: str) -> None:
        self.count += 1
        if len(self.listed) < _LISTED_MAX:
            self.listed.append(Remark(source, position, reason.removeprefix(f"{source}: ")))


class _Import:
    """One import into one mailbox, or the public folders: its counts, and what its folders held before."""

    def __init__(self, database: Database, actor: Actor, mailbox_guid: bytes) -> None:
        self.read_count = 0
        self.read_bytes = 0
        self._database = database
        self._actor = actor
        self._guid = mailbox_guid
        self._added_count = 0
        self._added_bytes = 0
        self._present_count = 0
        self._damaged = Remarks()
        self._folders: dict[FolderPath, None] = {}
        self._held: dict[int, _Held] = {}
        self._is_trained = database.files.dictionaries.current > 0

    def commit(self, batch: list[tuple[Found, PreparedMessage]]) -> None:
        """Add a batch in one transaction."""
        self._database.refuse_below_disk_floor()
        with self._database.transaction(self._actor) as txn:
            # Not kept for the next batch: folders may be renamed, moved and deleted between them.
            folder_ids: dict[FolderPath, int] = {}
            if self._guid:
                box = mailboxes.get(txn, self._guid)
                root_id, folder_ids[()] = box.root_id, box.roles[mailboxes.INBOX]
            else:
                root_id = public_folders.root_id(txn)
            # Counted only once the batch is durable: a commit that failed must not show in a report.
            added = [each for each in batch if self._add(txn, root_id, folder_ids, *each)]
        self.read_count += len(batch)
        self.read_bytes += sum(len(item.raw) for (_, item), _ in batch)
        self._present_count += len(batch) - len(added)
        self._added_count += len(added)
        self._added_bytes += sum(len(item.raw) for (_, item), _ in added)
        for (path, item), _ in added:
            self._folders[path] = None
            if item.damage:
                self._damaged.add(item.source, item.position, item.damage)

    def _add(
        self,
        txn: WriteTransaction,
        root_id: int,
        folder_ids: dict[FolderPath, int],
        found: Found,
        prepared: PreparedMessage,
    ) -> bool:
        path, item = found
        folder_id = folder_ids.get(path)
        if folder_id is None:
            folder_id = folder_ids[path] = folders.ensure(txn, root_id, path).folder_id
        held = self._held.get(folder_id)
        if held is None:
            held = self._held[folder_id] = _Held(folder_id, folders.get(txn, folder_id).uid_next)
        if held.take(txn, prepared.content.digest):
            return False
        received_ms = item.received_ms or _sent_ms(prepared, txn.now_ms)
        flags = item.flags if self._guid else [flag for flag in item.flags if flag != SEEN]
        messages.append(txn, folder_id, prepared, flags=flags, received_ms=received_ms)
        return True

    def train_when_due(self) -> None:
        """Train a dictionary once there is something to train it on."""
        if not self._is_trained and self.read_count >= _TRAIN_AFTER_MESSAGES:
            self._is_trained = True
            train_dictionary(self._database, self._actor)

    def report(self) -> ImportReport:
        return ImportReport(
            self._added_count,
            self._present_count,
            self._added_bytes,
            tuple(self._folders),
            self._damaged.count,
            tuple(self._damaged.listed),
            0,
            (),
            0,
            (),
        )


class _Held:
    """The messages a folder held when the import first came to it, by digest.

    Digests are read when a message first is one whose content the database has: an import of new mail into a
    large folder reads nothing.
    """

    def __init__(self, folder_id: int, uid_next: int) -> None:
        self._folder_id = folder_id
        self._uid_next = uid_next
        self._counts: Counter[bytes] | None = None

    def take(self, txn: WriteTransaction, digest: bytes) -> bool:
        """True when the folder held one more message of that content than was asked for so far."""
        if self._uid_next == 1 or txn.record(Table.CONTENT, digest) is None:
            return False
        if self._counts is None:
            items = folders.messages(txn, self._folder_id)
            self._counts = Counter(item.digest for item in items if item.uid < self._uid_next)
        if self._counts[digest] <= 0:
            return False
        self._counts[digest] -= 1
        return True


def _kind(path: Path, unreadable: Remarks) -> MailKind | None:
    """The kind of mail at a path; None, and a remark, for what is no mail. Raises NotFound."""
    try:
        return classify(path)
    except InvalidContent as error:
        unreadable.add(path_text(path), 0, str(error))
        return None


def _read_all(
    sources: Iterable[tuple[Path, MailKind]],
    dialect: Dialect | None,
    unreadable: Remarks,
    passed_over: Remarks,
) -> Iterator[Found]:
    """Every message of all sources, with the path of its folder. What ends early is listed."""
    for path, kind in sources:
        try:
            yield from _read(path, kind, dialect, passed_over)
        except PillarboxError as error:
            unreadable.add(path_text(path), 0, f"the rest was not read: {error}")


def _read(path: Path, kind: MailKind, dialect: Dialect | None, passed_over: Remarks) -> Iterator[Found]:
    if kind == "eml":
        yield (), read_eml(path)
        return
    name = path_text(Path(path.resolve().name))
    if kind == "mbox":
        stem = name[: -len(path.suffix)] if path.suffix.lower() in (".mbox", ".mbx") else name
        yield from ((_folder_path((stem,)), item) for item in read_mbox(path, dialect))
        return

    def pass_over(other: Path) -> None:
        if other.is_symlink():
            reason = "is a link"
        else:
            reason = "is beside the messages of a maildir" if is_named_as_mail(other) else "is no mail file"
        passed_over.add(path_text(other), 0, reason)

    found = read_maildir(path, pass_over) if kind == "maildir" else read_tree(path, pass_over, dialect)
    for inner, item in found:
        yield _folder_path((name, *inner)), item


def _folder_path(names: FolderPath) -> FolderPath:
    """Names that folders may have; what is nested too deep ends up in the deepest one that may be."""
    return tuple(folder_name(name) for name in names[: folders.DEPTH_MAX])


def _raw_of(found: Found) -> bytes:
    return found[1].raw


def _sent_ms(prepared: PreparedMessage, now_ms: int) -> int:
    """When a message that nobody noted the receipt of must have been received: about when it was sent."""
    date_ms = prepared.envelope.date_ms or 0
    return date_ms if 0 < date_ms <= now_ms else 0


def _tree_bytes(path: Path) -> int:
    """The size of a file, or of all files below a directory, as far as they can be seen."""
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    total = 0
    for directory, _, files in os.walk(path):
        for name in files:
            found = Path(directory, name)
            total += found.lstat().st_size if found.is_file() else 0
    return total


def _report_event(database: Database, name: str, report: ImportReport) -> None:
    damaged = report.damaged_count
    event_id = EventId.IMPORT_FINISHED_DAMAGED if damaged else EventId.IMPORT_FINISHED
    database.report(event_id, messages=report.messages_count, mailbox=name, damaged=damaged)
