"""Sealing of all that a store sends: the frames that a transport carries."""

from __future__ import annotations

from typing import NamedTuple

from pillarbox.replication.core.effects import GiveReceipt, Pass, Send
from pillarbox.replication.ground.records import Tree
from pillarbox.replication.node.store_replicator import Outgoing
from pillarbox.replication.organisation.bridgeheads import bucket_of
from pillarbox.replication.wire.messages import Bundle, Changes, Class, Label, Message
from pillarbox.replication.wire.parts import split
from pillarbox.replication.wire.seal import Signer, seal
from pillarbox.replication.wire.transport_frames import encode_label, encode_receipt


class Sealed(NamedTuple):
    """Frames in the order in which they are sent, and the store that they go to next."""

    to: bytes
    frames: list[bytes]

    @property
    def size_bytes(self) -> int:
        """The bytes of all frames."""
        return sum(map(len, self.frames))


def frames_of(outgoing: Outgoing, tree: Tree, signer: Signer, now_ms: int) -> Sealed:
    """Seal what a store sends; a copy of another store's bundle stays as its maker signed it.

    What is larger than some transports take is in parts (`wire.parts`). `now_ms` is ms UTC. Raises OverLimit
    for a bundle that nobody would take.
    """
    match outgoing.effect:
        case GiveReceipt(to, receipt):
            return Sealed(to, [encode_receipt(receipt)])
        case Pass(label, bundle):
            data = outgoing.data or seal(bundle, tree, signer, now_ms, outgoing.contents)
        case Send(message):
            label = Label(message.to, 0, False, 0)
            data = seal(_bundle_of(message, tree), tree, signer, now_ms, outgoing.contents)
    return Sealed(label.to, split(encode_label(label) + data))


def _bundle_of(message: Message, tree: Tree) -> Bundle:
    """A message to one store as a bundle; it has no number, since nobody hands it on or counts it."""
    of = Class.URGENT
    if isinstance(message.body, Changes) and message.folder != tree.hierarchy:
        of = Class.CHANGES if message.body.answer is None else Class.ANSWERS
    return Bundle(message.sender, 0, of, bucket_of(message.folder), (), (message,), message.to)
