"""The conflict message: what users see of a message whose content was changed in two places at once.

It holds the versions. All stores that hold the same versions make the same bytes of them, so nothing about it
is numbered or sent: it is shown while the conflict lasts, and goes with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Final, NamedTuple

from pillarbox.store.content.header import fields_of, header_end

ITEMS_MAX: Final = 16
"""Items in a conflict message. The oldest of more versions are joined into one of them."""
HELD_BYTES_MAX: Final = 16 << 20
"""Bytes of versions in a conflict message. Larger ones are named in it, and read by their ids."""
_KEPT_FIELDS: Final = (b"From", b"To", b"Cc", b"Date", b"In-Reply-To", b"References")
_TIME_MS_MAX: Final = 253_402_300_799_000  # the last second that a date has digits for


class HeldVersion(NamedTuple):
    """A version of a message; `raw` is None where it is too large to be held."""

    digest: bytes
    raw: bytes | None
    size_bytes: int
    actor: str
    changed_ms: int


def render(versions: Sequence[HeldVersion]) -> bytes:
    """The conflict message of versions in the order in which all stores show them, the oldest first."""
    joined_count = len(versions) - ITEMS_MAX + 1 if len(versions) > ITEMS_MAX else 0
    joined, single = versions[:joined_count], versions[joined_count:]
    mark = blake2b(b"".join(version.digest for version in versions), digest_size=16).hexdigest().encode()
    parts = [_text(versions, joined_count)]
    if joined:
        earlier = [_attached(version) for version in joined if version.raw is not None]
        parts.append(_multipart(b"digest", b"earlier-" + mark, earlier))
    parts += [_attached(version) for version in single if version.raw is not None]
    shown = next((version for version in reversed(versions) if version.raw is not None), versions[-1])
    return _header(shown, mark) + _multipart(b"mixed", b"conflict-" + mark, parts)


def _header(last: HeldVersion, mark: bytes) -> bytes:
    """The fields of the last version, so that the conflict message stands where that would stand."""
    found = {} if last.raw is None else fields_of(last.raw[: header_end(last.raw)])
    subject = b"Subject: Conflict: " + _folded(found.get(b"subject", b"")) + b"\r\n"
    kept = [
        name + b": " + _folded(found[name.lower()]) + b"\r\n"
        for name in _KEPT_FIELDS
        if name.lower() in found
    ]
    own = b"Message-ID: <conflict-" + mark + b"@pillarbox.invalid>\r\nMIME-Version: 1.0\r\n"
    return b"".join(kept) + subject + own


def _folded(value: bytes) -> bytes:
    """A raw value as one line."""
    return b" ".join(value.replace(b"\r", b"\n").split(b"\n")).strip()


def _text(versions: Sequence[HeldVersion], joined_count: int) -> bytes:
    lines = [
        f"This message was changed in {len(versions)} places at once, and each change is kept.",
        "Keep one of them, or all as messages of their own:",
        "pillarbox replication conflicts, pillarbox replication resolve.",
        "",
    ]
    lines += [_line(place, version) for place, version in enumerate(versions, 1)]
    if joined_count:
        lines += ["", f"The first {joined_count} are joined into one attachment."]
    body = "\r\n".join(lines) + "\r\n"
    head = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    return head + body.encode(errors="replace")


def _line(place: int, version: HeldVersion) -> str:
    changed = datetime.fromtimestamp(min(max(version.changed_ms, 0), _TIME_MS_MAX) / 1000, UTC)
    actor = "".join(letter if letter.isprintable() else "?" for letter in version.actor)
    held = "" if version.raw is not None else ", too large to be attached"
    return f"{place}. {changed:%Y-%m-%d %H:%M:%S} UTC, {actor}, {version.size_bytes} bytes{held}"


def _attached(version: HeldVersion) -> bytes:
    raw = version.raw or b""
    encoding = b"7bit" if raw.isascii() else b"8bit"
    head = b"Content-Type: message/rfc822\r\nContent-Disposition: attachment\r\n"
    return head + b"Content-Transfer-Encoding: " + encoding + b"\r\n\r\n" + raw


def _multipart(kind: bytes, boundary: bytes, parts: Sequence[bytes]) -> bytes:
    """A multipart with its own header fields, as a part of another or at the end of a header."""
    line = b"\r\n--" + boundary
    head = b"Content-Type: multipart/" + kind + b'; boundary="' + boundary + b'"\r\n\r\n'
    return head + b"".join(line + b"\r\n" + part for part in parts) + line + b"--\r\n"
