"""The frames of a transport: the label before each copy of a bundle, and receipts.

They are written anew at each hop, signed by nobody, and trusted for nothing but the transport itself: who
forges one can delay mail, as who owns the link can anyway.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from pillarbox.replication.wire.frame import (
    CLASS_AT,
    HEADER_BYTES,
    PACKED_BYTES_MAX,
    ROUTE_BYTES_MAX,
    SIGNATURE_BYTES_MAX,
    TYPE_AT,
)
from pillarbox.replication.wire.messages import BundleKey, Class, Label, MessageType, Receipt, Says
from pillarbox.store.errors import InvalidContent, UnsupportedVersion

LABEL_MAGIC: Final = b"PBRL"
RECEIPT_MAGIC: Final = b"PBRR"
VERSION: Final = 1

_LABEL: Final = struct.Struct("<4sBBBx16sI")
_RECEIPT: Final = struct.Struct("<4sBB2x16sIQ16s")
LABEL_BYTES: Final = _LABEL.size
RECEIPT_BYTES: Final = _RECEIPT.size
FRAME_BYTES_MAX: Final = LABEL_BYTES + HEADER_BYTES + ROUTE_BYTES_MAX + PACKED_BYTES_MAX + SIGNATURE_BYTES_MAX
"""No frame is longer: a label, and the longest bundle."""
assert LABEL_BYTES == 28 and RECEIPT_BYTES == 52
_BEHIND_MS_MAX: Final = (1 << 32) - 1
_HOPS_MAX: Final = 255
_CHANGES: Final = (MessageType.HIERARCHY, MessageType.CONTENT)


def encode_label(label: Label) -> bytes:
    """A label as bytes."""
    behind_ms, hops = min(label.behind_ms, _BEHIND_MS_MAX), min(label.hops, _HOPS_MAX)
    return _LABEL.pack(LABEL_MAGIC, VERSION, label.is_for_site, hops, label.to, behind_ms)


def decode_label(data: bytes) -> Label:
    """The label that stands before a bundle. Raises InvalidContent or UnsupportedVersion."""
    _, _, flags, hops, to, behind_ms = _unpacked(_LABEL, LABEL_MAGIC, data)
    label = Label(to, hops, bool(flags), behind_ms)
    if encode_label(label) != data[:LABEL_BYTES]:
        raise _invalid("bytes of a label that must be zero are not")
    return label


def encode_receipt(receipt: Receipt) -> bytes:
    """A receipt as bytes."""
    return _RECEIPT.pack(RECEIPT_MAGIC, VERSION, receipt.says, *receipt.key, receipt.by)


def decode_receipt(data: bytes) -> Receipt:
    """A receipt. Raises InvalidContent or UnsupportedVersion."""
    _, _, says, database, incarnation, number, by = _unpacked(_RECEIPT, RECEIPT_MAGIC, data)
    if says not in list(Says):
        raise _invalid("a receipt says what no receipt says")
    receipt = Receipt(BundleKey(database, incarnation, number), by, Says(says))
    if encode_receipt(receipt) != data:
        raise _invalid("a receipt is too long, or bytes that must be zero are not")
    return receipt


def is_urgent(frame: bytes) -> bool:
    """True for a receipt, and for changes of the first class: they may pass other frames that wait."""
    if frame[:4] == RECEIPT_MAGIC:
        return True
    if frame[:4] != LABEL_MAGIC or len(frame) < LABEL_BYTES + HEADER_BYTES:
        return False
    return frame[LABEL_BYTES + TYPE_AT] in _CHANGES and frame[LABEL_BYTES + CLASS_AT] == Class.URGENT


def _unpacked(form: struct.Struct, magic: bytes, data: bytes) -> tuple[Any, ...]:
    if len(data) < form.size or data[:4] != magic:
        raise _invalid("it does not begin as one")
    if data[4] != VERSION:
        raise UnsupportedVersion(
            f"a frame of the replication transport is of version {data[4]}",
            hint=f"this program reads version {VERSION}",
        )
    return form.unpack(data[: form.size])


def _invalid(reason: str) -> InvalidContent:
    return InvalidContent(
        f"not a frame of the replication transport: {reason}", hint="the connection is closed and made anew"
    )
