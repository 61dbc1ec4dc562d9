"""One message on its way in or out of a mail file, whatever the format around it."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from pillarbox.store.disk.stream import disk_error
from pillarbox.store.errors import InvalidContent, NotFound
from pillarbox.store.mail.flags import ANSWERED, DELETED, DRAFT, FLAGGED, FORWARDED, SEEN, keywords

# A file is outside input: whatever is longer than this comes in parts (mbox) or cut (one file a message).
MESSAGE_BYTES_MAX: Final = 512 << 20

# Where a header ends: at its blank line, or before a "From " line, which no header holds.
HEADER_END: Final = re.compile(rb"\n(?:\r?\n|From )")
# As much of a header as is looked at for what mail programs noted in it.
HEADER_BYTES_MAX: Final = 1 << 16

_STATUS = re.compile(
    rb"\n(Status|X-Status|X-Keywords|X-Mozilla-Status|X-Mozilla-Keys):[ \t]*([^\r\n]*)", re.IGNORECASE
)
_STATUS_FLAGS: Final = {"R": SEEN, "A": ANSWERED, "F": FLAGGED, "D": DELETED, "T": DRAFT}
# nsMsgMessageFlags: read, replied, marked, expunged, forwarded
_MOZILLA_FLAGS: Final = {0x1: SEEN, 0x2: ANSWERED, 0x4: FLAGGED, 0x8: DELETED, 0x1000: FORWARDED}


class MailItem(NamedTuple):
    """A message as found in a mail file.

    `raw` is the message byte for byte; `flags` are IMAP system flags (`\\Seen`) and keywords; `received_ms`
    is when it was received (ms UTC, 0 unknown); `source` is the file, `position` the byte offset in it where
    reading can begin again at this message (0 where a file is one message). `damage` says what is wrong with
    it, or is empty: a damaged message is still delivered, as far as its bytes could be read.
    """

    raw: bytes
    flags: tuple[str, ...] = ()
    received_ms: int = 0
    source: str = ""
    position: int = 0
    damage: str = ""


def header_flags(raw: bytes) -> tuple[str, ...]:
    """The flags that mail programs keep in a message's header, which stays as it is.

    Read are Status and X-Status (Unix mail programs), X-Keywords (IMAP servers), X-Mozilla-Status and
    X-Mozilla-Keys.
    """
    if raw.startswith((b"\n", b"\r\n", b"From ")):
        return ()
    blank = HEADER_END.search(raw, 0, HEADER_BYTES_MAX)
    header = b"\n" + raw[: blank.start() + 1 if blank else HEADER_BYTES_MAX]
    flags: dict[str, None] = {}
    for field in _STATUS.finditer(header):
        name, value = field[1].lower(), field[2].decode("latin-1")
        if name in (b"status", b"x-status"):
            flags.update((_STATUS_FLAGS[letter], None) for letter in value if letter in _STATUS_FLAGS)
        elif name == b"x-mozilla-status":
            bits = int(value[:4], 16) if re.fullmatch(r"[0-9a-fA-F]{4}\s*", value) else 0
            flags.update((flag, None) for bit, flag in _MOZILLA_FLAGS.items() if bits & bit)
        else:
            flags.update(dict.fromkeys(keywords(value.split())))
    return tuple(flags)


def open_mail_file(path: Path) -> BinaryIO:
    """Open a mail file to read.

    Raises NotFound, or InvalidContent for what is no ordinary file (a device or pipe could be endless) or may
    not be read.
    """
    try:
        # Without O_NONBLOCK a pipe put in a mail folder's place would hold up the whole import.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"{path_text(path)}: no such file", hint="look at the path's spelling") from error
    except OSError as error:
        raise InvalidContent(f"{path_text(path)}: cannot be read: {error.strerror}") from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb", buffering=0)
    os.close(descriptor)
    raise InvalidContent(
        f"{path_text(path)}: is not an ordinary file", hint="name a mail file, or a directory of them"
    )


def read_message_file(path: Path, limit_bytes: int = MESSAGE_BYTES_MAX) -> tuple[bytes, str]:
    """A file that is one message: its bytes, and what is wrong with them or "".

    A file that cannot be read gives no bytes and the reason, so that one bad file does not end an import; of
    one longer than `limit_bytes` only the beginning is given. Raises NotFound for a file that is gone.
    """
    try:
        with open_mail_file(path) as file:
            raw = _read_up_to(file, limit_bytes + 1)
    except InvalidContent as error:
        return b"", str(error)
    except OSError as error:
        return b"", str(disk_error(error, path_text(path)))
    if len(raw) > limit_bytes:
        return raw[:limit_bytes], f"longer than {limit_bytes} bytes: the rest is left out"
    return raw, "" if raw else "the file is empty"


def _read_up_to(file: BinaryIO, limit_bytes: int) -> bytes:
    """One system call for the usual small file; one read may return less than a large file holds."""
    chunks = []
    left = limit_bytes
    while left and (chunk := file.read(min(left, max(1 << 16, os.fstat(file.fileno()).st_size + 1)))):
        chunks.append(chunk)
        left -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def path_text(path: Path) -> str:
    """A path for people and reports; bytes of it that are no UTF-8 are shown as replacement characters."""
    return os.fsencode(path).decode("utf-8", "replace")


def unreadable(path: Path, error: NotFound | InvalidContent) -> MailItem:
    """An item for a file or directory that cannot be read: no bytes, and the reason as its damage."""
    return MailItem(b"", source=path_text(path), damage=str(error))


def other_entries(path: Path) -> list[str]:
    """Names of what `directory_entries` leaves out: links, and what is neither file nor directory."""
    with os.scandir(path) as entries:
        found = [
            entry.name
            for entry in entries
            if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False))
        ]
    return sorted(found, key=os.fsencode)


def directory_entries(path: Path) -> tuple[list[str], list[str]]:
    """Names of the ordinary files and of the directories in `path`, each in the order of their bytes.

    Links are left out (`other_entries`): an archive's must not lead out of it. Raises NotFound, or
    InvalidContent for what is no directory or may not be read.
    """
    files, directories = [], []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    files.append(entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    directories.append(entry.name)
    except FileNotFoundError as error:
        raise NotFound(f"{path_text(path)}: no such directory", hint="look at the path's spelling") from error
    except OSError as error:
        raise InvalidContent(f"{path_text(path)}: cannot be read: {error.strerror}") from error
    return sorted(files, key=os.fsencode), sorted(directories, key=os.fsencode)
