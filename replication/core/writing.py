"""Changes made at this store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import (
    Entry,
    FolderVersion,
    MessageVersion,
    MessageView,
    ObjectId,
    ReplicaState,
)
from pillarbox.replication.ground.versions import Version, Versions
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.errors import NotFound, Refused


def write(replica: Replica, folder: ObjectId, object_id: ObjectId | None, version: Version) -> ObjectId:
    """Write a version that replaces all siblings seen here; `object_id` None makes a new object. Its id."""
    number = replica.number(folder)
    object_id = object_id or number
    before = replica.objects.get(folder, object_id)
    after = before.written(number, version) if before else Versions.first(number, version)
    if before and folder != replica.tree.hierarchy and len(before.siblings) > 1:
        replica.fired["conflict_resolved"] += MessageView.read(before, replica.wall_ms).is_conflict
    replica.objects.put(folder, object_id, after)
    if folder == replica.tree.hierarchy:
        replica.written.add(object_id)
    replica.note_news(replica.state(folder))
    return object_id


def post(replica: Replica, folder: ObjectId, content: bytes, size_bytes: int, actor: str) -> ObjectId:
    """Post a message. Raises Refused where this store holds no active replica of the folder."""
    require_active(replica, folder)
    return write(replica, folder, None, MessageVersion(replica.stamp(), actor, content, size_bytes))


def edit(
    replica: Replica,
    folder: ObjectId,
    message: ObjectId,
    actor: str,
    *,
    content: bytes | None = None,
    size_bytes: int = 0,
    properties: Mapping[str, str] | None = None,
) -> None:
    """Change a message's content or some of its properties.

    A write that changes only properties of a message in conflict keeps the content that is shown first, and
    so resolves the conflict. Raises Refused as `post`, NotFound when the message is deleted or unknown.
    """
    require_active(replica, folder)
    live = _live(replica, folder, message)
    view = MessageView.read(_versions(replica, folder, message), replica.wall_ms)
    stamp = replica.stamp()
    changed = {name: Entry(stamp, value) for name, value in (properties or {}).items()}
    version = replace(live[0], changed=stamp, actor=actor, properties={**view.properties, **changed})
    if content is not None:
        version = replace(version, content=content, size_bytes=size_bytes)
    write(replica, folder, message, version)


def delete(replica: Replica, folder: ObjectId, message: ObjectId, actor: str) -> None:
    """Delete a message: a tombstone takes its place. Raises as `edit`."""
    require_active(replica, folder)
    _live(replica, folder, message)
    write(replica, folder, message, MessageVersion(replica.stamp(), actor, gone=True))


def move(replica: Replica, source: ObjectId, message: ObjectId, target: ObjectId, actor: str) -> ObjectId:
    """Move a message to another folder: a new id there, a tombstone here. Raises as `edit`."""
    require_active(replica, target)
    moved = replace(_live(replica, source, message)[0], changed=replica.stamp(), actor=actor)
    delete(replica, source, message, actor)
    return write(replica, target, None, moved)


def create_folder(
    replica: Replica, parent: ObjectId, name: str, replicas: Mapping[bytes, ReplicaState], actor: str
) -> ObjectId:
    """Make a folder with a replica list. Its id."""
    stamp = replica.stamp()
    version = FolderVersion(
        changed=stamp,
        actor=actor,
        name=Entry(stamp, name),
        parent=Entry(stamp, parent),
        replicas={database: Entry(stamp, state) for database, state in sorted(replicas.items())},
    )
    return write(replica, replica.tree.hierarchy, None, version)


def change_folder(
    replica: Replica,
    folder: ObjectId,
    actor: str,
    *,
    name: str | None = None,
    parent: ObjectId | None = None,
    replicas: Mapping[bytes, ReplicaState] | None = None,
    properties: Mapping[str, str] | None = None,
    cleared: CNSet | None = None,
) -> None:
    """Write entries of a folder; `cleared` deletes it. What is not given stays as it is read from all
    siblings.

    A folder that is deleted comes back by any of the other arguments. Raises NotFound when it is unknown,
    Refused for anything but properties of the organisation's folder, which all stores find where it is.
    """
    is_moved = not (name is None and parent is None and replicas is None and cleared is None)
    if is_moved and folder == replica.tree.organisation:
        raise Refused("the folder of the organisation stays as it is", hint="apply an organisation file")
    read = replica.folder(folder)
    if read is None:
        raise NotFound(f"no folder {folder.counter} is known here")
    stamp = replica.stamp()
    version = FolderVersion(
        changed=stamp,
        actor=actor,
        name=read.name if name is None else Entry(stamp, name),
        parent=read.parent if parent is None else Entry(stamp, parent),
        replicas={
            **read.replicas,
            **{store: Entry(stamp, state) for store, state in (replicas or {}).items()},
        },
        properties={
            **read.properties,
            **{key: Entry(stamp, value) for key, value in (properties or {}).items()},
        },
        cleared=read.cleared | (cleared or CNSet()),
        gone=cleared is not None,
    )
    write(replica, replica.tree.hierarchy, folder, version)


def require_active(replica: Replica, folder: ObjectId) -> None:
    """Raise Refused unless this store holds an active replica of the folder."""
    if not replica.held(folder) or replica.my_state(folder) is not ReplicaState.ACTIVE:
        raise Refused(
            f"this store holds no active replica of folder {folder.counter}",
            hint="make the change at a store of the folder's replica list",
        )


def _versions(replica: Replica, folder: ObjectId, message: ChangeNumber) -> Versions[Any]:
    versions = replica.objects.get(folder, message)
    if versions is None or not versions.live():
        raise NotFound(f"no message {message.counter} in folder {folder.counter}")
    return versions


def _live(replica: Replica, folder: ObjectId, message: ChangeNumber) -> tuple[MessageVersion, ...]:
    return _versions(replica, folder, message).live()
