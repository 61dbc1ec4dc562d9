"""A message as a person reads it: its text, decoded, and the names of what is attached."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from email.errors import MessageError
from email.message import Message
from email.parser import BytesParser
from typing import Final, NamedTuple

from pillarbox.store.mail.parts import Attachment, attachment

_MARK: Final = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)[^<>]*>|<[!?/][^<>]*>")
_HIDDEN: Final = frozenset({"script", "style", "head", "title"})
_LINES: Final = frozenset({"p", "br", "div", "tr", "li", "h1", "h2", "h3", "table", "blockquote"})


class Readable(NamedTuple):
    """The text of a message, with line ends of `\\n`, and its attachments."""

    text: str
    attachments: list[Attachment]


def readable(raw: bytes) -> Readable:
    """The text of a message: its plain parts, or those in HTML without their marks. Takes any bytes."""
    try:
        parts = list(_parts(BytesParser().parsebytes(raw)))
        plain = [_text(part) for part in parts if _is_text(part, "text/plain")]
        if not plain:
            plain = [_without_marks(_text(part)) for part in parts if _is_text(part, "text/html")]
        attached = [each for part in parts if (each := attachment(part))]
    except (MessageError, RecursionError, ValueError, LookupError, TypeError, AttributeError):
        # Nested past all sense, or otherwise made to break what reads it.
        return Readable(raw.decode("utf-8", "replace"), [])
    return Readable("\n".join(text.replace("\r\n", "\n").rstrip("\n") + "\n" for text in plain), attached)


def _parts(whole: Message) -> Iterator[Message]:
    return (part for part in whole.walk() if not part.is_multipart())


def _is_text(part: Message, content_type: str) -> bool:
    return part.get_content_type() == content_type and not attachment(part)


def _text(part: Message) -> str:
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    try:
        return data.decode(part.get_content_charset() or "utf-8", "replace")
    except LookupError:
        return data.decode("utf-8", "replace")


def _without_marks(markup: str) -> str:
    """The text in HTML. In one pass, whatever the markup: html.parser takes quadratic time on a bad one."""
    pieces: list[str] = []
    hidden, at = "", 0
    for mark in _MARK.finditer(markup):
        if not hidden:
            pieces.append(" ".join(markup[at : mark.start()].split("\n")))
        at = mark.end()
        closing, tag = mark[1] == "/", (mark[2] or "").lower()
        if tag in _LINES:
            pieces.append("\n")
        if tag in _HIDDEN and not closing:
            hidden = hidden or tag
        elif tag == hidden:
            hidden = ""
    if not hidden:
        pieces.append(markup[at:])
    lines = (" ".join(line.split()) for line in html.unescape("".join(pieces)).split("\n"))
    return "\n".join(line for line in lines if line)
