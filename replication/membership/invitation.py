"""Invitations: leave for one server to join, given as a token that a person carries.

The token holds a secret that is good once, for a day. The inviter keeps its digest alone. It is bound to the
key that used it: who was cut off in the middle may try again with the same token.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final

import msgpack

from pillarbox.replication.membership.certificates import SigningRequest
from pillarbox.replication.organisation.addresses import split_address
from pillarbox.store.errors import AccessDenied, Corrupt, InvalidArgument, PillarboxError, UnsupportedVersion
from pillarbox.store.ids import GUID_BYTES, guid_text, parse_guid

LIFETIME_MS: Final = 24 * 60 * 60 * 1000
SECRET_BYTES: Final = 32
TOKEN_PREFIX: Final = "pillarbox-invitation-1."
_TOKEN_CHARACTERS_MAX: Final = 4096
_FINGERPRINT_BYTES: Final = 32
FILE_FORMAT: Final = "pillarbox-invitations"
FILE_VERSION: Final = 1

Entropy = Callable[[int], bytes]


@dataclass(frozen=True)
class Token:
    """The content of a token: where to dial, and by which authority the one who answers is known."""

    tree: bytes
    authority: bytes
    secret: bytes
    addresses: tuple[str, ...]

    def __str__(self) -> str:
        packed: bytes = msgpack.packb([self.tree, self.authority, self.secret, list(self.addresses)])
        return TOKEN_PREFIX + urlsafe_b64encode(packed).decode().rstrip("=")


@dataclass(frozen=True)
class Invitation:
    """An invitation as the inviter keeps it. `used_by` is the store and the digest of the key that used it,
    empty before."""

    digest: bytes
    name: str
    site: str
    ends_ms: int
    used_by: tuple[bytes, bytes] | tuple[()] = ()


def invite(
    entropy: Entropy,
    tree: bytes,
    authority: bytes,
    addresses: tuple[str, ...],
    name: str,
    site: str,
    now_ms: int,
) -> tuple[Token, Invitation]:
    """An invitation of a server under a name, to a site. `authority` is a certificate's fingerprint."""
    secret = entropy(SECRET_BYTES)
    token = Token(tree, authority, secret, addresses)
    return token, Invitation(sha256(secret).digest(), name, site, now_ms + LIFETIME_MS)


def read_token(text: str) -> Token:
    """A token as a person gives it. Raises InvalidArgument, UnsupportedVersion."""
    text = "".join(text.split())
    prefix, _, body = text.partition(".")
    if prefix.startswith("pillarbox-invitation-") and prefix + "." != TOKEN_PREFIX:
        raise UnsupportedVersion(
            f"the token is of another version: {prefix[:40]}", hint="use a newer program"
        )
    try:
        if prefix + "." != TOKEN_PREFIX or len(body) > _TOKEN_CHARACTERS_MAX:
            raise ValueError
        packed = urlsafe_b64decode(body + "=" * (-len(body) % 4))
        tree, authority, secret, addresses = msgpack.unpackb(packed)
        lengths = [len(each) for each in (tree, authority, secret) if isinstance(each, bytes)]
        if lengths != [GUID_BYTES, _FINGERPRINT_BYTES, SECRET_BYTES]:
            raise ValueError
        for address in addresses:
            split_address(address)
        return Token(tree, authority, secret, tuple(addresses))
    except (ValueError, TypeError, PillarboxError, msgpack.exceptions.UnpackException) as error:
        raise InvalidArgument(
            "this is no token of an invitation", argument="token", hint="copy the whole line of `node invite`"
        ) from error


def admit(
    invitations: Iterable[Invitation], secret: bytes, request: SigningRequest, key_digest: bytes, now_ms: int
) -> Invitation:
    """The invitation of that secret, as used by who asks. `key_digest` is of the key in the request.

    Raises AccessDenied where there is none, it has ended, or somebody else has used it.
    """
    wanted, user = sha256(secret).digest(), (request.database, key_digest)
    for invitation in invitations:
        if compare_digest(invitation.digest, wanted):
            if now_ms >= invitation.ends_ms:
                raise AccessDenied("the invitation has ended", hint="make another one: `node invite`")
            if invitation.used_by not in ((), user):
                raise AccessDenied("the invitation was used", hint="make another one: `node invite`")
            return replace(invitation, used_by=user)
    raise AccessDenied("there is no such invitation", hint="make another one: `node invite`")


def living(invitations: Iterable[Invitation], now_ms: int) -> tuple[Invitation, ...]:
    """The invitations that have not ended."""
    return tuple(each for each in invitations if now_ms < each.ends_ms)


def format_invitations(invitations: Iterable[Invitation]) -> bytes:
    """Invitations as the inviter's file."""
    rows = [
        {
            "digest": each.digest.hex(),
            "name": each.name,
            "site": each.site,
            "ends_ms": each.ends_ms,
            **({"used_by": guid_text(each.used_by[0]), "key": each.used_by[1].hex()} if each.used_by else {}),
        }
        for each in invitations
    ]
    table = {"format": FILE_FORMAT, "version": FILE_VERSION, "invitations": rows}
    return json.dumps(table, indent=1).encode()


def parse_invitations(data: bytes, file: str) -> tuple[Invitation, ...]:
    """The invitations of a file. Raises Corrupt, UnsupportedVersion."""
    try:
        table: Any = json.loads(data)
        if table["format"] != FILE_FORMAT:
            raise ValueError("it is another file")
        if table["version"] != FILE_VERSION:
            raise UnsupportedVersion(f"{file} is of version {table['version']}", hint="use a newer program")
        return tuple(
            Invitation(
                bytes.fromhex(row["digest"]),
                str(row["name"]),
                str(row["site"]),
                int(row["ends_ms"]),
                (parse_guid(row["used_by"]), bytes.fromhex(row["key"])) if "used_by" in row else (),
            )
            for row in table["invitations"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(
            f"{file} is damaged: {error}", file=file, hint="remove it: invitations are made anew"
        ) from error
