"""The hierarchy: which replicas this store begins and ends to hold, and where each folder stands in the
tree."""

from __future__ import annotations

from collections.abc import Iterable

from pillarbox.replication.core import organisation_folder, setting_aside, writing
from pillarbox.replication.core.applying import store_or_bury
from pillarbox.replication.core.effects import Notice
from pillarbox.replication.core.preset import MINUTE_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import FolderState, Row, Rows
from pillarbox.replication.ground.records import Folder, MessageVersion, ObjectId, ReplicaState
from pillarbox.store.change_number import CNSet

ACTOR = "replication"


def even_out(replica: Replica, folders: Iterable[ObjectId]) -> None:
    """Bring this store in line with the hierarchy, for folders that changed in it.

    Deletions clear content, content that a deletion had not seen brings its folder back, replicas that the
    list adds begin, and rows are exactly those of the list.
    """
    changed = sorted(folders)
    if replica.tree.organisation in changed and organisation_folder.follow(replica):
        even_out_organisation(replica)
        return
    for folder in changed:
        read = replica.folder(folder)
        if read is not None:
            _clear(replica, folder, read.cleared)
            _bring_back(replica, folder, read)
            _follow_list(replica, folder)
        match_rows(replica, folder)
        _tell_doubts(replica, folder)
        replica.rounds.sums.changed.add(folder)


def even_out_organisation(replica: Replica) -> None:
    """Bring this store in line with servers, sites or connectors that changed: rows, lists and costs
    follow."""
    even_out(replica, replica.objects.ids(replica.tree.hierarchy))
    match_rows(replica, replica.tree.hierarchy)
    replica.touched.update(replica.record.folders)


def _clear(replica: Replica, folder: ObjectId, cleared: CNSet) -> None:
    """Drop all content that a deletion of the folder saw, whatever sibling of the folder lives."""
    if not cleared:
        return
    state = replica.state(folder)
    replica.record.remember_reach(cleared)
    for object_id in replica.objects.found(folder, cleared):
        versions = replica.objects.get(folder, object_id)
        if versions is not None and (left := versions.without(cleared)) is not versions:
            store_or_bury(replica, folder, object_id, left)
    if state.is_held:
        state.knowledge.claim(cleared)
        state.knowledge.purged |= cleared


def _bring_back(replica: Replica, folder: ObjectId, read: Folder) -> None:
    """A deleted folder with content that its deletion had not seen comes back in Lost and Found."""
    if read.is_live or not replica.held(folder) or not has_content(replica, folder):
        return
    writing.change_folder(replica, folder, ACTOR, parent=replica.tree.lost_and_found)
    replica.report(Notice.FOLDER_CAME_BACK, folder)


def has_content(replica: Replica, folder: ObjectId) -> bool:
    """True when any message of the folder lives here."""
    return any(
        versions.live()
        for object_id in replica.objects.ids(folder)
        if (versions := replica.objects.get(folder, object_id))
    )


def _follow_list(replica: Replica, folder: ObjectId) -> None:
    read = replica.folder(folder)
    if read is None or not read.is_live:
        return
    mine, is_held = replica.my_state(folder, read), replica.held(folder) is not None
    if mine is not ReplicaState.REMOVED and not is_held:
        begin(replica, folder)
    if mine is ReplicaState.REMOVED and is_held:
        # Restored from before it left, or the list lost the race: it leaves by the rules, not by accident.
        pending = {replica.me.database: ReplicaState.DELETE_PENDING}
        writing.change_folder(replica, folder, ACTOR, replicas=pending)
        replica.report(Notice.REPLICA_BACK_TO_LEAVING, folder)
    entry = read.replicas.get(replica.me.database)
    if mine is not ReplicaState.ACTIVE or entry is None or entry.value is ReplicaState.ACTIVE:
        replica.last_kept.discard(folder)
    elif folder not in replica.last_kept:
        replica.last_kept.add(folder)
        replica.report(Notice.LAST_REPLICA_KEPT, folder)


def _tell_doubts(replica: Replica, folder: ObjectId) -> None:
    """While a folder was deleted nobody was told what is doubted in it; when it is back they are."""
    state = replica.record.folders.get(folder) if replica.is_live(folder) else None
    if state is not None and state.is_held and any(row.is_doubted for row in state.rows.values()):
        replica.note_news(state)


def begin(replica: Replica, folder: ObjectId) -> None:
    """Begin to hold a replica: it knows only what the folder's deletions cleared, and asks all others."""
    before, read = replica.state(folder), replica.folder(folder)
    # The first change here tells of all own numbers before it, or each other replica had to ask for those.
    is_first = before.life == 0 and folder != replica.tree.hierarchy
    state = FolderState(
        is_held=True,
        life=before.life + 1,
        own_last=before.own_last,
        broadcast_to=0 if is_first else replica.record.counter,
        leaving=before.leaving,
        rows=before.rows,
        asks_at_once=True,
        purge_due_ms=replica.now_ms + replica.preset.purge_interval_ms,
    )
    replica.record.folders[folder] = state
    if read and read.cleared:
        state.knowledge.claim(read.cleared)
        state.knowledge.purged |= read.cleared
    match_rows(replica, folder)
    ask_all(replica, folder)


def ask_all(replica: Replica, folder: ObjectId) -> None:
    """Ask all other replicas for their status, until each has answered."""
    peers = frozenset(replica.peers(folder)) if replica.is_live(folder) else frozenset[bytes]()
    replica.state(folder).await_all(peers, replica.now_ms)


def ask_one(replica: Replica, folder: ObjectId, nearest: Iterable[bytes]) -> None:
    """Ask the nearest of the other replicas alone, after a restart: what all said before is still known.

    Who was being asked already is asked on.
    """
    state = replica.state(folder)
    peers = replica.peers(folder) if replica.is_live(folder) else {}
    first = next((database for database in nearest if database in peers), None)
    state.awaited = frozenset(peer for peer in peers if peer in state.awaited or peer == first)
    state.await_due_ms, state.await_tries = replica.now_ms, 0


def drop(replica: Replica, folder: ObjectId) -> None:
    """Let the content go, and say so in the replica list, in one transaction."""
    before = replica.state(folder)
    replica.record.remember_reach(before.knowledge.had)
    replica.objects.clear(folder)
    replica.record.folders[folder] = FolderState(
        life=before.life,
        own_last=before.own_last,
        broadcast_to=replica.record.counter,
        leaving=before.leaving,
        rows=before.rows,
    )
    writing.change_folder(replica, folder, ACTOR, replicas={replica.me.database: ReplicaState.REMOVED})
    replica.report(Notice.REPLICA_DROPPED, folder)


def match_rows(replica: Replica, folder: ObjectId) -> None:
    """Keep a row for each other replica of the list and for no store else."""
    state = replica.record.folders.get(folder)
    if state is None or not state.is_held:
        return
    peers = replica.peers(folder)
    is_matched = peers is state.matched and len(peers) == len(state.rows)
    if not is_matched and peers.keys() != state.rows.keys():
        # One that comes asks all others, and is heard so. One that was off the list here alone does not.
        unheard = peers.keys() - state.rows.keys()
        for database in state.rows.keys() - peers.keys():
            replica.record.remember_reach(state.rows[database].had)
        state.rows = Rows({database: state.rows.get(database, Row()) for database in peers})
        state.awaited = state.awaited.union(unheard)
        if unheard:
            state.await_due_ms = min(state.await_due_ms, replica.now_ms + MINUTE_MS)
        replica.touched.add(folder)
    state.matched = peers
    if state.awaited:
        state.awaited = state.awaited.intersection(peers) if replica.is_live(folder) else frozenset()


def places(replica: Replica) -> dict[ObjectId, ObjectId]:
    """The parent of each folder as all stores show it; those of a fixed place are not among them.

    A folder whose parent is gone or unknown stands in Lost and Found, and so does of each circle the folder
    with the latest parent entry. It is computed: written, it would cost numbers at each store that notices.
    """
    tree = replica.tree
    parents = {
        folder: read.parent
        for folder in replica.objects.ids(tree.hierarchy)
        if folder != tree.organisation and (read := replica.folder(folder)) and read.is_live
    }
    fixed = (tree.root, tree.system_root, tree.lost_and_found)
    shown = {
        folder: parent.value if parent.value in fixed or parent.value in parents else tree.lost_and_found
        for folder, parent in parents.items()
    }
    settled: set[ObjectId] = set()
    for folder in sorted(shown):
        path: dict[ObjectId, None] = {}
        above = folder
        while above in shown and above not in settled and above not in path:
            path[above] = None
            above = shown[above]
        if above in path:
            replica.fired["circle"] += 1
            ring = list(path)[list(path).index(above) :]
            last = max(ring, key=lambda member: parents[member].stamp.weight(replica.wall_ms))
            shown[last] = tree.lost_and_found
        settled.update(path)
    return shown


def below(replica: Replica, top: ObjectId) -> list[ObjectId]:
    """All folders below one, as they are shown, each before those in it."""
    children: dict[ObjectId, list[ObjectId]] = {}
    for folder, parent in places(replica).items():
        children.setdefault(parent, []).append(folder)
    found = list(children.get(top, ()))
    for folder in found:  # grows as it goes
        found += children.get(folder, ())
    return found


def delete_folder(replica: Replica, folder: ObjectId, actor: str) -> None:
    """Delete a folder with those below it that this store holds.

    The folder's record takes with it the numbers of all its content, so that only that content goes
    elsewhere. Raises Refused where this store holds no replica of the folder: it does not know what it would
    delete.
    """
    writing.require_active(replica, folder)
    for below, parent in places(replica).items():
        if parent == folder and below != folder and may_delete(replica, below):
            delete_folder(replica, below, actor)
    left_out = _delete_with_holes(replica, folder, actor)
    cleared = replica.state(folder).knowledge.had - left_out
    writing.change_folder(replica, folder, actor, cleared=cleared)
    replica.fired["folder_deleted"] += 1
    even_out(replica, [folder])


def may_delete(replica: Replica, folder: ObjectId) -> bool:
    """True when this store holds what a deletion of the folder would delete."""
    return replica.held(folder) is not None and replica.my_state(folder) is ReplicaState.ACTIVE


def _delete_with_holes(replica: Replica, folder: ObjectId, actor: str) -> CNSet:
    """Delete one by one the messages below whose contexts numbers are missing; the numbers that do not go
    with the folder: of their versions and tombstones.

    Those that they had replaced go with it. A store that held one of them would keep it, were a newer one
    among the numbers that go, and the tombstone were lost. What is set aside has no tombstone: it stays.
    """
    state = replica.state(folder)
    had, numbers = state.knowledge.had, setting_aside.above_holes(state)
    for object_id in replica.objects.ids(folder):
        versions = replica.objects.get(folder, object_id)
        if versions is None or not versions.holes(had):
            continue
        # The versions that the tombstone replaces stay out too: alone, they would leave an older one alive.
        numbers |= CNSet.of(versions.siblings)
        if versions.live():
            tombstone = MessageVersion(replica.stamp(), actor, gone=True)
            writing.write(replica, folder, object_id, tombstone)
            versions = replica.objects.get(folder, object_id) or versions
        numbers |= CNSet.of(versions.siblings)
    return numbers
