"""Export of a mailbox or public folders to mail files: a directory of EML or mbox files, or a Maildir.

Folders become directories (EML), files named as they are beside directories of their inner folders (mbox), or
Maildir++ folders, where the Inbox is the maildir itself. Empty folders leave nothing behind. Every message
goes out byte for byte as it came in; flags go with Maildir only, the time of receipt with all three.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple, get_args

from pillarbox.store.access import Actor
from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.disk.stream import disk_error, flush_directory, make_directories
from pillarbox.store.disk.tables import ItemRecord
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import ReadTransaction
from pillarbox.store.errors import AlreadyExists, Corrupt, InvalidSetting
from pillarbox.store.files.eml import EmlWriter, directory_name, read_tree
from pillarbox.store.files.mail_item import MailItem, path_text
from pillarbox.store.files.maildir import MaildirWriter, read_maildir
from pillarbox.store.files.mbox import Dialect, MboxWriter, read_mbox
from pillarbox.store.ids import id_text
from pillarbox.store.mail import folders, mailboxes, messages, public_folders
from pillarbox.store.names import NAME_BYTES_MAX

ExportFormat = Literal["eml", "mbox", "maildir"]
FORMATS: Final = get_args(ExportFormat)
_PROGRESS_MESSAGES: Final = 100
# Lies in a directory while it is written to; no mail program takes a file of this name for mail.
_UNFINISHED: Final = ".pillarbox-unfinished"
_INBOX_PATH: Final = (mailboxes.STANDARD_FOLDERS[mailboxes.INBOX],)

FolderPath = tuple[str, ...]
AddMessage = Callable[[FolderPath, MailItem, str], Any]


class ExportDamage(NamedTuple):
    """A message that could not be read, so that it is missing from the export."""

    folder: FolderPath
    message_id: int
    reason: str


class ExportReport(NamedTuple):
    """The counts of an export, and the messages it could not read."""

    messages_count: int
    size_bytes: int
    folders_count: int
    damaged: tuple[ExportDamage, ...]


class ExportProgress(NamedTuple):
    """The progress of an export."""

    messages_count: int
    messages_total: int
    folder: FolderPath


def export_mail(
    database: Database,
    actor: Actor,
    mailbox_guid: bytes,
    out: PathLike,
    format: ExportFormat,
    *,
    dialect: Dialect = "mboxrd",
    progress: Callable[[ExportProgress], None] | None = None,
) -> ExportReport:
    """Write a mailbox, or with no GUID the public folders, to files in the directory `out`.

    They are written as they are at this moment, and are on the disk when this returns. `dialect` is that of
    mbox files. Raises as `mail_files`, NotFound for the mailbox, Refused for a mailbox store without a GUID,
    Dismounted. A message that is damaged in the store is listed, and the others go on. An export that was
    interrupted begins anew when it is run again.
    """
    out = as_path(out, "out")
    with database.read(actor) as read:
        root_id = mailboxes.get(read, mailbox_guid).root_id if mailbox_guid else public_folders.root_id(read)
        with mail_files(out, format, dialect) as add:
            return _Export(read, root_id, add, progress).run()


class _Export:
    def __init__(
        self,
        read: ReadTransaction,
        root_id: int,
        add: AddMessage,
        progress: Callable[[ExportProgress], None] | None,
    ) -> None:
        self._read = read
        self._folders = [each for each in folders.walk(read, root_id) if each[1].messages_count]
        self._total = sum(record.messages_count for _, record in self._folders)
        self._add = add
        self._progress = progress
        self._count = 0
        self._bytes = 0
        self._damaged: list[ExportDamage] = []

    def run(self) -> ExportReport:
        for path, record in self._folders:
            for item in folders.messages(self._read, record.folder_id):
                self._write(path, item)
            self._tell(path)
        return ExportReport(self._count, self._bytes, len(self._folders), tuple(self._damaged))

    def _write(self, path: FolderPath, item: ItemRecord) -> None:
        try:
            raw = messages.content(self._read, item)
        except Corrupt as error:
            self._damaged.append(ExportDamage(path, item.message_id, str(error)))
            return
        flags = messages.flag_names(item)
        self._add(path, MailItem(raw, flags, item.received_ms, id_text(item.message_id)), item.subject)
        self._count += 1
        self._bytes += len(raw)
        if self._count % _PROGRESS_MESSAGES == 0:
            self._tell(path)

    def _tell(self, path: FolderPath) -> None:
        if self._progress:
            self._progress(ExportProgress(self._count, self._total, path))


@contextmanager
def mail_files(out: PathLike, format: ExportFormat, dialect: Dialect = "mboxrd") -> Iterator[AddMessage]:
    """Gives what writes one message of a folder into files in the directory `out`, made where it is missing.

    Messages of a folder come one after the other. Until the block has ended without an error and all files
    are on the disk the directory is marked as unfinished: what is in it then is deleted when it is written to
    again. Raises AlreadyExists when `out` is a file or holds something finished, InvalidSetting for an
    unknown format, DiskFull, PillarboxError.
    """
    out = as_path(out, "out")
    if format not in FORMATS:
        raise InvalidSetting(f"{format!r} is no format to export in", hint=f"one of {', '.join(FORMATS)}")
    mark = out / _UNFINISHED
    with _disk_errors(out):
        _make_directory(out, mark)
    with _writer(out, format, dialect) as add:
        yield add
    with _disk_errors(out):
        # All at the end, when the system has written some by itself: one by one takes longer.
        _flush_tree(out)
        mark.unlink()
        flush_directory(out)


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(error, path_text(out)) from error


def _make_directory(out: Path, mark: Path) -> None:
    try:
        make_directories(out)
        held = list(out.iterdir())
    except (FileExistsError, NotADirectoryError) as error:
        raise AlreadyExists(
            f"{path_text(out)} is a file", hint="name a directory that is not there yet"
        ) from error
    if held and mark not in held:
        raise AlreadyExists(
            f"{path_text(out)} is not empty: an export does not mix its files with others",
            hint="name a directory that is empty or not there yet",
        )
    mark.touch()
    flush_directory(out)  # before any mail: what a power loss leaves of that must not look finished
    for path in held:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != mark:
            path.unlink()


def _flush_tree(out: Path) -> None:
    for directory, _, files in os.walk(out):
        for name in files:
            descriptor = os.open(Path(directory, name), os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        flush_directory(Path(directory))


def read_mail_files(out: PathLike, format: ExportFormat, dialect: Dialect = "mboxrd") -> Iterator[MailItem]:
    """Every message of a finished export, as it is in the files. Raises NotFound, InvalidContent."""
    out = as_path(out, "out")
    if format == "maildir":
        yield from (item for _, item in read_maildir(out))
    elif format == "eml":
        yield from (item for _, item in read_tree(out))
    else:
        for path in sorted(out.rglob("*.mbox")):
            yield from read_mbox(path, dialect)


@contextmanager
def _writer(out: Path, format: ExportFormat, dialect: Dialect) -> Iterator[AddMessage]:
    if format == "eml":
        eml = EmlWriter(out)
        yield lambda path, item, title: eml.add(path, item, title)
    elif format == "maildir":
        maildir = MaildirWriter(out)
        yield lambda path, item, _: maildir.add(() if path == _INBOX_PATH else path, item)
    else:
        with _MboxFiles(out, dialect) as files:
            yield files.add


def _mbox_of(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.mbox")


def _names_of(stem: Path) -> set[str]:
    return {str(stem).casefold(), str(_mbox_of(stem)).casefold()}


class _MboxFiles:
    """An mbox file for each folder, one of which is open at a time."""

    def __init__(self, out: Path, dialect: Dialect) -> None:
        self._dialect = dialect
        self._stems: dict[FolderPath, Path] = {(): out}
        self._taken: set[str] = set()
        self._open_path: FolderPath = ()
        self._file: BinaryIO | None = None
        self._writer: MboxWriter | None = None

    def add(self, path: FolderPath, item: MailItem, title: str) -> None:
        if self._writer is None or path != self._open_path:
            self._writer = self._open(path)
        self._writer.add(item)

    def _open(self, path: FolderPath) -> MboxWriter:
        self.close()
        for depth in range(1, len(path) + 1):
            if path[:depth] not in self._stems:
                self._stems[path[:depth]] = self._free_stem(self._stems[path[: depth - 1]], path[depth - 1])
        stem = self._stems[path]
        target = _mbox_of(stem)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = target.open("xb")
        except OSError as error:
            raise disk_error(error, path_text(target)) from error
        self._open_path = path
        return MboxWriter(self._file, self._dialect)

    def _free_stem(self, parent: Path, name: str) -> Path:
        """A name of its own on disk for a folder: two names can become the same one there.

        Neither its directory nor its file, which has .mbox behind it, is another folder's directory or file.
        """
        tried = 1
        stem = parent / directory_name(name)
        while not self._taken.isdisjoint(_names_of(stem)):
            tried += 1
            stem = parent / f"{directory_name(name, NAME_BYTES_MAX - 10)}-{tried}"
        self._taken |= _names_of(stem)
        return stem

    def close(self) -> None:
        """Close the open file. Raises DiskFull, PillarboxError."""
        if self._file is None:
            return
        file, self._file, self._writer = self._file, None, None
        try:
            file.close()
        except OSError as error:
            raise disk_error(error, file.name) from error

    def __enter__(self) -> _MboxFiles:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
