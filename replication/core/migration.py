"""Replicas moved from one server to another of its site, with a report before and after (DOMAIN.md "Migration
tool", "Move All Replicas").
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import StrEnum
from typing import NamedTuple

from pillarbox.replication.core import hierarchy, replacing, views, writing
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import UNHEARD, FolderState, Row
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.wire.messages import Life
from pillarbox.store.errors import NotFound, Refused


class Kind(StrEnum):
    """The kinds of folders."""

    PUBLIC = "public folders"
    SYSTEM = "system folders"


ALL_KINDS = frozenset(Kind)


class Counts(NamedTuple):
    """Folders of one kind: with an active replica on the source, on the target, on both, on both and
    complete on the target as far as this store knows, and leaving the source."""

    on_source: int = 0
    on_target: int = 0
    on_both: int = 0
    replicated: int = 0
    leaving: int = 0


class Step(NamedTuple):
    """One step of a migration: the folders that it changed, and the counts before and after.

    Lists change with the hierarchy at once; content follows at the replication interval.
    """

    changed_count: int
    before: dict[Kind, Counts]
    after: dict[Kind, Counts]


class ToGo(NamedTuple):
    """Folders with a replica that is still to leave a server, and their bytes where this store knows them."""

    folders: tuple[ObjectId, ...]
    size_bytes: int


def report(replica: Replica, source: bytes, target: bytes) -> dict[Kind, Counts]:
    """Count the folders of each kind by where they have replicas. Raises Refused, NotFound as `add`."""
    _require_one_site(replica, source, target)
    found: dict[Kind, list[Counts]] = {kind: [] for kind in Kind}
    for folder, kind in _folders(replica, ALL_KINDS):
        states = replica.replica_states(folder)
        at_source = states.get(source) is ReplicaState.ACTIVE
        at_target = states.get(target) is ReplicaState.ACTIVE
        is_both = at_source and at_target
        is_leaving = states.get(source) is ReplicaState.DELETE_PENDING
        is_replicated = is_both and is_complete(replica, folder, source, target)
        found[kind].append(Counts(at_source, at_target, is_both, is_replicated, is_leaving))
    return {
        kind: Counts(*map(sum, zip(*counts, strict=True))) if counts else Counts()
        for kind, counts in found.items()
    }


def add(
    replica: Replica, source: bytes, target: bytes, actor: str, kinds: Collection[Kind] = ALL_KINDS
) -> Step:
    """Add a replica on the target to each folder of these kinds that has one on the source.

    Raises Refused unless both are in one site, NotFound when one is not in the tree.
    """

    def is_due(folder: ObjectId) -> bool:
        states = replica.replica_states(folder)
        at_source = states.get(source) is ReplicaState.ACTIVE
        return at_source and states.get(target) is not ReplicaState.ACTIVE

    before, due = report(replica, source, target), [each for each, _ in _folders(replica, kinds)]
    changed = [folder for folder in due if is_due(folder)]
    for folder in changed:
        writing.change_folder(replica, folder, actor, replicas={target: ReplicaState.ACTIVE})
    replica.fired["command_migrate_add"] += 1
    return Step(len(changed), before, report(replica, source, target))


def remove(
    replica: Replica, source: bytes, target: bytes, actor: str, kinds: Collection[Kind] = ALL_KINDS
) -> Step:
    """Let the replicas on the source leave where the target is known to hold all of it; others stay, and a
    later call takes them. Raises as `add`."""
    before, due = report(replica, source, target), [each for each, _ in _folders(replica, kinds)]
    changed = [folder for folder in due if is_complete(replica, folder, source, target)]
    for folder in changed:
        writing.change_folder(replica, folder, actor, replicas={source: ReplicaState.DELETE_PENDING})
    replica.fired["command_migrate_remove"] += 1
    return Step(len(changed), before, report(replica, source, target))


def move_all(replica: Replica, source: bytes, target: bytes, actor: str) -> int:
    """Replace the replica on the source of every folder by one on the target, in any site; how many folders
    that is. Each leaves when the target holds all of it. Raises NotFound when the target is not in the tree.
    """
    if replica.organisation.is_removed(target):
        raise NotFound("the target is not in the tree")
    if source == target:
        raise Refused("source and target are one server", hint="name another target")
    moved = 0
    for folder, _ in _folders(replica, ALL_KINDS):
        read, states = replica.folder(folder), replica.replica_states(folder)
        if read is None or states.get(source) is not ReplicaState.ACTIVE:
            continue
        if replacing.replacement_of(read, source) == target:
            continue
        is_there = states.get(target) is ReplicaState.ACTIVE
        added = None if is_there else {target: ReplicaState.ACTIVE}
        properties = replacing.entry(source, target)
        writing.change_folder(replica, folder, actor, replicas=added, properties=properties)
        moved += 1
    replica.fired["command_move_all"] += 1
    return moved


def to_go(replica: Replica, source: bytes) -> ToGo:
    """The folders that still have a replica on a server, one that leaves too: while there are some it is not
    retired."""
    folders = tuple(
        folder
        for folder, _ in _folders(replica, ALL_KINDS)
        if replica.replica_states(folder).get(source, ReplicaState.REMOVED) is not ReplicaState.REMOVED
    )
    figures = (views.own_figures(replica, folder) for folder in folders)
    return ToGo(folders, sum(each.size_bytes for each in figures if each))


def is_complete(replica: Replica, folder: ObjectId, source: bytes, target: bytes) -> bool:
    """True when both have an active replica, and the target is known here to hold all that the source holds.

    A store that holds no replica of the folder knows nothing of it.
    """
    states = replica.replica_states(folder)
    is_both = all(states.get(each) is ReplicaState.ACTIVE for each in (source, target))
    state = replica.record.folders.get(folder)
    if not is_both or state is None or not state.is_held:
        return False
    held, had = _row(replica, state, source), _row(replica, state, target)
    return UNHEARD not in (held.life, had.life) and had.had.covers(held.known)


def _row(replica: Replica, state: FolderState, database: bytes) -> Row:
    """The last statement of a store; of this one, all that it holds now."""
    if database != replica.me.database:
        return state.rows.get(database, Row())
    life = Life(replica.me.incarnation, state.life)
    return Row(life, state.knowledge.known, state.knowledge.expired)


def _folders(replica: Replica, kinds: Collection[Kind]) -> Iterator[tuple[ObjectId, Kind]]:
    """The folders of these kinds, by id."""
    system = set(hierarchy.below(replica, replica.tree.system_root))
    for folder in sorted(hierarchy.places(replica)):
        kind = Kind.SYSTEM if folder in system else Kind.PUBLIC
        if kind in kinds:
            yield folder, kind


def _require_one_site(replica: Replica, source: bytes, target: bytes) -> None:
    servers = replica.organisation.servers
    if source not in servers or replica.organisation.is_removed(target):
        raise NotFound("a server that is named is not in the tree")
    if source == target or servers[source].site != servers[target].site:
        raise Refused(
            "source and target of a migration are two servers of one site",
            hint="move replicas between sites by `move_all`",
        )
