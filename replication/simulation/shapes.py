"""The shape of an organisation, changed by operators: entries that are written at one store, whatever it
knows of the others, and spread while messages are under way."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Final

from pillarbox.replication.core import organisation_folder
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.organisation.schedules import ALWAYS, NEVER, Interval, parse_schedule
from pillarbox.replication.organisation.topology import Connector, Organisation, Server, ways_from

ACTOR: Final = "operator"
_COSTS: Final = (1, 10, 50, 100)
_OPENINGS: Final = (
    ALWAYS,
    parse_schedule("weekly Europe/Berlin mon-sun 00:00-12:00"),
    parse_schedule("weekly UTC mon-sun 18:00-06:00"),
)
_CYCLES: Final = (ALWAYS, NEVER, Interval(30))
_SITES_MAX: Final = 5
_CONNECTORS_MAX: Final = 6

COUNTED: Final = frozenset(
    {
        "shape_connector_added",
        "shape_connector_closes",
        "shape_connector_out",
        "shape_cost",
        "shape_server_moved",
        "shape_server_schedule",
        "shape_site_added",
        "shape_site_out",
    }
)
"""The counters of changes of shape; a campaign in which one is missing proves little."""

Change = Callable[[Replica, Organisation, random.Random], Organisation | None]


def write_all(replica: Replica, organisation: Organisation) -> None:
    """Write a whole organisation."""
    organisation_folder.apply(replica, organisation, ACTOR)


def let_in(replica: Replica, server: Server) -> None:
    """Let a store join, in a site that is there."""
    known = _known(replica)
    site = server.site if server.site in known.sites else next(iter(known.sites), server.site)
    write_all(replica, replace(known, servers={**known.servers, server.database: server._replace(site=site)}))


def knows(replica: Replica, database: bytes) -> bool:
    """True when a store is in the organisation, as far as this one knows, or was in it."""
    return database in replica.organisation.servers


def others(replica: Replica) -> tuple[bytes, ...]:
    """The other stores, as far as a store knows that has not started yet."""
    return _known(replica).others(replica.me.database)


def remove(replica: Replica, lost: Collection[bytes]) -> None:
    """Take stores that are lost for good out of the tree, as far as they are known here."""
    known = _known(replica)
    servers = {
        database: server._replace(is_removed=server.is_removed or database in lost)
        for database, server in known.servers.items()
    }
    organisation_folder.apply(replica, replace(known, servers=servers), ACTOR, lost)


def _known(replica: Replica) -> Organisation:
    """The organisation that an operator sees at a store: its entries, or where none have come what it began
    with."""
    said = organisation_folder.reading(replica).organisation
    return said if said.servers else replica.organisation


def _change(replica: Replica, rng: random.Random, change: Change) -> str:
    """Change the shape of the organisation; what it was, or "" when it could not be done here."""
    after = change(replica, _known(replica), rng)
    if after is None:
        return ""
    said = organisation_folder.apply(replica, after, ACTOR)
    if not said:
        return ""
    replica.fired[f"shape_{change.__name__.strip('_')}"] += 1
    return f"changes the organisation: {'; '.join(said)}"


def _cost(replica: Replica, known: Organisation, rng: random.Random) -> Organisation | None:
    return _with_one(known, rng, lambda connector: connector._replace(cost=rng.choice(_COSTS)))


def _connector_closes(replica: Replica, known: Organisation, rng: random.Random) -> Organisation | None:
    return _with_one(known, rng, lambda connector: connector._replace(schedule=rng.choice(_OPENINGS)))


def _with_one(
    known: Organisation, rng: random.Random, change: Callable[[Connector], Connector]
) -> Organisation | None:
    """The organisation with one connector changed."""
    if not known.connectors:
        return None
    place = rng.randrange(len(known.connectors))
    changed = change(known.connectors[place])
    return replace(known, connectors=(*known.connectors[:place], changed, *known.connectors[place + 1 :]))


def _connector_added(replica: Replica, known: Organisation, rng: random.Random) -> Organisation | None:
    if len(known.connectors) >= _CONNECTORS_MAX or len(known.sites) < 2:
        return None
    return _joined(known, rng, *rng.sample(known.sites, 2))


def _joined(known: Organisation, rng: random.Random, one: str, other: str) -> Organisation:
    """The organisation with one more connector between two sites."""
    names = {connector.name for connector in known.connectors}
    name = next(name for k in range(len(names) + 1) if (name := f"{one}-{other}-{k}") not in names)
    return replace(known, connectors=(*known.connectors, Connector(name, (one, other), rng.choice(_COSTS))))


def _connector_out(replica: Replica, known: Organisation, rng: random.Random) -> Organisation | None:
    """A connector goes; others take its place where it alone led on."""
    if not known.connectors:
        return None
    gone = rng.choice(known.connectors)
    left = tuple(connector for connector in known.connectors if connector is not gone)
    return _whole(replace(known, connectors=left), rng)


def _whole(known: Organisation, rng: random.Random) -> Organisation:
    """The organisation with new connectors to the sites that none leads to."""
    first, *others = known.sites
    while unreached := [site for site in others if site not in ways_from(first, known.connectors)]:
        known = _joined(known, rng, first, unreached[0])
    return known


def _server_moved(replica: Replica, known: Organisation, rng: random.Random) -> Organisation | None:
    """A server moves to another site of the organisation; its wires stay as they are."""
    return _with_server(known, rng, lambda server: server._replace(site=rng.choice(known.sites)))


def _server_schedule(replica: Replica, known: Organisation, rng: random.Random) -> Organisation | None:
    return _with_server(known, rng, lambda server: server._replace(schedule=rng.choice(_CYCLES)))


def _with_server(
    known: Organisation, rng: random.Random, change: Callable[[Server], Server]
) -> Organisation | None:
    """The organisation with one server changed."""
    there = _there(known)
    if not there:
        return None
    database = rng.choice(there)
    return replace(known, servers={**known.servers, database: change(known.servers[database])})


def _there(known: Organisation) -> list[bytes]:
    """The servers that were not removed."""
    return sorted(database for database, server in known.servers.items() if not server.is_removed)


def _site_added(replica: Replica, known: Organisation, rng: random.Random) -> Organisation | None:
    """A site with a connector, and a server moves there."""
    if len(known.sites) >= _SITES_MAX:
        return None
    name = next(name for k in range(_SITES_MAX + 1) if (name := f"branch{k}") not in known.sites)
    joined = _joined(replace(known, sites=(*known.sites, name)), rng, rng.choice(known.sites), name)
    return _with_server(joined, rng, lambda server: server._replace(site=name))


def _site_out(replica: Replica, known: Organisation, rng: random.Random) -> Organisation | None:
    """A site goes with its connectors, and its servers stand in another one from then on."""
    if len(known.sites) < 2:
        return None
    gone, to = rng.sample(known.sites, 2)
    servers = {
        database: server._replace(site=to) if server.site == gone else server
        for database, server in known.servers.items()
    }
    sites = tuple(site for site in known.sites if site != gone)
    left = tuple(connector for connector in known.connectors if gone not in connector.sites)
    return _whole(replace(known, servers=servers, sites=sites, connectors=left), rng)


CHANGES: Final[tuple[Callable[[Replica, random.Random], str], ...]] = tuple(
    partial(_change, change=change)
    for change in (
        _cost,
        _connector_closes,
        _connector_added,
        _connector_out,
        _server_moved,
        _server_schedule,
        _site_added,
        _site_out,
    )
)
"""Each change of shape, the one of a site that goes at last: all connectors may go with it."""
