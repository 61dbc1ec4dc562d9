"""Frames of other stores, made ready before the transaction in which they are applied.

Opening a bundle and preparing the mail in it is most of the work, and needs no transaction: while one batch
is applied, another thread may open the next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, TypeAlias

from pillarbox.replication.ground.records import Tree
from pillarbox.replication.wire.frame import VERSIONS_READ
from pillarbox.replication.wire.messages import EVERYONE, Label, Receipt
from pillarbox.replication.wire.seal import Opened, Peer, Reason, Refusal, refusal_of, unseal
from pillarbox.replication.wire.transport_frames import (
    LABEL_BYTES,
    RECEIPT_MAGIC,
    decode_label,
    decode_receipt,
)
from pillarbox.store.engine.transaction import DatabaseFiles
from pillarbox.store.errors import PillarboxError
from pillarbox.store.mail import messages
from pillarbox.store.mail.messages import PreparedMessage


class Arrived(NamedTuple):
    """A bundle that the store `hop` gave, and that was found to be what it says.

    `data` is the bundle as its maker signed it, for those to whom it is handed on.
    """

    hop: bytes
    label: Label
    opened: Opened
    data: bytes

    @property
    def is_copy(self) -> bool:
        """True for a copy of what goes to all replicas, False for what goes to one store."""
        return self.opened.bundle.to == EVERYONE


Taken: TypeAlias = Arrived | Receipt


class Batch(NamedTuple):
    """Arrivals that are applied in one transaction, in their order, and the mail in them by its digest.

    `settled` are the calls for after that transaction, of all frames that need not come again.
    """

    taken: tuple[Taken, ...]
    prepared: Mapping[bytes, PreparedMessage]
    settled: tuple[Callable[[], None], ...] = ()


def open_frame(
    frame: bytes, hop: bytes, tree: Tree, peers: Mapping[bytes, Peer], reads: Collection[int] = VERSIONS_READ
) -> Taken | Refusal:
    """A whole frame that came from anywhere, as the connection says from the store `hop`.

    `peers` are the stores of the tree, by certificate fingerprint, also those that were removed from it,
    `reads` the versions of the wire that are read.
    """
    try:
        if frame[:4] == RECEIPT_MAGIC:
            return decode_receipt(frame)
        label = decode_label(frame)
    except PillarboxError as error:
        return refusal_of(error, Reason.FORM)
    data = frame[LABEL_BYTES:]
    found = unseal(data, tree, peers, reads)
    return found if isinstance(found, Refusal) else Arrived(hop, label, found, data)


def prepared_mail(taken: Taken, files: DatabaseFiles) -> dict[bytes, PreparedMessage]:
    """The mail in something that arrived, ready to be stored, by its digest.

    Nothing that a message says of its mail is believed: digests and envelopes are computed here, as of a
    delivery. Raises Dismounted.
    """
    contents = taken.opened.contents if isinstance(taken, Arrived) else ()
    ready = [messages.prepare(files, raw) for raw in contents]
    return {each.content.digest: each for each in ready}
