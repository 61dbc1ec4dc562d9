"""The values that fields of records may have, whoever wrote them: types, ranges, and the insides of lists.

A value that is whole may still hold what no transaction writes, when an enemy made it. It is damage, found
where a record is read: nothing behind it meets a field of another type, or a number that no key can hold.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import product
from operator import itemgetter
from typing import Any, Final

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "bool": (bool,),
    "bytes": (bytes,),
    "bytes | None": (bytes, type(None)),
    "str": (str,),
}
_TIME_MAX: Final = (1 << 63) - 1  # signed: it may lie before 1970
_MAXIMA: Final = {"uid": (1 << 32) - 1, "uid_next": 1 << 32, "kind": 255}  # what keys and index rows hold


class _Shape:
    """The fields of one type of record."""

    def __init__(self, kind: Any) -> None:
        fields = kind._fields
        known = {name: text for base in reversed(kind.__mro__) for name, text in _annotations_of(base)}
        self._stamps = [at for at, name in enumerate(fields) if name == "changed"]
        texts = [known.get(name, "Any") for name in fields]
        self._types = [(at, _types_of(text)) for at, text in enumerate(texts) if text != "Any"]
        self._counts = [at for at, name in enumerate(fields) if _is_count(name, texts[at])]
        self._maxima = [(at, most) for at, name in enumerate(fields) if (most := _maximum_of(name))]
        checks = [(at, _CHECKS.get(text)) for at, text in enumerate(texts)]
        self._lists = [(at, check) for at, check in checks if check is not None]
        self.is_usual = _usual_record(fields, texts)

    def problem_of(self, fields: tuple[Any, ...]) -> str:
        """Why no transaction can have written these fields; empty when one can."""
        if any(type(fields[at]) not in types for at, types in self._types):
            return "a field is of another type"
        if any(fields[at] < 0 for at in self._counts):
            return "a number is out of its range"
        for at, most in self._maxima:
            if fields[at] is not None and fields[at] > most:
                return "a number is out of its range"
        if any(len(fields[at]) not in (0, 2) for at in self._stamps):
            return "a stamp is no time and counter"
        for at, holds in self._lists:
            if fields[at] and not holds(fields[at]):
                return "a list holds what it cannot"
        return ""


def _usual_record(fields: tuple[str, ...], texts: list[str]) -> Callable[[tuple[Any, ...]], bool]:
    """A test that knows the usual record, of millions that are read, by C code that takes nothing else.

    Its numbers can be packed, its texts and bytes be joined, and its lists are empty. It raises for others.
    """
    numbers_at = [at for at, text in enumerate(texts) if text.startswith("int")]
    pack_numbers = struct.Struct("=" + "".join(_code_of(fields[at]) for at in numbers_at)).pack
    numbers = _picker(numbers_at)
    strings = _picker([at for at, text in enumerate(texts) if text == "str"])
    digests = _picker([at for at, text in enumerate(texts) if text == "bytes"])
    others_at = [at for at, text in enumerate(texts) if text not in ("str", "bytes") and at not in numbers_at]
    others = _picker(others_at)
    usual_others = tuple(product(*(_usual_of(texts[at]) for at in others_at)))
    join, join_bytes = "".join, b"".join

    def is_usual(record: tuple[Any, ...]) -> bool:
        pack_numbers(*numbers(record))
        join(strings(record))
        join_bytes(digests(record))
        return others(record) in usual_others

    return is_usual


def _usual_of(annotation: str) -> tuple[Any, ...]:
    if annotation == "bool":
        return (False, True)
    if annotation == "bytes | None":
        return (None,)
    return ({},) if annotation.startswith("dict") else ((),) if annotation.startswith("tuple") else ()


def _maximum_of(name: str) -> int:
    return _TIME_MAX if name.endswith("_ms") else _MAXIMA.get(name, 0)


def _code_of(name: str) -> str:
    """The code that packs a number of that name only when it is within its range."""
    return "q" if name.endswith("_ms") else "I" if name.startswith("uid") else "B" if name == "kind" else "Q"


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
}


_shapes: Final[dict[Any, _Shape]] = {}


def problem_of_fields(kind: Any, fields: tuple[Any, ...]) -> str:
    """Why fields cannot be those of a record of type `kind`; empty when they can."""
    shape = _shapes.get(kind)
    if shape is None:
        shape = _shapes[kind] = _Shape(kind)
    try:
        if shape.is_usual(fields):
            return ""
    except (struct.error, TypeError):
        pass  # of another type or range, or None where that may be
    return shape.problem_of(fields)
