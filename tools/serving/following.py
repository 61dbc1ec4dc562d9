"""Taking over what others changed in server.toml: settings, and which databases are to be mounted."""

from __future__ import annotations

from collections.abc import Container

import pillarbox
from pillarbox.store.errors import PillarboxError, Retryable


def follow_settings(server: pillarbox.Server, lent: Container[bytes] = ()) -> None:
    """Read server.toml again; mount and dismount what is wanted otherwise now, and what others let go of.

    A database that cannot be mounted is told by its event, and tried again when another process had it. Those
    that are `lent`, by GUID, are left alone.
    Raises as `Server.reload`, and then nothing is taken over.
    """
    wanted_before = _wanted(server)
    server.reload()
    for database in server.databases():
        if database.guid in lent:
            continue
        label = database.label
        wanted = server.is_to_be_mounted(label)
        changed = wanted != wanted_before.get(database.guid, False)
        busy = isinstance(server.not_mounted.get(label), Retryable)
        if wanted and (changed or busy):
            _try_to_mount(server, label)
        elif changed:
            server.dismount(label)


def _wanted(server: pillarbox.Server) -> dict[bytes, bool]:
    return {database.guid: server.is_to_be_mounted(database.label) for database in server.databases()}


def _try_to_mount(server: pillarbox.Server, label: str) -> None:
    try:
        server.mount(label, starts_grace=False)
    except PillarboxError:
        return  # the event says why, and a busy one is tried again
