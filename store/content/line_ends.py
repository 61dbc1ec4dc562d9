"""Line ends of a message: its size as IMAP and POP3 tell it, where every line ends in CR LF."""

from __future__ import annotations


def size_with_crlf(message: bytes) -> int:
    """Bytes of a message when each bare LF of it is sent as CR LF (RFC822.SIZE of IMAP)."""
    pairs_count = message.count(b"\r\n") if b"\r" in message else 0
    return len(message) + message.count(b"\n") - pairs_count
