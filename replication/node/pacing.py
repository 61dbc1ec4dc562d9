"""The pace at which frames leave for other sites, where an operator has bounded it (`organisation.rates`)."""

from __future__ import annotations

from pillarbox.replication.organisation.rates import rate_bytes
from pillarbox.replication.organisation.site_tree import site_tree
from pillarbox.replication.organisation.topology import Organisation


class Pace:
    """Says when the next frame may leave for a store. One that has left holds up all that goes over the same
    connector for as long as its bytes take at the rate; times are ms of one clock.
    """

    def __init__(self, database: bytes) -> None:
        self._database = database
        self._bounds: dict[bytes, tuple[str, int]] = {}  # of each store the neighbour site on the way, a rate
        self._free_ms: dict[str, float] = {}

    def follow(self, organisation: Organisation) -> None:
        """Go by the connectors and rates of an organisation."""
        self._bounds.clear()
        me = organisation.servers.get(self._database)
        if me is None:
            return
        tree = site_tree(me.site, organisation.connectors)
        for database in organisation.others(self._database):
            path = tree.path(organisation.servers[database].site)
            rate = rate_bytes(organisation, self._database, path[1]) if len(path) > 1 else 0
            if rate:
                self._bounds[database] = path[1], rate

    def free_ms(self, peer: bytes) -> float:
        """The time from which a frame may leave for a store; 0 for one that nothing bounds."""
        return self._free_ms.get(self._bounds[peer][0], 0) if peer in self._bounds else 0

    def left(self, peer: bytes, size_bytes: int, now_ms: int) -> None:
        """Count a frame that has left."""
        if peer in self._bounds:
            neighbour, rate = self._bounds[peer]
            self._free_ms[neighbour] = max(now_ms, self.free_ms(peer)) + size_bytes * 1000 / rate
