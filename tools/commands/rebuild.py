"""A lost server.toml, made anew from the databases of a server and what a backup says of it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

import pillarbox
from pillarbox.store.errors import Incomplete
from pillarbox.tools.options import JSON, SERVER
from pillarbox.tools.output import show
from pillarbox.tools.repository_options import keys, open_repository

if TYPE_CHECKING:
    from pillarbox.store.server_config import ServerConfig


@click.command()
@SERVER
@click.argument("repo", default="")
@keys
@JSON
def rebuild(
    server: Path, repo: str, passphrase_file: Path | None, key_file: Path | None, as_json: bool
) -> None:
    """Make the server.toml of SERVER anew from its databases, when it is lost.

    With REPO it is that of the newest backup of one of them: the server's identity, edition, names, settings.
    Without, storage groups and databases are called as their directories are, and have default settings; the
    GUIDs of the databases stay, so that backups of them are found and taken on, and the server gets another.

    \b
    pillarbox rebuild /srv/mail /backup/mail
    pillarbox rebuild /srv/mail
    """
    from pillarbox.backup.new_server import newest_config
    from pillarbox.backup.snapshot import database_guids
    from pillarbox.store.server_config import KIND_TEXTS
    from pillarbox.store.server_rebuild import rebuild_config

    repository = open_repository(repo, passphrase_file, key_file) if repo else None

    def find_config(guids: Collection[bytes]) -> tuple[ServerConfig, str] | None:
        held = repository.snapshots() if repository is not None else []
        return newest_config([each for each in held if not database_guids(each).isdisjoint(guids)])

    config, unknown, is_known = rebuild_config(server, find_config)
    pillarbox.Server.open(server, mount=False).close()  # which gives it a GUID
    rows = [
        {"group": group.name, "database": entry.name, "kind": KIND_TEXTS[entry.kind]}
        for group in config.groups
        for entry in group.databases
    ]
    lines = [f"{server} has its server.toml again (edition {config.edition.value}):"]
    lines += [f"  {row['group']}/{row['database']} ({row['kind']})" for row in rows]
    if is_known:
        lines.append("Names and settings are those of the newest backup that has them.")
    else:
        lines.append("Names are those of the directories, settings the defaults: look them over.")
    show(
        {
            "edition": config.edition.value,
            "has_config": is_known,
            "databases": rows,
            "unknown": list(map(str, unknown)),
        },
        lines,
        as_json,
    )
    if unknown:
        raise Incomplete(
            f"not known which databases they are: {', '.join(map(str, unknown))}",
            hint="restore them from a backup with `pillarbox backup restore REPO latest --to DIR`",
        )
