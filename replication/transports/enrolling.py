"""The network's side of an enrolment, for who joins: one connection, one request."""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Final

from pillarbox.replication.membership.certificates import Certificate
from pillarbox.replication.membership.enrolment import (
    REPLY_BYTES_MAX,
    EnrolmentRequest,
    Welcome,
    check_inviter,
    check_welcome,
)
from pillarbox.replication.membership.invitation import Token
from pillarbox.replication.organisation.addresses import split_address
from pillarbox.replication.transports.direct import ALPN_ENROL
from pillarbox.store.errors import InvalidContent, PeerUnreachable

TIMEOUT_S: Final = 20
_GREETING_BYTES_MAX: Final = 8192
_LENGTH: Final = struct.Struct(">I")


def enrol(
    token: Token, request: EnrolmentRequest, database: bytes, now_ms: int
) -> tuple[Welcome, Certificate]:
    """Ask the inviter to let a store in; what it is welcomed with, and the authority.

    Raises PeerUnreachable where no address of the token answers, AccessDenied where who answers is not the
    inviter, or refuses.
    """
    with _dial(token.addresses) as connection:
        try:
            greeting = _read(connection, _GREETING_BYTES_MAX)
            shown = connection.getpeercert(binary_form=True) or b""
            authority = check_inviter(token, greeting, shown, now_ms)
            data = request.encode()
            connection.sendall(_LENGTH.pack(len(data)) + data)
            welcome = Welcome.decode(_read(connection, REPLY_BYTES_MAX))
        except OSError as error:
            raise PeerUnreachable(
                f"the inviter hung up: {error}", hint="look at its log, and join again with the same token"
            ) from error
    check_welcome(welcome, token, database, authority, now_ms)
    return welcome, authority


def _dial(addresses: tuple[str, ...]) -> ssl.SSLSocket:
    # Nothing is believed that TLS would look at: `check_inviter` does, before the secret is said.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([ALPN_ENROL])
    reasons = []
    for address in addresses:
        try:
            connection = socket.create_connection(split_address(address), timeout=TIMEOUT_S)
            return context.wrap_socket(connection)
        except OSError as error:
            reasons.append(f"{address}: {error}")
    raise PeerUnreachable(
        f"the inviter does not answer: {'; '.join(reasons) or 'the token names no address'}",
        hint="it has to be served (`pillarbox serve`), and its port reached from here",
    )


def _read(connection: ssl.SSLSocket, bytes_max: int) -> bytes:
    (length,) = _LENGTH.unpack(_read_exactly(connection, _LENGTH.size))
    if length > bytes_max:
        raise InvalidContent(f"the inviter claims to send {length} bytes", hint="look who answers there")
    return _read_exactly(connection, length)


def _read_exactly(connection: ssl.SSLSocket, length: int) -> bytes:
    pieces = []
    while length:
        piece = connection.recv(min(length, 1 << 16))
        if not piece:
            raise ConnectionError("the connection ended")
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)
