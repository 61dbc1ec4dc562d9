"""Parts of a message that a person asks for: its attachments and those it was sent to.

They are read from the message's bytes when they are asked for; what listings need is in its envelope.
"""

from __future__ import annotations

from contextlib import suppress
from email.errors import MessageError
from email.message import Message
from email.parser import BytesParser
from email.utils import getaddresses
from typing import NamedTuple

from pillarbox.store.content.envelope import decode_words
from pillarbox.store.content.header import header_end


class Attachment(NamedTuple):
    """A part of a message that is meant to be kept apart from its text; its name decoded, "" for none."""

    name: str
    content_type: str


def attachments(raw: bytes) -> list[Attachment]:
    """The attachments in a message's bytes; none where it is made to break what reads it."""
    try:
        parts = BytesParser().parsebytes(raw).walk()
        return [each for part in parts if (each := attachment(part))]
    except (MessageError, RecursionError, ValueError, LookupError, TypeError, AttributeError):
        return []  # nested past all sense, as a rule


def attachment(part: Message) -> Attachment | None:
    """The attachment that a part of a parsed message is; None for text, and for what only holds parts.

    Raises whatever `email` does for a message that is made to break it.
    """
    name = part.get_filename() or ""
    if part.is_multipart() or not (name or part.get_content_disposition() == "attachment"):
        return None
    return Attachment(decode_words(name), part.get_content_type())


class Recipient(NamedTuple):
    """Somebody a message's header names. `kind` is to, cc or bcc."""

    kind: str
    name: str
    address: str


def recipients(raw: bytes) -> list[Recipient]:
    """Everybody the To, Cc and Bcc fields of a message's bytes name, in order."""
    header = BytesParser().parsebytes(raw[: header_end(raw)], headersonly=True)
    found = []
    for kind in ("to", "cc", "bcc"):
        fields = [str(value) for value in header.get_all(kind, [])]
        with suppress(RecursionError):  # comments or groups nested past all sense
            found += [Recipient(kind, name, address) for name, address in getaddresses(fields) if address]
    return found
