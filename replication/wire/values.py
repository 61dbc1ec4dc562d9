"""Single values, as they are read from the inside of a bundle. Each function raises InvalidContent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.wire.messages import Life
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.errors import InvalidContent
from pillarbox.store.hybrid_clock import Stamp
from pillarbox.store.ids import COUNTER_MAX, GUID_BYTES

TEXT_BYTES_MAX: Final = 1 << 16
U32_MAX: Final = (1 << 32) - 1
_U64_MAX: Final = (1 << 64) - 1

T = TypeVar("T")
Reader = Callable[[Any], T]


def read_exactly(value: Any, count: int) -> tuple[Any, ...]:
    """The fields of an array of so many."""
    if not isinstance(value, tuple):
        raise invalid("a value is no array")
    if len(value) != count:
        raise invalid(f"{len(value)} fields stand where {count} belong")
    return value


def read_array(value: Any) -> tuple[Any, ...]:
    """An array."""
    if not isinstance(value, tuple):
        raise invalid("a value is no array")
    return value


def read_bytes(value: Any) -> bytes:
    """Bytes."""
    if not isinstance(value, bytes):
        raise invalid("a value is no bytes")
    return value


def read_guid(value: Any) -> bytes:
    """A GUID."""
    if not isinstance(value, bytes) or len(value) != GUID_BYTES:
        raise invalid("a GUID has the wrong length")
    return value


def read_count(value: Any, highest: int = _U64_MAX) -> int:
    """A whole number from 0 on, at most `highest`."""
    if type(value) is not int or not 0 <= value <= highest:
        raise invalid("a number is out of its range")
    return value


def read_bool(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise invalid("a value is neither true nor false")
    return value


def read_text(value: Any) -> str:
    """A text of a bounded length."""
    if not isinstance(value, str) or len(value.encode()) > TEXT_BYTES_MAX:
        raise invalid("a text is none, or too long")
    return value


def read_number(value: Any) -> ObjectId:
    """A change number, or an id."""
    origin, counter = read_exactly(value, 2)
    if type(counter) is not int or not 1 <= counter <= COUNTER_MAX:
        raise invalid("a change number is out of its range")
    return ChangeNumber(read_guid(origin), counter)


def read_stamp(value: Any) -> Stamp:
    """A stamp."""
    time_ms, counter, origin = read_exactly(value, 3)
    return Stamp(read_count(time_ms), read_count(counter), read_guid(origin))


def read_life(incarnation: Any, life: Any) -> Life:
    """The life of a replica."""
    return Life(read_count(incarnation, U32_MAX), read_count(life, U32_MAX))


def read_cnset(value: Any) -> CNSet:
    """A set of change numbers."""
    return CNSet.decode(read_bytes(value))


def invalid(reason: str) -> InvalidContent:
    """The error of a message that is not what it should be."""
    return InvalidContent(
        f"not a replication message: {reason}", hint="it is refused; its sender will be asked again"
    )
