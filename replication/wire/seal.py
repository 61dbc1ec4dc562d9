"""Messages are signed by the store that made them, and forwarded as they are.

TLS alone authenticates nobody behind a spool, a queue or another node. The signature is ECDSA over P-256 with
SHA-256, by the key of the store's certificate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from pillarbox.replication.ground.records import Tree
from pillarbox.replication.wire.decoding import decode_body
from pillarbox.replication.wire.encoding import encode_body
from pillarbox.replication.wire.frame import (
    BODY_BYTES_MAX,
    HEADER_BYTES,
    PACKED_BYTES_MAX,
    VERSION,
    VERSIONS_READ,
    Header,
    pack,
    pack_route,
    unpack,
    unpack_route,
)
from pillarbox.replication.wire.kinds import kind_of
from pillarbox.replication.wire.messages import BUNDLE_MESSAGES_MAX, Bundle, Message
from pillarbox.store.errors import AccessDenied, InvalidContent, OverLimit, PillarboxError, UnsupportedVersion

_ALGORITHM: Final = ec.ECDSA(hashes.SHA256())
_DIGESTED: Final = ec.ECDSA(Prehashed(hashes.SHA256()))


class Signer(NamedTuple):
    """A store's private key, and the fingerprint of its certificate."""

    key: ec.EllipticCurvePrivateKey
    fingerprint: bytes


class Peer(NamedTuple):
    """The owner of a certificate, the public key in it, and whether the owner was removed from the tree."""

    database: bytes
    key: ec.EllipticCurvePublicKey
    is_removed: bool = False


class Opened(NamedTuple):
    """A bundle that was found to be what it says, and the raw contents that it carries."""

    header: Header
    bundle: Bundle
    contents: tuple[bytes, ...]


class Reason(StrEnum):
    """Reasons for which what arrives is refused, in the order in which they are looked at."""

    SIZE = "size"
    VERSION = "version"
    TREE = "tree"
    SENDER = "sender"
    SIGNATURE = "signature"
    FORM = "form"
    LIMITS = "limits"
    FAULT = "fault"
    """None of these: the program itself fails when it opens or applies it."""


class Refusal(NamedTuple):
    """Says why something that arrived was refused; nothing of it has any effect."""

    reason: Reason
    error: PillarboxError


class PackedBody(NamedTuple):
    """The messages of a bundle as one zstd frame, and the bytes that they take when it is unpacked."""

    packed: bytes
    body_bytes: int


def pack_messages(messages: Iterable[Message], contents: Iterable[bytes] = ()) -> PackedBody:
    """Pack messages and the raw contents that they carry. Raises OverLimit for what nobody would take."""
    body = encode_body(messages, contents)
    packed = pack(body)
    if len(body) > BODY_BYTES_MAX or len(packed) > PACKED_BYTES_MAX:
        raise OverLimit(
            f"a replication message would have {len(body)} bytes, {len(packed)} of them packed",
            hint=f"at most {BODY_BYTES_MAX} and {PACKED_BYTES_MAX} are taken: a post in it is too large",
        )
    return PackedBody(packed, len(body))


def seal(
    bundle: Bundle, tree: Tree, signer: Signer, made_ms: int, body: PackedBody, version: int = VERSION
) -> bytes:
    """A bundle as bytes, signed, in a version of the wire. `body` are its messages, packed.

    Raises ValueError when its messages are not of one type.
    """
    kinds = {kind_of(message.folder == tree.hierarchy, message.body) for message in bundle.messages}
    if len(kinds) != 1:
        raise ValueError(f"a bundle holds messages of one type, not of {len(kinds)}")
    ((kind, flags),) = kinds
    packed, route = body.packed, pack_route(bundle.tree)
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
        body_bytes=body.body_bytes,
        fingerprint=signer.fingerprint,
        signature_bytes=0,
        version=version,
    )
    signature = signer.key.sign(header.encode() + route + packed, _ALGORITHM)
    return header._replace(signature_bytes=len(signature)).encode() + route + packed + signature


def unseal(
    data: bytes, tree: Tree, peers: Mapping[bytes, Peer], reads: Collection[int] = VERSIONS_READ
) -> Opened | Refusal:
    """A bundle that came from anywhere. `peers` are the stores of the tree, by certificate fingerprint,
    `reads` the versions of the wire that are read.

    It is refused in the order of `Reason`, so that the cheapest look comes first and nothing unsigned is
    unpacked.
    """
    reason = Reason.FORM
    try:
        header = Header.decode(data, reads)
        reason = Reason.TREE
        if header.tree != tree.guid:
            raise AccessDenied("a replication message is of another tree", hint="look where it came from")
        reason = Reason.SENDER
        peer = _peer_of(header, peers)
        reason = Reason.SIGNATURE
        _verify(header, data, peer)
        reason = Reason.FORM
        opened = _opened(header, data, tree)
        reason = Reason.LIMITS
        _refuse_over_limits(opened)
    except PillarboxError as error:
        return refusal_of(error, reason)
    return opened


def open_again(data: bytes, tree: Tree) -> Bundle:
    """A bundle that this store opened before and kept. Raises InvalidContent or UnsupportedVersion."""
    return _opened(Header.decode(data), data, tree).bundle


def refusal_of(error: PillarboxError, reason: Reason) -> Refusal:
    """The refusal for an error of a look that was for `reason`; the outside tells by the error itself."""
    if reason is Reason.FORM and isinstance(error, UnsupportedVersion):
        return Refusal(Reason.VERSION, error)
    if reason is Reason.FORM and isinstance(error, OverLimit):
        return Refusal(Reason.SIZE, error)
    return Refusal(reason, error)


def _peer_of(header: Header, peers: Mapping[bytes, Peer]) -> Peer:
    peer = peers.get(header.fingerprint)
    if peer is None or peer.database != header.sender.database:
        raise AccessDenied(
            "a replication message is of a store that is not in the tree",
            hint="look at the servers of the organisation",
        )
    if peer.is_removed:
        raise AccessDenied(
            "a replication message is of a store that was removed from the tree",
            hint="stop that server; to let it in again, join it as a new one",
        )
    return peer


def _verify(header: Header, data: bytes, peer: Peer) -> None:
    """Signed are the header, with the signature's length as 0, the way, and the packed body.

    The length is not known before signing (an ECDSA signature has 70 to 72 bytes).
    """
    try:
        digest = hashlib.sha256(header._replace(signature_bytes=0).encode())
        digest.update(memoryview(data)[HEADER_BYTES : len(data) - header.signature_bytes])
        peer.key.verify(data[len(data) - header.signature_bytes :], digest.digest(), _DIGESTED)
    except InvalidSignature as error:
        raise AccessDenied(
            "the signature of a replication message does not hold", hint="it was changed under way, or forged"
        ) from error


def _opened(header: Header, data: bytes, tree: Tree) -> Opened:
    route, body = unpack_route(header, data), unpack(header, data)
    try:
        parts, contents = decode_body(body, header.kind, header.flags, tree)
    except RecursionError as error:
        raise InvalidContent("not a replication message: it is nested too deep") from error
    messages = tuple(Message(header.sender, header.to, *part) for part in parts)
    bundle = Bundle(header.sender, header.number, header.of, header.bucket, route, messages, header.to)
    return Opened(header, bundle, contents)


def _refuse_over_limits(opened: Opened) -> None:
    """Raises OverLimit for more messages than any store puts into a bundle."""
    messages_count = len(opened.bundle.messages)
    if messages_count > BUNDLE_MESSAGES_MAX:
        raise OverLimit(
            f"a bundle holds {messages_count} messages", hint=f"at most {BUNDLE_MESSAGES_MAX} are taken"
        )
