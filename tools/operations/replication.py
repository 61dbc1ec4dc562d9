"""Operations on replication: status, explain, stop and resume, send again, resolve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pillarbox
from pillarbox.store.errors import NotFound, Refused
from pillarbox.tools.mail_rows import Row, envelope
from pillarbox.tools.operations.call import Call
from pillarbox.tools.operations.replicas import status_row
from pillarbox.tools.operations.replicating import (
    HIERARCHY,
    folder_id,
    folder_name,
    folder_paths,
    joined_store,
    name_of,
    server_named,
    servers_named,
    walk_everywhere,
)

if TYPE_CHECKING:
    from pillarbox.replication.core.explanation import Explanation
    from pillarbox.replication.core.replica import Replica
    from pillarbox.replication.ground.records import ObjectId
    from pillarbox.store.disk.tables import ItemRecord

KEEP_ALL: Final = "all"
_SEE_CONFLICTS: Final = "see `pillarbox replication conflicts`"


def status(call: Call, *, folder: str, ask: bool) -> list[Row]:
    """Each folder that this server holds, or one, with its replicas and whether all are in sync.

    What is known of others is what they said last; with `ask` those that are not in sync are asked anew.
    """
    from pillarbox.replication.core import commands, views

    top = folder_id(call.server, folder) if folder else None
    paths = folder_paths(call.server)

    def look(replica: Replica) -> list[Row]:
        rows = []
        for each in _folders(replica, top):
            is_held = replica.held(each) is not None
            replicas = [status_row(found, is_held=is_held) for found in views.status(replica, each)]
            is_in_sync = all(row["state"] == views.Sync.IN_SYNC for row in replicas)
            if ask and not is_in_sync:
                commands.ask_status(replica, each)
            name = folder_name(replica, each, paths)
            rows.append(
                {"folder": name, "in_sync": is_in_sync, "replicas": replicas, **_held_back(replica, each)}
            )
        return rows

    return call.replicator().perform(look)


def _held_back(replica: Replica, folder: ObjectId) -> Row:
    """The reason for which nothing of a folder leaves this server, None when it does: content is "stopped",
    up to a time if one was given (ms UTC), or waits for the "hierarchy", in which a stop may be."""
    why, until_ms = None, None
    if folder != replica.tree.hierarchy and replica.is_content_stopped():
        resumes_ms = replica.organisation.content.resumes_ms
        why, until_ms = "stopped", resumes_ms if resumes_ms > replica.wall_ms else None
    elif folder != replica.tree.hierarchy and replica.lacks_hierarchy():
        why = "hierarchy"
    return {"held_back": why, "held_back_until_ms": until_ms}


def _folders(replica: Replica, top: ObjectId | None) -> list[ObjectId]:
    """One folder; or the hierarchy, and all folders of which this store holds a replica."""
    if top is not None:
        return [top]
    held = (each for each, state in replica.record.folders.items() if state.is_held)
    return sorted(
        (each for each in held if replica.is_live(each)), key=lambda each: each != replica.tree.hierarchy
    )


def explain(call: Call, *, folder: str) -> Row:
    """All that keeps a folder from being in sync: what is missing, who has it, who is asked, and when."""
    from pillarbox.replication.core.explanation import explain as explanation

    top = folder_id(call.server, folder) if folder else None

    def look(replica: Replica) -> Row:
        of = replica.tree.hierarchy if top is None else top
        found = _explained(replica, explanation(replica, of), folder or HIERARCHY)
        return {**found, **_held_back(replica, of)}

    return call.replicator().perform(look)


def _explained(replica: Replica, told: Explanation, folder: str) -> Row:
    from pillarbox.store.ids import guid_text

    return {
        "folder": folder,
        "held": told.is_held,
        "in_sync": told.is_in_sync,
        "missing": {"count": told.missing.count(), "numbers": told.missing.to_text()},
        "holders": [
            {
                "server": name_of(replica, each.database),
                "has": each.has.count(),
                "lacks": each.lacks_count,
                "heard_ms": each.heard_ms or None,
                "silent": each.is_silent,
            }
            for each in told.holders
        ],
        "wanted": [
            {
                "count": each.numbers.count(),
                "tries": each.tries,
                "due_ms": None if each.due_ms is None else replica.wall_ms + each.due_ms - replica.now_ms,
            }
            for each in told.wanted
        ],
        "plan": [
            {
                "server": name_of(replica, each.source),
                "preferred": each.is_preferred,
                "cost": each.cost,
                "late": str(each.late),
                "version": each.version,
                "has": each.needed_count,
                "asked": each.asked_count,
            }
            for each in told.plan
        ],
        "waits_for": [name_of(replica, each) for each in told.waits_for],
        "quarantined": [guid_text(each) for each in told.quarantined],
        "set_aside": [
            {
                "item": f"{each.object_id.counter:x}",
                "reason": each.reason,
                "since_ms": each.since_ms,
                "tries": each.tries,
            }
            for each in told.set_aside
        ],
    }


# -- commands of operators


def stop(call: Call) -> None:
    """Stop replication of content in the whole organisation."""
    from pillarbox.replication.core import commands

    call.replicator().perform(lambda replica: commands.stop_content(replica, call.actor.account))


def resume(call: Call, *, start_ms: int, rate_bytes: int) -> None:
    """Let content flow again, from a time on (ms UTC, 0 at once), with so many bytes a second (0: any).

    Raises Refused for a time to come while content flows: it would be stopped until then.
    """
    from pillarbox.replication.core import commands

    def resume_stopped(replica: Replica) -> None:
        if start_ms > replica.wall_ms and not replica.is_content_stopped():
            raise Refused(
                "content is not stopped, so that it cannot be resumed later",
                hint="stop it first, with `pillarbox replication stop`",
            )
        commands.resume_content(replica, call.actor.account, start_ms, rate_bytes)

    call.replicator().perform(resume_stopped)


def adopt_as_truth(call: Call) -> int:
    """Have this copy of the server's store go on, under a new incarnation, after asking; which one."""
    from pillarbox.replication.core import commands

    call.confirm("Go on with this copy of the server's public folders, and number its changes anew?")
    return call.replicator().perform(commands.adopt_as_truth)


def synchronize_hierarchy(call: Call) -> None:
    """Ask all other servers for their status of the hierarchy, and even out."""
    from pillarbox.replication.core import commands

    call.replicator(is_running=True).perform(commands.synchronize_hierarchy)


def send_hierarchy(call: Call, *, servers: list[str], days: int) -> Row:
    """Send the changes of the hierarchy of the last days to servers again."""
    from pillarbox.replication.core import commands

    def send(replica: Replica) -> Row:
        return commands.send_hierarchy(replica, days, servers_named(replica, servers))._asdict()

    return _resent(call.replicator(is_running=True).perform(send))


def send_contents(call: Call, *, folder: str, servers: list[str], days: int, recursive: bool) -> Row:
    """Send the changes of a folder's content of the last days to servers again."""
    from pillarbox.replication.core import commands

    top = folder_id(call.server, folder)

    def send(replica: Replica) -> Row:
        targets = servers_named(replica, servers)
        sent = commands.send_contents(replica, top, days, targets, with_subfolders=recursive)
        return sent._asdict()

    return _resent(call.replicator(is_running=True).perform(send))


def prefer(call: Call, *, server: str, sources: list[str]) -> Row:
    """Have a server, this one where none is named, ask servers before all others for what it lacks; with no
    sources the costs decide again."""
    from pillarbox.replication.core import commands
    from pillarbox.replication.organisation.sources import check_sources

    def change(replica: Replica) -> Row:
        store = server_named(replica, server) if server else replica.me.database
        chosen = servers_named(replica, sources)
        check_sources(store, chosen, name_of(replica, store))
        commands.prefer_sources(replica, store, chosen, call.actor.account)
        return {"server": name_of(replica, store), "sources": sources}

    return call.replicator().perform(change)


def _resent(sent: Row) -> Row:
    return {"folders": sent["folders_count"], "items": sent["items_count"]}


def resolve(call: Call, *, message: str, keep: str) -> list[Row]:
    """Resolve a conflict: keep the version of an id and let the others go, or keep all as separate
    messages."""
    from pillarbox.store.ids import parse_id
    from pillarbox.store.mail import messages, versions

    with joined_store(call.server).transaction(call.actor) as txn:
        item = messages.get(txn, parse_id(message) or 0)
        if not versions.is_in_conflict(txn, item):
            raise Refused(f"message {message} is in no conflict", hint=_SEE_CONFLICTS)
        if keep == KEEP_ALL:
            left = messages.keep_all_versions(txn, item.conflict_of or item.message_id)
            return [envelope(each) for each in left]
        chosen = parse_id(keep)
        for version in versions.live_versions(txn, item):
            if version.message_id == chosen:
                return [envelope(messages.keep_version(txn, version.message_id))]
        raise NotFound(f"message {message} has no version {keep}", hint=_SEE_CONFLICTS)


def conflicts(server: pillarbox.Server) -> list[Row]:
    """The messages that were changed in two places at once, each with its versions."""
    from pillarbox.replication.node.stored_organisation import known_organisation
    from pillarbox.store.engine import numbering
    from pillarbox.store.ids import COUNTER_BITS, guid_text, id_text
    from pillarbox.store.mail import versions
    from pillarbox.tools.options import ACTOR

    with joined_store(server).read(ACTOR) as read:
        _, organisation = known_organisation(read, {})
        makers = {number: record.database for number, record in numbering.replicas(read)}

        def made_at(item: ItemRecord) -> str:
            database = makers[item.versions[0] >> COUNTER_BITS]
            known = organisation.servers.get(database)
            return known.name if known and known.name else guid_text(database)

        return [
            {
                "message": id_text(conflict.message.message_id),
                "folder": path,
                "versions": [_version(version, path, made_at(version)) for version in conflict.versions],
            }
            for path, record in walk_everywhere(read)
            for conflict in versions.conflicts(read, record.folder_id)
        ]


def _version(item: ItemRecord, folder: str, server: str) -> Row:
    row = envelope(item)
    return {
        "folder": folder,
        "changed_ms": item.changed[0] if item.changed else None,
        "actor": item.actor,
        "server": server,
        **row,
    }
