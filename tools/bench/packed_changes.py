"""The bytes of the changes that a server made: what is the least to send, in packs of 300 KB."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pillarbox
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.knowledge import Pair
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.node.contents import contents_of
from pillarbox.replication.wire.encoding import encode_body
from pillarbox.replication.wire.frame import pack
from pillarbox.replication.wire.messages import Changes, Life, Message, Statement
from pillarbox.store.change_number import CNSet
from pillarbox.tools.operations.replicating import folder_id, joined_store, replicator_at_rest

PACK_BYTES: Final = 300 << 10
_ACTOR: Final = pillarbox.Actor.task("bench")
_NO_PAIR: Final = Pair(CNSet(), CNSet())
_NO_STATEMENT: Final = Statement(Life(0, 0), CNSet(), CNSet())


def packed_bytes(server_path: Path, folders: Sequence[str]) -> int:
    """The bytes of all messages of these folders with what is replicated of them, in packs that zstd makes
    300 KB of at its level 3. The server is served by nobody.
    """
    with pillarbox.Server.open(server_path) as server:
        store = joined_store(server)
        found: list[Message] = []
        for path in folders:
            folder = folder_id(server, path)
            found += replicator_at_rest(server).perform(lambda replica, at=folder: _changes(replica, at))  # type: ignore[misc]
        with store.read(_ACTOR) as read:
            return in_packs(found, lambda messages: contents_of(read, messages))


def _changes(replica: Replica, folder: ObjectId) -> list[Message]:
    known = replica.state(folder).knowledge.known
    return [alone(replica, folder, each) for each in replica.objects.found(folder, known)]


def alone(replica: Replica, folder: ObjectId, object_id: ObjectId) -> Message:
    """An object as a message with that alone, of which nothing is said."""
    versions = replica.objects.get(folder, object_id)
    assert versions is not None, "it was found"
    message = replica.message(bytes(16), folder, Changes(((object_id, versions),), _NO_PAIR))
    return replace(message, statement=_NO_STATEMENT)


def in_packs(messages: Sequence[Message], contents: Callable[[Sequence[Message]], Iterable[bytes]]) -> int:
    """The bytes of messages with their contents in packs that zstd makes 300 KB of at its level 3."""
    total, start, count = 0, 0, 1
    while start < len(messages):
        packed = _packed(messages[start : start + count], contents)
        while packed < PACK_BYTES and start + count < len(messages):
            count += max(1, int(count * (PACK_BYTES / packed - 1) * 0.9))
            packed = _packed(messages[start : start + count], contents)
        while packed > 1.1 * PACK_BYTES and count > 1:
            count = max(1, min(count - 1, int(count * PACK_BYTES / packed)))
            packed = _packed(messages[start : start + count], contents)
        total += packed
        start += count
    return total


def _packed(messages: Sequence[Message], contents: Callable[[Sequence[Message]], Iterable[bytes]]) -> int:
    return len(pack(encode_body(messages, [*contents(messages)])))
