"""Servers, sites and connectors, and the cheapest way between sites (DOMAIN.md "Transport cost")."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Final, NamedTuple

from pillarbox.replication.organisation.schedules import ALWAYS, Schedule

COST_MIN: Final = 1
COST_MAX: Final = 100
FIRST_READ: Final = frozenset({2})
"""The versions of replication messages that a server reads which has said nothing of it."""
STAND_IN: Final = "stand-in/"
"""Begins the name of a connector that stands in for one; no entry has a name with a slash."""


class Server(NamedTuple):
    """A public folder store of the tree: its database GUID, its site, and the version of the program it
    runs.

    `schedule` is that of its folders which have none of their own. `addresses` ("host:port") are those at
    which others reach it; without one it dials them. `certificates` (DER) are those that it may show, `reads`
    the versions of replication messages that it reads, as it said last.
    """

    database: bytes
    name: str
    site: str
    version: int
    is_removed: bool = False
    schedule: Schedule = ALWAYS
    addresses: tuple[str, ...] = ()
    certificates: tuple[bytes, ...] = ()
    reads: frozenset[int] = FIRST_READ


class TransportName(StrEnum):
    """The ways in which frames get from one store to another."""

    DIRECT = "direct"
    SPOOL = "spool"
    NATS = "nats"


class Connector(NamedTuple):
    """A link between two sites, in both directions, with a cost of 1 to 100.

    Outside its schedule it counts as down. `rate_bytes` bounds the bytes a second in each direction; 0 bounds
    nothing. Clients are referred over it only where it allows referrals.
    """

    name: str
    sites: tuple[str, str]
    cost: int
    schedule: Schedule = ALWAYS
    rate_bytes: int = 0
    allows_referrals: bool = True
    transport: TransportName = TransportName.DIRECT


class PresetName(StrEnum):
    """The delays by which all stores of the tree replicate."""

    PROMPT = "prompt"
    CLASSIC = "classic"


class ContentFlow(NamedTuple):
    """Replication of content in the whole tree: stopped, or going on since `resumes_ms` (ms UTC).

    A resume that lies in the future is a stop until then. `rate_bytes` bounds the bytes a second over each
    direction of each connector that has no rate of its own; 0 bounds nothing.
    """

    is_stopped: bool = False
    resumes_ms: int = 0
    rate_bytes: int = 0

    def is_stopped_at(self, now_ms: int) -> bool:
        """True while no content, request or answer may leave a store."""
        return self.is_stopped or now_ms < self.resumes_ms


RUNNING: Final = ContentFlow()


class Way(NamedTuple):
    """The cheapest way to a site: the sum of its connectors' costs, and whether all of them are up."""

    cost: int
    is_up: bool


@dataclass(frozen=True)
class Organisation:
    """The servers of a tree and the connectors between their sites.

    `preferred` names backfill sources that an operator set for a store; they are asked before all others.
    `referrals` gives a store its own list of servers with costs, to which alone it refers clients.
    `transports` names the transport within a site, where that is not the direct one. `authorities` are the
    certificates (DER) of those that sign the servers' certificates, `authority_holder` is the store whose
    server has the key of the one that signs now, empty when nobody has said so.
    """

    servers: Mapping[bytes, Server]
    connectors: tuple[Connector, ...] = ()
    preferred: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    sites: tuple[str, ...] = ()
    referrals: Mapping[bytes, Mapping[bytes, int]] = field(default_factory=dict)
    preset: PresetName = PresetName.PROMPT
    content: ContentFlow = RUNNING
    transports: Mapping[str, TransportName] = field(default_factory=dict)
    authorities: tuple[bytes, ...] = ()
    authority_holder: bytes = b""
    name: str = ""

    def transport_between(self, one: bytes, other: bytes) -> TransportName:
        """The transport that two stores exchange frames by.

        Within a site it is the site's, between two sites that of the cheapest connector that joins them, and
        direct where none does.
        """
        site = self.servers[one].site
        sites = {site, self.servers[other].site}
        if len(sites) == 1:
            return self.transports.get(site, TransportName.DIRECT)
        joining = self.joining(*sites)
        if not joining:
            return TransportName.DIRECT
        return min(joining, key=lambda connector: (connector.cost, connector.name)).transport

    @cached_property
    def scheduled(self) -> tuple[Connector, ...]:
        """The connectors that are not open at all times."""
        return tuple(each for each in self.connectors if each.schedule != ALWAYS)

    def joining(self, one: str, other: str) -> tuple[Connector, ...]:
        """The connectors that join two sites, the cheapest first."""
        return self._joining.get((one, other), ())

    @cached_property
    def _joining(self) -> Mapping[tuple[str, str], tuple[Connector, ...]]:
        joining: dict[tuple[str, str], tuple[Connector, ...]] = {}
        for each in sorted(self.connectors, key=lambda connector: connector.cost):
            one, other = each.sites
            joining[one, other] = joining[other, one] = (*joining.get((one, other), ()), each)
        return joining

    def others(self, database: bytes) -> tuple[bytes, ...]:
        """The stores of the tree but this one and those that were removed, in the order of their GUIDs."""
        return tuple(other for other in self._stores if other != database)

    @cached_property
    def _stores(self) -> tuple[bytes, ...]:
        return tuple(sorted(each for each, server in self.servers.items() if not server.is_removed))

    def at(self, site: str) -> tuple[bytes, ...]:
        """The stores of a site, but for those that were removed."""
        return self._at.get(site, ())

    @cached_property
    def _at(self) -> Mapping[str, tuple[bytes, ...]]:
        stores: dict[str, list[bytes]] = {}
        for database in self._stores:
            stores.setdefault(self.servers[database].site, []).append(database)
        return {site: tuple(there) for site, there in stores.items()}

    def is_removed(self, database: bytes) -> bool:
        """True when a store was removed from the tree, or never was in it."""
        server = self.servers.get(database)
        return server is None or server.is_removed


def with_stand_ins(organisation: Organisation) -> Organisation:
    """The organisation with a connector of the highest cost to each site with servers that no other leads to.

    What two administrators took out in two places may, merged, leave a site with no way to it, and with none
    for the entries that mend it. A stand-in follows from the entries alone, so that all stores that hold them
    agree.
    """
    sites = sorted({server.site for server in organisation.servers.values() if not server.is_removed})
    connectors = organisation.connectors
    for site in sites[1:]:
        if site not in ways_from(sites[0], connectors):
            name = f"{STAND_IN}{sites[0]}-{site}"
            connectors = (*connectors, Connector(name, (sites[0], site), COST_MAX))
    return (
        organisation
        if connectors is organisation.connectors
        else replace(organisation, connectors=connectors)
    )


def ways_from(site: str, connectors: Collection[Connector], down: Collection[str] = ()) -> dict[str, Way]:
    """The cheapest way from `site` to each site that connectors lead to; to itself it costs 0.

    Connectors named in `down` are left out. Where no way is left without them they count as up, since the
    mail waits for them: that way says that it is not up.
    """
    up = [connector for connector in connectors if connector.name not in down]
    ways = {other: Way(cost, True) for other, cost in _cheapest(site, up).items()}
    for other, cost in _cheapest(site, connectors).items():
        ways.setdefault(other, Way(cost, False))
    return ways


def _cheapest(site: str, connectors: Collection[Connector]) -> dict[str, int]:
    """The cost of the cheapest path to each site that can be reached (Dijkstra)."""
    links: dict[str, list[tuple[str, int]]] = {}
    for connector in connectors:
        one, other = connector.sites
        links.setdefault(one, []).append((other, connector.cost))
        links.setdefault(other, []).append((one, connector.cost))
    costs: dict[str, int] = {}
    reached = [(0, site)]
    while reached:
        cost, nearest = heapq.heappop(reached)
        if nearest not in costs:
            costs[nearest] = cost
            for neighbour, step in links.get(nearest, ()):
                heapq.heappush(reached, (cost + step, neighbour))
    return costs
