"""Runs of base64 in a message's body, found by the name of the transfer encoding that stands before them.

There is no MIME parser: nothing depends on the structure being right. What is looked at is bounded, so that
no body costs much more than ordinary mail of its size (docs/format.md, "Content").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import pybase64

BASE64_FROM_BYTES: Final = 4096
_BLANK_LINE_WITHIN: Final = 2048
# A width of less than 4 would cost three times as much to take apart, and no mail program writes it.
_WIDTH_MIN: Final = 4
BASE64_WIDTH_MAX: Final = 1000
# Places that are looked at: as many, and one more for so many bytes. A message whose parts are shorter than
# that on the average is a hostile one.
_PLACES_AT_LEAST: Final = 32
_BYTES_FOR_A_PLACE: Final = 512
# Line ends behind a run that are not taken for a part of it.
_LINE_ENDS_BYTES_MAX: Final = 64


class Base64Run(NamedTuple):
    """Bytes `start` to `end` of a message are `data` in base64, in lines of `width`; one line when 0."""

    start: int
    end: int
    width: int
    line_end: bytes
    data: bytes


def base64_runs(message: bytes, start: int) -> Iterator[Base64Run]:
    """The runs behind `start` of at least `BASE64_FROM_BYTES`, in order, each proved to be exact.

    Encoding `data` again gives the same bytes. At most one place for 512 bytes of the message, and 32 more,
    are looked at; what stands behind the last of them is not found.
    """
    names = _EncodingNames(message, start)
    blank_lines = _BlankLines(message)
    at = start
    for _ in range(_PLACES_AT_LEAST + (len(message) - start) // _BYTES_FOR_A_PLACE):
        name = names.next(at)
        blank, begin = blank_lines.next(name) if name >= 0 else (-1, -1)
        if blank < 0:
            return
        if blank > name + _BLANK_LINE_WITHIN:
            at = blank - _BLANK_LINE_WITHIN  # all names before that are as far away
            continue
        stop = _delimiter(message, begin)
        at = max(name + 1, stop)
        end = _without_line_ends(message, begin, stop)
        if end - begin >= BASE64_FROM_BYTES and (decoded := _decode(message[begin:end])):
            yield Base64Run(begin, end, *decoded)


class _EncodingNames:
    """Where a message has the transfer encoding's name; looks at no byte twice for one spelling of it."""

    def __init__(self, message: bytes, start: int) -> None:
        self._message = message
        self._lower = message.find(b"base64", start)

    def next(self, start: int) -> int:
        """The first at or behind `start`, which never goes back; -1 for none."""
        if 0 <= self._lower < start:
            self._lower = self._message.find(b"base64", start)
        # The rare spelling, which is slow to look for in encoded text, matters only where it comes first.
        end = self._lower if self._lower >= 0 else len(self._message)
        upper = self._message.find(b"BASE64", start, end)
        return upper if upper >= 0 else self._lower


class _BlankLines:
    """Where a message has blank lines; looks at hardly a byte twice for one kind of them."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._end = len(message)
        lf = message.find(b"\n")
        kinds = (b"\r\n\r\n", b"\n\n") if message[lf - 1 : lf] == b"\r" else (b"\n\n", b"\r\n\r\n")
        self._likely, self._other = kinds
        self._likely_bytes, self._other_bytes = map(len, kinds)
        self._likely_at = self._other_at = -1
        self._no_other_before = 0

    def next(self, start: int) -> tuple[int, int]:
        """Where the first at or behind `start`, which never goes back, begins and ends; -1 for none."""
        if self._likely_at < start:
            found = self._message.find(self._likely, start)
            # What is not there is never looked for again.
            self._likely_at = found if found >= 0 else self._end
        likely = self._likely_at
        if self._other_at < start and self._no_other_before < likely:
            # It matters only where it comes first; a message with lines of one kind has none anywhere.
            begin = start if start > self._no_other_before else self._no_other_before
            self._other_at = self._message.find(self._other, begin, likely + self._other_bytes - 1)
            if self._other_at < 0:
                self._no_other_before = likely
        if self._other_at >= start:
            return self._other_at, self._other_at + self._other_bytes
        return (likely, likely + self._likely_bytes) if likely < self._end else (-1, -1)


def _delimiter(message: bytes, start: int) -> int:
    """The first line that begins as a MIME boundary does, or the message's end."""
    # Base64 has no "-", and one byte is found much faster than three.
    dash = message.find(b"-", start)
    found = message.find(b"\n--", max(start, dash - 1)) if dash >= 0 else -1
    return found if found >= 0 else len(message)


def _without_line_ends(message: bytes, start: int, end: int) -> int:
    tail = message[max(start, end - _LINE_ENDS_BYTES_MAX) : end]
    return end - (len(tail) - len(tail.rstrip(b"\r\n")))


def _decode(run: bytes) -> tuple[int, bytes, bytes] | None:
    """Width, line end and data; None when encoding the data would not give exactly the same bytes."""
    line = run.find(b"\n")
    if line < 0:
        line_end, width, flat = b"", 0, run
    else:
        line_end = b"\r\n" if run[line - 1 : line] == b"\r" else b"\n"
        width = line + 1 - len(line_end)
        lines = (len(run) - 1) // (width + len(line_end))
        if not _WIDTH_MIN <= width <= BASE64_WIDTH_MAX or not _lines_are_even(run, lines, width, line_end):
            return None
        # As many as there are lines: more would be slow, where they are close together, and are no base64.
        flat = run.replace(line_end, b"", lines)
    try:
        data = pybase64.b64decode(flat, validate=True)
    except ValueError:
        return None
    return (width, line_end, data) if pybase64.b64encode(data) == flat else None


def _lines_are_even(run: bytes, lines: int, width: int, line_end: bytes) -> bool:
    step = width + len(line_end)
    return all(
        run[width + at :: step][:lines] == line_end[at : at + 1] * lines for at in range(len(line_end))
    )
