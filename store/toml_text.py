"""TOML that people may edit: written anew with their comments, order and spelling kept."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Final

# What tells tables of one list apart, whatever else of them changes.
_IDENTITIES: Final = ("guid", "directory", "name")
_MARK: Final = "\ue000"  # for private use: no text of people has it
_HASH: Final = re.compile(r"^([ \t]*)#", re.MULTILINE)
_COMMENTS_ABOVE: Final = re.compile(r"^((?:[ \t]*#.*\n)+)([ \t]*\[.*\n)", re.MULTILINE)
_COMMENTS_BELOW: Final = re.compile(rf"^([ \t]*\[.*\n)((?:[ \t]*#{_MARK}.*\n)+)", re.MULTILINE)


def format_toml(table: Mapping[str, Any], before: str = "") -> str:
    """`table` as TOML, in place of the text `before`: what both say stays as it is written there."""
    import tomlkit  # takes 27 ms, and most commands only read
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(_with_comments_inside(before))
        _bring(document, table)
        text = _with_comments_above(tomlkit.dumps(document))
        if tomllib.loads(text) == table:
            return text
    except (TOMLKitError, tomllib.TOMLDecodeError):
        pass
    return tomlkit.dumps(table)  # without comments rather than without what is to be written


def _with_comments_inside(text: str) -> str:
    """`text` with the comments right above the head of a table below it, marked.

    They are of that table, and go and move with it; to tomlkit they are of the table before. Those at the
    beginning of the file are of the file.
    """

    def swapped(found: re.Match[str]) -> str:
        return found[2] + _HASH.sub(rf"\1#{_MARK}", found[1]) if found.start() else found[0]

    moved = _COMMENTS_ABOVE.sub(swapped, text)
    try:
        is_same = _MARK not in text and tomllib.loads(moved) == tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        is_same = False
    return moved if is_same else text


def _with_comments_above(text: str) -> str:
    return _COMMENTS_BELOW.sub(r"\2\1", text).replace(f"#{_MARK}", "#")


def _bring(present: MutableMapping[str, Any], wanted: Mapping[str, Any]) -> None:
    from tomlkit.items import AoT

    for key in [key for key in present if key not in wanted]:
        del present[key]
    for key, value in wanted.items():
        held = present.get(key)
        if isinstance(held, MutableMapping) and isinstance(value, Mapping):
            _bring(held, value)
        elif isinstance(held, AoT) and _are_tables_apart(value):
            _bring_tables(held, value)
        elif key not in present or type(_plain(held)) is not type(value) or _plain(held) != value:
            present[key] = value


def _plain(value: Any) -> Any:
    return value.unwrap() if hasattr(value, "unwrap") else value


def _bring_tables(present: Any, wanted: Sequence[Mapping[str, Any]]) -> None:
    """Bring a list of tables in line: the tables that are there first, in their order, then new ones."""
    import tomlkit

    kept = {_identity(table): table for table in wanted}
    identities = [_identity(table) for table in present]
    for index in reversed(range(len(present))):
        if identities[index] not in kept or identities.index(identities[index]) < index:
            del present[index]
    for table in present:
        _bring(table, kept.pop(_identity(table)))
    for table in kept.values():
        added = tomlkit.item(dict(table))
        added.trivia.indent = "\n"
        present.append(added)


def _are_tables_apart(value: Any) -> bool:
    """True when `value` is a list of tables of which each has an identity of its own."""
    if not isinstance(value, list) or not value or not all(isinstance(table, Mapping) for table in value):
        return False
    return len({_identity(table) for table in value}) == len(value)


def _identity(table: Mapping[str, Any]) -> str:
    return next((repr(_plain(table[key])) for key in _IDENTITIES if key in table), "")
