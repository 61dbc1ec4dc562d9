"""The organisation in the hierarchy: entries of one system folder, which every store of the tree holds.

The folder has the same id in all trees, so that two stores that write it first make one folder. It holds no
content and has no replica list; its entries merge as those of any folder do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from pillarbox.replication.core import writing
from pillarbox.replication.core.preset import PRESETS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import REMOVED, Entry, FolderVersion, ObjectId, ReplicaState
from pillarbox.replication.organisation.differences import differences
from pillarbox.replication.organisation.entries import (
    PRESET,
    Reading,
    changed_entries,
    read_organisation,
    version_entries,
)
from pillarbox.replication.organisation.topology import Organisation, Server, with_stand_ins
from pillarbox.store.errors import Refused

NAME: Final = "organisation"
_SHOWN_FOLDERS: Final = 10
_NO_PATHS: Final[Mapping[ObjectId, str]] = {}


def entries(replica: Replica) -> dict[str, str]:
    """All entries of the organisation that this store knows; none before anybody applied one."""
    read = replica.folder(replica.tree.organisation)
    properties = read.properties if read else {}
    return {key: entry.value for key, entry in properties.items() if entry.value != REMOVED}


def reading(replica: Replica) -> Reading:
    """The organisation that the entries say, and what of them makes no sense together."""
    return read_organisation(entries(replica))


def apply(
    replica: Replica,
    organisation: Organisation,
    actor: str,
    lost: Collection[bytes] = (),
    paths: Mapping[ObjectId, str] = _NO_PATHS,
) -> tuple[str, ...]:
    """Write what differs from the entries of now; the differences, in words. Raises as `plan`."""
    told = plan(replica, organisation, lost, paths)
    change(replica, changed_entries(entries(replica), organisation), actor)
    return told


def plan(
    replica: Replica,
    organisation: Organisation,
    lost: Collection[bytes] = (),
    paths: Mapping[ObjectId, str] = _NO_PATHS,
) -> tuple[str, ...]:
    """The differences from the entries of now, in words, which `apply` would write.

    A server that is to go is refused while it holds a replica or has a delete pending, unless it is one of
    `lost`: those are gone for good with what they held. Raises Refused with the folders, all of them in its
    `folders`, by their `paths` where those are given and else by their names.
    """
    before = reading(replica).organisation
    for database, server in before.servers.items():
        after = organisation.servers.get(database)
        is_leaving = not server.is_removed and (after is None or after.is_removed)
        if is_leaving and database not in lost:
            _refuse_holder(replica, server, paths)
    return differences(before, organisation)


def _refuse_holder(replica: Replica, server: Server, paths: Mapping[ObjectId, str]) -> None:
    held = []
    for folder in replica.objects.ids(replica.tree.hierarchy):
        read = replica.folder(folder)
        listed = read.replicas.get(server.database) if read and read.is_live else None
        if read and listed and listed.value is not ReplicaState.REMOVED:
            is_pending = listed.value is ReplicaState.DELETE_PENDING
            held.append((paths.get(folder, read.name.value), " (delete pending)" if is_pending else ""))
    if held:
        held.sort()
        shown = ", ".join("".join(each) for each in held[:_SHOWN_FOLDERS])
        more = f" and {len(held) - _SHOWN_FOLDERS} more" if len(held) > _SHOWN_FOLDERS else ""
        raise Refused(
            f"server {server.name} holds replicas of {shown}{more}",
            hint="move its replicas to other servers and wait until none is delete pending; all of them are "
            f"listed with --json, and by `pillarbox folder find SERVER / --replica {server.name}`",
            folders=[name for name, _ in held],
        )


def change(replica: Replica, changed: Mapping[str, str], actor: str) -> None:
    """Write entries of the organisation; an empty value takes one out. Nothing to write spends no number."""
    if not changed:
        return
    tree, folder = replica.tree, replica.tree.organisation
    if replica.folder(folder) is None:
        stamp = replica.stamp()
        properties = {key: Entry(stamp, value) for key, value in changed.items()}
        first = FolderVersion(
            stamp, actor, Entry(stamp, NAME), Entry(stamp, tree.system_root), {}, properties
        )
        writing.write(replica, tree.hierarchy, folder, first)
    else:
        writing.change_folder(replica, folder, actor, properties=changed)


def state_version(replica: Replica, version: int, reads: Collection[int], actor: str) -> None:
    """Say which version of the program this store runs and which versions of messages that reads, where the
    organisation knows the store and says otherwise."""
    server = reading(replica).organisation.servers.get(replica.me.database)
    if server is not None and (server.version, server.reads) != (version, frozenset(reads)):
        change(replica, version_entries(replica.me.database, version, reads), actor)


def follow(replica: Replica) -> bool:
    """Go by the organisation that the entries say from now on; True when it is another one than before.

    Before there are entries a store goes by what it was started with, and a store whose own entry is still on
    its way goes on with that of its start.
    """
    said = entries(replica)
    if not said:
        return False
    me = replica.me.database
    read = read_organisation(said).organisation
    mine = replica.organisation.servers.get(me)
    if read.servers:
        servers = {**({me: mine} if mine else {}), **read.servers}
        organisation = with_stand_ins(replace(read, servers=servers))
    else:  # nobody has applied one yet; only the flow of content was told
        organisation = replace(replica.organisation, content=read.content)
    if said.get(PRESET):
        replica.preset = PRESETS[organisation.preset]
    if organisation == replica.organisation:
        return False
    replica.organisation = organisation
    return True
