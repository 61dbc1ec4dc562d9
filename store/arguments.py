"""Checks of the arguments that a program gives: of the right type, else an error that says what to give.

A record, a text or a GUID in the place of another is the commonest mistake of a caller, of which Python would
tell from deep inside. Every error names the parameter.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pillarbox.store.errors import InvalidArgument

PathLike = str | os.PathLike[str]

_SHOWN_CHARS: Final = 80


def check_id(value: object, argument: str) -> None:
    """Raises InvalidArgument unless `value` is a number, as the ids of folders and messages are."""
    if not isinstance(value, int):
        kind = "message" if argument == "message_id" else "folder"
        raise wrong_type(value, argument, f"the id of a {kind}: `{kind}_id` of its record")


def check_kind(value: object, argument: str, kind: type, wanted: str) -> None:
    """Raises InvalidArgument unless `value` is of a class; `wanted` says what to give."""
    if not isinstance(value, kind):
        raise wrong_type(value, argument, wanted)


def check_several(values: object, argument: str, wanted: str) -> None:
    """Raises InvalidArgument unless `values` are several: a text alone would be taken for its letters."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise wrong_type(values, argument, wanted)


def as_path(value: PathLike, argument: str) -> Path:
    """A path that was given as text or as a Path. Raises InvalidArgument for anything else."""
    if not isinstance(value, str | os.PathLike):
        raise wrong_type(value, argument, "a path: a str or a pathlib.Path")
    return Path(value)


def wrong_type(value: object, argument: str, wanted: str) -> InvalidArgument:
    """The error for a value of another type than its parameter's; `wanted` says what to give."""
    kind, shown = type(value).__name__, repr(value)
    # A long value may be somebody's mail, which belongs in no error.
    given = f"the {kind} {shown}" if len(shown) <= _SHOWN_CHARS else f"of type {kind}"
    return InvalidArgument(f"{argument} cannot be {given}", argument=argument, hint=f"give {wanted}")
