"""Settings of a folder that replicate with it: schedule, priority, and what subjects may do.

Each is a property of the folder, so it merges as any property does. A folder without a schedule or priority
of its own has its store's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pillarbox.replication.core import writing
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import Folder, ObjectId
from pillarbox.replication.organisation.schedules import ALWAYS, Schedule, parse_schedule
from pillarbox.store.access import AUTHOR, DEFAULT_SUBJECT, FolderRights
from pillarbox.store.errors import InvalidSetting

SCHEDULE: Final = "replication schedule"
PRIORITY: Final = "replication priority"
RIGHTS: Final = "rights "


class Priority(StrEnum):
    """The order in which changes of folders go where not all can go at once."""

    URGENT = "urgent"
    NORMAL = "normal"
    LOW = "low"


def own_schedule(read: Folder) -> Schedule | None:
    """The schedule that a folder overrides its stores' with; None when it has none that can be read."""
    entry = read.properties.get(SCHEDULE)
    try:
        return parse_schedule(entry.value) if entry and entry.value else None
    except InvalidSetting:
        return None


def schedule_of(replica: Replica, folder: ObjectId) -> Schedule:
    """The schedule by which this store broadcasts its changes of a folder; the hierarchy always goes."""
    if folder == replica.tree.hierarchy:
        return ALWAYS
    read = replica.folder(folder)
    own = own_schedule(read) if read else None
    server = replica.organisation.servers.get(replica.me.database)
    return own or (server.schedule if server else ALWAYS)


def priority_of(replica: Replica, folder: ObjectId) -> Priority:
    """The priority of a folder's changes; the hierarchy is urgent."""
    if folder == replica.tree.hierarchy:
        return Priority.URGENT
    read = replica.folder(folder)
    return own_priority(read) if read else Priority.NORMAL


def own_priority(read: Folder) -> Priority:
    """The priority of a folder; normal where it says none that is known."""
    entry = read.properties.get(PRIORITY)
    return Priority(entry.value) if entry and entry.value in list(Priority) else Priority.NORMAL


def set_schedule(replica: Replica, folder: ObjectId, schedule: Schedule | None, actor: str) -> None:
    """Override the stores' schedules for one folder; None lets theirs count again. Raises NotFound."""
    value = "" if schedule is None else str(schedule)
    writing.change_folder(replica, folder, actor, properties={SCHEDULE: value})


def set_priority(replica: Replica, folder: ObjectId, priority: Priority, actor: str) -> None:
    """Set the priority of a folder. Raises NotFound."""
    writing.change_folder(replica, folder, actor, properties={PRIORITY: str(priority)})


def own_rights(read: Folder, subject: str) -> FolderRights | None:
    """The rights that a folder gives a subject by an entry of its own, None where it has none."""
    entry = read.properties.get(RIGHTS + subject)
    if entry is None or not entry.value.isdigit():
        return None
    rights = FolderRights(int(entry.value))
    return None if FolderRights.NOT_LISTED in rights else rights


def rights_of(read: Folder) -> dict[str, FolderRights]:
    """The rights that a folder gives by subject; subjects that were taken out are not among them."""
    subjects = [name.removeprefix(RIGHTS) for name in read.properties if name.startswith(RIGHTS)]
    return {subject: rights for subject in subjects if (rights := own_rights(read, subject)) is not None}


def rights_for(read: Folder, account: str) -> FolderRights:
    """The rights of an account on a folder: its own, else those of Default, which is an Author unless the
    folder says otherwise."""
    for subject in (account, DEFAULT_SUBJECT):
        if (rights := own_rights(read, subject)) is not None:
            return rights
    return AUTHOR


def rights_value(rights: FolderRights | None) -> str:
    """Rights as the value of a folder's entry; None takes the subject out."""
    return str(int(FolderRights.NOT_LISTED if rights is None else rights))
