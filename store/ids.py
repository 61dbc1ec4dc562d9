"""Identities: GUIDs of servers, databases and mailboxes; 64-bit ids of folders and messages.

A folder's or message's id is a 16-bit replica number, local to the database that stores it, over the
48-bit counter of the database that made it (DOMAIN.md "Store", change numbers). The number a database
gives itself is `LOCAL_REPLICA`. Change numbers have the same shape and come from the same counter, so a
new object's id is also the change number of its creation.
"""

from __future__ import annotations

import random
import re
import uuid

GUID_BYTES = 16
LOCAL_REPLICA = 1
COUNTER_BITS = 48
COUNTER_MAX = (1 << COUNTER_BITS) - 1
LOCAL_BASE = LOCAL_REPLICA << COUNTER_BITS

_TEXT = re.compile(r"([0-9a-f]{1,4})-([0-9a-f]{1,12})")


def new_guid(rng: random.Random) -> bytes:
    """16 random bytes in the form of an RFC 9562 version 4 UUID."""
    return uuid.UUID(int=rng.getrandbits(128), version=4).bytes


def guid_text(guid: bytes) -> str:
    """The usual text of a GUID: `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`."""
    return str(uuid.UUID(bytes=guid))


def parse_guid(text: str) -> bytes:
    """The GUID in `text`. Raises ValueError when it is none."""
    return uuid.UUID(text).bytes


def counter_of(number: int) -> int:
    """The 48-bit counter part of an id or change number."""
    return number & COUNTER_MAX


def local_counter(number: int) -> int:
    """The counter of an id or change number that this database gave out itself, 0 for another's."""
    return counter_of(number) if number >> COUNTER_BITS == LOCAL_REPLICA else 0


def id_text(number: int) -> str:
    """An id as people and command lines see it: replica and counter in hexadecimal, `1-2f4`."""
    return f"{number >> COUNTER_BITS:x}-{number & COUNTER_MAX:x}"


def parse_id(text: str) -> int | None:
    """The id in `text`, or None when `text` is not of the form `id_text` gives."""
    match = _TEXT.fullmatch(text)
    return (int(match[1], 16) << COUNTER_BITS) | int(match[2], 16) if match else None
