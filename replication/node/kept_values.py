"""Values that the node keeps in the replication state table: msgpack arrays that begin with their version."""

from __future__ import annotations

from typing import Any, Final

from pillarbox.store.disk.records import pack, unpack
from pillarbox.store.errors import UnsupportedVersion

VERSION: Final = 1


def packed(*fields: Any) -> bytes:
    """A value of these fields."""
    return pack((VERSION, *fields))


def unpacked(value: bytes, what: str) -> tuple[Any, ...]:
    """The fields of a value, `what` it is in words. Raises Corrupt; UnsupportedVersion for a newer one."""
    version, *fields = unpack(value)
    if version != VERSION:
        raise UnsupportedVersion(
            f"{what} is of version {version}",
            hint=f"this program reads version {VERSION}; use a newer one",
        )
    return tuple(fields)
