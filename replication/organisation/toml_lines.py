"""The line of each key of a TOML text, which the parsers of TOML do not tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Final, TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys from the top of the text; a table of a list of tables has its number behind the list's key."""

_KEY: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED: Final = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_STATEMENT: Final = re.compile(
    rf"[ \t]*(?:\[\[[ \t]*(?P<list>{_DOTTED})[ \t]*\]\]|\[[ \t]*(?P<table>{_DOTTED})[ \t]*\]"
    rf"|(?P<key>{_DOTTED})[ \t]*=)"
)
_PIECE: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"""+|\'\'\'.*?\'\'\'+|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|\#[^\n]*|(?P<open>[\[{])'
    r"|(?P<close>[\]}])|(?P<end>\n)|.",
    re.DOTALL,
)


def lines_of(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of each table and key of a valid TOML text; keys in inline tables have none."""
    found: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}
    table: KeyPath = ()
    at = 0
    while at < len(text):
        line = text.count("\n", 0, at) + 1
        statement = _STATEMENT.match(text, at)
        if statement and (name := statement["list"]):
            path = _within(counts, _keys(name))
            counts[path] = counts.get(path, -1) + 1
            table = (*path, counts[path])
            found[table] = line
            found.setdefault(path, line)
        elif statement and (name := statement["table"]):
            table = _within(counts, _keys(name), whole=True)
            found[table] = line
        elif statement:
            found[(*table, *_keys(statement["key"]))] = line
        at = _end_of_statement(text, statement.end() if statement else at)
    return found


def line_at(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """The line of a key, or of the table nearest to it that has one; 1 when none has."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _keys(dotted: str) -> tuple[str, ...]:
    return tuple(_plain(key) for key in re.findall(_KEY, dotted))


def _plain(key: str) -> str:
    return str(tomllib.loads(f"key = {key}")["key"]) if key[0] in "\"'" else key


def _within(counts: Mapping[KeyPath, int], keys: tuple[str, ...], *, whole: bool = False) -> KeyPath:
    """A path where each list of tables stands for its last table; `whole`: the last key too."""
    path: KeyPath = ()
    for number, key in enumerate(keys):
        path = (*path, key)
        if path in counts and (whole or number < len(keys) - 1):
            path = (*path, counts[path])
    return path


def _end_of_statement(text: str, at: int) -> int:
    """The beginning of the next line that belongs to no value that began before it."""
    depth = 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        assert piece is not None  # any character is one
        at = piece.end()
        if piece["open"]:
            depth += 1
        elif piece["close"]:
            depth -= 1
        elif piece["end"] and depth <= 0:
            return at
    return at
