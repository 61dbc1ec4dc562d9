"""Paths that a program gives may be str: every function of the library that takes one is found and called."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import pillarbox
from pillarbox.store.errors import InvalidArgument

ROOT = Path(__file__).resolve().parent.parent

# Modules whose paths come from the library itself, with the reason; a folder stands for all in it.
WITHIN = {
    "store/arguments.py": "makes paths of what is given",
    "store/disk/": "files of one database, below its directory",
    "store/engine/": "files of one database, below its directory",
    "store/content/": "no files",
    "store/files/mail_item.py": "files that the readers of mail files come by",
    "store/upkeep/check_unsound.py": "a copy that the check made",
    "store/upkeep/repair_undo.py": "a directory of a database, of which the caller has a `Database`",
    "store/upkeep/verification.py": "a directory of a database, of which the caller has a `Database`",
    "store/upkeep/names_in_tables.py": "a directory of a server, of which the caller has a `Server`",
    "store/upkeep/last_backup.py": "a directory of a server, of which the caller has a `Server`",
    "backup/last_backups.py": "a directory of a server, of which the caller has a `Server`",
    "backup/restore_rate.py": "a directory of a server, of which the caller has a `Server`",
    "backup/recovery_config.py": "a file of a server, of which the caller has a `Server`",
    "backup/replaced.py": "places below a server, of which the caller has a `Server`",
}
WITHIN_FUNCTIONS = {
    "store/files/eml.py": {"EmlWriter": "below the directory of an export"},
    "store/files/maildir.py": {
        "MaildirWriter": "below the directory of an export",
        "is_named_as_mail": "a file that a reader came by",
    },
    "store/events.py": {"EventQuery": "files of the log"},
    "store/server.py": {"Server": "made by `Server.open` and `Server.create`"},
    "store/storage_group.py": {"StorageGroup": "below the directory of a server"},
    "backup/restore.py": dict.fromkeys(
        ("rename_durably", "make_directories", "write_image", "close_cleanly", "unfinished_all", "exchange"),
        "a part of a restore, whose caller had the path checked",
    ),
    "backup/snapshot_mount.py": {"RecoveryDatabase": "made by `open_snapshot_mount` and `RecoveryGroup`"},
}

EXTRAS = {"nats"}
"""Modules of extras that may not be installed: what needs them is not looked at then."""


class Taker(NamedTuple):
    """A public function or class, and a parameter of it that is a path."""

    file: str
    name: str
    call: Callable[..., Any]
    parameter: inspect.Parameter


def is_path(annotation: object) -> bool:
    """Whether an annotation names a path or several; a function that is told of paths gives none."""
    words = re.findall(r"\w+", str(annotation))
    return bool({"Path", "PathLike"}.intersection(words)) and "Callable" not in words


def takers() -> Iterator[Taker]:
    for folder in ("store", "backup", "replication"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            file = path.relative_to(ROOT).as_posix()
            name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            try:
                module = import_module(f"pillarbox.{name}")
            except ModuleNotFoundError as error:
                if error.name not in EXTRAS:
                    raise
                continue
            for defined in vars(module).values():
                if getattr(defined, "__module__", None) == module.__name__:
                    yield from takers_of(file, defined)


def takers_of(file: str, defined: Any) -> Iterator[Taker]:
    if not (inspect.isfunction(defined) or inspect.isclass(defined)) or defined.__name__.startswith("_"):
        return
    calls = {defined.__name__: defined}
    if inspect.isclass(defined):
        members = vars(defined)
        calls = {defined.__name__: defined} if "__init__" in members and not is_dataclass(defined) else {}
        for name, kind in members.items():
            if isinstance(kind, classmethod) and not name.startswith("_"):
                calls[f"{defined.__name__}.{name}"] = getattr(defined, name)
    for name, call in calls.items():
        for parameter in inspect.signature(call).parameters.values():
            if is_path(parameter.annotation):
                yield Taker(file, name, call, parameter)


def within(taker: Taker) -> str | None:
    """Why a path comes from the library itself; None when a program gives it."""
    folders = [reason for place, reason in WITHIN.items() if taker.file.startswith(place)]
    return folders[0] if folders else WITHIN_FUNCTIONS.get(taker.file, {}).get(taker.name)


TAKERS = list(takers())
GIVEN = [
    *(each for each in TAKERS if within(each) is None),
    *(each for each in TAKERS if each.call is pillarbox.Database),
]


@pytest.mark.parametrize("taker", GIVEN, ids=lambda taker: f"{taker.name}-{taker.parameter.name}")
def test_a_path_that_a_program_gives_may_be_text_and_is_looked_at_first(taker: Taker) -> None:
    assert "PathLike" in str(taker.parameter.annotation), "take a PathLike, and make it a Path by `as_path`"
    with pytest.raises(InvalidArgument, match=f"^{taker.parameter.name} cannot be the float 3.5"):
        run(taker.call, taker.parameter.name)


def run(call: Callable[..., Any], name: str) -> None:
    """Call with a number for the path and None for all else, which is not looked at before the path."""
    parameters = inspect.signature(call).parameters.values()
    needed = {each.name: None for each in parameters if each.default is each.empty}
    answer = call(**needed | {name: 3.5})
    if isinstance(answer, AbstractContextManager):
        answer.__enter__()
    elif inspect.isgenerator(answer):
        next(answer)


def test_no_function_is_let_off_that_takes_no_path() -> None:
    found = {(each.file, each.name) for each in TAKERS}
    named = {(file, name) for file, names in WITHIN_FUNCTIONS.items() for name in names}
    assert not named - found
