"""Views of a folder, as data (DOMAIN.md "Views"): status of its replicas, replication, content, deletions.

They change nothing. A store knows of another replica what that one last said; items, size and the time of the
last change are told by each store of itself (`own_figures`), and whoever shows them asks all.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from pillarbox.replication.core import backfill, folder_settings, mates, too_large, transit
from pillarbox.replication.core.folder_settings import Priority
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import UNHEARD, FolderState, Row
from pillarbox.replication.ground.records import Folder, MessageVersion, MessageView, ObjectId, ReplicaState
from pillarbox.replication.organisation.referral import Offer, Referral, choose_referral
from pillarbox.store.access import FolderRights
from pillarbox.store.change_number import CNSet
from pillarbox.store.errors import NoPermission, NotFound
from pillarbox.store.ids import guid_text


class Sync(StrEnum):
    """The state of a replica against this store's."""

    IN_SYNC = "in sync"
    NOT_IN_SYNC = "not in sync"
    DELETE_PENDING = "delete pending"
    NOT_HEARD = "not heard of yet"


class Figures(NamedTuple):
    """Figures that a store gives of its own replica: live items, their size, and when something last arrived
    (ms UTC), None for never."""

    items_count: int
    size_bytes: int
    last_received_ms: int | None


class ReplicaStatus(NamedTuple):
    """One replica of a folder. `lacks_count` are items of this store that it is not known to hold,
    `offers_count` the changes, at most, that it holds and this store lacks; both as it said at `heard_ms`.
    """

    database: bytes
    server: str
    site: str
    sync: Sync
    lacks_count: int
    offers_count: int
    heard_ms: int | None
    figures: Figures | None


class Transmission(NamedTuple):
    """A replica in the list, and the average time that its changes took to this store."""

    database: bytes
    server: str
    state: ReplicaState
    average_ms: int | None


class ReplicationView(NamedTuple):
    """The replication of a folder: its list, the schedule that this store goes by, and its priority."""

    replicas: tuple[Transmission, ...]
    schedule: str
    is_own_schedule: bool
    priority: Priority


class ContentItem(NamedTuple):
    """One message; a conflict has more than one version."""

    object_id: ObjectId
    versions_count: int
    size_bytes: int
    changed_ms: int
    actor: str


class Deletion(NamedTuple):
    """Something that was deleted, when and by whom; `name` of a folder, empty for a message."""

    object_id: ObjectId
    name: str
    deleted_ms: int
    actor: str


def own_figures(replica: Replica, folder: ObjectId) -> Figures | None:
    """The figures of this store for a folder; None where it holds no replica."""
    state = replica.record.folders.get(folder)
    if state is None or not state.is_held:
        return None
    items_count, size_bytes = replica.objects.figures(folder)
    if folder == replica.tree.hierarchy:
        found = (replica.folder(each) for each in replica.objects.ids(folder))
        items_count, size_bytes = sum(each is not None and each.is_live for each in found), 0
    heard = [row.heard_ms for row in state.rows.values() if row.heard_ms]
    return Figures(items_count, size_bytes, max(heard, default=None))


def status(
    replica: Replica, folder: ObjectId, told: Mapping[bytes, Figures] | None = None
) -> tuple[ReplicaStatus, ...]:
    """The status of each replica of a folder, this store's first, then by server name.

    `told` are the figures that other stores gave of themselves. Raises NotFound for an unknown folder.
    """
    _folder(replica, folder)
    me, state = replica.me.database, replica.record.folders.get(folder)
    held = state if state is not None and state.is_held else None
    figures = dict(told or {})
    if mine := own_figures(replica, folder):
        figures[me] = mine
    found = []
    for database, listed in replica.replica_states(folder).items():
        if listed is ReplicaState.REMOVED:
            continue
        lacks_count, offers_count = _distance(replica, folder, held, database)
        aside_count = items_aside_count(replica, folder) if database == me else 0
        row = held.rows.get(database) if held else None
        found.append(
            ReplicaStatus(
                database,
                _name(replica, database),
                _site(replica, database),
                sync(listed, row, lacks_count + offers_count + aside_count, is_own=database == me),
                lacks_count,
                offers_count,
                row.heard_ms if row and row.heard_ms else None,
                figures.get(database),
            )
        )
    return tuple(sorted(found, key=lambda each: (each.database != me, each.server)))


def _distance(
    replica: Replica, folder: ObjectId, held: FolderState | None, database: bytes
) -> tuple[int, int]:
    """Count the items of ours that a replica lacks, and the changes of it that are missing here."""
    if held is None:
        return 0, 0
    if database == replica.me.database:
        return 0, backfill.missing(replica, folder).count()
    row = held.rows.get(database, Row())
    offers = row.known - held.knowledge.had
    return lacking_count(replica, folder, held.knowledge.known - row.had), offers.count()


def lacking_count(replica: Replica, folder: ObjectId, numbers: CNSet, limit: int | None = None) -> int:
    """Count the items of a folder that some numbers stand for, up to `limit`. Most may be numbers of other
    folders, which nobody lacks here."""
    return len(replica.objects.found(folder, numbers, limit)) if numbers else 0


def items_aside_count(replica: Replica, folder: ObjectId) -> int:
    """Count the items of a folder that cannot be applied here, or sent from here."""
    state = replica.record.folders.get(folder)
    return (len(state.set_aside) if state else 0) + len(too_large.among(replica, folder))


def sync(listed: ReplicaState, row: Row | None, distance: int, *, is_own: bool = False) -> Sync:
    """The state of a replica: its own store's, or another one's as its row says."""
    if listed is ReplicaState.DELETE_PENDING:
        return Sync.DELETE_PENDING
    if not is_own and (row is None or row.life == UNHEARD):
        return Sync.NOT_HEARD
    return Sync.NOT_IN_SYNC if distance else Sync.IN_SYNC


def replication(replica: Replica, folder: ObjectId) -> ReplicationView:
    """The replication of a folder. Raises NotFound for an unknown folder."""
    read = _folder(replica, folder)
    listed = [
        Transmission(database, _name(replica, database), state, transit.average_ms(replica, folder, database))
        for database, state in replica.replica_states(folder).items()
        if state is not ReplicaState.REMOVED
    ]
    return ReplicationView(
        tuple(sorted(listed, key=lambda each: each.server)),
        str(folder_settings.schedule_of(replica, folder)),
        bool(read and folder_settings.own_schedule(read)),
        folder_settings.priority_of(replica, folder),
    )


def content(replica: Replica, folder: ObjectId, account: str) -> tuple[ContentItem, ...]:
    """The messages of a folder, the newest change first, for an account that may read them.

    Raises NotFound for an unknown folder, NoPermission without ReadItems: an administrator's role is not
    enough.
    """
    read = _folder(replica, folder)
    if read is None or FolderRights.READ_ITEMS not in folder_settings.rights_for(read, account):
        raise NoPermission(
            f"{account} has no ReadItems on this folder", hint="give the account that right on the folder"
        )
    found = []
    for object_id in replica.objects.ids(folder):
        versions = replica.objects.get(folder, object_id)
        if versions and (live := versions.live()):
            latest = max(live, key=lambda version: version.changed.weight(replica.wall_ms))
            size_bytes = sum(version.size_bytes for version in live)
            count = len(MessageView.read(versions, replica.wall_ms).contents)
            found.append(ContentItem(object_id, count, size_bytes, latest.changed.time_ms, latest.actor))
    return tuple(sorted(found, key=lambda item: (-item.changed_ms, item.object_id)))


def deletions(replica: Replica, folder: ObjectId) -> tuple[Deletion, ...]:
    """Deletions of messages of a folder, or of folders in the hierarchy, the latest first.

    Those that are known still: a tombstone goes once all replicas hold it. One deletion that was made in two
    places is the earlier one.
    """
    found = []
    for object_id in replica.objects.ids(folder):
        versions = replica.objects.get(folder, object_id)
        if versions and versions.siblings and not versions.live():
            first = min(versions.siblings.values(), key=lambda version: version.changed)
            name = "" if isinstance(first, MessageVersion) else first.name.value
            found.append(Deletion(object_id, name, first.changed.time_ms, first.actor))
    return tuple(sorted(found, key=lambda each: (-each.deleted_ms, each.object_id)))


def is_stale(replica: Replica, folder: ObjectId, database: bytes) -> bool:
    """True when a replica is known not to hold the folder: it was never heard of, or lacks more than a tenth
    of what this store knows. A store without a replica knows of no one's.

    A replica that is filled has few numbers until its last gap is taken; one that lags behind some posts is
    not stale.
    """
    state = replica.record.folders.get(folder)
    if state is None or not state.is_held or database == replica.me.database:
        return False
    row = state.rows.get(database, Row())
    known: CNSet = state.knowledge.known
    return row.life == UNHEARD or 10 * row.had.count_common(known) < 9 * known.count()


def refer(replica: Replica, folder: ObjectId, client: str) -> Referral:
    """Choose the replica to which this store sends a client that asks for a folder's content, with reasons.

    A server is there when it was heard of lately. Raises NotFound for an unknown folder.
    """
    _folder(replica, folder)
    me = replica.me.database
    stated = replica.links.down(replica.now_ms)  # a schedule is for mail, and keeps no client back
    offers = [
        Offer(
            database,
            state,
            is_stale(replica, folder, database),
            is_there=database == me or mates.is_up(replica, database),
        )
        for database, state in replica.replica_states(folder).items()
    ]
    return choose_referral(me, client, offers, replica.organisation, stated)


def _folder(replica: Replica, folder: ObjectId) -> Folder | None:
    """The folder, None for the hierarchy. Raises NotFound when it is deleted or unknown."""
    if folder == replica.tree.hierarchy:
        return None
    read = replica.folder(folder)
    if read is None or not read.is_live:
        raise NotFound(f"no folder {folder.counter} is known here")
    return read


def _name(replica: Replica, database: bytes) -> str:
    server = replica.organisation.servers.get(database)
    return server.name if server else guid_text(database)


def _site(replica: Replica, database: bytes) -> str:
    server = replica.organisation.servers.get(database)
    return server.site if server else ""
