"""docs/cli.md has every command with its arguments and options, and nothing that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

import click

from pillarbox.store import errors
from pillarbox.tools.cli import cli
from pillarbox.tools.lazy import LazyCommand

DOCUMENT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
# Until they are written about, their commands may be missing; what is written must be true all the same.
LATER = frozenset({"backup", "recovery"}) - set(re.findall(r"^## (\w+)$", DOCUMENT, re.MULTILINE))


class Synopsis(NamedTuple):
    """How a command is called."""

    arguments: tuple[str, ...]
    options: frozenset[str]
    required: frozenset[str]


def argument_name(argument: click.Argument) -> str:
    if isinstance(argument.type, click.Choice) and argument.metavar is None:
        return "|".join(map(str, argument.type.choices))
    return (argument.metavar or (argument.name or "").upper()).strip("[]")


def real(group: click.Group = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Synopsis]]:
    for name, listed in group.commands.items():
        command = listed.load() if isinstance(listed, LazyCommand) else listed
        if isinstance(command, click.Group):
            yield from real(command, (*words, name))
            continue
        options = [each for each in command.params if isinstance(each, click.Option)]
        yield (
            " ".join((*words, name)),
            Synopsis(
                tuple(argument_name(each) for each in command.params if isinstance(each, click.Argument)),
                frozenset(each.opts[0] for each in options),
                frozenset(each.opts[0] for each in options if each.required),
            ),
        )


def documented() -> Iterator[tuple[str, Synopsis]]:
    for command, text in re.findall(r"^### ([a-z -]+)\n\n((?:    .*\n)+)", DOCUMENT, re.MULTILINE):
        call = " ".join(text.split())
        assert call.startswith(f"pillarbox {command} "), f"{command}: {call}"
        optional = " ".join(re.findall(r"\[--[^\]]*\]", call))
        plain = re.sub(r"\[--[^\]]*\](\.\.\.)?", "", call.removeprefix(f"pillarbox {command} "))
        required = re.findall(r"(--[a-z-]+) \S+", plain)
        arguments = re.sub(r"--[a-z-]+ \S+", "", plain).split()
        options = re.findall(r"--[a-z-]+", optional) + required
        yield (
            command,
            Synopsis(tuple(each.strip("[]") for each in arguments), frozenset(options), frozenset(required)),
        )


REAL = dict(real())
DOCUMENTED = dict(documented())


def test_the_document_has_every_command_and_no_other() -> None:
    missing = {each for each in REAL.keys() - DOCUMENTED.keys() if each.split()[0] not in LATER}
    assert not missing, "docs/cli.md lacks them"
    assert not DOCUMENTED.keys() - REAL.keys(), "docs/cli.md has them, and pillarbox has not"


@pytest.mark.parametrize("command", sorted(REAL.keys() & DOCUMENTED.keys()))
def test_a_command_is_called_as_the_document_says(command: str) -> None:
    assert DOCUMENTED[command] == REAL[command]


def test_the_codes_that_the_document_names_exist() -> None:
    classes: list[Any] = [each for each in vars(errors).values() if isinstance(each, type)]
    known = {each.exit_code for each in classes if issubclass(each, errors.PillarboxError)}
    named = {int(code) for code in re.findall(r"\b[Ee]nds?\s+(?:it\s+|them\s+)?with\s+(\d+)\b", DOCUMENT)}
    assert len(named) > 8 and named <= known | {0, 1, 2, 130, 141}


def test_the_table_of_the_readme_has_every_command() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    rows = re.findall(r"^\| (`pillarbox [^|]*(?:\\\|[^|]*)*) \| (.*) \|$", readme, re.MULTILINE)
    told = {
        call.removeprefix("pillarbox ").split()[0]: does
        for calls, does in rows
        for call in re.findall(r"`([^`]*)`", calls)
    }
    assert sorted(told) == sorted(cli.commands)
    unnamed = [
        f"{name} {command}"
        for name, listed in cli.commands.items()
        for command in getattr(listed.load() if isinstance(listed, LazyCommand) else listed, "commands", ())
        if not re.search(rf"(?<![\w-]){command}(?![\w-])", told[name])
    ]
    assert unnamed == []
