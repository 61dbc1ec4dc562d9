"""The bytes of the changes that a server made: what is the least to send, in packs of 300 KB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pillarbox
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.knowledge import Pair
from pillarbox.replication.ground.records import MessageVersion, ObjectId
from pillarbox.replication.wire.encoding import encode_body
from pillarbox.replication.wire.frame import pack
from pillarbox.replication.wire.messages import Changes, Life, Message, Statement
from pillarbox.store.change_number import CNSet
from pillarbox.store.engine import content_store
from pillarbox.tools.operations.replicating import folder_id, joined_store, replicator_at_rest

PACK_BYTES: Final = 300 << 10
_ACTOR: Final = pillarbox.Actor.task("bench")
_NO_PAIR: Final = Pair(CNSet(), CNSet())
_NO_STATEMENT: Final = Statement(Life(0, 0), CNSet(), CNSet())

Change = tuple[Message, Sequence[bytes]]
"""A change as a message with that alone, and the digests of the contents that it brings."""


def packed_bytes(server_path: Path, folders: Sequence[str]) -> int:
    """The bytes of all messages of these folders with what is replicated of them, in packs that zstd makes
    300 KB of at its level 3. The server is served by nobody.
    """
    with pillarbox.Server.open(server_path) as server:
        store = joined_store(server)
        found: list[Change] = []
        for path in folders:
            folder = folder_id(server, path)
            found += replicator_at_rest(server).perform(lambda replica, at=folder: _changes(replica, at))  # type: ignore[misc]
        with store.read(_ACTOR) as read:
            return _in_packs(found, lambda digest: content_store.read(read, digest))


def _changes(replica: Replica, folder: ObjectId) -> list[Change]:
    known = replica.state(folder).knowledge.known
    changes: list[Change] = []
    for each in replica.objects.found(folder, known):
        versions = replica.objects.get(folder, each)
        assert versions is not None, "it was found"
        message = replica.message(bytes(16), folder, Changes(((each, versions),), _NO_PAIR))
        digests = [
            version.content for version in versions.siblings.values() if isinstance(version, MessageVersion)
        ]
        changes.append((replace(message, statement=_NO_STATEMENT), digests))
    return changes


def _in_packs(changes: Sequence[Change], content_of: Callable[[bytes], bytes]) -> int:
    total, start, count = 0, 0, 100
    while start < len(changes):
        while True:
            part = changes[start : start + count]
            contents = {digest: content_of(digest) for _, digests in part for digest in digests if digest}
            packed = len(pack(encode_body([message for message, _ in part], contents.values())))
            if packed >= PACK_BYTES or start + count >= len(changes):
                break
            count = int(count * max(1.1, PACK_BYTES / packed))
        total += packed
        start += count
        count = max(1, int(count * 0.9))
    return total
