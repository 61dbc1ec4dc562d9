"""Operator's commands (DOMAIN.md "Operator's commands"), each within one call of the replicator.

They are called as local changes are. What they write is an ordinary change of the hierarchy, and what they
send are ordinary effects, so that nothing else has to know of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final, NamedTuple

from pillarbox.replication.core import hello, hierarchy, organisation_folder, outbox
from pillarbox.replication.core.effects import Answer
from pillarbox.replication.core.preset import DAY_MS, SECOND_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import UNHEARD
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.organisation.entries import CONTENT, content_text
from pillarbox.replication.organisation.topology import ContentFlow
from pillarbox.replication.wire.messages import Life, StatusRequest
from pillarbox.store.change_number import CNSet
from pillarbox.store.errors import NotFound, Refused

NO_LIFE: Final = Life(0, 0)
"""The life of a replica that was not heard of yet: it takes the items, and no gaps with them."""


class Resent(NamedTuple):
    """Folders and changed items, for all targets together, that a command has sent on their way."""

    folders_count: int
    items_count: int


def stop_content(replica: Replica, actor: str) -> None:
    """Stop replication of content in the whole organisation, until it is resumed.

    This store sends none from now on, each other one from when it learns of it by the hierarchy.
    """
    _set_flow(replica, ContentFlow(is_stopped=True), actor)
    replica.fired["command_stop"] += 1


def resume_content(replica: Replica, actor: str, start_ms: int = 0, rate_bytes: int = 0) -> None:
    """Let content flow again in the whole organisation, from `start_ms` (ms UTC) on, or at once.

    `rate_bytes` bounds the bytes a second over each direction of each connector without a rate of its own; 0
    bounds nothing. What was to be sent is planned anew by the lists and schedules of then.
    """
    _set_flow(replica, ContentFlow(False, start_ms, rate_bytes), actor)
    replica.fired["command_resume"] += 1


def _set_flow(replica: Replica, flow: ContentFlow, actor: str) -> None:
    organisation_folder.change(replica, {CONTENT: content_text(flow)}, actor)


def synchronize_hierarchy(replica: Replica) -> None:
    """Ask all other stores for their status of the hierarchy until each has answered, and even out rows and
    lists with what is known of it here."""
    hierarchy.even_out_organisation(replica)
    hierarchy.ask_all(replica, replica.tree.hierarchy)
    replica.fired["command_synchronize_hierarchy"] += 1


def ask_status(replica: Replica, folder: ObjectId) -> None:
    """Ask each other replica of a folder what it holds; not twice in a second.

    What this store knows of them is as old as what they last said, and what others say of their site-mates
    is older.
    """
    asked_ms = replica.status_asked_ms.get(folder)
    if replica.held(folder) and (asked_ms is None or replica.now_ms - asked_ms >= SECOND_MS):
        replica.status_asked_ms[folder] = replica.now_ms
        for peer in replica.peers(folder):
            replica.send(peer, folder, StatusRequest())


def send_hierarchy(replica: Replica, days: int, targets: Collection[bytes]) -> Resent:
    """Send the changes of the hierarchy of the last `days` days, up to the last broadcast, to these stores
    again. Raises NotFound for one that is not in the tree."""
    replica.fired["command_send_hierarchy"] += 1
    _require_known(replica, targets)
    items_count = _resend(replica, replica.tree.hierarchy, days, targets)
    return Resent(1, items_count)


def send_contents(
    replica: Replica,
    folder: ObjectId,
    days: int,
    targets: Collection[bytes],
    *,
    with_subfolders: bool = False,
) -> Resent:
    """Send the changes of a folder's content of the last `days` days, up to the last broadcast, to these
    stores again, to each those of the folders of which it has a replica.

    They go as answers do, a page at a time as the link takes them. Raises Refused while content is stopped,
    where this store holds no replica of the folder, and where one of the stores has none; NotFound for a
    store that is not in the tree.
    """
    replica.fired["command_send_contents"] += 1
    if not replica.content_flows():
        raise Refused("replication of content is stopped", hint="resume it first")
    _require_known(replica, targets)
    if replica.held(folder) is None:
        raise Refused(
            f"this store holds no replica of folder {folder.counter}", hint="send from a store of its list"
        )
    if missing := [database for database in targets if database not in replica.peers(folder)]:
        names = ", ".join(replica.organisation.servers[database].name for database in missing)
        raise Refused(f"{names} has no replica of the folder", hint="add one, and it is filled by itself")
    below = hierarchy.below(replica, folder) if with_subfolders else []
    sent = []
    for each in (folder, *below):
        if replica.held(each) is not None:
            peers = replica.peers(each)
            listed = [database for database in targets if database in peers]
            sent.append(_resend(replica, each, days, listed))
    return Resent(len(sent), sum(sent))


def prefer_sources(replica: Replica, store: bytes, sources: Collection[bytes], actor: str) -> None:
    """Name the stores that `store` asks before all others for what it lacks; none lets costs decide again.

    Raises NotFound for a store that is not in the organisation's entries.
    """
    organisation = organisation_folder.reading(replica).organisation
    for database in (store, *sources):
        if organisation.is_removed(database):
            raise NotFound("a server that is named is not in the organisation", hint="apply it there first")
    preferred = {**organisation.preferred, store: tuple(sorted(sources))}
    organisation_folder.apply(replica, replace(organisation, preferred=preferred), actor)
    replica.fired["command_prefer_sources"] += 1


def adopt_as_truth(replica: Replica) -> int:
    """Number this store's changes under a new incarnation from now on; which one.

    The operator says by it that this copy of a store goes on: of two that gave the same numbers, or after all
    stores of an organisation went back in time.
    """
    hello.begin(replica, hello.Start.WENT_BACK)
    replica.fired["command_adopt_as_truth"] += 1
    return replica.me.incarnation


def _require_known(replica: Replica, targets: Collection[bytes]) -> None:
    others = replica.organisation.others(replica.me.database)
    if any(database not in others for database in targets):
        raise NotFound("a server that is named is not one of the others of this tree")


def _resend(replica: Replica, folder: ObjectId, days: int, targets: Collection[bytes]) -> int:
    """Hand the items of a folder that were changed in time to each target; how many that is together."""
    state = replica.state(folder)
    first_ms = replica.wall_ms - days * DAY_MS
    numbers = []
    for object_id in replica.objects.ids(folder):
        versions = replica.objects.get(folder, object_id)
        for number, version in versions.siblings.items() if versions else ():
            is_sent = number.origin != replica.me.origin or number.counter <= state.broadcast_to
            if is_sent and version.changed.time_ms >= first_ms:
                numbers.append(number)
    if not numbers:
        return 0
    chosen = CNSet.of(numbers)
    for target in sorted(targets):
        row = state.rows.get(target)
        life = row.life if row and row.life != UNHEARD else NO_LIFE
        outbox.answer(replica, Answer(target, folder, life, chosen, NOTHING, chosen))
    return len(replica.objects.found(folder, chosen)) * len(targets)
