"""Operations on replica lists: add, remove, replace, list, move all, migrate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pillarbox.store.errors import Refused
from pillarbox.tools.operations.call import Call
from pillarbox.tools.operations.replicating import (
    folder_id,
    folder_paths,
    server_named,
    servers_named,
)

if TYPE_CHECKING:
    from pillarbox.replication.core.migration import Counts
    from pillarbox.replication.core.replica import Replica
    from pillarbox.replication.core.subtree import Action, Outcome
    from pillarbox.replication.core.views import ReplicaStatus

Row = dict[str, Any]
NOT_KNOWN: Final = "not known here"


def add(call: Call, *, folder: str, servers: list[str], recursive: bool) -> Row:
    """Add servers to the replica list of a folder; each is filled by what the others hold."""
    from pillarbox.replication.core.subtree import Action

    return _change(call, folder, Action.ADD, servers, recursive)


def remove(call: Call, *, folder: str, servers: list[str], recursive: bool) -> Row:
    """Let the replicas of servers leave once another one holds all that they have; never the last one."""
    from pillarbox.replication.core.subtree import Action

    return _change(call, folder, Action.REMOVE, servers, recursive)


def _change(call: Call, path: str, action: Action, servers: list[str], recursive: bool) -> Row:
    from pillarbox.replication.core import subtree

    top, actor = folder_id(call.server, path), call.actor.account

    def change(replica: Replica) -> list[Outcome]:
        return [
            subtree.change_replicas(replica, top, action, each, actor, with_subfolders=recursive)
            for each in servers_named(replica, servers)
        ]

    return outcome_row(call, call.replicator().perform(change))


def replace(call: Call, *, folder: str, old: str, new: str, recursive: bool) -> Row:
    """Replace the replica of a server by one of another, which is complete before the old one leaves."""
    from pillarbox.replication.core import subtree
    from pillarbox.replication.core.subtree import Action

    top, actor = folder_id(call.server, folder), call.actor.account

    def change(replica: Replica) -> list[Outcome]:
        before, after = servers_named(replica, (old, new))
        outcome = subtree.change_replicas(
            replica, top, Action.REPLACE, before, actor, after, with_subfolders=recursive
        )
        return [outcome]

    return outcome_row(call, call.replicator().perform(change))


def outcome_row(call: Call, outcomes: list[Outcome]) -> Row:
    """The number of folders that were changed, and those in which it could not be done.

    Raises Refused where it could be done in none.
    """
    paths = folder_paths(call.server)
    changed_count = sum(each.changed_count for each in outcomes)
    skipped = [
        {"folder": paths.get(each.folder, each.name), "reason": each.reason}
        for outcome in outcomes
        for each in outcome.skipped
    ]
    if skipped and not changed_count:
        raise Refused(
            f"folder {skipped[0]['folder']} stays as it is: {skipped[0]['reason']}",
            hint="add another replica first, and wait until it is in sync",
        )
    return {"changed": changed_count, "skipped": skipped}


def list_replicas(call: Call, *, folder: str) -> list[Row]:
    """The replicas of a folder, and how far each is, as this server knows."""
    from pillarbox.replication.core import views

    top = folder_id(call.server, folder)
    return call.replicator().perform(
        lambda replica: [
            status_row(each, is_held=replica.held(top) is not None) for each in views.status(replica, top)
        ]
    )


def status_row(each: ReplicaStatus, *, is_held: bool) -> Row:
    """A replica as plain data. A store that has not `is_held` a replica itself is told by no other one how
    far it is, and does not know of its items either."""
    from pillarbox.replication.core.views import Sync
    from pillarbox.store.ids import guid_text

    figures = each.figures
    is_known = is_held or each.sync is Sync.DELETE_PENDING
    return {
        "server": each.server,
        "guid": guid_text(each.database),
        "site": each.site,
        "state": str(each.sync) if is_known else NOT_KNOWN,
        "lacks": each.lacks_count,
        "offers": each.offers_count,
        "heard_ms": each.heard_ms,
        "items": figures.items_count if figures else None,
        "size_bytes": figures.size_bytes if figures else None,
        "received_ms": figures.last_received_ms if figures else None,
    }


def move_all(call: Call, *, source: str, target: str) -> Row:
    """Replace every replica of a server by one of another, in any site; what is still to go."""
    from pillarbox.replication.core import migration

    actor = call.actor.account

    def change(replica: Replica) -> Row:
        of, to = servers_named(replica, (source, target))
        moved = migration.move_all(replica, of, to, actor)
        left = migration.to_go(replica, of)
        return {"moved": moved, "to_go": len(left.folders), "size_bytes": left.size_bytes}

    return call.replicator().perform(change)


def migrate(call: Call, *, source: str, target: str, kinds: list[str], step: str) -> Row:
    """Report, add or remove replicas of two servers of one site; counts of folders before and after."""
    from pillarbox.replication.core import migration
    from pillarbox.replication.core.migration import Kind

    actor, chosen = call.actor.account, [Kind(each) for each in kinds]

    def change(replica: Replica) -> Row:
        of, to = server_named(replica, source), server_named(replica, target)
        if step == "report":
            counts = _counts(migration.report(replica, of, to))
            return {"changed": 0, "before": counts, "after": counts}
        done = (migration.add if step == "add" else migration.remove)(replica, of, to, actor, chosen)
        return {"changed": done.changed_count, "before": _counts(done.before), "after": _counts(done.after)}

    return call.replicator().perform(change)


def _counts(found: dict[Any, Counts]) -> dict[str, Row]:
    return {str(kind): counts._asdict() for kind, counts in found.items()}
