"""An overview of all that a store replicates, as data: for metrics and the status page.

It looks at no message, and finds a bounded number of those that other stores lack, so that it may be asked
for again and again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from pillarbox.replication.core import hello, identity, links
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import FolderState, Row
from pillarbox.replication.core.views import Sync, items_aside_count, lacking_count, sync
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.organisation import opening
from pillarbox.store.change_number import CNSet

COUNTED_MAX: Final = 10_000
COUNTED_IN_ALL_MAX: Final = 20_000
"""Items that are counted for all replicas of all folders together; then numbers are, as many as there are
items at most."""


class PeerOverview(NamedTuple):
    """Another replica of a folder: how many of our items it lacks, `COUNTED_MAX` at most, and of its changes
    are missing here, at most, as it said at `heard_ms` (ms UTC; None: it has said nothing yet)."""

    database: bytes
    sync: Sync
    lacks_count: int
    offers_count: int
    heard_ms: int | None


class FolderOverview(NamedTuple):
    """A folder of which this store holds a replica: the state of that, changes that are missing here and are
    to be asked for, whom this store asked for some, when it asks next (ms UTC, None for never), and items
    that cannot be applied here or sent from here."""

    folder: ObjectId
    sync: Sync
    missing_count: int
    asked: tuple[bytes, ...]
    due_ms: int | None
    set_aside_count: int
    peers: tuple[PeerOverview, ...]


class SiteOverview(NamedTuple):
    """A neighbour site: the changes that wait for it, and the bundles that are on their way."""

    site: str
    waiting_count: int
    flights_count: int
    is_stalled: bool


class ConnectorOverview(NamedTuple):
    """A connector between two sites, and whether it counts as up."""

    name: str
    sites: tuple[str, str]
    cost: int
    is_up: bool


class Overview(NamedTuple):
    """All that a store replicates.

    `waits_for` are the stores whose answer to its hello it waits for before it says anything.
    `is_content_stopped` says that an operator, or a hierarchy that is behind, holds content back.
    """

    folders: tuple[FolderOverview, ...]
    sites: tuple[SiteOverview, ...]
    connectors: tuple[ConnectorOverview, ...]
    waits_for: tuple[bytes, ...]
    quarantined: tuple[bytes, ...]
    is_content_stopped: bool


def overview(replica: Replica) -> Overview:
    """The overview of a store. It changes nothing."""
    return Overview(
        folders=tuple(_folders(replica, _Counting(COUNTED_IN_ALL_MAX))),
        sites=tuple(_sites(replica)),
        connectors=tuple(_connectors(replica)),
        waits_for=hello.unanswered(replica),
        quarantined=identity.open_quarantines(replica.record),
        is_content_stopped=not replica.content_flows(),
    )


class _Counting:
    """Counts what replicas lack: by items until `left_count` of them were counted, then by numbers."""

    def __init__(self, left_count: int) -> None:
        self._left_count = left_count

    def count(self, replica: Replica, folder: ObjectId, lacks: CNSet) -> int:
        """Count the items of a folder that numbers stand for, or those that they stand for at most."""
        limit = min(COUNTED_MAX, self._left_count)
        if not limit:
            return min(lacks.count(), replica.objects.figures(folder)[0])
        found_count = lacking_count(replica, folder, lacks, limit)
        self._left_count -= found_count
        return found_count


def _folders(replica: Replica, counting: _Counting) -> Iterator[FolderOverview]:
    for folder, state in sorted(replica.record.folders.items()):
        if not state.is_held or not replica.is_live(folder):
            continue
        due_ms = min((each.due_ms for each in state.entries if not each.sleeps), default=None)
        missing_count = sum(each.missing.count() for each in state.entries)
        aside_count = items_aside_count(replica, folder)
        listed = replica.replica_states(folder).get(replica.me.database, ReplicaState.ACTIVE)
        yield FolderOverview(
            folder,
            sync(listed, None, missing_count + aside_count, is_own=True),
            missing_count,
            tuple(sorted(state.asked)),
            None if due_ms is None else replica.wall_ms + due_ms - replica.now_ms,
            aside_count,
            tuple(_peers(replica, folder, state, counting)),
        )


def _peers(
    replica: Replica, folder: ObjectId, state: FolderState, counting: _Counting
) -> Iterator[PeerOverview]:
    for database, listed in replica.peers(folder).items():
        row = state.rows.get(database, Row())
        lacks_count = counting.count(replica, folder, state.knowledge.known - row.had)
        offers_count = (row.known - state.knowledge.had).count()
        yield PeerOverview(
            database,
            sync(listed, row, lacks_count + offers_count),
            lacks_count,
            offers_count,
            row.heard_ms or None,
        )


def _sites(replica: Replica) -> Iterator[SiteOverview]:
    counts: dict[str, int] = {}
    for state in replica.record.folders.values():
        for site, numbers in state.marks.items():
            counts[site] = counts.get(site, 0) + numbers.count()
    tree = replica.site_tree()
    for site in sorted({*tree.children(tree.root), *counts, *replica.lines}):
        line = replica.lines.get(site)
        flights_count = len(line.flights) if line else 0
        yield SiteOverview(site, counts.get(site, 0), flights_count, not links.is_open(replica, site))


def _connectors(replica: Replica) -> Iterator[ConnectorOverview]:
    down = replica.links.down(replica.now_ms) | opening.closed(replica.organisation, replica.wall_ms)
    for each in sorted(replica.organisation.connectors, key=lambda connector: connector.name):
        yield ConnectorOverview(each.name, each.sites, each.cost, each.name not in down)
