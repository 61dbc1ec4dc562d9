"""Missing numbers, and the times at which they are asked for (DOMAIN.md "Backfill array")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pillarbox.replication.core.preset import Wait
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import NEVER_MS, BackfillEntry, FolderState
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.organisation.sources import Candidate, Late, Plan, choose_sources
from pillarbox.replication.organisation.topology import Way, ways_from
from pillarbox.replication.wire.messages import BackfillRequest
from pillarbox.store.change_number import CNSet


def missing(replica: Replica, folder: ObjectId) -> CNSet:
    """The numbers that other replicas said they hold and this one has not."""
    state = replica.state(folder)
    if not replica.is_live(folder):
        return NOTHING
    had, lacked = state.knowledge.had, NOTHING
    for row in state.rows.values():
        if not had.covers(row.known):
            lacked |= row.known - had
    return lacked


def note_missing(replica: Replica, folder: ObjectId) -> None:
    """Bring the backfill array in line with what is missing now: numbers that came go, new ones get an
    entry."""
    state = replica.state(folder)
    lacked = missing(replica, folder)
    entries, listed = [], NOTHING
    for entry in state.entries:
        still = entry.missing & lacked
        if still:
            entries.append(entry if still == entry.missing else replace(entry, missing=still))
            listed |= still
    new = lacked - listed if listed else lacked
    if new:
        waits_ms = 0 if state.asks_at_once else _pick(replica, state, new, replica.preset.first_request)
        entries.append(BackfillEntry(new, replica.now_ms + waits_ms))
    elif not lacked and not state.awaited:
        state.asks_at_once = False
    state.entries = tuple(entries)


def due_ms(state: FolderState) -> int:
    """The time at which the next entry is asked for."""
    return min((entry.due_ms for entry in state.entries), default=NEVER_MS)


def ask(replica: Replica, folder: ObjectId) -> None:
    """Ask for all entries that are due, each source for its part, and let them wait again."""
    state = replica.state(folder)
    due = [entry for entry in state.entries if entry.due_ms <= replica.now_ms]
    needed = CNSet()
    for entry in due:
        needed |= entry.missing
    _note_silence(state)
    plan = plan_requests(replica, folder, needed)
    for request in plan.requests:
        replica.fired["backfill_request"] += 1
        state.asked[request.source] = replica.now_ms
        replica.send(request.source, folder, BackfillRequest(request.numbers, state.knowledge.had))
    state.entries = tuple(
        _waiting(replica, state, replace(entry, tries=entry.tries + 1)) if entry in due else entry
        for entry in state.entries
    )


def plan_requests(replica: Replica, folder: ObjectId, needed: CNSet) -> Plan:
    """Choose the sources of needed numbers, with the reasons."""
    preferred = replica.organisation.preferred.get(replica.me.database, ())
    return choose_sources(replica.me.database, needed, candidates(replica, folder), preferred)


def candidates(replica: Replica, folder: ObjectId) -> list[Candidate]:
    """The other replicas of the folder, as far as a way leads to them."""
    state, ways = replica.state(folder), ways_of(replica)
    found = []
    for peer, listed in replica.peers(folder).items():
        server = replica.organisation.servers[peer]
        way = ways.get(server.site)
        row = state.rows.get(peer)
        if way is not None and row is not None:
            late = _late(way, listed, peer in state.silent)
            found.append(Candidate(peer, way.cost, server.version, row.known, late))
    return found


def ways_of(replica: Replica) -> Mapping[str, Way]:
    """The cheapest ways from this store's site."""
    site = replica.organisation.servers[replica.me.database].site
    return ways_from(site, replica.organisation.connectors, replica.down)


def nearest_first(replica: Replica) -> list[bytes]:
    """The other stores to which a way leads, the cheapest first."""
    ways, servers = ways_of(replica), replica.organisation.servers
    others = replica.organisation.others(replica.me.database)
    reachable = [database for database in others if servers[database].site in ways]
    return sorted(reachable, key=lambda database: ways[servers[database].site].cost)


def heard(replica: Replica, folder: ObjectId, source: bytes) -> None:
    """A store said something about a folder: it is not silent."""
    state = replica.state(folder)
    state.asked.pop(source, None)
    if source in state.silent:
        state.silent -= {source}
    if source in state.awaited:
        state.awaited -= {source}


def part_came(replica: Replica, folder: ObjectId) -> None:
    """A part of an answer arrived: entries that were asked for wait from now on, since more of it may
    come."""
    state = replica.state(folder)
    state.entries = tuple(
        _waiting(replica, state, entry) if entry.tries else entry for entry in state.entries
    )


def _waiting(replica: Replica, state: FolderState, entry: BackfillEntry) -> BackfillEntry:
    """The entry with its next due time: the first retry's delay, then later ones that double up to a
    limit."""
    preset = replica.preset
    if entry.tries <= 1:
        waits_ms = _pick(replica, state, entry.missing, preset.first_retry)
    else:
        waits_ms = _pick(replica, state, entry.missing, preset.later_retry) << min(entry.tries - 2, 20)
    return replace(entry, due_ms=replica.now_ms + min(waits_ms, preset.retry_ms_max))


def _pick(replica: Replica, state: FolderState, numbers: CNSet, wait: Wait) -> int:
    """The delay by whether a store of this site has some of the numbers."""
    servers, site = replica.organisation.servers, replica.organisation.servers[replica.me.database].site
    is_here = any(
        database in servers and servers[database].site == site and row.known.count_common(numbers)
        for database, row in state.rows.items()
    )
    return wait.same_site_ms if is_here else wait.other_site_ms


def _note_silence(state: FolderState) -> None:
    """Stores that were asked and said nothing since are silent: they are asked after the others of their
    cost."""
    state.silent |= state.asked.keys()
    state.asked.clear()


def _late(way: Way, listed: ReplicaState, is_silent: bool) -> Late:
    if listed is ReplicaState.DELETE_PENDING:
        return Late.LEAVING
    if not way.is_up:
        return Late.DOWN
    return Late.SILENT if is_silent else Late.NO
