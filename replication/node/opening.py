"""Messages of other stores, made ready before the transaction in which they are applied.

Opening a message and preparing the mail in it is most of the work, and needs no transaction: while one batch
is applied, another thread may open the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pillarbox.replication.ground.records import Tree
from pillarbox.replication.wire.seal import Opened, Peer, unseal
from pillarbox.store.engine.transaction import DatabaseFiles
from pillarbox.store.errors import PillarboxError
from pillarbox.store.mail import messages
from pillarbox.store.mail.messages import PreparedMessage


class Batch(NamedTuple):
    """Messages that were found to be what they say, the mail in them by its digest, and why the others were
    refused."""

    opened: tuple[Opened, ...]
    prepared: Mapping[bytes, PreparedMessage]
    refused: tuple[PillarboxError, ...]


def open_batch(
    arrived: Iterable[bytes], files: DatabaseFiles, tree: Tree, peers: Mapping[bytes, Peer]
) -> Batch:
    """Open messages that came from anywhere. `peers` are the stores of the tree, by certificate fingerprint.

    Nothing that a message says of its mail is believed: digests and envelopes are computed here, as of a
    delivery. Raises Dismounted.
    """
    opened, prepared, refused = [], {}, []
    for data in arrived:
        try:
            found = unseal(data, tree, peers)
        except PillarboxError as error:
            refused.append(error)
            continue
        opened.append(found)
        for raw in found.contents:
            ready = messages.prepare(files, raw)
            prepared[ready.content.digest] = ready
    return Batch(tuple(opened), prepared, tuple(refused))
