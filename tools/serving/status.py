"""The status of a served server as plain data: what the page, `/status` and the metrics are made of."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import pillarbox
from pillarbox.store.engine.database import MountState
from pillarbox.store.engine.database_limits import assess_disk
from pillarbox.store.engine.disk_floor import free_disk_bytes
from pillarbox.store.errors import PillarboxError
from pillarbox.store.server_config import KIND_TEXTS
from pillarbox.store.upkeep import sizes
from pillarbox.store.upkeep.daily_maintenance import last_maintenance_ms
from pillarbox.store.upkeep.last_backup import read_last_backup
from pillarbox.tools.backup_rows import backup_data
from pillarbox.tools.serving.due import Standing, Task

MOUNTED = "mounted"
LET_GO = "let go"
DISMOUNTED = "dismounted"
NOT_MOUNTED = "not mounted"
"""The state of a database that should be mounted and is not."""


def server_status(
    server: pillarbox.Server,
    standings: Mapping[Task, Standing],
    lent: Container[bytes],
    now_ms: int,
    replication: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The databases of a server with their sizes, limits and backups, the work that comes again and again,
    and `replication` as it was found.

    `lent` are the databases, by GUID, that a command works on. Times are ms UTC.
    """
    return {
        "server": server.path.name,
        "version": pillarbox.__version__,
        "edition": server.edition.value,
        "time_ms": now_ms,
        "databases": [
            {"group": group.name, **_database(server, database, lent)}
            for group in list(server.groups.values())
            for database in list(group.databases.values())
        ],
        "work": [
            {
                "work": task.work.value,
                "subject": task.subject,
                "is_running": standing.is_running,
                "next_ms": None if standing.is_running else standing.next_ms,
                "failure": standing.failure,
            }
            for task, standing in sorted(standings.items())
        ],
        "replication": replication,
    }


def _database(
    server: pillarbox.Server, database: pillarbox.Database, lent: Container[bytes]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "database": database.name,
        "kind": KIND_TEXTS[database.kind],
        **_state(server, database, lent),
        "limit_bytes": database.limits.limit_bytes,
        "threshold_bytes": database.limits.threshold_bytes,
        "last_maintenance_ms": last_maintenance_ms(database),
        "backups": backup_data(read_last_backup(server.backups_path, database.guid), server.backup_rules),
    }
    if found["state"] != MOUNTED:
        return found
    try:
        free_bytes = free_disk_bytes(database.path)
        return {
            **found,
            "logical_size_bytes": sizes.logical_size_bytes(database),
            "physical_size_bytes": sizes.physical_size_bytes(database),
            "free_disk_bytes": free_bytes,
            "waiting": database.waiting_count,
            "disk": assess_disk(database.limits, free_bytes).value,
            "last_size_check_ms": sizes.last_size_check_ms(database),
        }
    except PillarboxError as error:  # dismounted meanwhile, say
        return {**found, "state": NOT_MOUNTED, "reason": str(error)}


def _state(server: pillarbox.Server, database: pillarbox.Database, lent: Container[bytes]) -> dict[str, str]:
    if database.state is not MountState.DISMOUNTED:
        return {"state": MOUNTED, "reason": ""}
    if database.guid in lent:
        return {"state": LET_GO, "reason": "a command works on its files"}
    if reason := server.not_mounted.get(database.label):
        return {"state": NOT_MOUNTED, "reason": str(reason)}
    return {"state": DISMOUNTED, "reason": "an administrator has dismounted it"}


def complaints(server: pillarbox.Server, lent: Container[bytes]) -> list[str]:
    """The reasons why a server is not well: databases that should be mounted, and are not."""
    return [
        f"{group.name}/{database.name}: {found['reason']}"
        for group in list(server.groups.values())
        for database in list(group.databases.values())
        if (found := _state(server, database, lent))["state"] == NOT_MOUNTED
    ]
