"""Kinds of arguments that several commands share: what they mean, how they are written, how a shell completes
them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem

import pillarbox
from pillarbox.store.errors import PillarboxError
from pillarbox.tools.options import ACTOR
from pillarbox.tools.tree import find_tree

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE_MAX: Final = 1 << 62  # no message is larger, and a number of hundreds of digits is no float


def size(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """A size in bytes, or with a unit: 100K, 2.5M, 1G; a K is 1024."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)(?:i?B)?", value, re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"{value!r} is no size: say 100K, 2.5M or a number of bytes")
    return int(min(float(match[1]), _SIZE_MAX) * _UNITS[match[2].upper()])


def moment(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """A day or moment in ISO 8601, on the local clock unless it says its distance from UTC; as ms UTC."""
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(f"{value!r} is no day or time: say 2024-12-31 or 2024-12-31T18:30") from None
    return (found - _EPOCH) // timedelta(milliseconds=1)


def duration(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """A length of time with its unit, 90s, 30m, 6h, 1d, 2w; as ms."""
    if value is None:
        return None
    found_ms = duration_ms(value)
    if found_ms is None:
        raise click.BadParameter(f"{value!r} is no length of time: say 90s, 30m, 6h or 1d")
    return found_ms


def duration_ms(text: str) -> int | None:
    """The length of time that `text` says, in ms; None when it says none."""
    match = re.fullmatch(r"([0-9]{1,9}) ?([smhdw])", text, re.IGNORECASE)
    if match is None or not int(match[1]):
        return None
    return int(match[1]) * _SECONDS[match[2].lower()] * 1000


FORMATS: Final = ("eml", "mbox", "maildir")  # of mail files
COUNT: Final = click.IntRange(1, 10**12)


# -- names, completed from what the server has


def _server(ctx: click.Context) -> Path | None:
    # Behind an option that has no value yet, click has the arguments before it only as they were typed.
    server = ctx.params.get("server") or next(iter(ctx.args), None)
    return Path(server) if server else None


def _mailbox(ctx: click.Context) -> str | None:
    name: str | None = ctx.params.get("mailbox_name") or next(iter(ctx.args[1:]), None)
    return name


def _names(found: Iterator[str], incomplete: str) -> list[CompletionItem]:
    """The names that begin as typed; none when the server cannot be read: a shell shows no errors."""
    try:
        names = [name for name in found if name.casefold().startswith(incomplete.casefold())]
    except PillarboxError:
        return []
    return [CompletionItem(name) for name in names]


def complete_database(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The databases of the server named before."""
    return _names(_database_names(_server(ctx)), incomplete)


def complete_group(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The storage groups of the server named before."""
    return _names(_group_names(_server(ctx)), incomplete)


def complete_mailbox(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The mailboxes of the server named before, of those databases that can be read at once."""
    return _names(_mailbox_names(_server(ctx)), incomplete)


def complete_folder(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The folders of the mailbox, or tree of public folders, named before."""
    return _names(_folder_paths(_server(ctx), _mailbox(ctx)), incomplete)


def complete_target(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The folders of the mailbox that `--to-mailbox` names, or of the one named before."""
    return _names(_folder_paths(_server(ctx), ctx.params.get("target_name") or _mailbox(ctx)), incomplete)


def _group_names(server: Path | None) -> Iterator[str]:
    from pillarbox.store.server_config import read_config

    if server:
        yield from (group.name for group in read_config(server).groups)


def _database_names(server: Path | None) -> Iterator[str]:
    from pillarbox.store.server_config import read_config

    if server:
        yield from (entry.name for group in read_config(server).groups for entry in group.databases)


def _mailbox_names(server: Path | None) -> Iterator[str]:
    from pillarbox.store.disk.tables import DatabaseKind

    if server is None:
        return
    with _to_look_at(server) as opened:
        for database in opened.databases():
            if database.kind == DatabaseKind.MAILBOX_STORE:
                yield from _mailboxes_of(database)


@contextmanager
def _to_look_at(server: Path) -> Iterator[pillarbox.Server]:
    """A server with those of its databases mounted that can be read at once."""
    with pillarbox.Server.open(server, read_only=True, mount=False) as opened:
        for database in opened.databases():
            with suppress(PillarboxError):
                # Not by the server, which would replay the stream after a crash: to complete a word changes
                # nothing.
                database.mount(read_only=True)
        yield opened


def _mailboxes_of(database: pillarbox.Database) -> Iterator[str]:
    with suppress(PillarboxError), database.read(ACTOR) as read:
        yield from (box.name for box in pillarbox.mailboxes.all_of(read))


def _folder_paths(server: Path | None, mailbox_name: str | None) -> Iterator[str]:
    if server is None or not mailbox_name:
        return
    with _to_look_at(server) as opened:
        tree = find_tree(opened, mailbox_name)
        with tree.database.read(ACTOR) as read:
            yield from ("/".join(path) for path, _ in pillarbox.folders.walk(read, tree.root_id))


MAILBOX = click.argument("mailbox_name", metavar="MAILBOX", shell_complete=complete_mailbox)
DATABASE = click.argument("database_name", metavar="DATABASE", shell_complete=complete_database)
FOLDER = click.argument("folder_path", metavar="FOLDER", shell_complete=complete_folder)
FOLDER_OR_ALL = click.argument("folder_path", metavar="[FOLDER]", default="", shell_complete=complete_folder)
YES = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
