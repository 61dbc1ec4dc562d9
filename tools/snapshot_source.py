"""The source of backups and captures: a storage group of a server, opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pillarbox
from pillarbox.store.errors import Incomplete, InvalidName, PillarboxError

if TYPE_CHECKING:
    from pillarbox.backup.snapshot import SnapshotSource
    from pillarbox.store.storage_group import StorageGroup


@contextmanager
def open_source(server: Path, group_name: str | None) -> Iterator[SnapshotSource]:
    """A storage group of a server with its mounted databases, for a `with` block; the only one when None.

    Raises NotFound, InvalidName when there are several; when no database can be mounted, the reason.
    """
    from pillarbox.backup.snapshot import source_of
    from pillarbox.store.server_config import read_config

    with suppress(PillarboxError):  # one that cannot be written is backed up without a GUID
        if not read_config(server).guid:
            pillarbox.Server.open(server, mount=False).close()
    with pillarbox.Server.open(server, read_only=True) as opened:
        group = _group(opened, group_name)
        source = source_of(opened, group)
        if not source.databases:
            for left_out in source.left_out:
                if reason := opened.not_mounted.get(left_out.database.label):
                    raise reason.anew()
        yield source


def raise_left_out(source: SnapshotSource) -> None:
    """Raises Incomplete, naming the databases that the backup left out and why."""
    if source.left_out:
        named = "; ".join(f"{left_out.database.name}: {left_out.reason}" for left_out in source.left_out)
        raise Incomplete(
            f"the backup is without {named}",
            hint="mount what is dismounted, repair or restore what cannot be mounted, then back up again",
        )


def _group(server: pillarbox.Server, name: str | None) -> StorageGroup:
    if name is not None:
        return server.group(name)
    if len(server.groups) != 1:
        raise InvalidName(
            f"the server has {len(server.groups)} storage groups",
            hint=f"name one with --group: {', '.join(server.groups)}",
        )
    return next(iter(server.groups.values()))
