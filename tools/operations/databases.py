"""Operations on databases: create, mount, dismount, maintain."""

from __future__ import annotations

from functools import partial
from typing import Any

import pillarbox
from pillarbox.store.errors import NotFound, Refused, WriterBusy
from pillarbox.store.ids import guid_text
from pillarbox.tools.error_data import error_data
from pillarbox.tools.operations.call import Call


def create(call: Call, *, name: str, group: str, kind: str) -> dict[str, Any]:
    """Make an empty database, of a kind as `DatabaseKind` names it, in a storage group or the only one."""
    from pillarbox.store.disk.tables import DatabaseKind
    from pillarbox.store.server_config import KIND_TEXTS

    made = call.server.create_database(group or _only_group(call.server), name, DatabaseKind[kind])
    return {"database": made.name, "guid": guid_text(made.guid), "kind": KIND_TEXTS[made.kind]}


def _only_group(server: pillarbox.Server) -> str:
    names = list(server.groups)
    if len(names) == 1:
        return names[0]
    if not names:
        raise NotFound("the server has no storage group", hint="make one: `pillarbox group create`")
    raise Refused("the server has several storage groups", hint=f"name one by --group: {', '.join(names)}")


def mount(call: Call, *, database: str) -> str:
    """Mount a database, and have it mounted from now on; its label."""
    mounted = call.server.mount(database)
    call.server.set_mount_at_startup(mounted.label, True)
    return mounted.label


def dismount(call: Call, *, database: str) -> dict[str, Any]:
    """Keep a database dismounted from now on; its label, and whether another process has it mounted still."""
    from pillarbox.store.disk.file_lock import is_locked
    from pillarbox.store.engine.database import LOCK

    found = call.server.database(database)
    call.server.set_mount_at_startup(found.label, False)
    with call.released(found):
        call.server.dismount(found.label)
    return {"database": found.label, "in_use": is_locked(found.path / LOCK)}


def maintain(call: Call, *, database: str) -> dict[str, Any]:
    """Do now what a database, or each that is mounted, needs each day.

    `maintained` has a row for each; `not_mounted` says why one that was not named could not be.
    """
    from pillarbox.store.engine.database import MountState

    server = call.server
    databases = [server.database(database)] if database else list(server.databases())
    rows = []
    for number, each in enumerate(databases):
        reason = server.not_mounted.get(each.label)
        if reason is not None and database:
            raise reason.anew()
        if each.state is MountState.DISMOUNTED and not database:
            continue
        step = partial(call.step, number, len(databases), each.label)
        rows.append(
            {"database": each.label, **server.maintain_now(each.label, call.actor, step=step)._asdict()}
        )
    return {"maintained": rows, "not_mounted": None if database else _first_not_mounted(server)}


def check_sizes(call: Call) -> dict[str, Any]:
    """Carry out the daily size check of all databases now; events tell what it finds.

    `not_mounted` says why a database could not be checked, `busy` names those that another process has.
    """
    call.server.check_sizes(now=True)
    return {"not_mounted": _first_not_mounted(call.server), "busy": list(call.server.not_mounted)}


def _first_not_mounted(server: pillarbox.Server) -> dict[str, Any] | None:
    missing = [why for why in server.not_mounted.values() if not isinstance(why, WriterBusy)]
    return error_data(missing[0]) if missing else None
