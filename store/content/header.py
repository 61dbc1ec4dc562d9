"""Where a message's header ends, and the fields in it that are looked at, as raw bytes.

Takes any bytes and raises nothing. No header costs much more than an ordinary one of its size: its end is
looked for in `HEADER_BYTES_MAX`, and `HEADER_FIELDS_MAX` fields of it are looked at.
"""

from __future__ import annotations

import re
from typing import Final

HEADER_BYTES_MAX: Final = 1 << 20
# Ten times what much-forwarded mail has.
HEADER_FIELDS_MAX: Final = 500

# The first letters stand before the names because most lines of a header are ruled out by them, faster.
# Several line feeds are what is left of carriage returns among them: a header has no blank line.
_FIELD: Final = re.compile(
    rb"\n(?=[cdfimprstxCDFIMPRSTX])((?i:subject|from|sender|to|cc|date|message-id|in-reply-to|references"
    rb"|importance|x-priority|priority|content-(?:type|disposition|id|transfer-encoding)))"
    rb"[ \t]*+:([^\n]*+(?:\n++[ \t][^\n]*+)*+)"
)

# Blank lines, the likely one first. "\r\r\n" is a line end that went through a conversion to CRLF twice.
_BLANK_LF: Final = (b"\n\n", b"\n\r\n", b"\n\r\r\n")
_BLANK_CRLF: Final = (b"\n\r\n", b"\n\n", b"\n\r\r\n")
_CR_AS_LF: Final = bytes.maketrans(b"\r", b"\n")


def header_end(message: bytes) -> int:
    """The offset just past the blank line that ends the header.

    Lines end with LF or CRLF, or all of the header's with CR. Without a blank line in the first
    `HEADER_BYTES_MAX` bytes all of these are header.
    """
    if message[:1] in (b"\n", b"\r"):
        return 2 if message[:2] == b"\r\n" else 1
    end = min(len(message), HEADER_BYTES_MAX)
    first = message.find(b"\n", 0, end)
    blank_cr = message.find(b"\r\r", 0, first - 1 if first >= 0 else end)
    if blank_cr >= 0:
        return blank_cr + 2
    for blank in _BLANK_CRLF if message[first - 1 : first] == b"\r" else _BLANK_LF:
        found = message.find(blank, 0, end)
        if found >= 0:
            end = found + len(blank)
            if message.find(b"\r", 0, end) < 0:
                break
    return end


def fields_of(header: bytes) -> dict[bytes, bytes]:
    """The raw values of the fields that matter to an envelope, by lower-case name; the first of each name.

    A folded value keeps its line feeds.
    """
    if b"\r" in header:
        header = header.replace(b"\r\n", b"\n").translate(_CR_AS_LF)
    if header.count(b"\n") > HEADER_FIELDS_MAX:
        header = _first_fields(header)
    found = _FIELD.findall(b"\n" + header)
    found.reverse()  # so that the first of each name stays
    return {name.lower(): value for name, value in found}


def _first_fields(header: bytes) -> bytes:
    """The first `HEADER_FIELDS_MAX` fields, each in one line: a long list of recipients is one of them."""
    unfolded = header.replace(b"\n ", b"  ").replace(b"\n\t", b" \t")
    return b"\n".join(unfolded.split(b"\n", HEADER_FIELDS_MAX)[:HEADER_FIELDS_MAX])
