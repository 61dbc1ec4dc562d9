"""Find: the folders of the tree, or below one of them, that meet all criteria at once (DOMAIN.md "Views")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeAlias

from pillarbox.replication.core import folder_settings, hierarchy
from pillarbox.replication.core.preset import DAY_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import Folder, ObjectId, ReplicaState
from pillarbox.replication.ground.versions import Versions
from pillarbox.store.access import FolderRights

NO_RIGHTS: Final = FolderRights(0)


class Age(StrEnum):
    """The ways in which the age of a folder is compared."""

    NEWER = "newer than"
    OLDER = "older than"
    EXACTLY = "exactly"


class AgeInDays(NamedTuple):
    """An age from creation, in whole days."""

    compared: Age
    days: int


class Between(NamedTuple):
    """Two times, ms UTC: the first is in it, the last is not."""

    first_ms: int
    last_ms: int


@dataclass(frozen=True)
class Criteria:
    """All that a folder must meet; what is not given is met by all.

    A name contains `name_contains` in any case. `subject` has all of `rights` on the folder by an entry of
    its own. `replicated_to` is a server of its replica list, also one that is delete pending there.
    """

    name_contains: str = ""
    subject: str = ""
    rights: FolderRights = NO_RIGHTS
    replicated_to: bytes = b""
    created: Between | None = None
    modified: Between | None = None
    age: AgeInDays | None = None


class Found(NamedTuple):
    """A folder that meets the criteria."""

    folder: ObjectId
    name: str
    created_ms: int
    modified_ms: int


def find(replica: Replica, criteria: Criteria, below: ObjectId | None = None) -> tuple[Found, ...]:
    """The folders that meet all criteria, by name; in the whole tree, or below a folder, which is not among
    them."""
    tests = _tests(replica, criteria)
    found = []
    for folder in _candidates(replica, below):
        look = _look(replica, folder)
        if look is not None and all(test(look) for test in tests):
            found.append(Found(folder, look.read.name.value, look.created_ms, look.modified_ms))
    return tuple(sorted(found, key=lambda each: (each.name.casefold(), each.folder)))


class _Look:
    """One folder; when it was made is computed when that is asked for, and once."""

    __slots__ = ("_created_ms", "read", "versions")

    def __init__(self, read: Folder, versions: Versions[Any]) -> None:
        self.read = read
        self.versions = versions
        self._created_ms: int | None = None

    @property
    def created_ms(self) -> int:
        if self._created_ms is None:
            self._created_ms = created_ms(self.read)
        return self._created_ms

    @property
    def modified_ms(self) -> int:
        return modified_ms(self.versions)


_Test: TypeAlias = Callable[[_Look], bool]


def _look(replica: Replica, folder: ObjectId) -> _Look | None:
    """A folder that lives, None for any other."""
    read, versions = replica.folder(folder), replica.objects.get(replica.tree.hierarchy, folder)
    return _Look(read, versions) if read and versions and read.is_live else None


def created_ms(read: Folder) -> int:
    """When a folder was made: the earliest stamp of its name, its place and its replica list, of which most
    are never set again."""
    time_ms = min(read.name.stamp.time_ms, read.parent.stamp.time_ms)
    for entry in read.replicas.values():
        if entry.stamp.time_ms < time_ms:
            time_ms = entry.stamp.time_ms
    return time_ms


def modified_ms(versions: Versions[Any]) -> int:
    """When a folder was last changed, its replica list and permissions too."""
    changed_ms: int = max([each.changed.time_ms for each in versions.siblings.values() if not each.gone])
    return changed_ms


def _candidates(replica: Replica, below: ObjectId | None) -> Iterator[ObjectId]:
    if below is None:
        tree = replica.tree
        yield from (folder for folder in replica.objects.ids(tree.hierarchy) if folder != tree.organisation)
        return
    yield from hierarchy.below(replica, below)


def _tests(replica: Replica, criteria: Criteria) -> list[_Test]:
    """One test for each criterion that is given, the cheapest first."""
    tests: list[_Test] = []
    if part := criteria.name_contains.casefold():
        tests.append(lambda look: part in look.read.name.value.casefold())
    if criteria.subject:
        subject, rights = criteria.subject, criteria.rights
        tests.append(lambda look: _has_rights(look.read, subject, rights))
    if (server := criteria.replicated_to) and not replica.organisation.is_removed(server):
        tests.append(lambda look: _is_replicated_to(look.read, server))
    elif server:
        tests.append(lambda look: False)
    if modified := criteria.modified:
        tests.append(lambda look: modified.first_ms <= look.modified_ms < modified.last_ms)
    if created := criteria.created:
        tests.append(lambda look: created.first_ms <= look.created_ms < created.last_ms)
    if age := criteria.age:
        tests.append(lambda look: _is_of_age(age, replica.wall_ms - look.created_ms))
    return tests


def _is_replicated_to(read: Folder, server: bytes) -> bool:
    entry = read.replicas.get(server)
    return entry is not None and entry.value is not ReplicaState.REMOVED


def _has_rights(read: Folder, subject: str, rights: FolderRights) -> bool:
    own = folder_settings.own_rights(read, subject)
    return own is not None and rights in own


def _is_of_age(age: AgeInDays, age_ms: int) -> bool:
    days = age_ms // DAY_MS
    if age.compared is Age.NEWER:
        return days < age.days
    return days > age.days if age.compared is Age.OLDER else days == age.days
