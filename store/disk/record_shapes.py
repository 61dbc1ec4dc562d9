"""The values that fields of records may have, whoever wrote them: types, ranges, and the insides of lists.

A value that is whole may still hold what no transaction writes, when an enemy made it. It is damage, found
where a record is read: nothing behind it meets a field of another type, or a number that no key can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from operator import itemgetter
from typing import Any, Final

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "bool": (bool,),
    "bytes": (bytes,),
    "str": (str,),
}
_SIGNED_END: Final = 1 << 63  # of a time in ms, which may lie before 1970
_MAXIMA: Final = {"uid": (1 << 32) - 1, "uid_next": 1 << 32, "kind": 255}  # what keys and index rows hold


class _Shape:
    """The fields of one type of record."""

    def __init__(self, kind: Any) -> None:
        fields = kind._fields
        known = {name: text for base in reversed(kind.__mro__) for name, text in _annotations_of(base)}
        annotations = {name: known.get(name, "Any") for name in fields}
        # Compared and not hashed, which takes several times as long; there are few.
        self._typed = [name for name in fields if annotations[name] != "Any"]
        self._types = tuple(product(*(_types_of(annotations[name]) for name in self._typed)))
        self._counts = _picker([at for at, name in enumerate(fields) if _is_count(name, annotations[name])])
        self._times = _picker([at for at, name in enumerate(fields) if name.endswith("_ms")])
        self._maxima = [(at, _MAXIMA[name]) for at, name in enumerate(fields) if name in _MAXIMA]
        checks = [(at, _CHECKS.get(annotations[name])) for at, name in enumerate(fields)]
        self._lists = [(at, check) for at, check in checks if check is not None]

    def problem_of(self, fields: tuple[Any, ...]) -> str:
        """Why no transaction can have written these fields; empty when one can."""
        if tuple(map(type, fields[: len(self._typed)])) not in self._types:
            return "a field is of another type"
        if min(self._counts(fields), default=0) < 0 or any(fields[at] > most for at, most in self._maxima):
            return "a number is out of its range"
        for time in self._times(fields):
            if time is not None and time >= _SIGNED_END:
                return "a time is out of its range"
        for at, holds in self._lists:
            if fields[at] and not holds(fields[at]):
                return "a list holds what it cannot"
        return ""


def _annotations_of(base: Any) -> Iterator[tuple[str, str]]:
    for name, annotation in getattr(base, "__annotations__", {}).items():
        yield name, _text_of(annotation)


def _text_of(annotation: Any) -> str:
    """An annotation as it is written: a named tuple keeps it as a reference to be looked up."""
    return str(getattr(annotation, "__forward_arg__", getattr(annotation, "__name__", annotation)))


def _types_of(annotation: str) -> tuple[type, ...]:
    found = _TYPES.get(annotation)
    return found or ((dict,) if annotation.startswith("dict") else (tuple,))


def _is_count(name: str, annotation: str) -> bool:
    return annotation == "int" and not name.endswith("_ms")


def _picker(places: list[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda fields: tuple(fields[at] for at in places)


def _are(kind: type) -> Callable[[Any], bool]:
    return lambda values: set(map(type, values)) <= {kind}


def _are_counts(values: Any) -> bool:
    return set(map(type, values)) <= {int} and min(values, default=0) >= 0


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


def _are_digests(value: Any) -> bool:
    return type(value) is tuple and _are(bytes)(value)


_CHECKS: Final[dict[str, Callable[[Any], bool]]] = {
    "tuple[str, ...]": _are(str),
    "tuple[tuple[int, int], ...]": _are_rows(_is_count_field, _is_count_field),
    "tuple[tuple[int, int, int], ...]": _are_rows(*3 * (_is_count_field,)),
    "tuple[tuple[int, int, int, bytes], ...]": _are_rows(*3 * (_is_count_field,), _is_bytes),
    "tuple[tuple[int, int, int, bytes, tuple[bytes, ...]], ...]": _are_rows(
        *3 * (_is_count_field,), _is_bytes, _are_digests
    ),
    "dict[str, int]": lambda found: _are(str)(found) and _are_counts(found.values()),
    "dict[str, Any]": _are(str),
}


@cache
def _shape_of(kind: Any) -> _Shape:
    return _Shape(kind)


def problem_of_fields(kind: Any, fields: tuple[Any, ...]) -> str:
    """Why fields cannot be those of a record of type `kind`; empty when they can."""
    return _shape_of(kind).problem_of(fields)
