"""Statuses at rest: rounds in which sites compare sums, so that no folder is named while all are equal.

In each site one store is its head, the first by hash of those that are heard. At the full quarter of an hour
it asks the others of its site for their sums, adds them up, and sends the other sites one message. Where two
sites differ they compare the sums of the buckets, then the digests of the folders in these that differ; a
folder that differs is asked for its status. With different hierarchies nothing else is compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Final

from pillarbox.replication.core import answering, folder_sums, mates, outbox, status
from pillarbox.replication.core.preset import SECOND_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.rounds import Rounds, Told
from pillarbox.replication.core.state import NEVER_MS, expired_by_all
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.organisation import bridgeheads
from pillarbox.replication.wire.messages import (
    BUCKETS_COUNT,
    SUM_BYTES,
    BucketDigests,
    BucketQuestion,
    RestPoll,
    RestSums,
    Silent,
    Statement,
    StatusRequest,
)

GATHER_MS: Final = 5 * SECOND_MS
FOLDERS_MAX: Final = 200  # asked for by one store in one round: more are left to the next one
DIGESTS_MAX: Final = 1_000  # in one message
NO_SUM: Final = bytes(SUM_BYTES)
_NO_SUMS: Final = bytes(SUM_BYTES * BUCKETS_COUNT)


def restart(replica: Replica) -> None:
    """Begin with nothing remembered; the sums are made anew."""
    replica.rounds = Rounds(due_ms=_next_ms(replica))


def due_ms(replica: Replica) -> int:
    """The time at which a round begins or ends."""
    if replica.waiting is not None:
        return NEVER_MS
    return min(replica.rounds.due_ms, replica.rounds.closes_ms)


def work(replica: Replica) -> None:
    """Begin or end a round where that is due, if this store is its site's head."""
    rounds = replica.rounds
    if rounds.closes_ms <= replica.now_ms:
        _close(replica)
    if rounds.due_ms <= replica.now_ms:
        rounds.due_ms = _next_ms(replica)
        answering.forget_late(replica)
        if head(replica) == replica.me.database:
            _poll(replica)


def _next_ms(replica: Replica) -> int:
    """The next full interval of the wall clock, so that all sites state what they had at one moment."""
    interval_ms = replica.preset.status_rest_ms
    return replica.now_ms + interval_ms - replica.wall_ms % interval_ms


def head(replica: Replica) -> bytes:
    """The head of this store's site, as far as it knows who is up."""
    order = bridgeheads.in_order(
        replica.organisation.at(replica.site), bridgeheads.bucket_of(replica.tree.hierarchy)
    )
    me = replica.me.database
    return next((server for server in order if server == me or mates.is_heard(replica, server)), me)


def take(replica: Replica, source: bytes, body: RestPoll | RestSums | BucketQuestion | BucketDigests) -> None:
    """Take a message of a round; nothing but the rounds follows from it."""
    match body:
        case RestPoll():
            _polled(replica, source, body)
        case RestSums():
            _gave(replica, source, body)
        case BucketQuestion():
            _name_folders(replica, body)
        case BucketDigests():
            _named(replica, source, body)


# --- in the site --------------------------------------------------------------------------------------------


def _poll(replica: Replica) -> None:
    rounds, mine = replica.rounds, replica.site
    oldest_ms = replica.now_ms - 2 * replica.preset.status_rest_ms
    silent = {site: frozenset(told.sums.silent) for site, told in _told_since(replica, oldest_ms)}
    silent[mine] = rounds.silent_here
    poll = RestPoll(silent, frozenset(rounds.equal))
    rounds.given, rounds.closes_ms = {}, replica.now_ms + GATHER_MS
    rounds.equal.clear()
    for mate in _mates(replica):
        replica.send_at_rest(mate, poll)
    rounds.given[replica.me.database] = _answer(replica, poll)


def _polled(replica: Replica, source: bytes, poll: RestPoll) -> None:
    """Give the head of the site the sums that it asks for."""
    replica.rounds.silent_here = poll.silent.get(replica.site, frozenset())
    replica.send_at_rest(source, _answer(replica, poll))


def _answer(replica: Replica, poll: RestPoll) -> RestSums:
    rounds = replica.rounds
    _settle_rows(replica, poll)
    for site, silent in poll.silent.items():
        _hear_all(replica, site, silent)
    folder_sums.refresh(replica, poll.silent)
    packed = {site: folder_sums.packed(sums) for site, sums in rounds.sums.of_site.items() if any(sums)}
    return RestSums(hierarchy_digest(replica), packed)


def _settle_rows(replica: Replica, poll: RestPoll) -> None:
    """Know of the replicas that agreed in the last round that they hold what is held here.

    A status that was lost would leave them behind in the rows until the folder changes again: views would
    show them so, and tombstones would stay. It is so where nothing was done in the folder since the sums were
    made, and both stores were there for that round. What this store let go itself the others may only count
    as had: nobody can give it.
    """
    sums, mine = replica.rounds.sums, replica.site
    is_same = sums.organisation is replica.organisation
    if not is_same or mine not in poll.equal or not _took_part(sums.silent, poll, mine, replica.me.database):
        return
    for folder, share in sums.shares.items():
        state = replica.record.folders.get(folder)
        if state is None or state.knowledge.had != share.had or expired_by_all(state.rows):
            continue
        held = share.had - state.knowledge.expired
        for peer, row in share.rows.items():
            if state.rows.get(peer) is not row or not row.is_heard() or row.had.covers(held):
                continue
            site = replica.organisation.servers[peer].site
            if site in poll.equal and _took_part(sums.silent, poll, site, peer):
                # What it said before stays so: of what it holds this store may have let some go by age.
                has = Statement(row.life, row.known | (held - row.had), row.expired)
                replica.state(folder).rows[peer] = row.told(has, replica.wall_ms)
                replica.fired["row_settled"] += 1


def _took_part(before: Silent, poll: RestPoll, site: str, store: bytes) -> bool:
    """True when a store counted in the last round, and gave its sums."""
    return store not in before.get(site, ()) and store not in poll.silent.get(site, ())


def hierarchy_digest(replica: Replica) -> bytes:
    """Digest what this store has of the hierarchy, and what it knows of whose each numbering is."""
    record, folder = replica.record, replica.tree.hierarchy
    owners = b"".join(
        origin + database + incarnation.to_bytes(4, "big")
        for origin, (database, incarnation) in sorted(record.owners.items())
    )
    known = folder_sums.digest_of(folder, record.folders[folder])
    return hashlib.blake2b(known + owners + record.left_out.encode(), digest_size=SUM_BYTES).digest()


def _close(replica: Replica) -> None:
    """Add up what the stores of the site gave, and tell the other sites."""
    rounds, folder = replica.rounds, replica.tree.hierarchy
    rounds.closes_ms = NEVER_MS
    rounds.silent_here = frozenset(replica.organisation.at(replica.site)).difference(rounds.given)
    rounds.hierarchy = rounds.given[replica.me.database].hierarchy
    behind = [store for store, given in rounds.given.items() if given.hierarchy != rounds.hierarchy]
    for store in behind:
        status.tell(replica, folder, store)
        replica.send(store, folder, StatusRequest())
    rounds.totals = None if behind else folder_sums.added([given.sums for given in rounds.given.values()])
    if rounds.totals is not None:
        _look_at_site(replica, rounds.totals.setdefault(replica.site, folder_sums.unpacked(_NO_SUMS)))
    rounds.said = _said(replica)
    outbox.mark_rest(replica)
    for site, _ in _told_since(replica, replica.now_ms - replica.preset.status_rest_ms // 2):
        _compare(replica, site)


def _look_at_site(replica: Replica, sums: list[int]) -> None:
    if not any(sums):
        replica.rounds.equal.add(replica.site)
    elif replica.content_flows():
        _ask_site(replica, replica.site, bytes(b for b, each in enumerate(sums) if each), replica.me.database)


def _said(replica: Replica) -> RestSums:
    """The sums that the other sites are told; none where the hierarchies of this site's stores differ."""
    totals = replica.rounds.totals or {}
    sums = {site: folder_sums.total(sums) for site, sums in totals.items()}
    return RestSums(replica.rounds.hierarchy, sums, replica.rounds.silent_here)


# --- between sites ------------------------------------------------------------------------------------------


def _gave(replica: Replica, source: bytes, sums: RestSums) -> None:
    """Take sums: of a store of this site, of another site, or of the buckets in which two sites differ."""
    site = replica.organisation.servers[source].site
    if site == replica.site:
        if replica.rounds.closes_ms < NEVER_MS:
            replica.rounds.given[source] = sums
    elif any(len(each) > SUM_BYTES for each in sums.sums.values()):
        _compare_buckets(replica, source, sums)
    else:
        replica.rounds.told[site] = Told(source, sums, replica.now_ms)
        _hear_all(replica, site, sums.silent)
        _compare(replica, site)


def _compare(replica: Replica, site: str) -> None:
    """Compare with another site, once both have told in this round."""
    rounds, told = replica.rounds, replica.rounds.told[site]
    if rounds.closes_ms < NEVER_MS or head(replica) != replica.me.database:
        return
    if rounds.hierarchy and told.sums.hierarchy != rounds.hierarchy:
        replica.send(told.by, replica.tree.hierarchy, StatusRequest())
    elif rounds.totals is not None and site in told.sums.sums:
        sums = rounds.totals.get(site, folder_sums.unpacked(_NO_SUMS))
        if folder_sums.total(sums) == told.sums.sums.get(replica.site, NO_SUM):
            if told.sums.sums[site] == NO_SUM:
                rounds.equal.add(site)
        elif replica.site < site and replica.content_flows():
            replica.fired["sites_differ"] += 1
            of_buckets = RestSums(rounds.hierarchy, {site: folder_sums.packed(sums)})
            replica.send_at_rest(told.by, of_buckets)


def _compare_buckets(replica: Replica, source: bytes, theirs: RestSums) -> None:
    """See in which buckets another site differs from this one, and let it have the folders' digests."""
    rounds, site = replica.rounds, replica.organisation.servers[source].site
    if rounds.totals is None or theirs.hierarchy != rounds.hierarchy or not replica.content_flows():
        return
    mine = rounds.totals.get(site, folder_sums.unpacked(_NO_SUMS))
    pairs = zip(mine, folder_sums.unpacked(theirs.sums.get(replica.site, _NO_SUMS)), strict=False)
    buckets = bytes(bucket for bucket, (one, other) in enumerate(pairs) if one != other)
    if buckets:
        _ask_site(replica, site, buckets, source)


def _ask_site(replica: Replica, site: str, buckets: bytes, to: bytes) -> None:
    """Have all stores of this site name the folders of these buckets that they share with a site."""
    question = BucketQuestion(site, buckets, to)
    for mate in _mates(replica):
        replica.send_at_rest(mate, question)
    _name_folders(replica, question)


def _name_folders(replica: Replica, question: BucketQuestion) -> None:
    """Name the folders of some buckets for which this store is first, with the digests that were summed."""
    digests = iter(
        [
            (folder, share.digest)
            for folder, share in sorted(replica.rounds.sums.shares.items())
            if share.bucket in question.buckets and share.factors.get(question.site, 0) > 0
        ]
    )
    while part := dict(islice(digests, DIGESTS_MAX)):
        named = BucketDigests(replica.me.database, part)
        if question.to == replica.me.database:
            _pass_on(replica, named)
        else:
            replica.send_at_rest(question.to, named)


def _named(replica: Replica, by: bytes, digests: BucketDigests) -> None:
    """Ask who named folders for the status of those that differ here; the others of this site learn of it.

    Where both have the same numbers, they take different ones for let go by all others: one of them has a row
    that is behind.
    """
    if by == digests.source:
        _pass_on(replica, digests)
    for folder in list(_differing(replica, digests))[:FOLDERS_MAX]:
        replica.fired["asked_at_rest"] += 1
        replica.send(digests.source, folder, StatusRequest())
        _look_for_old_rows(replica, folder, digests.source, digests.digests[folder])


def _look_for_old_rows(replica: Replica, folder: ObjectId, source: bytes, digest: bytes) -> None:
    """Ask all that are up where a folder differs in two rounds from the same digest of a store that has the
    same numbers. Once: what a dead store said to one of the two alone nobody can tell the other.
    """
    state, differed = replica.state(folder), replica.rounds.differed
    row = state.rows.get(source)
    if row is None or row.had != state.knowledge.had:
        differed.pop(folder, None)
        return
    before, was_asked = differed.get(folder, (b"", False))
    is_again = before == digest
    differed[folder] = digest, is_again
    if is_again and not was_asked:
        replica.fired["asked_all_at_rest"] += 1
        up = [peer for peer in replica.peers(folder) if mates.is_up(replica, peer)]
        state.await_all(state.awaited.union(up), replica.now_ms)


def _pass_on(replica: Replica, digests: BucketDigests) -> None:
    for mate in _mates(replica):
        if mate != digests.source:
            replica.send_at_rest(mate, digests)


def _differing(replica: Replica, digests: BucketDigests) -> Iterator[ObjectId]:
    """The folders that differ here, where this store is to see to them: for its site, or in it for itself."""
    server = replica.organisation.servers.get(digests.source)
    for folder, digest in digests.digests.items() if server else ():
        share = replica.rounds.sums.shares.get(folder)
        factor = share.factors.get(server.site, 0) if share and server else 0
        is_mine = factor < 0 if server and server.site == replica.site else factor > 0
        if share is not None and is_mine and share.digest != digest:
            yield folder


def _hear_all(replica: Replica, site: str, silent: frozenset[bytes]) -> None:
    for store in replica.organisation.at(site):
        if store not in silent and store != replica.me.database:
            mates.hear(replica, store, itself=False)


def _mates(replica: Replica) -> list[bytes]:
    """The other stores of this site."""
    return [store for store in replica.organisation.at(replica.site) if store != replica.me.database]


def _told_since(replica: Replica, since_ms: int) -> list[tuple[str, Told]]:
    return [(site, told) for site, told in replica.rounds.told.items() if told.came_ms > since_ms]
