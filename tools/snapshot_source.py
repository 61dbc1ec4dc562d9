"""What backups and captures are taken of: a storage group of a server, opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pillarbox.backup.snapshot import SnapshotSource
from pillarbox.store.engine.database import MountState
from pillarbox.store.errors import InvalidName
from pillarbox.store.server import Server
from pillarbox.store.storage_group import StorageGroup
from pillarbox.tools.output import warn


@contextmanager
def open_source(server: Path, group_name: str | None, *, quiet: bool = False) -> Iterator[SnapshotSource]:
    """A storage group of a server with its mounted databases, for a `with` block; the only one when None.

    Says on stderr which are left out since they are dismounted, unless `quiet`. Raises NotFound, InvalidName
    when there are several, and why a database could not be mounted.
    """
    with Server.open(server, read_only=True) as opened:
        group = _group(opened, group_name)
        for database in group.databases.values():
            if database.state is MountState.DISMOUNTED and (reason := opened.not_mounted.get(database.label)):
                raise reason
        mounted = [each for each in group.databases.values() if each.state is not MountState.DISMOUNTED]
        left_out = [each.name for each in group.databases.values() if each not in mounted]
        if not quiet:
            warn(f"pillarbox: {each} is dismounted, and not backed up" for each in left_out)
        yield SnapshotSource(opened.path.resolve().name, group.name, mounted)


def _group(server: Server, name: str | None) -> StorageGroup:
    if name is not None:
        return server.group(name)
    if len(server.groups) != 1:
        raise InvalidName(
            f"the server has {len(server.groups)} storage groups",
            hint=f"name one with --group: {', '.join(server.groups)}",
        )
    return next(iter(server.groups.values()))
