"""Objects and their versions, read from the inside of a bundle. Each function raises InvalidContent."""

from __future__ import annotations

from typing import Any, Final

from pillarbox.replication.ground.records import Entry, FolderVersion, MessageVersion, ReplicaState
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.wire.messages import Objects
from pillarbox.replication.wire.values import (
    Reader,
    invalid,
    read_array,
    read_bool,
    read_bytes,
    read_cnset,
    read_count,
    read_exactly,
    read_guid,
    read_number,
    read_stamp,
    read_text,
)
from pillarbox.store.change_number import ChangeNumber

DIGEST_BYTES: Final = 24


def read_objects(value: Any, version: Reader[Any]) -> Objects:
    """Objects, whose versions `version` reads."""
    objects = []
    for item in read_array(value):
        origin, counter, context, siblings = read_exactly(item, 4)
        read = {}
        for sibling in read_array(siblings):
            sibling_origin, sibling_counter, fields = read_exactly(sibling, 3)
            read[read_number((sibling_origin, sibling_counter))] = version(fields)
        versions: Versions[Any] = Versions(read_context(context), read)
        if not all(map(versions.has_seen, read)):
            raise invalid("a version is not covered by its object's context")
        object_id = read_number((origin, counter))
        if version is read_message and not versions.has_seen(object_id):
            raise invalid("a message is not covered by its own context")
        objects.append((object_id, versions))
    return tuple(objects)


def read_message(value: Any) -> MessageVersion:
    """A version of a message."""
    gone, changed, actor, properties, content, size_bytes = read_exactly(value, 6)
    digest = read_bytes(content)
    if len(digest) != (0 if read_bool(gone) else DIGEST_BYTES):
        raise invalid("a digest has the wrong length")
    return MessageVersion(
        read_stamp(changed),
        read_text(actor),
        digest,
        read_count(size_bytes),
        _read_properties(properties),
        gone,
    )


def read_folder(value: Any) -> FolderVersion:
    """A version of a folder."""
    gone, changed, actor, properties, name, parent, listed, cleared = read_exactly(value, 8)
    replicas = {}
    for item in read_array(listed):
        store, stamp, state = read_exactly(item, 3)
        replicas[read_guid(store)] = Entry(
            read_stamp(stamp), ReplicaState(read_count(state, max(ReplicaState)))
        )
    name_stamp, name_text = read_exactly(name, 2)
    parent_stamp, parent_id = read_exactly(parent, 2)
    return FolderVersion(
        changed=read_stamp(changed),
        actor=read_text(actor),
        name=Entry(read_stamp(name_stamp), read_text(name_text)),
        parent=Entry(read_stamp(parent_stamp), read_number(parent_id)),
        replicas=replicas,
        properties=_read_properties(properties),
        cleared=read_cnset(cleared),
        gone=read_bool(gone),
    )


def _read_properties(value: Any) -> dict[str, Entry[str]]:
    properties = {}
    for item in read_array(value):
        name, stamp, text = read_exactly(item, 3)
        properties[read_text(name)] = Entry(read_stamp(stamp), read_text(text))
    return properties


def read_context(value: Any) -> dict[bytes, int]:
    """A context."""
    return dict(read_number(entry) for entry in read_array(value))


def read_numbers(value: Any) -> frozenset[ChangeNumber]:
    """Change numbers."""
    return frozenset(read_number(number) for number in read_array(value))
