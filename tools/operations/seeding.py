"""Operations that seed replicas of a server from a snapshot, which the caller has opened.

The caller answers for the store of the snapshot: it is given a request for each folder, and gives back
messages, until nothing is asked any more (`replication/core/seeding.py`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pillarbox.store.change_number import CNSet
from pillarbox.store.errors import AccessDenied, InvalidContent, NoReplica, Refused
from pillarbox.tools.operations.call import Call
from pillarbox.tools.operations.replicas import Row, outcome_row
from pillarbox.tools.operations.replicating import (
    folder_id,
    folder_paths,
    joined_store,
    name_of,
    server_named,
)

if TYPE_CHECKING:
    import pillarbox
    from pillarbox.replication.core.replica import Replica
    from pillarbox.replication.core.subtree import Outcome
    from pillarbox.replication.ground.records import ObjectId, Tree


def begin(call: Call, *, folder: str, server: str, recursive: bool, offer: bytes, held: bytes) -> Row:
    """Add this server, which is `server`, to the replica list of a folder, and ask for what it lacks there.

    `offer` is what the store of the snapshot says of itself, `held` the folders that it held (a CNSET of
    their ids). Given back is what was changed, a request for each folder that is held here and was there,
    and those that were not there. Raises Refused for a snapshot of which nothing may be taken, and for
    another server; NoReplica where none of the folders was held there.
    """
    from pillarbox.replication.core import hierarchy, seeding, subtree
    from pillarbox.replication.core.subtree import Action
    from pillarbox.replication.wire import unsealed

    top, actor, tree = folder_id(call.server, folder), call.actor.account, _tree(call.server)
    there = CNSet.decode(held)
    try:
        offered, _ = unsealed.decode(offer, tree)
    except AccessDenied as error:
        raise Refused(
            "the snapshot is of the public folders of another organisation",
            hint="name a snapshot of a server of this organisation",
        ) from error

    def change(replica: Replica) -> tuple[Outcome, list[tuple[ObjectId, bytes]], list[ObjectId]]:
        if server_named(replica, server) != replica.me.database:
            raise Refused(
                f"only the replicas of this server can be filled here, not those of {server}",
                hint=f"run the command on {server}",
            )
        seeding.refuse_unfit(replica, offered)
        folders = [top, *(hierarchy.below(replica, top) if recursive else ())]
        if not any(each in there for each in folders):
            raise _no_replica(replica, folder, top)
        outcome = subtree.change_replicas(
            replica, top, Action.ADD, replica.me.database, actor, with_subfolders=recursive
        )
        hierarchy.even_out(replica, set(replica.written))
        seeding.take(replica, offered)
        here = [each for each in folders if replica.held(each) is not None]
        requests = [
            (each, unsealed.encode(seeding.request(replica, each), tree)) for each in here if each in there
        ]
        return outcome, requests, [each for each in here if each not in there]

    outcome, requests, not_there = call.replicator().perform(change)
    paths = folder_paths(call.server)
    return {
        **outcome_row(call, [outcome]),
        "requests": [{"folder": paths.get(each, folder), "message": asked} for each, asked in requests],
        "not_in_snapshot": [paths.get(each, folder) for each in not_there],
    }


def _no_replica(replica: Replica, folder: str, top: ObjectId) -> NoReplica:
    from pillarbox.replication.ground.records import ReplicaState

    others = tuple(
        database
        for database, state in replica.replica_states(top).items()
        if state is not ReplicaState.REMOVED and database != replica.me.database
    )
    names = ", ".join(sorted(name_of(replica, each) for each in others))
    hint = "leave --from-snapshot out, and those that hold it fill it over the links"
    return NoReplica(
        f"the server of the snapshot held no replica of {folder} then",
        databases=others,
        hint=f"name a snapshot of a server that holds it ({names}); or {hint}" if names else hint,
    )


def seed(call: Call) -> bytes | None:
    """Take messages of the store of a snapshot; what it is to be asked next, None for nothing."""
    from pillarbox.replication.core import seeding
    from pillarbox.replication.wire import unsealed
    from pillarbox.store.mail import messages

    tree, files, replicator = _tree(call.server), joined_store(call.server).files, call.replicator()
    question = None
    for item in call.items():
        if not isinstance(item, bytes):
            raise InvalidContent("a message of a snapshot is bytes")
        message, contents = unsealed.decode(item, tree)
        ready = [messages.prepare(files, raw) for raw in contents]
        prepared = {each.content.digest: each for each in ready}
        question = replicator.perform(partial(seeding.take, message=message), prepared)
    return None if question is None else unsealed.encode(question, tree)


def _tree(server: pillarbox.Server) -> Tree:
    from pillarbox.replication.node.stored_organisation import joined_tree
    from pillarbox.tools.options import ACTOR

    with joined_store(server).read(ACTOR) as read:
        tree = joined_tree(read)
    assert tree is not None  # as `joined_store` found
    return tree
