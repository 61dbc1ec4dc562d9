"""Conflicts as they are noticed: who is to be told of what was changed in two places at once.

Noticing spends no number, and each store that holds the folder notices alike. Nothing is decided here about
the versions: they live beside each other until somebody writes who saw them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Any, Final

from pillarbox.replication.core import folder_settings
from pillarbox.replication.core.effects import Notice
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import (
    Entry,
    Folder,
    FolderVersion,
    MessageVersion,
    MessageView,
    ObjectId,
)
from pillarbox.replication.ground.versions import Versions
from pillarbox.store.access import FolderRights
from pillarbox.store.change_number import CNSet

ITEMS_MAX: Final = 16
"""Versions that stand beside each other in a conflict message; the oldest of more are joined into one."""


def notice(
    replica: Replica,
    folder: ObjectId,
    object_id: ObjectId,
    before: Versions[Any] | None,
    after: Versions[Any],
) -> None:
    """Tell of a conflict that an object which arrived has begun."""
    if folder == replica.tree.hierarchy:
        _notice_of_folder(replica, object_id, before, after)
    elif len(after.siblings) > 1:
        _notice_of_message(replica, folder, object_id, before, after)


def _notice_of_message(
    replica: Replica,
    folder: ObjectId,
    message: ObjectId,
    before: Versions[MessageVersion] | None,
    after: Versions[MessageVersion],
) -> None:
    was, now = _contents_count(replica, before), _contents_count(replica, after)
    if now < 2:
        return
    numbers = CNSet.of(after.siblings)
    if was < 2:
        people = {*contacts(replica, folder), *(version.actor for version in after.live())}
        replica.report(Notice.CONFLICT, folder, numbers, message, sorted(people))
    if was <= ITEMS_MAX < now:
        replica.report(Notice.VERSIONS_JOINED, folder, numbers, message)


def _notice_of_folder(
    replica: Replica,
    folder: ObjectId,
    before: Versions[FolderVersion] | None,
    after: Versions[FolderVersion],
) -> None:
    now_ms = replica.wall_ms
    if settings_in_conflict(after, now_ms) and not (before and settings_in_conflict(before, now_ms)):
        replica.report(Notice.DESIGN_CONFLICT, folder, accounts=contacts(replica, folder))
    if before and before.live() and after.live():
        was, now = (Folder.read(versions, replica.wall_ms).parent for versions in (before, after))
        if was != now:
            _notice_circle(replica, folder)


def _notice_circle(replica: Replica, folder: ObjectId) -> None:
    """Tell of a circle that the move of a folder has closed."""
    ring: list[ObjectId] = []
    at = folder
    while at not in ring:
        read = replica.folder(at)
        if read is None or not read.is_live:
            return
        ring.append(at)
        at = read.parent.value
    if at == folder:
        people = {account for member in ring for account in contacts(replica, member)}
        replica.report(Notice.FOLDERS_IN_CIRCLE, folder, accounts=sorted(people))


def _contents_count(replica: Replica, versions: Versions[MessageVersion] | None) -> int:
    return len(MessageView.read(versions, replica.wall_ms).contents) if versions else 0


def contacts(replica: Replica, folder: ObjectId) -> list[str]:
    """The subjects of a folder's permissions who are its contacts."""
    read = replica.folder(folder)
    found = folder_settings.rights_of(read) if read else {}
    return sorted(subject for subject, rights in found.items() if FolderRights.FOLDER_CONTACT in rights)


def settings_in_conflict(versions: Versions[FolderVersion], now_ms: int) -> frozenset[str]:
    """The settings of a folder that were set to different values in two places at once.

    Those for which that is certain: of one that a place set before its own last write, and before that of the
    other, nothing tells whether the other had seen it. All are merged entry by entry; the last writer wins.
    """
    found: set[str] = set()
    for one, other in combinations(versions.live() if len(versions.siblings) > 1 else (), 2):
        ours, theirs = dict(_settings_unseen(one, other, now_ms)), dict(_settings_unseen(other, one, now_ms))
        found.update(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name])
    return frozenset(found)


def _settings_unseen(version: FolderVersion, by: FolderVersion, now_ms: int) -> Iterable[tuple[str, Any]]:
    """The settings of a version that the last write of another place cannot have seen: those that its own
    last write set, and those that are later than that of the other, for a write is later than all it saw."""
    for name, entry in _settings(version):
        stamp = entry.stamp
        if stamp == version.changed or (stamp > by.changed and not stamp.is_ahead(now_ms)):
            yield name, entry.value


def _settings(version: FolderVersion) -> Iterable[tuple[str, Entry[Any]]]:
    yield "name", version.name
    yield "parent", version.parent
    for database, state in version.replicas.items():
        yield f"replica {database.hex()}", state
    for name, entry in version.properties.items():
        yield f"property {name}", entry
