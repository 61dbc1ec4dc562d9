"""The status of replication as plain data: what the page, `/status` and the metrics are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as OutOfTime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pillarbox
from pillarbox.store.errors import PillarboxError
from pillarbox.tools.operations.replicating import (
    folder_name,
    folder_paths,
    joined_store,
    name_of,
    walk_everywhere,
)
from pillarbox.tools.options import ACTOR

if TYPE_CHECKING:
    from pillarbox.replication.core.replica import Replica
    from pillarbox.replication.node.node import Node
    from pillarbox.store.change_number import CNSet

R = TypeVar("R")
_WAIT_S: Final = 5


class Paths:
    """The paths of a server's public folders, looked up anew when the hierarchy has changed."""

    def __init__(self, server: pillarbox.Server) -> None:
        self._server = server
        self._of: tuple[bytes, CNSet] | None = None
        self._paths: Mapping[Any, str] = {}

    def of(self, node: Node) -> Mapping[Any, str]:
        """The paths as of now. Raises as `Node.asked`, and TimeoutError."""
        now = _answer_of(node, _hierarchy)
        if now != self._of:
            self._of, self._paths = now, folder_paths(self._server)
        return self._paths


def _answer_of(node: Node, look: Callable[[Replica], R]) -> R:
    """The answer of a node's thread to a look, where it comes in time. As `Node.asked`; TimeoutError."""
    future = node.asked(look)
    try:
        return future.result(_WAIT_S)
    except OutOfTime:
        future.cancel()  # who asks a busy node every few seconds must not make it busier
        raise


def _hierarchy(replica: Replica) -> tuple[bytes, CNSet]:
    """The numbers of the hierarchy that a store has, and whose they are."""
    return replica.me.database, replica.record.folders[replica.tree.hierarchy].knowledge.known


def replication_status(node: Node | None, paths: Paths, refused: str = "") -> dict[str, Any] | None:
    """The status of a server's node; None where the server replicates nothing. `refused` is the reason for
    which there is no node though there is to be one.

    `state` is running, waiting (with the `reason`) or stopped. While it is not running, or is too busy to say
    more, that is all. Times are ms UTC.
    """
    if node is None:
        return {"state": "waiting", "reason": refused, "refused": {}} if refused else None
    standing = node.standing
    found: dict[str, Any] = {
        "state": str(standing.state),
        "reason": standing.reason,
        "refused": dict(node.refused_counts),
    }
    try:
        names = paths.of(node)
        told = _answer_of(node, lambda replica: _told(replica, names))
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
                "folder": folder_name(replica, each.folder, paths),
                "state": str(each.sync),
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
            if each.site != replica.site  # the line of its own site has answers alone
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


class Conflicts:
    """The messages of a server that were changed in two places at once. A folder is looked through again when
    something in it has changed."""

    def __init__(self, server: pillarbox.Server) -> None:
        self._server = server
        self._of: dict[int, tuple[int, list[dict[str, Any]]]] = {}

    def rows(self) -> list[dict[str, Any]]:
        """A row for each: its folder, message, subject and the versions that there are. Raises as
        `joined_store`."""
        from pillarbox.store.ids import id_text
        from pillarbox.store.mail import versions

        found: dict[int, tuple[int, list[dict[str, Any]]]] = {}
        with joined_store(self._server).read(ACTOR) as read:
            for path, record in walk_everywhere(read):
                before = self._of.get(record.folder_id)
                if before is None or before[0] != record.highest_cn:
                    rows = [
                        {
                            "folder": path,
                            "message": id_text(conflict.message.message_id),
                            "subject": conflict.message.subject,
                            "versions": len(conflict.versions),
                        }
                        for conflict in versions.conflicts(read, record.folder_id)
                    ]
                    before = record.highest_cn, rows
                found[record.folder_id] = before
        self._of = found
        return [row for _, rows in found.values() for row in rows]
