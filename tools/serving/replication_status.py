"""The status of replication as plain data: what the page, `/status` and the metrics are made of."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import TimeoutError as OutOfTime
from typing import TYPE_CHECKING, Any, Final

import pillarbox
from pillarbox.store.errors import PillarboxError
from pillarbox.tools.operations.replicating import folder_paths, name_of

if TYPE_CHECKING:
    from pillarbox.replication.core.replica import Replica
    from pillarbox.replication.node.node import Node

_WAIT_S: Final = 5
HIERARCHY: Final = "the hierarchy"


def replication_status(server: pillarbox.Server, node: Node | None) -> dict[str, Any] | None:
    """The status of a server's node; None where the server replicates nothing.

    `state` is running, waiting (with the `reason`) or stopped. While it is not running, or is too busy to say
    more, that is all. Times are ms UTC.
    """
    if node is None:
        return None
    standing = node.standing
    found: dict[str, Any] = {
        "state": str(standing.state),
        "reason": standing.reason,
        "refused": dict(node.refused_counts),
    }
    try:
        paths = folder_paths(server)
        told = node.asked(lambda replica: _told(replica, paths)).result(_WAIT_S)
    except OutOfTime:
        return {**found, "reason": "it is busy"}
    except PillarboxError as error:
        return {**found, "reason": standing.reason or str(error)}
    links = [
        {
            "server": each["name"],
            "site": each["site"],
            "is_up": each["guid"] in node.links,
            "came_bytes": node.came_bytes[each["guid"]],
            "went_bytes": node.went_bytes[each["guid"]],
        }
        for each in told.pop("others")
    ]
    return {**found, **told, "links": links}


def _told(replica: Replica, paths: Mapping[Any, str]) -> dict[str, Any]:
    from pillarbox.replication.core.overview import overview

    told, organisation = overview(replica), replica.organisation
    return {
        "server": name_of(replica, replica.me.database),
        "site": replica.site,
        "content_stopped": told.is_content_stopped,
        "waits_for": [name_of(replica, each) for each in told.waits_for],
        "quarantined": [each.hex() for each in told.quarantined],
        "folders": [
            {
                "folder": HIERARCHY
                if each.folder == replica.tree.hierarchy
                else paths.get(each.folder, f"{each.folder.counter:x}"),
                "missing": each.missing_count,
                "asked": [name_of(replica, source) for source in each.asked],
                "due_ms": each.due_ms,
                "set_aside": each.set_aside_count,
                "peers": [
                    {
                        "server": name_of(replica, peer.database),
                        "state": str(peer.sync),
                        "lacks": peer.lacks_count,
                        "offers": peer.offers_count,
                        "heard_ms": peer.heard_ms,
                    }
                    for peer in each.peers
                ],
            }
            for each in told.folders
        ],
        "sites": [
            {
                "site": each.site,
                "waiting": each.waiting_count,
                "on_their_way": each.flights_count,
                "is_stalled": each.is_stalled,
            }
            for each in told.sites
        ],
        "connectors": [
            {"name": each.name, "sites": list(each.sites), "cost": each.cost, "is_up": each.is_up}
            for each in told.connectors
        ],
        "map": _map(replica),
        "others": [
            {"guid": each, "name": name_of(replica, each), "site": organisation.servers[each].site}
            for each in organisation.others(replica.me.database)
        ],
    }


def _map(replica: Replica) -> list[dict[str, Any]]:
    """The sites with their servers."""
    organisation = replica.organisation
    servers = [each for each in organisation.servers.values() if not each.is_removed]
    sites = sorted({*organisation.sites, *(each.site for each in servers)})
    return [
        {
            "site": site,
            "servers": sorted(name_of(replica, each.database) for each in servers if each.site == site),
        }
        for site in sites
    ]
