"""The tree that a store has joined and the organisation that its entries say, as it lies in the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pillarbox.replication.core.preset import PRESETS
from pillarbox.replication.ground.records import Tree
from pillarbox.replication.node.fence import FenceFile
from pillarbox.replication.node.store_replicator import PROGRAM_VERSION, Outgoing, StoreReplicator
from pillarbox.replication.organisation.entries import read_organisation
from pillarbox.replication.organisation.topology import Organisation, Server, with_stand_ins
from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import FolderRecord, Table, id_key
from pillarbox.store.engine import numbering
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.errors import Refused
from pillarbox.store.ids import COUNTER_BITS

ACTOR: Final = Actor.task("replication")


def joined_tree(reader: Reader) -> Tree | None:
    """The tree that a database has joined, None when it has not. Raises Corrupt."""
    joined = numbering.membership(reader)
    return None if joined is None else Tree(joined.tree)


def stored_entries(reader: Reader, tree: Tree) -> dict[str, str]:
    """The entries of the organisation that a store has; none before they have come. Raises Corrupt."""
    for number, replica in numbering.replicas(reader):
        if replica.origin == tree.guid:
            key = id_key(number << COUNTER_BITS | tree.organisation.counter)
            record: FolderRecord | None = reader.record(Table.FOLDER, key)
            return {} if record is None else dict(record.properties)
    return {}


def starting_organisation(reader: Reader, tree: Tree) -> Organisation:
    """The organisation that a store begins with: what its entries say, and itself where they do not yet name
    it."""
    said = read_organisation(stored_entries(reader, tree)).organisation
    me = reader.files.guid
    if me in said.servers:
        return with_stand_ins(said)
    alone = Server(me, "", said.sites[0] if said.sites else "", PROGRAM_VERSION)
    return Organisation({**said.servers, me: alone}, said.connectors, preset=said.preset, sites=said.sites)


def known_organisation(reader: Reader, first: Mapping[str, str]) -> tuple[Tree, Organisation]:
    """The tree that a store has joined, and the organisation that its entries say, or until those name it the
    entries with which it joined. Raises Refused in a store that has joined none."""
    tree = joined_tree(reader)
    if tree is None:
        raise Refused("the store has joined no organisation", hint="join one: `pillarbox node join`")
    if (
        first
        and reader.files.guid not in read_organisation(stored_entries(reader, tree)).organisation.servers
    ):
        return tree, read_organisation(first).organisation
    return tree, starting_organisation(reader, tree)


def replicator_at_rest(database: Database, fence: FenceFile) -> StoreReplicator:
    """The replicator of a store that no node runs: it takes commands, and nothing leaves.

    What is changed by it goes out once a node runs. Raises Refused for a store that has joined no tree.
    """
    with database.read(ACTOR) as reader:
        tree = joined_tree(reader)
        if tree is None:
            raise Refused(
                f"database {database.label} has joined no organisation",
                hint="make one (`pillarbox org init`), or join one (`pillarbox node join`)",
            )
        organisation = starting_organisation(reader, tree)
    return StoreReplicator(database, tree, organisation, PRESETS[organisation.preset], fence, _lose)


def _lose(outgoing: Outgoing) -> None:
    """Send nothing: what has to be sent is still to be sent after the next start."""
