"""One message from standard input, as transports and pipes hand it over."""

from __future__ import annotations

import sys

from pillarbox.store.errors import InvalidContent, OverLimit


def read_message() -> bytes:
    """The message on standard input, byte for byte.

    Raises InvalidContent when there is none, OverLimit for one of more than `MESSAGE_BYTES_MAX`.
    """
    from pillarbox.store.files.mail_item import MESSAGE_BYTES_MAX

    raw = sys.stdin.buffer.read(MESSAGE_BYTES_MAX + 1) if sys.stdin else b""
    if not raw.strip():
        raise InvalidContent("there is no message on standard input", hint="pipe one into the command")
    if len(raw) > MESSAGE_BYTES_MAX:
        raise OverLimit(f"a message has at most {MESSAGE_BYTES_MAX >> 20} MB", hint="send it in parts")
    return raw
