"""Messages are signed by the store that made them, and forwarded as they are.

TLS alone authenticates nobody behind a spool, a queue or another node. The signature is ECDSA over P-256 with
SHA-256, by the key of the store's certificate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pillarbox.replication.ground.records import Tree
from pillarbox.replication.wire.codec import decode_body, encode_body, kind_of
from pillarbox.replication.wire.frame import Header, pack, signed_part, unpack
from pillarbox.replication.wire.messages import Message
from pillarbox.store.errors import AccessDenied, InvalidContent

_ALGORITHM: Final = ec.ECDSA(hashes.SHA256())


class Signer(NamedTuple):
    """A store's private key, and the fingerprint of its certificate."""

    key: ec.EllipticCurvePrivateKey
    fingerprint: bytes


class Peer(NamedTuple):
    """The owner of a certificate, and the public key in it."""

    database: bytes
    key: ec.EllipticCurvePublicKey


class Opened(NamedTuple):
    """A message that was found to be what it says, and the raw contents that it carries."""

    header: Header
    message: Message
    contents: tuple[bytes, ...]


def seal(
    message: Message, tree: Tree, signer: Signer, number: int, made_ms: int, contents: Iterable[bytes] = ()
) -> bytes:
    """A message as bytes, signed. `number` is the sender's count, `contents` raw messages that it carries."""
    body = encode_body(message.statement, message.body, contents)
    packed = pack(body)
    kind, flags = kind_of(message.folder == tree.hierarchy, message.body)
    header = Header(
        kind=kind,
        flags=flags,
        tree=tree.guid,
        sender=message.sender,
        to=message.to,
        folder=message.folder,
        number=number,
        made_ms=made_ms,
        packed_bytes=len(packed),
        body_bytes=len(body),
        fingerprint=signer.fingerprint,
        signature_bytes=0,
    )
    signature = signer.key.sign(header.encode() + packed, _ALGORITHM)
    return header._replace(signature_bytes=len(signature)).encode() + packed + signature


def unseal(data: bytes, tree: Tree, peers: Mapping[bytes, Peer]) -> Opened:
    """A message that came from anywhere. `peers` are the stores of the tree, by certificate fingerprint.

    Refused in this order, so that the cheapest look comes first and nothing unsigned is unpacked: size and
    version, tree, sender, signature, form. Raises OverLimit, UnsupportedVersion, AccessDenied,
    InvalidContent.
    """
    header = Header.decode(data)
    if header.tree != tree.guid:
        raise AccessDenied("a replication message is of another tree", hint="look where it came from")
    peer = peers.get(header.fingerprint)
    if peer is None or peer.database != header.sender.database:
        raise AccessDenied(
            "a replication message is of a store that is not in the tree",
            hint="look at the servers of the organisation",
        )
    try:
        peer.key.verify(data[len(data) - header.signature_bytes :], signed_part(header, data), _ALGORITHM)
    except InvalidSignature as error:
        raise AccessDenied(
            "the signature of a replication message does not hold", hint="it was changed under way, or forged"
        ) from error
    is_hierarchy = header.folder == tree.hierarchy
    body = unpack(header, data)
    try:
        statement, read, contents = decode_body(body, header.kind, header.flags, is_hierarchy)
    except RecursionError as error:
        raise InvalidContent("not a replication message: it is nested too deep") from error
    message = Message(header.sender, header.to, header.folder, statement, read)
    return Opened(header, message, contents)
