"""Maildir and Maildir++, in and out: one file a message, its flags in the file's name.

A message lies in `new/` or `cur/` of a folder; in `cur/` its name ends ":2," and a letter for each flag
(";2," and "!2," on file systems without ":"). Letters a to z are keywords, named by the folder's
`dovecot-keywords` file. Folders: `.A.B` beside the inbox's `cur/` is folder B in A (Maildir++); a plain
directory that holds a maildir is a folder as well. Names are in IMAP's modified UTF-7 (RFC 3501, 5.1.3).
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from xxhash import xxh3_64_hexdigest

from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.disk.stream import disk_error
from pillarbox.store.errors import InvalidContent, InvalidName, NotFound
from pillarbox.store.files.mail_item import (
    MailItem,
    directory_entries,
    other_entries,
    path_text,
    read_message_file,
    unreadable,
)
from pillarbox.store.mail.flags import ANSWERED, DELETED, DRAFT, FLAGGED, FORWARDED, SEEN, keywords

_FLAG_LETTERS: Final = {"D": DRAFT, "F": FLAGGED, "P": FORWARDED, "R": ANSWERED, "S": SEEN, "T": DELETED}
_LETTERS_BY_FLAG: Final = {flag.lower(): letter for letter, flag in _FLAG_LETTERS.items()}
_KEYWORD_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_KEYWORDS_FILE: Final = "dovecot-keywords"
_KEYWORDS_FILE_BYTES_MAX: Final = 1 << 16
PARTS: Final = ("cur", "new", "tmp")
# Leaves room below the 255 bytes a file system gives a name.
_FOLDER_NAME_BYTES_MAX: Final = 200

_INFO = re.compile(r"[:;!]2,([A-Za-z]*)\Z")
_TIME = re.compile(r"(\d{1,10})\.(?:M(\d{1,6})(?!\d))?")
_SIZE = re.compile(r",S=(\d{1,15})(?![^,:;!])")
_SHIFTED = re.compile(r"&([A-Za-z0-9+,]*)-")
# All but printable ASCII; of that the "." between folder names, the "/" of paths, the "&" of this coding.
_TO_SHIFT = re.compile(r"&|[^ -%'-\-0-~&]+")


def is_maildir(path: PathLike) -> bool:
    """True when a directory is a maildir: it has `cur/` and `new/` or `tmp/`, or a folder `.name` that has.

    A copy without its empty parts is one too: `cur/` alone, when a file in it has a maildir's flags.
    """
    path = as_path(path, "path")
    if _has_parts(path):
        return True
    _, directories = directory_entries(path)
    return any(name.startswith(".") and _has_parts(path / name) for name in directories)


def read_maildir(
    path: PathLike, passed_over: Callable[[Path], None] = lambda _: None
) -> Iterator[tuple[tuple[str, ...], MailItem]]:
    """Each message with the names of its folder, outermost first; the maildir's own messages have ().

    Folders come in the order of their directories' names, messages in the order of their files' names without
    flags, so that reading again after an interruption meets them in the same order. `received_ms` is the time
    in the file's name, else the file's. A file renamed meanwhile is found again, one deleted meanwhile is
    left out. Mail files beside `cur/`, EML or mbox by their names, are told to `passed_over`, and so are
    links, which are not followed. A directory that cannot be read gives an item without bytes and the reason
    as its damage; the others go on. Raises NotFound.
    """
    path = as_path(path, "path")
    waiting: list[tuple[Path, tuple[str, ...]]] = [(path, ())]
    while waiting:
        directory, folder = waiting.pop()
        try:
            files, directories = directory_entries(directory)
            names = _message_names(directory, files, directories)
        except InvalidContent as error:
            yield folder, unreadable(directory, error)
            continue
        for name in files:
            if is_named_as_mail(directory / name) and not _INFO.search(name):
                passed_over(directory / name)
        for part in (".", *(name for name in directories if name in ("new", "cur"))):
            for name in other_entries(directory / part):
                passed_over(directory / part / name)
        for item in _folder_items(directory, names):
            yield folder, item
        inner = [
            (directory / name, folder + _folder_parts(name)) for name in directories if name not in PARTS
        ]
        waiting += [
            (at, name) for at, name in reversed(inner) if not at.name.startswith(".") or _may_be_folder(at)
        ]


def is_named_as_mail(path: Path) -> bool:
    """True when a file is called as EML or mbox files are; others beside `cur/` are mail programs' notes."""
    return path.name.lower().endswith((".eml", ".mbox", ".mbx"))


class MaildirWriter:
    """Writes messages into a maildir and its Maildir++ folders, making what is missing.

    Each message is written to `tmp/` and moved to `cur/`, so a reader never sees part of one. Names depend on
    the message, its time and how many the writer put in the folder before: the same export run again after an
    interruption replaces its files by themselves. Kept are the system flags, `$Forwarded` and 26 keywords a
    folder. Nothing is flushed: who writes many files flushes them when all are written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folders: dict[tuple[str, ...], _Folder] = {}

    def add(self, folder: tuple[str, ...], item: MailItem) -> Path:
        """Write one message and give the file it is in.

        Raises InvalidName for an empty folder name, DiskFull, PillarboxError.
        """
        target = self._folders.get(folder)
        try:
            if target is None:
                path = self._path / _directory_name(folder) if folder else self._path
                target = self._folders[folder] = _Folder(path, inner=bool(folder))
            return target.add(item)
        except OSError as error:
            raise disk_error(error, path_text(self._path)) from error


class _Folder:
    """One folder being written."""

    def __init__(self, path: Path, *, inner: bool) -> None:
        self._path = path
        self._count = 0
        for part in PARTS:
            (path / part).mkdir(parents=True, exist_ok=True)
        if inner:
            (path / "maildirfolder").touch()
        self._keywords = _folder_keywords(path)

    def add(self, item: MailItem) -> Path:
        self._count += 1
        seconds, milliseconds = divmod(max(item.received_ms, 0), 1000)
        unique = f"M{milliseconds * 1000}Q{self._count}_{xxh3_64_hexdigest(item.raw)}"
        name = f"{seconds}.{unique}.pillarbox,S={len(item.raw)}"
        target = self._path / "cur" / f"{name}:2,{self._info(item.flags)}"
        written = self._path / "tmp" / name
        written.write_bytes(item.raw)
        os.utime(written, (seconds, seconds))
        written.replace(target)
        return target

    def _info(self, flags: tuple[str, ...]) -> str:
        # Flags and keywords have no case (RFC 9051 section 9, note 1).
        letters = _LETTERS_BY_FLAG | {word.lower(): letter for letter, word in self._keywords.items()}
        new = [word for word in keywords(list(flags)) if word.lower() not in letters]
        free = [letter for letter in _KEYWORD_LETTERS if letter not in self._keywords]
        if new and free:
            added = dict(zip(free, new, strict=False))
            self._keywords |= added
            letters |= {word.lower(): letter for letter, word in added.items()}
            self._write_keywords()
        return "".join(sorted({letters.get(flag.lower(), "") for flag in flags}))

    def _write_keywords(self) -> None:
        lines = [
            f"{_KEYWORD_LETTERS.index(letter)} {word}\n" for letter, word in sorted(self._keywords.items())
        ]
        written = self._path / "tmp" / _KEYWORDS_FILE
        written.write_text("".join(lines), encoding="ascii")
        written.replace(self._path / _KEYWORDS_FILE)


def _has_parts(path: Path) -> bool:
    parts = [name for name in PARTS if os.path.isdir(path / name)]  # noqa: PTH112 - Path's raises when closed
    if "cur" not in parts:
        return False
    return len(parts) > 1 or any(_INFO.search(name) for name in directory_entries(path / "cur")[0])


def _may_be_folder(path: Path) -> bool:
    try:
        directory_entries(path)
    except InvalidContent:
        return True  # nobody knows; so that it is told as one that cannot be read
    return _has_parts(path)


def _message_names(directory: Path, files: list[str], directories: list[str]) -> list[tuple[str, str, str]]:
    """(base, part, name) of each message; some lie beside `cur/`, where no mail program but an archive put
    them. Raises InvalidContent.
    """
    parts = [name for name in directories if name in ("new", "cur")]
    names = [
        (_base_name(name), part, name) for part in parts for name in directory_entries(directory / part)[0]
    ]
    return names + [(_base_name(name), ".", name) for name in files if _INFO.search(name)]


def _folder_items(directory: Path, names: list[tuple[str, str, str]]) -> Iterator[MailItem]:
    keyword_letters = _folder_keywords(directory) if names else {}
    for base, part, name in sorted(names, key=lambda found: os.fsencode(found[0])):
        path: Path | None = directory / part / name
        while path is not None and not name.startswith("."):
            try:
                yield _read_item(path, base, keyword_letters)
                break
            except NotFound:
                path = _renamed(directory, base, names)


def _read_item(path: Path, base: str, keyword_letters: dict[str, str]) -> MailItem:
    raw, damage = read_message_file(path)
    size = _SIZE.search(base)
    if size is not None and int(size[1]) != len(raw) and not damage:
        damage = f"the file's name says {size[1]} bytes, it has {len(raw)}"
    info = _INFO.search(path.name)
    letters = dict.fromkeys(info[1]) if info else {}
    found = (_FLAG_LETTERS.get(letter) or keyword_letters.get(letter) for letter in letters)
    flags = tuple(flag for flag in found if flag)
    return MailItem(raw, flags, _received_ms(path, base), path_text(path), 0, damage)


def _received_ms(path: Path, base: str) -> int:
    time = _TIME.match(base)
    if time is not None:
        return int(time[1]) * 1000 + int(time[2] or 0) // 1000
    try:
        return max(path.stat().st_mtime_ns // 1_000_000, 0)
    except FileNotFoundError as error:
        raise NotFound(f"{path_text(path)}: no such file") from error


def _renamed(directory: Path, base: str, listed: list[tuple[str, str, str]]) -> Path | None:
    """Where a message went whose flags a mail program changed between listing and reading.

    None when it is gone, or when its new name is `listed` too and so has its own turn.
    """
    for part in ("new", "cur"):
        names = directory_entries(directory / part)[0] if (directory / part).is_dir() else []
        for name in names:
            if _base_name(name) == base:
                return None if (base, part, name) in listed else directory / part / name
    return None


def _base_name(name: str) -> str:
    return _INFO.sub("", name)


def _folder_keywords(directory: Path) -> dict[str, str]:
    """Letter to keyword, as the folder's keywords file says."""
    path = directory / _KEYWORDS_FILE
    if not path.is_file():
        return {}
    data, _ = read_message_file(path, _KEYWORDS_FILE_BYTES_MAX)
    found = {}
    for line in data.decode("utf-8", "replace").splitlines():
        number, _, keyword = line.partition(" ")
        if (
            re.fullmatch(r"\d{1,2}", number, re.ASCII)
            and int(number) < len(_KEYWORD_LETTERS)
            and keywords([keyword])
        ):
            found[_KEYWORD_LETTERS[int(number)]] = keyword
    return found


def _folder_parts(name: str) -> tuple[str, ...]:
    parts = name[1:].split(".") if name.startswith(".") else [name]
    return tuple(_decode_name(path_text(Path(part))) for part in parts if part)


def _directory_name(folder: tuple[str, ...]) -> str:
    if not all(folder):
        raise InvalidName(f"a folder in {'/'.join(folder)!r} has no name")
    name = "." + ".".join(_TO_SHIFT.sub(_shift, part) for part in folder)
    if len(name) <= _FOLDER_NAME_BYTES_MAX:
        return name
    return f"{name[: _FOLDER_NAME_BYTES_MAX - 17]}-{xxh3_64_hexdigest(name.encode())}"


def _shift(run: re.Match[str]) -> str:
    if run[0] == "&":
        return "&-"
    coded = binascii.b2a_base64(run[0].encode("utf-16-be", "surrogatepass"), newline=False)
    return f"&{coded.decode('ascii').rstrip('=').replace('/', ',')}-"


def _decode_name(name: str) -> str:
    """A folder's name out of modified UTF-7, or as it is when it is not in that."""
    try:
        return _SHIFTED.sub(_unshift, name)
    except ValueError:
        return name


def _unshift(run: re.Match[str]) -> str:
    if not run[1]:
        return "&"
    coded = run[1].replace(",", "/")
    return binascii.a2b_base64(coded + "=" * (-len(coded) % 4)).decode("utf-16-be")
