"""The raw messages that replication messages carry."""

from __future__ import annotations

from collections.abc import Iterable

from pillarbox.replication.ground.records import MessageVersion
from pillarbox.replication.wire.messages import Changes, Message, ReconcileAnswer
from pillarbox.store.disk.tables import Table
from pillarbox.store.engine import content_store
from pillarbox.store.engine.transaction import Reader


def contents_of(reader: Reader, messages: Iterable[Message]) -> tuple[bytes, ...]:
    """The raw messages of all versions that messages carry, as far as they are still here."""
    digests = {
        version.content: None
        for message in messages
        if isinstance(message.body, Changes | ReconcileAnswer)
        for _, versions in message.body.objects
        for version in versions.siblings.values()
        if isinstance(version, MessageVersion) and version.content
    }
    return tuple(
        content_store.read(reader, digest)
        for digest in digests
        if reader.record(Table.CONTENT, digest) is not None
    )
