"""The words of an enrolment: a server that is invited asks for a certificate, and gets to know the tree.

The inviter greets with the certificate of its authority, which the token names by its fingerprint; the
certificate that the inviter shows has to be signed by that. Only then the secret is said. All of it goes over
TLS 1.3 (docs/nodes.md, "Enrolment").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from pillarbox.replication.membership.certificates import (
    Certificate,
    is_signed_by,
    read_certificate,
    read_request,
)
from pillarbox.replication.membership.invitation import Token
from pillarbox.replication.organisation.addresses import split_address
from pillarbox.replication.organisation.entries import fingerprint_of
from pillarbox.store.errors import AccessDenied, InvalidContent, PillarboxError, UnsupportedVersion

VERSION: Final = 1
REQUEST_BYTES_MAX: Final = 64 << 10
REPLY_BYTES_MAX: Final = 16 << 20
ADDRESSES_MAX: Final = 16


@dataclass(frozen=True)
class EnrolmentRequest:
    """A request to enrol: the secret of the token, a request for a certificate (DER), and the addresses at
    which the server is reached."""

    secret: bytes
    signing_request: bytes
    addresses: tuple[str, ...]

    def encode(self) -> bytes:
        """The request as bytes."""
        return _packed([VERSION, self.secret, self.signing_request, list(self.addresses)])

    @classmethod
    def decode(cls, data: bytes) -> EnrolmentRequest:
        """A request that came from anyone. Raises InvalidContent, UnsupportedVersion."""
        fields = _fields(data, REQUEST_BYTES_MAX)
        match fields:
            case [bytes(secret), bytes(request), list(addresses)] if len(addresses) <= ADDRESSES_MAX:
                pass
            case _:
                raise _invalid()
        for address in addresses:
            if not isinstance(address, str):
                raise _invalid()
            split_address(address)
        read_request(request)
        return cls(secret, request, tuple(addresses))


@dataclass(frozen=True)
class Welcome:
    """The beginning of a server that was let in: its certificate (DER), and the organisation's entries."""

    certificate: bytes
    entries: Mapping[str, str]

    def encode(self) -> bytes:
        """The welcome as bytes."""
        return _packed([VERSION, self.certificate, dict(self.entries)])

    @classmethod
    def decode(cls, data: bytes) -> Welcome:
        """A welcome. Raises what the inviter refused by, InvalidContent, UnsupportedVersion."""
        match _fields(data, REPLY_BYTES_MAX):
            case [bytes(certificate), dict(entries)] if all(
                isinstance(key, str) and isinstance(value, str) for key, value in entries.items()
            ):
                read_certificate(certificate)
                return cls(certificate, entries)
            case [str(reason), str(hint)]:
                raise AccessDenied(f"the inviter refuses: {reason[:500]}", hint=hint[:500])
        raise _invalid()


def refusal(error: PillarboxError) -> bytes:
    """The reply that says why a request was refused."""
    return _packed([VERSION, str(error), error.hint])


def check_inviter(token: Token, greeting: bytes, shown: bytes, now_ms: int) -> Certificate:
    """The certificate of the authority in a greeting, once the inviter has shown to be of the token's tree.

    `shown` is the certificate that it proved to have the key of. Raises AccessDenied, InvalidContent.
    """
    authority = read_certificate(greeting)
    if fingerprint_of(greeting) != token.authority or authority.tree != token.tree:
        raise AccessDenied(
            "who answers is not of the organisation that the token is of",
            hint="look at the address in the token; somebody may stand in between",
        )
    if not is_signed_by(read_certificate(shown), [authority], now_ms):
        raise AccessDenied(
            "the certificate of who answers was not signed by the organisation",
            hint="look at the clocks of both machines; somebody may stand in between",
        )
    return authority


def check_welcome(
    welcome: Welcome, token: Token, database: bytes, authority: Certificate, now_ms: int
) -> None:
    """Refuse a certificate that is not the one that was asked for. Raises AccessDenied."""
    certificate = read_certificate(welcome.certificate)
    if (certificate.tree, certificate.database) != (token.tree, database) or not is_signed_by(
        certificate, [authority], now_ms
    ):
        raise AccessDenied(
            "the certificate that came is not of this store", hint="look at the clocks of both machines"
        )


def _packed(fields: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed


def _fields(data: bytes, bytes_max: int) -> list[Any]:
    if len(data) > bytes_max:
        raise _invalid()
    try:
        read = msgpack.unpackb(data, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise _invalid() from error
    if not isinstance(read, list) or not read:
        raise _invalid()
    if read[0] != VERSION:
        raise UnsupportedVersion(
            f"an enrolment is of version {str(read[0])[:20]}", hint=f"this program speaks version {VERSION}"
        )
    return read[1:]


def _invalid() -> InvalidContent:
    return InvalidContent("not an enrolment of Pillarbox", hint="look who speaks at this address")
