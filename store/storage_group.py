"""Storage groups: databases that are backed up together; how many an edition allows (DOMAIN.md "Store")."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.database_limits import Edition
from pillarbox.store.errors import Refused


class GroupLimits(NamedTuple):
    """How many regular storage groups a server may have, and how many databases each of them."""

    groups_max: int
    databases_max: int
    of_one_kind_max: int


GROUP_LIMITS: Final = {
    Edition.STANDARD: GroupLimits(groups_max=1, databases_max=2, of_one_kind_max=1),
    Edition.ENTERPRISE: GroupLimits(groups_max=4, databases_max=5, of_one_kind_max=5),
}


def refuse_another_group(edition: Edition, groups_count: int) -> None:
    """Raises Refused when a server that has `groups_count` regular groups may have no other."""
    groups_max = GROUP_LIMITS[edition].groups_max
    if groups_count >= groups_max:
        raise Refused(
            f"a server of the edition {edition.value} has at most {groups_max} storage group(s)",
            hint=_enterprise_hint(edition) or "delete a storage group first",
        )


def refuse_another_database(edition: Edition, kinds: Collection[DatabaseKind], kind: DatabaseKind) -> None:
    """Raises Refused when a group with databases of `kinds` may not have another of `kind`."""
    limits = GROUP_LIMITS[edition]
    same = sum(each == kind for each in kinds)
    if len(kinds) < limits.databases_max and same < limits.of_one_kind_max:
        return
    what = "databases"
    count_max = limits.databases_max
    if edition is Edition.STANDARD:
        what, count_max = f"{kind.name.lower().replace('_', ' ')}s", limits.of_one_kind_max
    raise Refused(
        f"a storage group of the edition {edition.value} has at most {count_max} {what}",
        hint=_enterprise_hint(edition) or "create it in another storage group, or delete a database first",
    )


def _enterprise_hint(edition: Edition) -> str:
    return "the edition enterprise allows more" if edition is Edition.STANDARD else ""


class StorageGroup:
    """A regular storage group of a server: its databases by name, in the order of the configuration."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.databases: dict[str, Database] = {}
