"""mbox files, in and out: one file, messages one after the other, each begun by a "From " line.

Dialects: `mboxo` and `mboxrd` find a message's end by the next "From " line, `mboxcl` and `mboxcl2` by a
Content-Length header. `mboxo` writes a line "From ..." of a message as ">From ..."; `mboxrd` and `mboxcl` do
so with lines of any number of ">" before "From ", so that it can be undone; `mboxcl2` changes no line.

What is content. A message is all bytes after the end of its "From " line up to, not including, the one line
end before the next "From " line: the blank line that separates messages belongs to the file. (A CRLF file,
by its "From " lines, has CRLF there.) The last message of a file gives up its last line end only when that
makes a blank line, since many writers put the blank line before the next message and not after each. A
message that does not end in a line end is written without a blank line after it: the one line end before the
next "From " line is then the separator, so such messages round trip too. In the Content-Length dialects a
Content-Length that is the first line after the "From " line is the writer's and not content; one further
down came with the message and stays. A message without a complete header (no header lines, or no blank line
after them) is written wholly as a body there: the Content-Length line and a blank line, then the message.

What a "From " line is. A line that begins "From " and has a time of day in it (12:36), or is followed by a
header line: prose that begins a line with "From " in files whose writer did not quote is no separator.

mboxo cannot hold a line ">From ": it is read back as "From ". Flags are read and never written: a header
added for them would change the message.
"""

from __future__ import annotations

import email.utils
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import BinaryIO, Final, Literal, NamedTuple, get_args

from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.disk.stream import disk_error
from pillarbox.store.errors import InvalidContent, InvalidSetting
from pillarbox.store.files.mail_item import (
    HEADER_BYTES_MAX,
    HEADER_END,
    MESSAGE_BYTES_MAX,
    MailItem,
    header_flags,
    open_mail_file,
    path_text,
)

Dialect = Literal["mboxo", "mboxrd", "mboxcl", "mboxcl2"]

_CHUNK_BYTES: Final = 1 << 18
# A match is trusted only with this much of the file after its start in sight; above the longest "From " line.
_LOOK_BYTES: Final = 2048
_DETECT_BYTES: Final = 1 << 20
_SECONDS_MAX: Final = 253_402_300_799  # the end of year 9999

_FROM_LINE = rb"From (?:[^\n]{0,900}\d:\d\d[^\n]{0,900}(?:\n|\Z)|[^\n]{0,900}\n[!-9;-~]{1,80}:)"
_FROM_AT_START = re.compile(_FROM_LINE)
_SEPARATOR = re.compile(rb"\n" + _FROM_LINE)
_NOT_BLANK = re.compile(rb"[^\r\n]")
_LENGTH_FIRST = re.compile(rb"Content-Length:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)
_LENGTH_LATER = re.compile(rb"\nContent-Length:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)

# Nobody is named as the sender, but mboxcl2 is: by its messages alone a file can look as one of mboxcl does.
_SENDER: Final = b"MAILER-DAEMON"
_MBOXCL2_SENDER: Final = b"MAILER-DAEMON+mboxcl2"

_UNQUOTED_O = re.compile(rb"^From ", re.MULTILINE)
_UNQUOTED_RD = re.compile(rb"^(>*From )", re.MULTILINE)
_QUOTED_O = re.compile(rb"^>From ", re.MULTILINE)
_QUOTED_RD = re.compile(rb"^>(>*From )", re.MULTILINE)

_DATE = re.compile(rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? +[A-Z0-9][^\r\n]{8,60}")


def read_mbox(
    path: PathLike, dialect: Dialect | None = None, *, limit_bytes: int = MESSAGE_BYTES_MAX
) -> Iterator[MailItem]:
    """The messages of an mbox file in order, in memory one at a time.

    `dialect` None: found by the messages that begin in the first mebibyte; where nothing tells, a line
    ">From " is taken for a quoted one. What is damaged is given as it is: bytes before the first "From "
    line, a message whose Content-Length is wrong, one the file ends inside of; one longer than `limit_bytes`
    comes in parts. Raises NotFound; InvalidContent when the file cannot be read or gets shorter meanwhile;
    InvalidSetting for a dialect that does not exist.
    """
    path = as_path(path, "path")
    with open_mail_file(path) as file:
        window = _Window(file, path_text(path))
        dialect = _known(dialect) if dialect else _detect(window, limit_bytes)
        for frame in _frames(window, dialect, limit_bytes):
            raw = _unquote(frame.raw, dialect)
            received_ms = _received_ms(frame.from_line)
            yield MailItem(raw, header_flags(raw), received_ms, window.name, frame.position, frame.damage)


def is_mbox(path: PathLike) -> bool:
    """True when a file begins as an mbox does: empty, or with a "From " line after any blank lines."""
    path = as_path(path, "path")
    with open_mail_file(path) as file:
        window = _Window(file, path_text(path))
        begin = window.search(_NOT_BLANK, 0, min(window.size, _CHUNK_BYTES))
        return window.size == 0 or (begin is not None and window.from_line(begin) != b"")


class MboxWriter:
    """Writes messages to an mbox file that the caller opens (buffered, for bytes), flushes and closes.

    The file must be empty, or end with the blank line that ends a message. With `mboxrd`, `mboxcl` and
    `mboxcl2` any bytes come back the same when read in that dialect.
    """

    def __init__(self, file: BinaryIO, dialect: Dialect = "mboxrd") -> None:
        self._file = file
        self._dialect = _known(dialect)
        self._line_open = False

    def add(self, item: MailItem) -> None:
        """Append one message; its time of receipt is kept in seconds, its flags are not kept.

        Raises DiskFull or PillarboxError; the file then ends in part of the message.
        """
        raw = _quote(item.raw, self._dialect)
        before = b"\n" if self._line_open else b""
        sender = _MBOXCL2_SENDER if self._dialect == "mboxcl2" else _SENDER
        from_line = b"From %s %s\n" % (sender, _asctime(item.received_ms))
        self._line_open = not raw.endswith(b"\n")
        try:
            self._file.write(before + from_line + _length_line(raw, self._dialect))
            self._file.write(raw)
            if not self._line_open:
                self._file.write(b"\n")
        except OSError as error:
            raise disk_error(error, "the mbox file") from error


class _Frame(NamedTuple):
    """A message as framed by the file, its lines still quoted."""

    position: int
    from_line: bytes
    raw: bytes
    damage: str


class _Span(NamedTuple):
    """Where a message's content is, and where the next message begins."""

    begin: int
    end: int
    following: int
    damage: str


class _Window:
    """A file seen through one chunk of bounded size that moves forward with the reading."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._descriptor = file.fileno()
        self.name = name
        self._base = 0
        self._chunk = b""
        self.size = os.fstat(self._descriptor).st_size

    def search(self, pattern: re.Pattern[bytes], start: int, stop: int) -> int | None:
        """Where `pattern`, of matches below `_LOOK_BYTES`, is first found in start..stop, or None."""
        while start < stop:
            if not self._base <= start < self._sure_end():
                self._chunk = self.read(start, min(start + _CHUNK_BYTES, self.size))
                self._base = start
            found = pattern.search(self._chunk, start - self._base)
            if found is not None and self._base + found.start() < self._sure_end():
                offset = self._base + found.start()
                return offset if offset < stop else None
            start = self._sure_end()
        return None

    def peek(self, offset: int) -> bytes:
        """Up to `_LOOK_BYTES` from `offset` on, without moving the window."""
        return self.read(offset, min(offset + _LOOK_BYTES, self.size))

    def from_line(self, offset: int) -> bytes:
        """The "From " line at `offset` with its line end, or b"" when there is none."""
        look = self.peek(offset)
        if _FROM_AT_START.match(look) is None:
            return b""
        return look[: look.find(b"\n") + 1] or look

    def read(self, start: int, end: int) -> bytes:
        """The bytes start..end. Raises InvalidContent when the file has become shorter."""
        if self._base <= start and end <= self._base + len(self._chunk):
            return self._chunk[start - self._base : end - self._base]
        parts = []
        while start < end:
            part = self._pread(end - start, start)
            if not part:
                raise InvalidContent(f"{self.name}: became shorter while it was read", hint="import it again")
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _sure_end(self) -> int:
        """Up to where a match found in the chunk is the file's and not one of the chunk's end."""
        end = self._base + len(self._chunk)
        return end if end >= self.size else end - _LOOK_BYTES

    def _pread(self, length: int, offset: int) -> bytes:
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise disk_error(error, f"{self.name} at {offset}") from error


def _known(dialect: Dialect) -> Dialect:
    if dialect not in get_args(Dialect):
        raise InvalidSetting(f"{dialect!r} is no mbox dialect", hint=f"one of {', '.join(get_args(Dialect))}")
    return dialect


def _detect(window: _Window, limit_bytes: int) -> Dialect:
    """The dialect of a file whose messages each have a Content-Length that leads to the next one or the end:
    `mboxcl2` if a line of one begins as a "From " line does or `MboxWriter` wrote it as that, else `mboxcl`.

    Files of the two by others, without such a line, look the same. In all other cases `mboxrd`; it reads
    mboxo too, but for lines of two ">" and more.
    """
    dialect: Dialect = "mboxrd"
    for frame in _frames(window, "mboxcl", limit_bytes):
        if frame.position >= _DETECT_BYTES:
            break
        if frame.damage:
            return "mboxrd"
        if dialect != "mboxcl2":
            is_named = frame.from_line.startswith(b"From %s " % _MBOXCL2_SENDER)
            dialect = "mboxcl2" if is_named or b"\nFrom " in b"\n" + frame.raw else "mboxcl"
    return dialect


def _frames(window: _Window, dialect: Dialect, limit_bytes: int) -> Iterator[_Frame]:
    first = window.search(_NOT_BLANK, 0, window.size)
    position = window.size if first is None else first
    while position < window.size:
        from_line = window.from_line(position)
        content = position + len(from_line)
        line_end = b"\r\n" if from_line.endswith(b"\r\n") else b"\n"
        span = None
        damage = "" if from_line else 'no "From " line before it'
        if from_line and dialect in ("mboxcl", "mboxcl2"):
            span = _span_by_length(window, content, line_end, limit_bytes)
            damage = "" if span else "no Content-Length that is right: it ends at the next From line"
        span = span or _span_by_from_line(window, content, line_end, limit_bytes)
        damage = "; ".join(filter(None, (damage, span.damage)))
        yield _Frame(position, from_line, window.read(span.begin, span.end), damage)
        position = span.following


def _span_by_from_line(window: _Window, content: int, line_end: bytes, limit_bytes: int) -> _Span:
    stop = min(window.size, content + limit_bytes)
    found = window.search(_SEPARATOR, max(content - 1, 0), stop)
    if found is not None:
        following = found + 1
        tail = window.read(max(following - len(line_end), content), following)
        separator = line_end if tail == line_end else tail[-1:]
        return _Span(content, following - len(separator), following, "")
    if stop < window.size:
        return _Span(content, stop, stop, f"longer than {limit_bytes} bytes: the rest follows")
    tail = window.read(max(content - 1, window.size - 3, 0), window.size)
    if content < window.size and tail.endswith(b"\n" + line_end):
        return _Span(content, window.size - len(line_end), window.size, "")
    damage = ""
    if not tail.endswith(b"\n"):
        damage = "the file ends inside a line: it may be cut short"
    elif window.search(HEADER_END, max(content - 1, 0), window.size) is None:
        damage = "the file ends inside its header: it may be cut short"
    return _Span(content, window.size, window.size, damage)


def _span_by_length(window: _Window, content: int, line_end: bytes, limit_bytes: int) -> _Span | None:
    """The span a Content-Length gives, or None where none leads to the next message or the file's end."""
    length = _LENGTH_FIRST.match(window.peek(content))
    begin = content + (length.end() if length else 0)
    blank = window.search(HEADER_END, begin - 1, min(window.size, content + limit_bytes))
    if blank is None or (look := window.peek(blank)).startswith(b"\nFrom "):
        return None
    body = blank + (3 if look.startswith(b"\n\r") else 2)
    if length is None:
        length = _LENGTH_LATER.search(window.read(content - 1, min(body, content + HEADER_BYTES_MAX)))
    elif blank < begin:
        begin = body
    if length is None:
        return None
    end = body + int(length[1])
    if end > window.size or end - begin > limit_bytes:
        return None
    if end == window.size:
        return _Span(begin, end, end, "")
    following = end + len(line_end)
    whole = window.peek(end).startswith(line_end)
    if whole and (following == window.size or window.from_line(following)):
        return _Span(begin, end, following, "")
    return None


def _length_line(raw: bytes, dialect: Dialect) -> bytes:
    if dialect not in ("mboxcl", "mboxcl2"):
        return b""
    blank = None if raw.startswith((b"\n", b"\r\n", b"From ")) else HEADER_END.search(raw)
    if blank is None or blank[0] == b"\nFrom ":
        return b"Content-Length: %d\n\n" % len(raw)
    return b"Content-Length: %d\n" % (len(raw) - blank.end())


def _quote(raw: bytes, dialect: Dialect) -> bytes:
    if dialect == "mboxcl2" or b"From " not in raw:
        return raw
    return _UNQUOTED_O.sub(b">From ", raw) if dialect == "mboxo" else _UNQUOTED_RD.sub(rb">\1", raw)


def _unquote(raw: bytes, dialect: Dialect) -> bytes:
    if dialect == "mboxcl2" or b">From " not in raw:
        return raw
    return _QUOTED_O.sub(b"From ", raw) if dialect == "mboxo" else _QUOTED_RD.sub(rb"\1", raw)


def _asctime(received_ms: int) -> bytes:
    seconds = min(max(received_ms // 1000, 0), _SECONDS_MAX)
    return datetime.fromtimestamp(seconds, UTC).ctime().encode("ascii")


def _received_ms(from_line: bytes) -> int:
    """The date of a "From " line, UTC where it names no zone; 0 where there is none, or none that can be."""
    date = _DATE.search(from_line)
    if date is None:
        return 0
    try:
        parsed = email.utils.parsedate_tz(date[0].decode("latin-1"))
        seconds = email.utils.mktime_tz(parsed) if parsed else 0
    except (ValueError, OverflowError):
        return 0
    return seconds * 1000 if 0 < seconds <= _SECONDS_MAX else 0
