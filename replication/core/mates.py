"""The stores of one site, which do for each other what would cross a link once for each of them.

Of the replicas of a folder the first by rank that is up asks over links, and states what the site has. Of a
request over a link the others are told, and what it brings is handed on to those that lack it.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from pillarbox.replication.core.packing import pair_of
from pillarbox.replication.core.preset import DAY_MS, MINUTE_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.organisation import bridgeheads
from pillarbox.replication.wire.messages import Changes, Fetching, Objects, Statement, Status, StatusRequest
from pillarbox.store.change_number import CNSet

RANK_MAX = 4
UNANSWERED_MAX = 16


def is_up(replica: Replica, store: bytes) -> bool:
    """True when a store can be reached, was heard of of late, and did not leave many requests unanswered
    since.

    So of all the folders of a store that died, a few are asked for.
    """
    is_within_reach = store not in replica.unreachable
    return is_within_reach and is_heard(replica, store) and replica.unanswered[store] < UNANSWERED_MAX


def is_heard(replica: Replica, store: bytes) -> bool:
    """True when a store said something, or its site's bridgehead something of it, within two rounds at
    rest; before that, since this one started.
    """
    silent_ms = replica.now_ms - replica.heard.get(store, replica.started_ms)
    return silent_ms <= two_rounds_ms(replica)


def two_rounds_ms(replica: Replica) -> int:
    """The time in which two rounds at rest are over, and what they bring has come."""
    return 2 * replica.preset.status_rest_ms + MINUTE_MS


def hear(replica: Replica, store: bytes, *, itself: bool = True) -> None:
    """Note that a store said something itself, or that another one heard of it.

    By the latter one request more may be made of a store that left many unanswered.
    """
    replica.heard[store] = replica.now_ms
    if itself:
        del replica.unanswered[store]
    elif replica.unanswered[store] >= UNANSWERED_MAX:
        replica.unanswered[store] = UNANSWERED_MAX - 1


def reached(replica: Replica, store: bytes) -> None:
    """Take a store to which a link stands again for up, though it said nothing yet, and ask it at once."""
    replica.heard[store] = replica.now_ms
    replica.unanswered[store] = min(replica.unanswered[store], UNANSWERED_MAX - 1)
    for folder, state in replica.record.folders.items():
        if store in state.awaited:
            state.await_due_ms = replica.now_ms
            replica.touched.add(folder)


def ask_later(replica: Replica, folder: ObjectId, store: bytes) -> None:
    """Note that a store that is not up is to be asked of a folder as soon as it is."""
    replica.postponed.setdefault(store, {})[folder] = None


def ask_postponed(replica: Replica) -> None:
    """Ask stores that are up again for their statuses of folders, and look at what slept for want of them.

    Each folder has its turn: a store that was asked of many at once is asked of the next ones when it says
    something. Would it be asked of all again then, each answer would bring as many requests as there are
    folders.
    """
    if not replica.postponed:
        return
    for store, folders in list(replica.postponed.items()):
        while folders and is_up(replica, store):
            folder = next(iter(folders))
            del folders[folder]
            if (state := replica.held(folder)) is not None:
                state.wake(replica.now_ms)
                if store in state.awaited:
                    ask_status(replica, folder, store)
        if not folders:
            del replica.postponed[store]


def ask_status(replica: Replica, folder: ObjectId, store: bytes) -> None:
    """Ask a store for its status of a folder; again after a while if it does not answer."""
    state = replica.state(folder)
    replica.unanswered[store] += 1
    replica.send(store, folder, StatusRequest())
    state.await_due_ms = min(state.await_due_ms, replica.now_ms + replica.preset.first_retry.same_site_ms)


def wake_all(replica: Replica) -> None:
    """Look at all entries that no source could be asked for: one may be now."""
    for folder, state in replica.record.folders.items():
        if state.entries and any(entry.sleeps for entry in state.entries):
            state.wake(replica.now_ms)
            replica.touched.add(folder)


def rank(replica: Replica, folder: ObjectId) -> int:
    """The place of this store among the replicas of the folder in its site that are up."""
    up = [mate for mate in replica.mates(folder) if is_up(replica, mate)]
    return bridgeheads.rank(replica.me.database, up, folder)


def patience(replica: Replica, folder: ObjectId, delay_ms: int) -> int:
    """The delay after which this store asks for what only other sites have: the first by rank soonest.

    The stores of a site that notice something at one time would all ask at one time otherwise.
    """
    key = replica.me.database + folder.origin + folder.counter.to_bytes(8, "big")
    spread = hashlib.blake2b(key, digest_size=1).digest()[0] / 2550
    return int(delay_ms * (1 + min(rank(replica, folder), RANK_MAX) / 2 + spread))


def statements(replica: Replica, folder: ObjectId) -> dict[bytes, Statement]:
    """The last statements of the mates that are up; of others nothing is said, or they would seem to be."""
    rows = replica.state(folder).rows
    return {
        mate: Statement(rows[mate].life, rows[mate].known, rows[mate].expired)
        for mate in replica.mates(folder)
        if mate in rows and rows[mate].is_heard() and is_up(replica, mate)
    }


def doubted(replica: Replica, folder: ObjectId) -> dict[bytes, dict[bytes, Statement]]:
    """For each store of which others say less than it had said, the statements that it is sent.

    By its own, whoever went back in time learns it. Those of its mates that nothing contradicts correct what
    it knows of them: two mates behind in what they know of each other would be doubted in turn without end,
    each by what the other answers.
    """
    rows, servers = replica.state(folder).rows, replica.organisation.servers
    said = {peer: Statement(row.life, row.known, row.expired) for peer, row in rows.items() if row.is_heard()}
    return {
        peer: {
            mate: said[mate]
            for mate in said
            if mate == peer or (servers[mate].site == servers[peer].site and not rows[mate].is_doubted)
        }
        for peer, row in rows.items()
        if row.is_doubted
    }


def own_status(replica: Replica, folder: ObjectId) -> Status:
    """The status of this store alone; in the hierarchy it says whose each numbering is, too."""
    is_hierarchy = folder == replica.tree.hierarchy
    return Status(numberings=replica.numberings() if is_hierarchy else None)


def site_status(replica: Replica, folder: ObjectId) -> Status:
    """The status of this store, with what the others of its site said last."""
    return replace(own_status(replica, folder), mates=statements(replica, folder))


def tell_fetching(replica: Replica, folder: ObjectId, numbers: CNSet, source: bytes) -> None:
    """Tell the mates which numbers this store asks for over a link."""
    for mate in replica.mates(folder):
        replica.send(mate, folder, Fetching(numbers, source))


def is_fetching(replica: Replica, folder: ObjectId, mate: bytes, fetching: Fetching) -> None:
    """A mate asks over a link: for these numbers this store need not."""
    state = replica.state(folder)
    before, _ = state.fetched_by.get(mate, (NOTHING, 0))
    state.fetched_by[mate] = before | fetching.numbers, replica.now_ms + _claim_ms(replica)


def progress(replica: Replica, folder: ObjectId, mate: bytes) -> None:
    """A mate sent changes: if it fetches, it goes on."""
    state = replica.state(folder)
    if mate in state.fetched_by:
        state.fetched_by[mate] = state.fetched_by[mate][0], replica.now_ms + _claim_ms(replica)


def fetched(replica: Replica, folder: ObjectId) -> tuple[CNSet, int]:
    """The numbers that mates fetch, and until when that is believed."""
    state = replica.state(folder)
    numbers, until_ms = NOTHING, 0
    for mate, (claimed, lapses_ms) in list(state.fetched_by.items()):
        if lapses_ms <= replica.now_ms:
            del state.fetched_by[mate]
        else:
            numbers |= claimed
            until_ms = max(until_ms, lapses_ms)
    return numbers, until_ms


def _claim_ms(replica: Replica) -> int:
    return 2 * replica.preset.first_request.other_site_ms


def hand_on(replica: Replica, folder: ObjectId, objects: Objects, source: bytes, before: CNSet) -> None:
    """Hand what came in answer over a link to the mates that lack it, with what became known by it."""
    if replica.organisation.servers[source].site == replica.site:
        return
    state = replica.state(folder)
    new = state.knowledge.known - before
    takers = [
        mate
        for mate in replica.mates(folder)
        if mate != source and mate in state.rows and not state.rows[mate].had.covers(new)
    ]
    if not takers:  # the pair is read from the whole folder
        return
    changes = Changes(objects, pair_of(replica, folder, new))  # one for all: a node packs it once
    for mate in takers:
        replica.fired["handed_on"] += 1
        replica.send(mate, folder, changes)


# --- traffic that is still on its way -----------------------------------------------------------------------


def note_traffic(replica: Replica, maker: bytes, behind_ms: int) -> None:
    """A bundle came whose label says that more waits behind it: what makers behind the same neighbour site
    made is not asked for until a while after the last such bundle, for a day at most.
    """
    neighbour = _neighbour(replica, maker)
    if not behind_ms or neighbour is None:
        return
    since_ms, last_ms = replica.traffic.get(neighbour, (replica.now_ms, replica.now_ms))
    if last_ms + _traffic_ms(replica) < replica.now_ms:
        since_ms = replica.now_ms
    replica.traffic[neighbour] = since_ms, replica.now_ms


def traffic_until_ms(replica: Replica, origin: bytes) -> int:
    """The time until which an origin's numbers may still come by themselves; 0 when they do not."""
    owner = replica.record.owners.get(origin)
    neighbour = _neighbour(replica, owner[0]) if owner else None
    if neighbour is None or neighbour not in replica.traffic:
        return 0
    since_ms, last_ms = replica.traffic[neighbour]
    return min(last_ms + _traffic_ms(replica), since_ms + DAY_MS)


def _traffic_ms(replica: Replica) -> int:
    return replica.preset.first_request.other_site_ms


def _neighbour(replica: Replica, store: bytes) -> str | None:
    """The neighbour site through which a store's changes reach this site; None for a store of this site."""
    server = replica.organisation.servers.get(store)
    path = replica.site_tree().path(server.site) if server else ()
    return path[1] if len(path) > 1 else None
