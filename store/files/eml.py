"""EML files, in and out: one file a message, directories as folders; and what kind of mail a path is.

A tree may also hold mbox files (each a folder named as the file) and maildirs. EML files say nothing of flags
or time of receipt: a file's own time is that of its last copy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.disk.stream import disk_error
from pillarbox.store.errors import InvalidContent, InvalidName, NotFound
from pillarbox.store.files.mail_item import (
    MailItem,
    directory_entries,
    open_mail_file,
    other_entries,
    path_text,
    read_message_file,
    unreadable,
)
from pillarbox.store.files.maildir import PARTS, is_maildir, read_maildir
from pillarbox.store.files.mbox import Dialect, is_mbox, read_mbox
from pillarbox.store.names import NAME_BYTES_MAX, safe_name

MailKind = Literal["mbox", "maildir", "eml", "tree"]

_TITLE_BYTES_MAX: Final = 120
_MBOX_SUFFIXES: Final = (".mbox", ".mbx")

_HEADER_LINE = re.compile(rb"[!-9;-~]{1,100}:")
# Fields that mail has and notes, settings and sources hardly: in a tree a file of any name is taken by them.
_MAIL_FIELD = re.compile(
    rb"^(?:from|to|date|subject|message-id|received|return-path|delivered-to|mime-version):",
    re.IGNORECASE | re.MULTILINE,
)
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_LOOK_BYTES: Final = 8192
_MAIL_FIELDS_MIN: Final = 2


def classify(path: PathLike) -> MailKind:
    """The kind of mail at `path`: an `mbox` file, a `maildir`, one message (`eml`), or a `tree` of these.

    A file is told by its suffix (.eml, .mbox, .mbx), else by its first line; an empty one is an empty mbox.
    Raises NotFound, or InvalidContent for what is none of them.
    """
    path = as_path(path, "path")
    if path.is_dir():
        if is_maildir(path):
            return "maildir"
        if any(True for _ in _walk(path)):
            return "tree"
        raise InvalidContent(
            f"{path_text(path)}: holds no mail", hint="name an mbox, a maildir, or a directory of EML"
        )
    with open_mail_file(path) as file:
        kind = _suffix_kind(path.name)
        if kind:
            return kind
        if is_mbox(path):
            return "mbox"
        if _HEADER_LINE.match(file.read(128)):
            return "eml"
    raise InvalidContent(
        f"{path_text(path)}: is no mail file", hint="it begins neither as an mbox nor as a message"
    )


def read_tree(
    path: PathLike,
    passed_over: Callable[[Path], None] = lambda _: None,
    dialect: Dialect | None = None,
) -> Iterator[tuple[tuple[str, ...], MailItem]]:
    """Each message under `path` with the names of its folder, outermost first.

    In a directory first its files, then its directories, in the order of their names' bytes. Messages of an
    mbox file are in a folder named by the file without .mbox; `dialect` is theirs. A file of another name is
    mail when it begins as an mbox or with fields of a message; what is none, or lies beside the messages of a
    maildir, is told to `passed_over`. A file or directory that cannot be read gives an item without bytes and
    the reason as its damage; the others go on. Names that begin with a dot are left out; links are not
    followed, but told to `passed_over`.
    Raises NotFound.
    """
    path = as_path(path, "path")
    for folder, found, kind in _walk(path, passed_over):
        if isinstance(kind, InvalidContent):
            yield folder, unreadable(found, kind)
        elif kind == "maildir":
            yield from ((folder + inner, item) for inner, item in read_maildir(found, passed_over))
        elif kind == "mbox":
            yield from ((folder, item) for item in _mbox_items(found, dialect))
        else:
            yield folder, _tree_eml(found)


def read_eml(path: PathLike) -> MailItem:
    """The message in one EML file. Raises NotFound; what else is wrong with the file is the item's damage."""
    path = as_path(path, "path")
    raw, damage = read_message_file(path)
    return MailItem(raw, source=path_text(path), damage=damage)


def directory_name(text: str, limit_bytes: int = NAME_BYTES_MAX) -> str:
    """As `safe_name`, for the directory of a folder: none by which the one it is in becomes a maildir."""
    name = safe_name(text, limit_bytes)
    return f"_{name}" if name.casefold() in PARTS else name


class EmlWriter:
    """Writes messages as EML files, numbered in each folder, into directories named as the folders.

    A file appears whole or not at all, and none that exists is overwritten. Folders whose names become the
    same on disk get directories of their own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._directories: dict[tuple[str, ...], Path] = {(): path}
        self._taken: set[str] = set()
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, folder: tuple[str, ...], item: MailItem, title: str = "") -> Path:
        """Write one message, `title` as part of its file's name; the file it is in.

        Raises InvalidName for an empty folder name, DiskFull, PillarboxError.
        """
        try:
            directory = self._directory(folder)
            directory.mkdir(parents=True, exist_ok=True)
            target = self._free_name(directory, folder, title)
            written = directory / f".{target.name}.part"
            written.write_bytes(item.raw)
            if item.received_ms > 0:
                os.utime(written, ns=(item.received_ms * 1_000_000, item.received_ms * 1_000_000))
            written.replace(target)
        except OSError as error:
            raise disk_error(error, path_text(self._path)) from error
        return target

    def _directory(self, folder: tuple[str, ...]) -> Path:
        if not all(folder):
            raise InvalidName(f"a folder in {'/'.join(folder)!r} has no name")
        for depth in range(1, len(folder) + 1):
            if folder[:depth] not in self._directories:
                self._directories[folder[:depth]] = self._free_directory(
                    folder[: depth - 1], folder[depth - 1]
                )
        return self._directories[folder]

    def _free_directory(self, outer: tuple[str, ...], name: str) -> Path:
        parent, tried = self._directories[outer], 1
        path = parent / directory_name(name)
        # A message of the folder that it is in may have such a name, too.
        while str(path).casefold() in self._taken or path.is_file():
            tried += 1
            path = parent / f"{directory_name(name, NAME_BYTES_MAX - 10)}-{tried}"
        self._taken.add(str(path).casefold())
        return path

    def _free_name(self, directory: Path, folder: tuple[str, ...], title: str) -> Path:
        suffix = f" {safe_name(title, _TITLE_BYTES_MAX)}.eml" if title else ".eml"
        while True:
            number = self._counts[folder] = self._counts.get(folder, 0) + 1
            target = directory / f"{number:06d}{suffix}"
            if not target.exists():
                return target


def _walk(
    path: Path, passed_over: Callable[[Path], None] = lambda _: None
) -> Iterator[tuple[tuple[str, ...], Path, MailKind | InvalidContent]]:
    """Each mail file and maildir under `path` with the folder its messages belong to.

    For a directory that cannot be read, why.
    """
    waiting: list[tuple[Path, tuple[str, ...]]] = [(path, ())]
    while waiting:
        directory, folder = waiting.pop()
        try:
            if is_maildir(directory):
                yield folder, directory, "maildir"
                continue
            files, directories = directory_entries(directory)
        except InvalidContent as error:
            yield folder, directory, error
            continue
        for name in other_entries(directory):
            passed_over(directory / name)
        for name in files:
            if name.startswith("."):
                continue
            kind = _file_kind(directory / name)
            if kind is None:
                passed_over(directory / name)
            else:
                yield ((*folder, _stem(name)) if kind == "mbox" else folder), directory / name, kind
        inner = [name for name in directories if not name.startswith(".")]
        waiting += [(directory / name, (*folder, _directory_text(name, files))) for name in reversed(inner)]


def _suffix_kind(name: str) -> MailKind | None:
    if name.lower().endswith(".eml"):
        return "eml"
    return "mbox" if name.lower().endswith(_MBOX_SUFFIXES) else None


def _file_kind(path: Path) -> MailKind | None:
    """The kind of a file in a tree; an empty or unreadable one without a suffix of mail is none."""
    kind = _suffix_kind(path.name)
    if kind:
        return kind
    try:
        if not path.stat().st_size:
            return None
        if is_mbox(path):
            return "mbox"
        with open_mail_file(path) as file:
            return "eml" if _begins_as_message(file.read(_LOOK_BYTES)) else None
    except (OSError, NotFound, InvalidContent):
        return None


def _begins_as_message(data: bytes) -> bool:
    header = _HEADER_END.split(data, 1)[0]
    fields = {field.lower() for field in _MAIL_FIELD.findall(header)}
    return _HEADER_LINE.match(data) is not None and len(fields) >= _MAIL_FIELDS_MIN


def _stem(name: str) -> str:
    return path_text(Path(name[: name.rindex(".")] if _suffix_kind(name) == "mbox" else name))


def _directory_text(name: str, files: list[str]) -> str:
    """A directory's folder name: Thunderbird keeps the folders inside of `Inbox` in `Inbox.sbd`."""
    stem = name.removesuffix(".sbd")
    return path_text(Path(stem if stem in files else name))


def _mbox_items(path: Path, dialect: Dialect | None) -> Iterator[MailItem]:
    try:
        yield from read_mbox(path, dialect)
    except (NotFound, InvalidContent) as error:
        yield unreadable(path, error)


def _tree_eml(path: Path) -> MailItem:
    try:
        return read_eml(path)
    except NotFound as error:
        return unreadable(path, error)
