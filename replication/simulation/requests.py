"""Backfill requests, held against the source's rule as it is read (DOMAIN.md "Backfill source selection"):
number by number, over costs that are added up along all paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from pillarbox.replication.core import backfill
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.organisation.topology import Connector
from pillarbox.replication.simulation.history import Violation
from pillarbox.store.change_number import CNSet


class Place(NamedTuple):
    """The place of a source: the lower one is asked first."""

    is_unchosen: bool  # by an operator
    cost: int
    is_late: bool
    older: int
    fewer: int


def check_requests(replica: Replica, folder: ObjectId, asked: Mapping[bytes, CNSet]) -> None:
    """Check what one store asks others for, of those that can be asked then. Raises Violation."""
    needed = CNSet()
    for numbers in asked.values():
        if numbers & needed:
            raise Violation(f"{folder.counter}: a number is asked of two stores")
        needed |= numbers
    state, places = replica.state(folder), {}
    chosen = replica.organisation.preferred.get(replica.me.database, ())
    can_be_asked = {source.database for source in backfill.open_sources(replica, folder)}
    ways: dict[str, tuple[int, bool] | None] = {}
    for peer, listed in replica.peers(folder).items():
        has = state.rows[peer].known & needed if peer in can_be_asked or peer in asked else NOTHING
        if not has:
            continue
        server = replica.organisation.servers[peer]
        if server.site not in ways:
            connectors = replica.organisation.connectors
            ways[server.site] = cheapest(replica.site, server.site, connectors, replica.down)
        if (way := ways[server.site]) is not None:
            cost, is_up = way
            is_late = listed is ReplicaState.DELETE_PENDING or not is_up or peer in state.silent
            places[peer] = Place(peer not in chosen, cost, is_late, -server.version, -has.count())
    elsewhere = CNSet()
    for entry in state.entries:
        if backfill.is_stubborn(replace(entry, tries=entry.tries - 1)):
            elsewhere |= entry.missing
    for source, numbers in asked.items():
        if not numbers:  # it takes back what was asked before
            continue
        for other, place in places.items():
            if place < places[source] and (numbers - elsewhere) & state.rows[other].known:
                raise Violation(f"{folder.counter}: a store is asked for what one before it has")


def cheapest(
    site: str, to: str, connectors: tuple[Connector, ...], down: frozenset[str]
) -> tuple[int, bool] | None:
    """The cost of the cheapest way, and whether it is up: one that is down counts where there is no other."""
    for is_up in (True, False):
        costs = {site: 0}
        for _ in connectors:  # no cheapest way is longer
            for connector in connectors:
                if is_up and connector.name in down:
                    continue
                for one, other in (connector.sites, connector.sites[::-1]):
                    if one in costs and costs[one] + connector.cost < costs.get(other, 1 << 30):
                        costs[other] = costs[one] + connector.cost
        if to in costs:
            return costs[to], is_up
    return None
