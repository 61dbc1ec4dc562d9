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
from pillarbox.replication.wire.frame import Header, pack, pack_route, signed_part, unpack, unpack_route
from pillarbox.replication.wire.messages import Bundle, Message
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
    """A bundle that was found to be what it says, and the raw contents that it carries."""

    header: Header
    bundle: Bundle
    contents: tuple[bytes, ...]


def seal(bundle: Bundle, tree: Tree, signer: Signer, made_ms: int, contents: Iterable[bytes] = ()) -> bytes:
    """A bundle as bytes, signed. `contents` are the raw messages that it carries.

    Raises ValueError when its messages are not of one type.
    """
    kinds = {kind_of(message.folder == tree.hierarchy, message.body) for message in bundle.messages}
    if len(kinds) != 1:
        raise ValueError(f"a bundle holds messages of one type, not of {len(kinds)}")
    ((kind, flags),) = kinds
    body = encode_body(bundle.messages, contents)
    packed, route = pack(body), pack_route(bundle.tree)
    header = Header(
        kind=kind,
        flags=flags,
        of=bundle.of,
        tree=tree.guid,
        sender=bundle.sender,
        to=bundle.to,
        bucket=bundle.bucket,
        number=bundle.number,
        made_ms=made_ms,
        route_bytes=len(route),
        packed_bytes=len(packed),
        body_bytes=len(body),
        fingerprint=signer.fingerprint,
        signature_bytes=0,
    )
    signature = signer.key.sign(header.encode() + route + packed, _ALGORITHM)
    return header._replace(signature_bytes=len(signature)).encode() + route + packed + signature


def unseal(data: bytes, tree: Tree, peers: Mapping[bytes, Peer]) -> Opened:
    """A bundle that came from anywhere. `peers` are the stores of the tree, by certificate fingerprint.

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
    route, body = unpack_route(header, data), unpack(header, data)
    try:
        parts, contents = decode_body(body, header.kind, header.flags, tree)
    except RecursionError as error:
        raise InvalidContent("not a replication message: it is nested too deep") from error
    messages = tuple(Message(header.sender, header.to, *part) for part in parts)
    bundle = Bundle(header.sender, header.number, header.of, header.bucket, route, messages, header.to)
    return Opened(header, bundle, contents)
