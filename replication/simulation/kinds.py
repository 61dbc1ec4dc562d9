"""Kinds of conflicts and states in replica lists, counted as stores of a run have them.

They are looked at, not caused: no random number is drawn here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from pillarbox.replication.core import hierarchy, replacing
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import UNHEARD
from pillarbox.replication.ground.records import MessageView, ReplicaState
from pillarbox.replication.ground.versions import Versions

CONFLICTS: Final = frozenset(
    {
        "conflict_of_content",
        "conflict_of_edit_and_delete",
        "conflict_of_folder_edit_and_delete",
        "conflict_of_folder_names",
        "conflict_of_folder_settings",
        "conflict_of_properties",
    }
)
"""Counted as states; what is noticed and resolved is counted by the core."""
LIST_STATES: Final = frozenset({"list_active", "list_added", "list_delete_pending", "list_removed"})
BEING_REPLACED: Final = "list_being_replaced"
"""A state that only operators cause."""


def seen(replica: Replica) -> Counter[str]:
    """Count the kinds of conflicts and the states in replica lists that a store holds now."""
    found: Counter[str] = Counter()
    found.update(_folder_conflicts(replica))
    found.update(_list_states(replica))
    for folder, state in replica.record.folders.items():
        if state.is_held and folder != replica.tree.hierarchy:
            for message in replica.objects.ids(folder):
                versions = replica.objects.get(folder, message)
                if versions is not None and len(versions.siblings) > 1:
                    found.update(_message_conflicts(replica, versions))
    return found


def _message_conflicts(replica: Replica, versions: Versions[Any]) -> Iterator[str]:
    view, live = MessageView.read(versions, replica.wall_ms), versions.live()
    if view.is_conflict:
        yield "conflict_of_content"
    elif len(live) > 1:
        yield "conflict_of_properties"
    if live and len(live) < len(versions.siblings):
        yield "conflict_of_edit_and_delete"


def _folder_conflicts(replica: Replica) -> Iterator[str]:
    places = hierarchy.places(replica)
    shown: set[tuple[object, str]] = set()
    for folder, parent in places.items():
        versions, read = replica.objects.get(replica.tree.hierarchy, folder), replica.folder(folder)
        if versions is None or read is None:
            continue
        live = versions.live()
        if len(live) > 1:
            yield "conflict_of_folder_settings"
        if live and len(live) < len(versions.siblings):
            yield "conflict_of_folder_edit_and_delete"
        if (parent, read.name.value) in shown:
            yield "conflict_of_folder_names"
        shown.add((parent, read.name.value))


def _list_states(replica: Replica) -> Iterator[str]:
    for folder in hierarchy.places(replica):
        state, read = replica.record.folders.get(folder), replica.folder(folder)
        rows = state.rows if state and state.is_held else {}
        for database, listed in replica.replica_states(folder).items():
            yield f"list_{listed.name.lower()}"
            if listed is not ReplicaState.ACTIVE:
                continue
            if database in rows and rows[database].life == UNHEARD:
                yield "list_added"
            if read is not None and replacing.replacement_of(read, database) is not None:
                yield BEING_REPLACED
