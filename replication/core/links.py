"""The state of connectors: seen by the lines of the stores at their ends, and told to all once.

Whoever first sees that a connector of its site is down states it, and states that it is up again. Trees and
costs follow what is stated; whether a copy can be handed over follows only what the store sees itself: by
receipts that do not come, and by its transport, which knows at once.
"""

from __future__ import annotations

from typing import Final

from pillarbox.replication.core import hello, mates, outbox
from pillarbox.replication.core.preset import MINUTE_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.organisation import opening
from pillarbox.replication.organisation.link_state import LinkState, LinkWatch
from pillarbox.replication.organisation.topology import Connector
from pillarbox.replication.wire.messages import LinkReport

RESTATE_MS: Final = 5 * MINUTE_MS


def watch(replica: Replica) -> None:
    """See which connectors of this site are up, by the lines that lead over them. What slept since a line was
    cut is looked at when it is not any more."""
    cut = frozenset([site for site, line in replica.lines.items() if line.is_cut()])
    joining, mine, watches = replica.organisation.joining, replica.site, replica.watches
    for site in (*replica.lines, *_seen_down(replica)):
        connectors = joining(mine, site)
        if connectors:
            name, is_up = connectors[0].name, is_open(replica, site)
            if name not in watches or watches[name].is_up != is_up:
                seen(replica, name, is_up)
    if replica.cut - cut:
        mates.wake_all(replica)
    replica.cut = cut


def _seen_down(replica: Replica) -> list[str]:
    """The sites behind connectors that are seen down to which no line leads from here."""
    down = {connector for connector, watched in replica.watches.items() if not watched.is_up}
    if not down:
        return []
    connectors = (each for each in replica.organisation.connectors if each.name in down)
    sites = (site for connector in connectors for site in connector.sites if site != replica.site)
    return [site for site in sites if site not in replica.lines]


def peer_changed(replica: Replica, peer: bytes, is_up: bool) -> None:
    """A transport sees that a store of the tree can be reached from here, or no longer.

    What was on its way to one that cannot is lost, and goes another way or waits. One that can again is said
    what waits for it, without waiting for times that were for a store which is silent.
    """
    server = replica.organisation.servers.get(peer)
    if is_up:
        hello.say_soon(replica)
    if server is None or is_up == (peer not in replica.unreachable):
        return
    if is_up:
        replica.unreachable.discard(peer)
        _reach(replica, peer, server.site)
    else:
        replica.unreachable.add(peer)
        outbox.lost_link(replica, peer)
        mates.wake_all(replica)  # until it answered, nobody may have been asked over a link
    connector = connector_to(replica, server.site)
    if connector is not None:
        seen(replica, connector.name, is_open(replica, server.site))


def is_open(replica: Replica, site: str) -> bool:
    """True when this store sees that something may go to a neighbour site: by its line, and its transport."""
    line = replica.lines.get(site)
    return not (line is not None and line.is_cut()) and not is_cut_off(replica, site)


def _reach(replica: Replica, peer: bytes, site: str) -> None:
    """Go on with a store that was out of reach; one of this site may have missed what was sent to it, and
    this one what it sent. Any is asked at once what it could not be asked meanwhile."""
    outbox.try_again(replica, peer)
    mates.reached(replica, peer)
    for folder, state in list(replica.record.folders.items()) if site == replica.site else ():
        if state.is_held and peer in state.rows:
            state.awaited |= {peer}
            state.await_due_ms, state.await_tries = replica.now_ms, 0
            replica.touched.add(folder)


def is_cut_off(replica: Replica, site: str) -> bool:
    """True when a site has stores, and none of them can be reached from here."""
    if not replica.unreachable:
        return False
    stores = replica.organisation.at(site)
    return bool(stores) and replica.unreachable.issuperset(stores)


def connector_to(replica: Replica, site: str) -> Connector | None:
    """The cheapest connector of this site that joins it to a neighbour."""
    joining = replica.organisation.joining(replica.site, site)
    return joining[0] if joining else None


def seen(replica: Replica, connector: str, is_up: bool) -> None:
    """A connector of this site is seen up or down; it is stated when it has stayed so."""
    before = replica.watches.get(connector)
    if before is None or before.is_up != is_up:
        replica.watches[connector] = (before or LinkWatch()).seen(is_up, replica.now_ms)


def _watch_own(replica: Replica) -> None:
    """Watch no connector that does not join this site any more: it was taken out, another one is cheaper, or
    this store stands elsewhere now. What this store stated of it lapses."""
    sites = {site for connector in replica.organisation.connectors for site in connector.sites}
    mine = {found.name for site in sites if (found := connector_to(replica, site)) is not None}
    for connector in replica.watches.keys() - mine:
        del replica.watches[connector]
        replica.stated_ms.pop(connector, None)


def due_ms(replica: Replica) -> int:
    """The time at which a connector's state is to be stated, again while it is not up, or lapses, or at which
    a schedule opens or closes one.
    """
    due = [replica.links.lapses_ms(replica.now_ms)]
    due += [watched.due_ms() for watched in replica.watches.values()]
    for connector, said_ms in replica.stated_ms.items():
        if replica.watches[connector].stated is not LinkState.UP:
            due.append(said_ms + RESTATE_MS)
    changes_ms = opening.next_change_ms(replica.organisation, replica.wall_ms)
    if changes_ms is not None:
        due.append(replica.now_ms + changes_ms - replica.wall_ms)
    return min(due)


def state_all(replica: Replica) -> None:
    """State what has changed, and again what is not up."""
    for connector, watched in list(replica.watches.items()):
        now = replica.watches[connector] = watched.at(replica.now_ms)
        is_new = now.stated is not watched.stated
        is_due = connector in replica.stated_ms and now.stated is not LinkState.UP
        if is_new or (is_due and replica.stated_ms[connector] + RESTATE_MS <= replica.now_ms):
            _state(replica, connector, now.stated)
    follow(replica)


def _state(replica: Replica, connector: str, state: LinkState) -> None:
    """State the state of a connector to all stores, unless another store of this site has stated it."""
    is_mine = connector in replica.stated_ms
    if not is_mine and (state is LinkState.UP or connector in replica.links.down(replica.now_ms)):
        return
    replica.stated_ms[connector] = replica.now_ms
    replica.record.bundles += 1  # a number that no restart gives twice
    report = LinkReport(connector, replica.record.bundles, int(state))
    replica.links.hear(connector, replica.me.database, report.number, state, replica.now_ms)
    if state is LinkState.UP:
        del replica.stated_ms[connector]
    replica.fired[f"link_{state.name.lower()}"] += 1
    follow(replica)
    for mate in replica.organisation.at(replica.site):
        if mate != replica.me.database:
            replica.send(mate, replica.tree.hierarchy, report)
    outbox.mark_link(replica, report)


def heard(replica: Replica, source: bytes, report: LinkReport) -> None:
    """Take what a store stated of a connector."""
    replica.links.hear(report.connector, source, report.number, LinkState(report.state), replica.now_ms)
    follow(replica)


def began_anew(replica: Replica, store: bytes) -> None:
    """A store starts: what it had stated it will not take back, so it counts no more. What is still so it
    states again."""
    replica.links.forget(store)
    follow(replica)


def follow(replica: Replica) -> None:
    """Take costs and trees by the connectors that are stated as down now, or closed by their schedules, and
    by the sites that have servers.

    Sites that another way leads to now get by it what they did not take; some may get it twice. What slept
    for want of a way is looked at. What waits for a site that has no server any more goes: nobody there will
    ever take it.
    """
    was_down, down = replica.down, replica.links.down(replica.now_ms)
    if replica.organisation.scheduled:
        down |= opening.closed(replica.organisation, replica.wall_ms)
    replica.down, opened = down, was_down - down
    if opened:
        outbox.try_all_again(replica)
    tree, before = replica.site_tree(), replica.followed
    replica.followed = tree
    if opened or tree is not before:
        mates.wake_all(replica)
    if tree is before:
        return
    _watch_own(replica)
    if before is not None and tree != before:
        outbox.mark_again(replica, before)
    for site in list(replica.lines):
        if not replica.organisation.at(site):
            outbox.give_up(replica, site)
    for connector in replica.organisation.connectors:
        if connector.name in replica.watches and not all(map(replica.organisation.at, connector.sites)):
            seen(replica, connector.name, True)  # nobody is left there who could say so
