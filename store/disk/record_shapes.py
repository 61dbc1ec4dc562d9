"""The values that fields of records may have, whoever wrote them: types, ranges, and the insides of lists.

A value that is whole may still hold what no transaction writes, when an enemy made it. It is damage, found
where a record is read: nothing behind it meets a field of another type, or a number that no key can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

_TIME_MAX: Final = (1 << 63) - 1  # signed: it may lie before 1970
_MAXIMA: Final = {"uid": (1 << 32) - 1, "uid_next": 1 << 32, "kind": 255}  # what keys and index rows hold


class Shape:
    """The fields of a type of record in a stored value: the first ones, as many as were written.

    `holds(*fields)` is true for fields that a transaction can have written. `defaults` are those of the
    fields behind them.
    """

    __slots__ = ("_conditions", "defaults", "holds")

    def __init__(self, kind: Any, count: int) -> None:
        known = {name: text for base in reversed(kind.__mro__) for name, text in _annotations_of(base)}
        names = kind._fields[:count]
        self.defaults = tuple(kind._field_defaults[name] for name in kind._fields[count:])
        self._conditions = {name: _condition_on(name, known.get(name, "Any")) for name in names}
        self.holds = _compiled(names, " and ".join(self._conditions.values()))

    def problem_of(self, fields: tuple[Any, ...]) -> str:
        """The first field that no transaction can have written, in words."""
        for (name, condition), field in zip(self._conditions.items(), fields, strict=True):
            if not _compiled((name,), condition)(field):
                return f"its field {name} is of another type, or holds what it cannot"
        return "its fields are none of a record"


@cache
def shape_of(kind: Any, count: int) -> Shape | None:
    """The shape of a stored record of type `kind` with so many fields; None when none has so many."""
    needed = len(kind._fields) - len(kind._field_defaults)
    return Shape(kind, count) if needed <= count <= len(kind._fields) else None


def _compiled(names: tuple[str, ...], condition: str) -> Callable[..., bool]:
    """A function of fields by name. As code of its own it takes half as long as a walk through tables."""
    made: Callable[..., bool] = eval(f"lambda {', '.join(names)}: {condition}", {"CHECKS": _CHECKS})
    return made


def _condition_on(name: str, annotation: str) -> str:
    """The condition on a field as an expression: type, range, and the insides of what is not empty."""
    if annotation == "Any":
        return "True"
    kind, _, optional = annotation.partition(" | ")
    if kind == "int":
        condition = f"type({name}) is int{_range_of(name, bool(optional))}"
    elif kind in ("bool", "bytes", "str"):
        condition = f"type({name}) is {kind}"
    else:
        check = "stamp" if name == "changed" else annotation
        inside = f" and (not {name} or CHECKS[{check!r}]({name}))" if check in _CHECKS else ""
        condition = f"type({name}) is {kind.partition('[')[0]}{inside}"
    return f"({name} is None or {condition})" if optional else condition


def _range_of(name: str, is_optional: bool) -> str:
    if name.endswith("_ms"):
        return f" and {name} <= {_TIME_MAX}"
    if is_optional:
        return ""
    return f" and 0 <= {name} <= {_MAXIMA[name]}" if name in _MAXIMA else f" and {name} >= 0"


def _annotations_of(base: Any) -> Iterator[tuple[str, str]]:
    for name, annotation in getattr(base, "__annotations__", {}).items():
        yield name, _text_of(annotation)


def _text_of(annotation: Any) -> str:
    """An annotation as it is written: a named tuple keeps it as a reference to be looked up."""
    return str(getattr(annotation, "__forward_arg__", getattr(annotation, "__name__", annotation)))


def _are(kind: type) -> Callable[[Any], bool]:
    return lambda values: set(map(type, values)) <= {kind}


def _are_counts(values: Any) -> bool:
    return set(map(type, values)) <= {int} and min(values, default=0) >= 0


def _is_stamp(values: Any) -> bool:
    return len(values) == 2 and _are_counts(values)


def _are_rows(*row: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def hold(values: Any) -> bool:
        return all(
            type(value) is tuple
            and len(value) == len(row)
            and all(holds(field) for holds, field in zip(row, value, strict=True))
            for value in values
        )

    return hold


def _is_count_field(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_bytes(value: Any) -> bool:
    return type(value) is bytes


def _is_text(value: Any) -> bool:
    return type(value) is str


def _are_digests(value: Any) -> bool:
    return type(value) is tuple and _are(bytes)(value)


_CHECKS: Final[dict[str, Callable[[Any], bool]]] = {
    "tuple[str, ...]": _are(str),
    "tuple[int, ...]": _are_counts,
    "tuple[tuple[int, int], ...]": _are_rows(_is_count_field, _is_count_field),
    "tuple[tuple[int, int, int], ...]": _are_rows(*3 * (_is_count_field,)),
    "tuple[tuple[int, int, int, bytes], ...]": _are_rows(*3 * (_is_count_field,), _is_bytes),
    "tuple[tuple[int, int, int, bytes, tuple[bytes, ...]], ...]": _are_rows(
        *3 * (_is_count_field,), _is_bytes, _are_digests
    ),
    "tuple[tuple[str, int, int, int], ...]": _are_rows(_is_text, *3 * (_is_count_field,)),
    "tuple[tuple[str, int, int, int, int], ...]": _are_rows(_is_text, *4 * (_is_count_field,)),
    "tuple[tuple[bytes, int, int, int, int], ...]": _are_rows(_is_bytes, *4 * (_is_count_field,)),
    "dict[str, int]": lambda found: _are(str)(found) and _are_counts(found.values()),
    "dict[str, Any]": _are(str),
    "stamp": _is_stamp,
}
