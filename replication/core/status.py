"""Statuses: what this store has of a folder, told after changes, and when asked."""

from __future__ import annotations

from dataclasses import replace

from pillarbox.replication.core import hello, mates, outbox
from pillarbox.replication.core.preset import MINUTE_MS, SECOND_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import NEVER_MS, FolderState
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.wire.messages import Acknowledgement, Statement, Status

SITE_STATUS_MS = 2 * SECOND_MS
_SAME_TRIES = 4  # before the delays double
_RETRY_MS_MAX = 15 * MINUTE_MS  # a store that is waited for keeps tombstones, and backfills, back


def due_ms(replica: Replica, folder: ObjectId, state: FolderState) -> int:
    """The time of the next status to all other replicas of a folder, after changes; none while content is
    stopped."""
    preset = replica.preset
    if state.unstated_since_ms == NEVER_MS or replica.is_held_back(folder):
        return NEVER_MS
    return min(state.news_ms + preset.status_quiet_ms, state.unstated_since_ms + preset.status_latest_ms)


def tell_all(replica: Replica, folder: ObjectId) -> None:
    """Send a status to the replicas of this site, and a little later one for all of them over links.

    Only the first by rank states over links; by then the statuses of the others have come.
    """
    state = replica.state(folder)
    state.unstated_since_ms = NEVER_MS
    near, doubted = replica.mates(folder), mates.doubted(replica, folder)
    own = mates.own_status(replica, folder)
    for peer in (*near, *(peer for peer in doubted if peer not in near)):
        replica.send(peer, folder, replace(own, mates=doubted[peer]) if peer in doubted else own)
    if doubted:
        state.awaited = state.awaited.union(doubted)
        state.await_due_ms = replica.now_ms
    if mates.rank(replica, folder) == 0:
        state.site_status_due_ms = replica.now_ms + SITE_STATUS_MS


def note_doubt(replica: Replica, folder: ObjectId) -> None:
    """A store said less than before: the next status tells it, and asks it what it has; until it has said as
    much again.

    Not so in a folder that is deleted: there nobody is asked, so those who believe different things of a
    store would tell each other without end.
    """
    state = replica.state(folder)
    if state.unstated_since_ms == NEVER_MS and replica.is_live(folder):
        state.unstated_since_ms = state.news_ms = replica.now_ms


def tell_other_sites(replica: Replica, folder: ObjectId) -> None:
    """Put the site's status into the outbox."""
    replica.state(folder).site_status_due_ms = NEVER_MS
    outbox.mark_status(replica, folder)


def tell(
    replica: Replica, folder: ObjectId, peer: bytes, acknowledgement: Acknowledgement | None = None
) -> None:
    """Send a status to one store. It causes no status."""
    is_mate = replica.organisation.servers[peer].site == replica.site
    said = (
        mates.own_status(replica, folder)
        if is_mate or acknowledgement
        else mates.site_status(replica, folder)
    )
    replica.send(peer, folder, replace(said, acknowledgement=acknowledgement))


def take_statement(replica: Replica, folder: ObjectId, store: bytes, statement: Statement) -> None:
    """Take what a store of the replica list stated of a folder into its row.

    A row that was not heard yet believes no numbering that is known to have ended: of a store that was taken
    off the list and added again nothing else would tell that this comes late.
    """
    state = replica.state(folder)
    before = state.rows[store]
    if not before.is_heard() and replica.has_ended(store, statement.life.incarnation):
        replica.record.remember_reach(statement.had)
        return
    if state.hear(store, statement, replica.wall_ms).is_doubted:
        note_doubt(replica, folder)
    if statement.life != before.life:
        replica.record.remember_reach(before.had if statement.life > before.life else statement.had)


def take(replica: Replica, folder: ObjectId, told: Status) -> None:
    """Take what a status says of others than its sender."""
    state = replica.state(folder)
    if told.numberings:
        replica.learn_numberings(told.numberings)
        hello.look_for_later(replica)
    for mate, statement in told.mates.items():
        if mate == replica.me.database:
            hello.told_of_itself(replica, folder, statement)
        elif mate in state.rows:
            state.awaited -= {mate}
            take_statement(replica, folder, mate, _without_taken_back(replica, folder, mate, statement))
            mates.hear(replica, mate, itself=False)


def _without_taken_back(replica: Replica, folder: ObjectId, store: bytes, statement: Statement) -> Statement:
    """A statement about another store, without that it holds what it had let go by age: it alone says that,
    and is asked, once for each number: two mates that are behind in what they know of each other would have
    each other asked without end.

    Who tells it may be behind. A row of its mate that is older would be believed each time that all are asked
    whether the numbers are held anywhere, and they would be asked for each time.
    """
    state = replica.state(folder)
    row = state.rows[store]
    back = statement.known & row.expired if row.expired and statement.life == row.life else NOTHING
    if not back:
        return statement
    asked = state.asked_back.get(store, NOTHING)
    if not asked.covers(back):
        replica.fired["taken_back_by_others"] += 1
        state.asked_back[store] = asked | back
        state.awaited |= {store}
        state.await_due_ms = replica.now_ms
    return Statement(statement.life, statement.known - back, statement.expired | back)


def ask_awaited(replica: Replica, folder: ObjectId) -> None:
    """Ask for the statuses of the stores that were not heard yet; repeated until all were.

    One request that was lost once left a hierarchy that never came. Over a link one store is asked for all of
    its site, another one each time, so that one that does not answer keeps no other back. A store that is not
    up is not asked: when it is heard again, it is asked at once, and while none is up nothing is due. The
    delays double, to a quarter of an hour or the first delay of the preset. What is asked for over links only
    when the mates did not answer is looked at.
    """
    state, servers = replica.state(folder), replica.organisation.servers
    by_site: dict[str, list[bytes]] = {}
    for peer in sorted(state.awaited):
        if mates.is_up(replica, peer):
            by_site.setdefault(servers[peer].site, []).append(peer)
        else:
            mates.ask_later(replica, folder, peer)
    for site, peers in sorted(by_site.items()):
        asked = peers if site == replica.site else [peers[state.await_tries % len(peers)]]
        for peer in asked:
            mates.ask_status(replica, folder, peer)
    first_ms = replica.preset.first_retry.same_site_ms
    waits_ms = first_ms << min(20, max(0, state.await_tries - _SAME_TRIES))
    state.await_tries += 1
    latest_ms = max(first_ms, _RETRY_MS_MAX)
    state.await_due_ms = replica.now_ms + min(waits_ms, latest_ms) if by_site else NEVER_MS
    state.wake(replica.now_ms)
