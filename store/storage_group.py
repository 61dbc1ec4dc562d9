"""Storage groups: databases that are backed up together; how many an edition allows (DOMAIN.md "Store")."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.database_limits import GB, LIMIT_KEYS, Edition, limits_from_settings
from pillarbox.store.errors import Refused
from pillarbox.store.server_config import ServerConfig


class GroupLimits(NamedTuple):
    """The number of regular storage groups that a server may have, and of databases in each of them."""

    groups_max: int
    databases_max: int
    of_one_kind_max: int


GROUP_LIMITS: Final = {
    Edition.STANDARD: GroupLimits(groups_max=1, databases_max=2, of_one_kind_max=1),
    Edition.ENTERPRISE: GroupLimits(groups_max=4, databases_max=5, of_one_kind_max=5),
}


def smallest_edition(kinds_by_group: Sequence[Sequence[DatabaseKind]]) -> Edition:
    """The smallest edition that allows storage groups with databases of these kinds."""
    for edition, limits in GROUP_LIMITS.items():
        if len(kinds_by_group) <= limits.groups_max and all(
            len(kinds) <= limits.databases_max
            and all(kinds.count(kind) <= limits.of_one_kind_max for kind in DatabaseKind)
            for kinds in kinds_by_group
        ):
            return edition
    return Edition.ENTERPRISE


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
        what, count_max = _plural(kind), limits.of_one_kind_max
    raise Refused(
        f"a storage group of the edition {edition.value} has at most {count_max} {what}",
        hint=_enterprise_hint(edition) or "create it in another storage group, or delete a database first",
    )


def refuse_edition(edition: Edition, config: ServerConfig) -> None:
    """Raises Refused when a server is too large for an edition, and names all that is above its caps."""
    found = list(_above_caps(edition, config))
    if found:
        raise Refused(
            f"the server is too large for the edition {edition.value}: {'; '.join(found)}",
            hint="delete what is too much, move mailboxes out of it first, and lower the limits",
        )


def _above_caps(edition: Edition, config: ServerConfig) -> Iterator[str]:
    caps = GROUP_LIMITS[edition]
    if len(config.groups) > caps.groups_max:
        yield f"{len(config.groups)} storage groups, at most {caps.groups_max}"
    for group in config.groups:
        kinds = [entry.kind for entry in group.databases]
        if len(kinds) > caps.databases_max:
            yield f"{len(kinds)} databases in {group.name}, at most {caps.databases_max}"
        for kind in DatabaseKind:
            if kinds.count(kind) > caps.of_one_kind_max:
                yield f"{kinds.count(kind)} {_plural(kind)} in {group.name}, at most {caps.of_one_kind_max}"
        for entry in group.databases:
            is_set = not LIMIT_KEYS.isdisjoint(entry.settings)
            limit_bytes = limits_from_settings(entry.settings, config.edition).limits.limit_bytes
            if is_set and limit_bytes > edition.highest_limit_gb * GB:
                label, most = config.label_of(entry.guid), edition.highest_limit_gb
                yield f"a limit of {limit_bytes / GB:,.2f} GB of {label}, at most {most} GB"


def _plural(kind: DatabaseKind) -> str:
    return f"{kind.name.lower().replace('_', ' ')}s"


def _enterprise_hint(edition: Edition) -> str:
    return "the edition enterprise allows more" if edition is Edition.STANDARD else ""


class StorageGroup:
    """A regular storage group of a server: its databases by name, in the order of the configuration."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.databases: dict[str, Database] = {}
