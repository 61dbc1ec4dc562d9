"""Missing numbers, and the times at which they are asked for (DOMAIN.md "Backfill array")."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from pillarbox.replication.core import mates, outbox
from pillarbox.replication.core.preset import DAY_MS, MINUTE_MS, Wait
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import NEVER_MS, BackfillEntry, FolderState, expired_by_all
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.organisation.sources import Candidate, Late, Plan, Request, choose_sources
from pillarbox.replication.organisation.topology import Way, ways_from
from pillarbox.replication.wire.messages import BackfillRequest
from pillarbox.store.change_number import CNSet

SAME_SOURCES_TRIES: Final = 3
"""The tries after which others are asked than those that are first in the order."""


def missing(replica: Replica, folder: ObjectId) -> CNSet:
    """The numbers that other replicas said they hold and this one has not, or is to try again."""
    state = replica.state(folder)
    if not replica.is_live(folder):
        return NOTHING
    return state.compared.missing(state.rows, state.knowledge.settled)


def note_missing(replica: Replica, folder: ObjectId) -> None:
    """Bring the backfill array in line with what is missing now: numbers that came go, new ones get an
    entry."""
    state = replica.state(folder)
    lacked = missing(replica, folder)
    entries, listed = [], NOTHING
    for entry in state.entries:
        still = entry.missing & lacked
        if still:
            entries.append(_after_progress(replica, folder, entry, still))
            listed |= still
    new = lacked - listed if listed else lacked
    if new:
        entries.append(BackfillEntry(new, replica.now_ms + _first_wait_ms(replica, folder, new)))
    elif not lacked and not state.awaited:
        state.asks_at_once = False
    state.entries = tuple(entries)
    if state.open_requests and not any(entry.tries for entry in entries):
        _withdraw(replica, folder)


def _after_progress(replica: Replica, folder: ObjectId, entry: BackfillEntry, still: CNSet) -> BackfillEntry:
    """The entry with what is still missing. Where some of it came, what kept it back is over: the rest is
    tried as after the first request."""
    if still == entry.missing:
        return entry
    left = replace(entry, missing=still, tries=min(entry.tries, 1))
    if entry.tries > 1:
        left = replace(left, due_ms=min(left.due_ms, _waiting(replica, folder, left).due_ms))
    return left


def ask_whether_expired(replica: Replica, folder: ObjectId) -> None:
    """Ask all replicas for their status when the rows begin to say that nobody holds a number any more.

    A row may be old, and a store that holds the number after all would never be asked for it: at rest it is
    taken for had.
    """
    state = replica.state(folder)
    expired = expired_by_all(state.rows)
    assumed = expired - state.knowledge.had if expired else expired
    if not state.asked_expired.covers(assumed):
        stores = frozenset(state.rows) if replica.is_live(folder) else frozenset[bytes]()
        state.await_all(stores, replica.now_ms)
    state.asked_expired = assumed


def due_ms(replica: Replica, folder: ObjectId, state: FolderState) -> int:
    """The time at which the next entry is asked for; none falls due while content is stopped, or while a
    snapshot is brought in."""
    if replica.is_held_back(folder):
        return NEVER_MS
    return max(min((entry.due_ms for entry in state.entries), default=NEVER_MS), state.seeds_until_ms)


def ask(replica: Replica, folder: ObjectId) -> None:
    """Ask for all entries that are due, each source for its part, and let them wait again.

    What mates fetch, or what is still on its way here, is not asked for over a link. An entry that no source
    can be asked for sleeps until something happens by which one may be: a store is heard, or can be reached,
    or a way opens; its first delay counts anew then.
    """
    state = replica.state(folder)
    due = [entry for entry in state.entries if entry.due_ms <= replica.now_ms]
    needed, stubborn = CNSet(), CNSet()
    for entry in due:
        needed |= NOTHING if entry.sleeps else entry.missing
        stubborn |= entry.missing if is_stubborn(entry) else NOTHING
    _note_silence(state)
    sources = open_sources(replica, folder)
    postponed, until_ms = _on_its_way(replica, folder, needed)
    asked = CNSet()
    for request in _requests(replica, needed - postponed, stubborn - postponed, sources):
        asked |= request.numbers
        _send_request(replica, folder, request)
    for entry in due:
        if entry.missing & asked:
            after = _waiting(replica, folder, replace(entry, tries=entry.tries + 1))
        elif not any(source.available.count_common(entry.missing) for source in sources):
            after = replace(entry, due_ms=replica.now_ms + DAY_MS, sleeps=True)
            _ask_later(replica, folder, entry.missing)
        elif entry.sleeps:
            waits_ms = _first_wait_ms(replica, folder, entry.missing)
            after = replace(entry, due_ms=replica.now_ms + waits_ms, sleeps=False)
        else:
            after = replace(entry, due_ms=max(until_ms, replica.now_ms + MINUTE_MS))
        state.entries = tuple(after if each is entry else each for each in state.entries)


def is_stubborn(entry: BackfillEntry) -> bool:
    """True when an entry was asked for three times, and then at each second try, and nothing of it came."""
    beyond = entry.tries - SAME_SOURCES_TRIES
    return not entry.sleeps and beyond >= 0 and beyond % 2 == 0


def _requests(
    replica: Replica, needed: CNSet, stubborn: CNSet, sources: list[Candidate]
) -> Iterable[Request]:
    """The requests for needed numbers. Those that did not come by the sources which are first in the order
    are asked of others: a source may give gaps alone, which wait for what it has purged and others hold.
    """
    usual = _choose(replica, needed, sources).requests
    tried = {request.source for request in usual if request.numbers.count_common(stubborn)}
    others = [source for source in sources if source.database not in tried]
    elsewhere = CNSet()
    for source in others:
        elsewhere |= source.available & stubborn
    if not elsewhere:
        return usual
    replica.fired["asked_elsewhere"] += 1
    asked = {request.source: request.numbers - elsewhere for request in usual}
    for request in _choose(replica, elsewhere, others).requests:
        asked[request.source] = asked.get(request.source, NOTHING) | request.numbers
    return [Request(source, numbers) for source, numbers in asked.items() if numbers]


def _ask_later(replica: Replica, folder: ObjectId, missing: CNSet) -> None:
    """Have the folder looked at as soon as a store is up that has some of what is missing."""
    for store, row in replica.state(folder).rows.items():
        if not mates.is_up(replica, store) and row.known.count_common(missing):
            mates.ask_later(replica, folder, store)


def _send_request(replica: Replica, folder: ObjectId, request: Request) -> None:
    state = replica.state(folder)
    replica.fired["backfill_request"] += 1
    replica.unanswered[request.source] += 1
    state.asked[request.source] = replica.now_ms
    state.requested |= {request.source}
    replica.send(request.source, folder, BackfillRequest(request.numbers, state.knowledge.settled))
    if replica.organisation.servers[request.source].site != replica.site:
        state.open_requests[request.source] = state.open_requests.get(request.source, 0) + 1
        mates.tell_fetching(replica, folder, request.numbers, request.source)


def answered(state: FolderState, source: bytes) -> None:
    """The last part of an answer came from a source."""
    count = state.open_requests.pop(source, 0)
    if count > 1:
        state.open_requests[source] = count - 1


def _withdraw(replica: Replica, folder: ObjectId) -> None:
    """All that was asked for has come: what sources were asked for meanwhile they need not send any more.

    On a slow link it would still wait there, and cross though everybody has it. That it does not answer then
    makes no source silent.
    """
    state = replica.state(folder)
    for source in state.open_requests:
        replica.fired["request_withdrawn"] += 1
        state.asked.pop(source, None)
        replica.send(source, folder, BackfillRequest(NOTHING, state.knowledge.settled))
    state.open_requests.clear()


def open_sources(replica: Replica, folder: ObjectId) -> list[Candidate]:
    """The sources that can be asked now: up, and behind no way that is down.

    Until the mates have said after a start what they hold, nobody is asked over a link: a week away would
    cross it otherwise, though it lies next door.
    """
    state, servers, near = replica.state(folder), replica.organisation.servers, replica.mates(folder)
    waits = state.await_tries <= 1 and any(mates.is_up(replica, each) for each in state.awaited & {*near})
    return [
        candidate
        for candidate in candidates(replica, folder)
        if mates.is_up(replica, candidate.database)
        and (
            candidate.database in near
            or (
                not waits
                and candidate.late is not Late.DOWN
                and outbox.is_open_to(replica, servers[candidate.database].site)
            )
        )
    ]


def _on_its_way(replica: Replica, folder: ObjectId, needed: CNSet) -> tuple[CNSet, int]:
    """The needed numbers that come without being asked for over a link, and the time until which that is
    believed.

    Mates fetch some. Others are of makers behind a neighbour site whose traffic still flows: it told that
    more waits.
    """
    numbers, until_ms = mates.fetched(replica, folder)
    for origin in needed.origins():
        lapses_ms = mates.traffic_until_ms(replica, origin)
        if lapses_ms > replica.now_ms:
            numbers |= needed.of_origin(origin)
            until_ms = max(until_ms, lapses_ms)
    if not numbers:
        return NOTHING, 0
    rows, near = replica.state(folder).rows, CNSet()
    for mate in replica.mates(folder):
        near |= rows[mate].known if mate in rows else NOTHING
    return numbers - near, until_ms


def plan_requests(replica: Replica, folder: ObjectId, needed: CNSet) -> Plan:
    """Choose the sources of needed numbers, with the reasons, as if all could be asked."""
    return _choose(replica, needed, candidates(replica, folder))


def _choose(replica: Replica, needed: CNSet, sources: list[Candidate]) -> Plan:
    preferred = replica.organisation.preferred.get(replica.me.database, ())
    return choose_sources(replica.me.database, needed, sources, preferred)


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
    state.wake(replica.now_ms)


def part_came(replica: Replica, folder: ObjectId) -> None:
    """A part of an answer arrived: entries that were asked for wait from now on, since more of it may
    come."""
    state = replica.state(folder)
    state.entries = tuple(
        _waiting(replica, folder, entry) if entry.tries else entry for entry in state.entries
    )


def _first_wait_ms(replica: Replica, folder: ObjectId, numbers: CNSet) -> int:
    """The first delay of missing numbers. A new replica asks at once; where only other sites have them, the
    first of its site does.
    """
    is_first = _is_near(replica, folder, numbers) or mates.rank(replica, folder) == 0
    if replica.state(folder).asks_at_once and is_first:
        return 0
    return _pick(replica, folder, numbers, replica.preset.first_request)


def _waiting(replica: Replica, folder: ObjectId, entry: BackfillEntry) -> BackfillEntry:
    """The entry with its next due time: the first retry's delay, then later ones that double up to a
    limit."""
    preset = replica.preset
    if entry.tries <= 1:
        waits_ms = _pick(replica, folder, entry.missing, preset.first_retry)
    else:
        waits_ms = _pick(replica, folder, entry.missing, preset.later_retry) << min(entry.tries - 2, 20)
    return replace(entry, due_ms=replica.now_ms + min(waits_ms, preset.retry_ms_max))


def _pick(replica: Replica, folder: ObjectId, numbers: CNSet, wait: Wait) -> int:
    """The delay by whether a store of this site has some of the numbers, by rank where none has."""
    if _is_near(replica, folder, numbers):
        return wait.same_site_ms
    return mates.patience(replica, folder, wait.other_site_ms)


def _is_near(replica: Replica, folder: ObjectId, numbers: CNSet) -> bool:
    rows = replica.state(folder).rows
    return any(mate in rows and rows[mate].known.count_common(numbers) for mate in replica.mates(folder))


def _note_silence(state: FolderState) -> None:
    """Stores that were asked and said nothing since are silent: they are asked after the others of their
    cost."""
    state.silent = state.silent.union(state.asked)
    state.asked.clear()


def _late(way: Way, listed: ReplicaState, is_silent: bool) -> Late:
    if listed is ReplicaState.DELETE_PENDING:
        return Late.LEAVING
    if not way.is_up:
        return Late.DOWN
    return Late.SILENT if is_silent else Late.NO
