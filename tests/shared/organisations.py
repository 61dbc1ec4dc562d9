"""Servers of an organisation with keys of their own, which processes can serve."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from free_ports import free_port

import pillarbox
from pillarbox.replication.core import organisation_folder
from pillarbox.replication.membership.certificates import certify, new_authority, new_key
from pillarbox.replication.node.member_files import MemberFiles, NodeSettings
from pillarbox.replication.organisation.topology import Connector, Organisation, Server, TransportName
from pillarbox.replication.transports.nats_settings import NatsSettings
from pillarbox.store.clock import SystemClock
from pillarbox.store.upkeep import joining
from pillarbox.tools.operations.replicating import public_folder_stores, replicator_at_rest

TREE = b"t" * 16
_ACTOR = pillarbox.Actor.task("test")


def make_organisation(
    place: Path, sites: Mapping[str, str], nats: NatsSettings | None = None
) -> dict[str, Path]:
    """Make a server for each name, in the site that it is given; all know all. Their paths.

    With NATS, links between sites use that.
    """
    now_ms = SystemClock().now_ms()
    authority = new_authority(TREE, now_ms)
    paths, servers = {}, {}
    for name, site in sites.items():
        paths[name] = place / name
        with pillarbox.Server.create(paths[name]) as server:
            (store,) = public_folder_stores(server)
            key = new_key()
            certificate = certify(authority, store.guid, key.public_key(), now_ms)
            address = f"127.0.0.1:{free_port()}"
            files = MemberFiles(paths[name])
            files.keep_key(key)
            files.keep_certificate(certificate)
            files.keep_settings(NodeSettings(listen=(address,), nats=nats))
            servers[store.guid] = Server(
                store.guid,
                name,
                site,
                1,
                addresses=(address,),
                certificates=(certificate.der,),
            )
            joining.join(store, _ACTOR, TREE)
    names = sorted({*sites.values()})
    transport = TransportName.NATS if nats else TransportName.DIRECT
    connectors = tuple(
        Connector(f"{one}-{other}", (one, other), 10, transport=transport) for one, other in pairwise(names)
    )
    organisation = Organisation(
        servers, connectors, sites=tuple(names), authorities=(authority.certificate.der,)
    )
    for path in paths.values():
        with pillarbox.Server.open(path) as server:
            replicator_at_rest(server).perform(
                lambda replica: organisation_folder.apply(replica, organisation, "test")
            )
    return paths
