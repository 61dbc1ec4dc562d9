"""A message as bytes without the seal of a bundle, between two ends of one machine that trust each other."""

from __future__ import annotations

import msgpack

from pillarbox.replication.ground.records import Tree
from pillarbox.replication.wire.decoding import decode_body
from pillarbox.replication.wire.encoding import encode_body
from pillarbox.replication.wire.frame import Flag
from pillarbox.replication.wire.kinds import kind_of
from pillarbox.replication.wire.messages import EVERYONE, Message, MessageType, Sender
from pillarbox.replication.wire.values import (
    U32_MAX,
    invalid,
    read_array,
    read_bytes,
    read_count,
    read_exactly,
    read_guid,
)
from pillarbox.store.errors import AccessDenied


def encode(message: Message, tree: Tree, contents: tuple[bytes, ...] = ()) -> bytes:
    """A message with the raw contents that it carries."""
    kind, flags = kind_of(message.folder == tree.hierarchy, message.body)
    fields = [tree.guid, int(kind), int(flags), list(message.sender), encode_body([message], contents)]
    data: bytes = msgpack.packb(fields, use_bin_type=True)
    return data


def decode(data: bytes, tree: Tree) -> tuple[Message, tuple[bytes, ...]]:
    """The message that `encode` wrote, for whoever reads it, and its raw contents.

    Raises InvalidContent; AccessDenied for one of another tree.
    """
    try:
        read = msgpack.unpackb(data, use_list=False, raw=False, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise invalid(f"it is no msgpack: {error}") from error
    guid, kind, flags, sender, body = read_exactly(read, 5)
    if read_guid(guid) != tree.guid:
        raise AccessDenied(
            "it is of the public folders of another organisation",
            hint="name something of a server of this organisation",
        )
    try:
        message_type, flag = MessageType(kind), Flag(flags)
    except (ValueError, TypeError) as error:
        raise invalid(f"it is of a type that is not known: {error}") from error
    database, incarnation, origin = read_array(sender)
    said_by = Sender(read_guid(database), read_count(incarnation, U32_MAX), read_guid(origin))
    parts, contents = decode_body(read_bytes(body), message_type, flag, tree)
    if len(parts) != 1:
        raise invalid("it holds several messages")
    return Message(said_by, EVERYONE, *parts[0]), contents
