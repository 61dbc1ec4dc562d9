"""Sealing of all that a store sends: the frames that a transport carries."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from pillarbox.replication.core.effects import GiveReceipt, Pass, Send
from pillarbox.replication.ground.records import Tree
from pillarbox.replication.node.store_replicator import Outgoing
from pillarbox.replication.organisation.bridgeheads import bucket_of
from pillarbox.replication.organisation.topology import Organisation
from pillarbox.replication.wire.frame import VERSION, common_version
from pillarbox.replication.wire.messages import Bundle, Changes, Class, Label, Message
from pillarbox.replication.wire.parts import split
from pillarbox.replication.wire.seal import PackedBody, Signer, pack_messages, seal
from pillarbox.replication.wire.transport_frames import encode_label, encode_receipt


class Sealed(NamedTuple):
    """Frames in the order in which they are sent, and the store that they go to next."""

    to: bytes
    frames: list[bytes]

    @property
    def size_bytes(self) -> int:
        """The bytes of all frames."""
        return sum(map(len, self.frames))


class Sealer:
    """Seals what a store of a tree sends. What says the same to several stores is packed once."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._last: tuple[Message, tuple[bytes, ...], PackedBody] | None = None

    def frames_of(self, outgoing: Outgoing, signer: Signer, now_ms: int, version: int = VERSION) -> Sealed:
        """Seal what a store sends, in a version of the wire; a copy of another store's bundle stays as its
        maker signed it.

        What is larger than some transports take is in parts (`wire.parts`). `now_ms` is ms UTC. Raises
        OverLimit for a bundle that nobody would take.
        """
        match outgoing.effect:
            case GiveReceipt(to, receipt):
                return Sealed(to, [encode_receipt(receipt)])
            case Pass(label, bundle):
                data = outgoing.data or seal(
                    bundle,
                    self._tree,
                    signer,
                    now_ms,
                    pack_messages(bundle.messages, outgoing.contents),
                    version,
                )
            case Send(message):
                label = Label(message.to, 0, False, 0)
                body = self._packed(message, outgoing.contents)
                data = seal(_bundle_of(message, outgoing.of), self._tree, signer, now_ms, body, version)
        return Sealed(label.to, split(encode_label(label) + data))

    def _packed(self, message: Message, contents: tuple[bytes, ...]) -> PackedBody:
        """A message to one store, packed; as before where the last one said the same of the same folder."""
        if self._last is not None:
            last, its_contents, packed = self._last
            is_same = message.body is last.body and contents == its_contents
            if is_same and (message.folder, message.statement) == (last.folder, last.statement):
                return packed
        packed = pack_messages([message], contents)
        self._last = (message, contents, packed) if isinstance(message.body, Changes) else None
        return packed


def version_for(organisation: Organisation, reads: Collection[int]) -> int:
    """The version of the wire in which a store that reads and writes `reads` speaks to all others."""
    return common_version(
        reads, (server.reads for server in organisation.servers.values() if not server.is_removed)
    )


def _bundle_of(message: Message, of: Class) -> Bundle:
    """A message to one store as a bundle; it has no number, since nobody hands it on or counts it."""
    return Bundle(message.sender, 0, of, bucket_of(message.folder), (), (message,), message.to)
