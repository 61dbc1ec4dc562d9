"""*Manage Public Folder Settings*: one change of permissions or replica lists for a folder and all below it.

A folder where nothing would change is left alone and spends no number. What cannot be done in a folder is
skipped and named, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

from pillarbox.replication.core import folder_settings, hierarchy, replacing, writing
from pillarbox.replication.core.folder_settings import PRIORITY, RIGHTS, SCHEDULE
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import Folder, ObjectId, ReplicaState
from pillarbox.store.access import FolderRights
from pillarbox.store.errors import NotFound, Refused


class Action(StrEnum):
    """The ways in which a subject or a server is changed in a list."""

    ADD = "add"
    REMOVE = "remove"
    REPLACE = "replace"


class Setting(StrEnum):
    """The settings of a folder that may be overwritten by those of the top one."""

    RIGHTS = "permissions"
    REPLICAS = "replica list"
    SCHEDULE = "schedule"
    PRIORITY = "priority"


ALL_SETTINGS = frozenset(Setting)


class Skipped(NamedTuple):
    """A folder that was left as it is, and why."""

    folder: ObjectId
    name: str
    reason: str


class Outcome(NamedTuple):
    """The number of folders that were changed, and those in which it could not be done."""

    changed_count: int
    skipped: tuple[Skipped, ...]


class Change(NamedTuple):
    """The entries to write to one folder."""

    replicas: Mapping[bytes, ReplicaState] = {}
    properties: Mapping[str, str] = {}


Plan: TypeAlias = Callable[[Folder], Change | str]
"""The change of one folder, or the reason for which it is skipped."""


def change_rights(
    replica: Replica,
    top: ObjectId,
    action: Action,
    subject: str,
    rights: FolderRights,
    actor: str,
    *,
    with_subfolders: bool = True,
) -> Outcome:
    """Change the rights of a subject on a folder, and as a rule on all below it.

    ADD gives `rights` beside those that the subject has there, REMOVE takes its entry out, so that it has
    what Default has, REPLACE gives exactly `rights`. Raises NotFound for an unknown folder.
    """

    def plan(read: Folder) -> Change:
        own = folder_settings.own_rights(read, subject)
        if action is Action.REMOVE:
            wanted = None
        else:
            wanted = rights | (own or FolderRights(0)) if action is Action.ADD else rights
        if wanted == own:
            return Change()
        return Change(properties={RIGHTS + subject: folder_settings.rights_value(wanted)})

    return _change_all(replica, f"rights_{action}", top, plan, actor, with_subfolders=with_subfolders)


def change_replicas(
    replica: Replica,
    top: ObjectId,
    action: Action,
    server: bytes,
    actor: str,
    by: bytes = b"",
    *,
    with_subfolders: bool = True,
) -> Outcome:
    """Change a server in the replica lists of a folder, and as a rule of all below it.

    ADD adds it; REMOVE lets its replica leave, but never the last active one; REPLACE adds `by` where
    `server` has a replica, which leaves when that of `by` is complete. Raises NotFound for an unknown folder
    or server.
    """
    for database in (server, by) if action is Action.REPLACE else (server,):
        if replica.organisation.is_removed(database) and not (
            action is Action.REMOVE and database in replica.organisation.servers
        ):
            raise NotFound("a server that is named is not in the tree")
    if server == by:
        raise Refused("a server cannot be replaced by itself", hint="name another one")

    def plan(read: Folder) -> Change | str:
        states = {database: entry.value for database, entry in read.replicas.items()}
        is_active = states.get(server) is ReplicaState.ACTIVE
        if action is Action.ADD:
            return Change() if is_active else Change({server: ReplicaState.ACTIVE})
        if not is_active:
            return Change()
        if action is Action.REPLACE:
            return _replacement(read, states, server, by)
        others = [
            database
            for database, state in states.items()
            if database != server
            and state is ReplicaState.ACTIVE
            and not replica.organisation.is_removed(database)
        ]
        return Change({server: ReplicaState.DELETE_PENDING}) if others else "it is the last replica"

    return _change_all(replica, f"replicas_{action}", top, plan, actor, with_subfolders=with_subfolders)


def _replacement(
    read: Folder, states: Mapping[bytes, ReplicaState], server: bytes, by: bytes
) -> Change | str:
    if replacing.replacement_of(read, server) == by:
        return Change()
    added = {} if states.get(by) is ReplicaState.ACTIVE else {by: ReplicaState.ACTIVE}
    return Change(added, replacing.entry(server, by))


def overwrite(
    replica: Replica, top: ObjectId, actor: str, settings: Collection[Setting] = ALL_SETTINGS
) -> Outcome:
    """Give all folders below one its permissions, replica list, schedule and priority, or some of these.

    Replicas that the top one has not leave as by `change_replicas`. Raises NotFound for an unknown folder.
    """
    model = _folder(replica, top)
    active = {
        database
        for database, state in replica.replica_states(top, model).items()
        if state is ReplicaState.ACTIVE
    }

    def plan(read: Folder) -> Change:
        properties: dict[str, str] = {}
        if Setting.RIGHTS in settings:
            properties |= _rights_changes(model, read)
        for name, setting in ((SCHEDULE, Setting.SCHEDULE), (PRIORITY, Setting.PRIORITY)):
            if setting in settings and _value(model, name) != _value(read, name):
                properties[name] = _value(model, name)
        replicas = _list_changes(active, read) if Setting.REPLICAS in settings else {}
        return Change(replicas, properties)

    return _change_all(replica, "overwrite", top, plan, actor, with_top=False)


def _rights_changes(model: Folder, read: Folder) -> dict[str, str]:
    wanted, held = folder_settings.rights_of(model), folder_settings.rights_of(read)
    return {
        RIGHTS + subject: folder_settings.rights_value(wanted.get(subject))
        for subject in sorted({*wanted, *held})
        if wanted.get(subject) != held.get(subject)
    }


def _list_changes(active: Collection[bytes], read: Folder) -> dict[bytes, ReplicaState]:
    """The entries that make a list that of the top folder, which names an active replica."""
    states = {database: entry.value for database, entry in read.replicas.items()}
    added = {
        database: ReplicaState.ACTIVE
        for database in active
        if states.get(database) is not ReplicaState.ACTIVE
    }
    left = {
        database: ReplicaState.DELETE_PENDING
        for database, state in states.items()
        if state is ReplicaState.ACTIVE and database not in active and active
    }
    return {**added, **left}


def _value(read: Folder, name: str) -> str:
    entry = read.properties.get(name)
    return entry.value if entry else ""


def _change_all(
    replica: Replica,
    command: str,
    top: ObjectId,
    plan: Plan,
    actor: str,
    *,
    with_top: bool = True,
    with_subfolders: bool = True,
) -> Outcome:
    _folder(replica, top)
    changed_count, skipped = 0, []
    below = hierarchy.below(replica, top) if with_subfolders else ()
    for folder in (*((top,) if with_top else ()), *below):
        read = _folder(replica, folder)
        change = plan(read)
        if isinstance(change, str):
            skipped.append(Skipped(folder, read.name.value, change))
        elif any(change):
            arguments: dict[str, Any] = {"replicas": change.replicas or None, "properties": change.properties}
            writing.change_folder(replica, folder, actor, **arguments)
            changed_count += 1
    replica.fired[f"command_subtree_{command}"] += 1
    replica.fired["subtree_skipped"] += len(skipped)
    return Outcome(changed_count, tuple(skipped))


def _folder(replica: Replica, folder: ObjectId) -> Folder:
    read = replica.folder(folder)
    if read is None or not read.is_live:
        raise NotFound(f"no folder {folder.counter} is known here")
    return read
