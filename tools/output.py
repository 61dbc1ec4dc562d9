"""What commands print: lines for people, or one JSON value with `--json`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click


def show(data: Any, lines: Iterable[str], as_json: bool) -> None:
    """Print `data` as JSON, or `lines` for a person. Text from mail cannot steer the terminal."""
    if as_json:
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    for line in lines:
        click.echo("".join(letter if letter.isprintable() else " " for letter in line))


def megabytes(size_bytes: int) -> str:
    """A size for a person."""
    return f"{size_bytes / (1 << 20):,.2f} MB"
