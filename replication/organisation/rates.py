"""The rate at which a server may use a link, for the transport that paces it."""

from __future__ import annotations

from pillarbox.replication.organisation.topology import Organisation


def rate_bytes(organisation: Organisation, database: bytes, neighbour: str) -> int:
    """Bytes a second that one server may send to a neighbour site; 0 where nothing bounds them.

    It is that of the cheapest connector between the two, or of the last resume where that connector has none,
    shared evenly by the servers of the site.
    """
    site = organisation.servers[database].site
    joining = [each for each in organisation.connectors if sorted(each.sites) == sorted((site, neighbour))]
    cheapest = min(joining, key=lambda connector: (connector.cost, connector.name), default=None)
    total = (cheapest.rate_bytes if cheapest else 0) or organisation.content.rate_bytes
    return max(1, total // len(organisation.at(site))) if total else 0
