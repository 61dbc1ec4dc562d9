"""Views of a folder, as data (DOMAIN.md "Views"): status of its replicas, replication, content, deletions.

They change nothing. A store knows of another replica what that one last said: which numbers it holds. Its
items and their size follow from the items that are here.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from pillarbox.replication.core import backfill, folder_settings, mates, too_large, transit
from pillarbox.replication.core.folder_settings import Priority
from pillarbox.replication.core.objects import Found
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
    """Figures of a replica: live items, their size, and when something last arrived there (ms UTC): None for
    never, and for another store's, which does not say.

    Of another replica they are of the items that are here, and that it holds as they are here.
    """

    items_count: int
    size_bytes: int
    last_received_ms: int | None


class ReplicaStatus(NamedTuple):
    """One replica of a folder. `lacks_count` are items of this store that it is not known to hold,
    `offers_count` the changes, at most, that it holds and this store lacks; both, and the `figures`, as it
    said at `heard_ms`. `figures` is None where it has said nothing, or this store holds no replica.
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
        items_count, size_bytes = _live_count(replica, replica.objects.ids(folder)), 0
    heard = [row.heard_ms for row in state.rows.values() if row.heard_ms]
    return Figures(items_count, size_bytes, max(heard, default=None))


def _live_count(replica: Replica, folders: Iterable[ObjectId]) -> int:
    found = (replica.folder(each) for each in folders)
    return sum(each is not None and each.is_live for each in found)


def status(replica: Replica, folder: ObjectId) -> tuple[ReplicaStatus, ...]:
    """The status of each replica of a folder, this store's first, then by server name.

    Raises NotFound for an unknown folder.
    """
    _folder(replica, folder)
    me, state = replica.me.database, replica.record.folders.get(folder)
    own = own_figures(replica, folder)
    others = _Others(replica, folder, state, own) if state is not None and own is not None else None
    found = []
    for database, listed in replica.replica_states(folder).items():
        if listed is ReplicaState.REMOVED:
            continue
        row = state.rows.get(database) if state is not None and others else None
        lacks_count, offers_count, aside_count, figures = 0, 0, 0, None
        if database == me:
            offers_count = backfill.missing(replica, folder).count() if others else 0
            aside_count, figures = items_aside_count(replica, folder), own
        elif others:
            lacks_count, offers_count, figures = others.told(row or Row())
        found.append(
            ReplicaStatus(
                database,
                _name(replica, database),
                _site(replica, database),
                sync(listed, row, lacks_count + offers_count + aside_count, is_own=database == me),
                lacks_count,
                offers_count,
                row.heard_ms if row and row.heard_ms else None,
                figures,
            )
        )
    return tuple(sorted(found, key=lambda each: (each.database != me, each.server)))


class _Others:
    """The other replicas of a folder, held against this store's. What several of them lack is looked for
    once."""

    def __init__(self, replica: Replica, folder: ObjectId, state: FolderState, own: Figures) -> None:
        self._replica, self._folder, self._own = replica, folder, own
        self._knowledge = state.knowledge
        self._found: dict[CNSet, Found] = {}

    def told(self, row: Row) -> tuple[int, int, Figures | None]:
        """The items of ours that a replica lacks, the changes of it that are missing here, and its figures.

        What it let go by age it need not be sent, and does not hold.
        """
        lacked = not_held = self._among(self._knowledge.known - row.had)
        offers_count = (row.known - self._knowledge.had).count()
        if not row.is_heard():
            return lacked.objects_count, offers_count, None
        if row.expired:
            not_held = self._among(self._knowledge.known - row.known)
        items_count = self._own.items_count - not_held.shown_count
        size_bytes = self._own.size_bytes - not_held.size_bytes
        return lacked.objects_count, offers_count, Figures(items_count, size_bytes, None)

    def _among(self, numbers: CNSet) -> Found:
        """The items here that numbers stand for. Most may be of other folders, which nobody lacks here."""
        if not numbers:
            return Found(0, 0, 0)
        if numbers not in self._found:
            self._found[numbers] = self._look(numbers)
        return self._found[numbers]

    def _look(self, numbers: CNSet) -> Found:
        if self._folder != self._replica.tree.hierarchy:
            return self._replica.objects.figures_found(self._folder, numbers)
        folders = self._replica.objects.found(self._folder, numbers)
        return Found(len(folders), _live_count(self._replica, folders), 0)


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
