"""A server whose public folder store is in an organisation, of which no other server is there."""

from __future__ import annotations

from pathlib import Path

import pillarbox
from pillarbox.replication.core import organisation_folder
from pillarbox.replication.organisation.topology import Connector, Organisation, Server
from pillarbox.store.upkeep import joining
from pillarbox.tools.operations.replicating import public_folder_stores, replicator_at_rest

TREE = b"t" * 16
PARIS, LYON = b"P" * 16, b"L" * 16
_ACTOR = pillarbox.Actor.task("test")


def join(path: Path) -> None:
    """Make a server `berlin` of an organisation, in which there are `paris` and `lyon` in another site."""
    with pillarbox.Server.open(path) as server:
        (store,) = public_folder_stores(server)
        joining.join(store, _ACTOR, TREE)
        servers = {
            store.guid: Server(store.guid, "berlin", "north", 1),
            PARIS: Server(PARIS, "paris", "south", 1),
            LYON: Server(LYON, "lyon", "south", 1),
        }
        organisation = Organisation(
            servers, (Connector("link", ("north", "south"), 10),), sites=("north", "south")
        )
        replicator_at_rest(server).perform(
            lambda replica: organisation_folder.apply(replica, organisation, "test")
        )
