"""Operations on public folders as all servers of an organisation have them: find, settings, referral."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pillarbox.store.access import FolderRights
from pillarbox.store.errors import InvalidSetting
from pillarbox.tools.mail_rows import Row
from pillarbox.tools.operations.call import Call
from pillarbox.tools.operations.replicas import outcome_row
from pillarbox.tools.operations.replicating import folder_id, folder_paths, name_of, server_named

if TYPE_CHECKING:
    from pillarbox.replication.core.replica import Replica
    from pillarbox.replication.core.subtree import Outcome

_NAMES: Final = {
    str(right.name).lower().replace("_", "-"): right
    for right in FolderRights
    if right is not FolderRights.NOT_LISTED
}


def find(
    call: Call,
    *,
    below: str,
    name: str,
    subject: str,
    rights: list[str],
    replicated_to: str,
    created: list[int],
    modified: list[int],
    age: list[str],
) -> list[Row]:
    """The folders that meet all criteria; what is empty is met by all.

    `created` and `modified` are two times (ms UTC), `age` is how to compare and a number of days.
    """
    from pillarbox.replication.core.find import Age, AgeInDays, Between, Criteria
    from pillarbox.replication.core.find import find as found_by

    top = folder_id(call.server, below) if below.strip("/") else None
    paths = folder_paths(call.server)

    def look(replica: Replica) -> list[Row]:
        criteria = Criteria(
            name_contains=name,
            subject=subject,
            rights=rights_of(rights),
            replicated_to=server_named(replica, replicated_to) if replicated_to else b"",
            created=Between(*created) if created else None,
            modified=Between(*modified) if modified else None,
            age=AgeInDays(Age(age[0]), int(age[1])) if age else None,
        )
        return [
            {
                "folder": paths.get(each.folder, each.name),
                "created_ms": each.created_ms,
                "modified_ms": each.modified_ms,
            }
            for each in found_by(replica, criteria, top)
            if each.folder in paths
        ]

    return call.replicator().perform(look)


def settings(call: Call, *, folder: str) -> Row:
    """The settings of a folder that all servers go by: replicas, schedule, priority, permissions."""
    from pillarbox.replication.core import folder_settings, views

    top = folder_id(call.server, folder)

    def look(replica: Replica) -> Row:
        view, read = views.replication(replica, top), replica.folder(top)
        given = folder_settings.rights_of(read) if read else {}
        return {
            "folder": folder,
            "replicas": [
                {"server": each.server, "state": each.state.name.lower(), "average_ms": each.average_ms}
                for each in view.replicas
            ],
            "schedule": view.schedule,
            "own_schedule": view.is_own_schedule,
            "priority": str(view.priority),
            "rights": {subject: rights_text(rights) for subject, rights in sorted(given.items())},
        }

    return call.replicator().perform(look)


def change_settings(
    call: Call,
    *,
    folder: str,
    schedule: str | None,
    priority: str,
    action: str,
    subject: str,
    rights: list[str],
    overwrite: list[str],
    recursive: bool,
) -> Row:
    """Change settings of a folder, or give those below it some of its own; what is empty stays, and so do
    folders that have a setting already.

    `schedule` "" lets the servers' own count again. `action` says what is done with the `rights` of
    `subject`.
    """
    from pillarbox.replication.core import folder_settings, hierarchy, subtree
    from pillarbox.replication.core.folder_settings import Priority
    from pillarbox.replication.core.subtree import Action, Setting
    from pillarbox.replication.organisation.schedules import parse_schedule

    top, actor = folder_id(call.server, folder), call.actor.account
    wanted = parse_schedule(schedule) if schedule else None

    def change(replica: Replica) -> list[Outcome]:
        outcomes = []
        folders = [top, *(hierarchy.below(replica, top) if recursive else ())]
        changed = set()
        for each in folders:
            read = replica.folder(each)
            if schedule is not None and (read is None or folder_settings.own_schedule(read) != wanted):
                folder_settings.set_schedule(replica, each, wanted, actor)
                changed.add(each)
            if priority and (read is None or folder_settings.own_priority(read) != priority):
                folder_settings.set_priority(replica, each, Priority(priority), actor)
                changed.add(each)
        if schedule is not None or priority:
            outcomes.append(subtree.Outcome(len(changed), ()))
        if action:
            outcomes.append(
                subtree.change_rights(
                    replica, top, Action(action), subject, rights_of(rights), actor, with_subfolders=recursive
                )
            )
        if overwrite:
            outcomes.append(subtree.overwrite(replica, top, actor, [Setting(each) for each in overwrite]))
        return outcomes

    return outcome_row(call, call.replicator().perform(change))


def referral(call: Call, *, folder: str, client: str) -> Row:
    """The server to which a client is sent that asks for a folder's content here, and why."""
    from pillarbox.replication.core import views

    top = folder_id(call.server, folder)

    def look(replica: Replica) -> Row:
        told = views.refer(replica, top, client)
        return {
            "folder": folder,
            "server": None if told.database is None else name_of(replica, told.database),
            "order": [
                {"server": name_of(replica, each.database), "cost": each.cost, "unfit": str(each.unfit)}
                for each in told.reasons
            ],
        }

    return call.replicator().perform(look)


def rights_of(names: list[str]) -> FolderRights:
    """Rights by their names, as `read-items`. Raises InvalidSetting."""
    found = FolderRights(0)
    for name in names:
        if name not in _NAMES:
            raise InvalidSetting(f"there is no right {name!r}", hint=f"the rights: {', '.join(_NAMES)}")
        found |= _NAMES[name]
    return found


def rights_text(rights: FolderRights) -> list[str]:
    """The names of rights."""
    return [name for name, right in _NAMES.items() if right in rights]
