"""Certificates that are due for a new one, and the one of several that a server shows.

The server with the authority's key signs the keys of all members anew, without being asked: a certificate for
a key that is known needs no request. The new one is an entry of the organisation, and gets to all by the
hierarchy. A server goes on with the old one until others have had time to hear of the new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from pillarbox.replication.membership.certificates import (
    LIFETIME_MS,
    Authority,
    Certificate,
    certify,
    is_signed_by,
    read_certificate,
)
from pillarbox.replication.organisation.topology import Organisation
from pillarbox.replication.wire.seal import Peer
from pillarbox.store.errors import PillarboxError

RENEW_LEFT_MS: Final = LIFETIME_MS // 3
"""A new certificate is made when the last one has no more than this time left."""

CHANGE_LEFT_MS: Final = LIFETIME_MS // 6
"""A server goes over to its new certificate when the old one has no more than this time left."""

LOOK_EVERY_MS: Final = 24 * 60 * 60 * 1000


class Renewal(NamedTuple):
    """Changes of the certificates of a store: one that is new, and those that have ended."""

    database: bytes
    new: Certificate | None
    ended: tuple[bytes, ...]


def readable(ders: Iterable[bytes]) -> tuple[Certificate, ...]:
    """The certificates that can be read, of entries that may have come from anyone."""
    return tuple(_readable(ders))


def _readable(ders: Iterable[bytes]) -> Iterator[Certificate]:
    for der in ders:
        try:
            yield read_certificate(der)
        except PillarboxError:
            continue  # it is left out: nobody is known by it


def good_certificates(organisation: Organisation, database: bytes, now_ms: int) -> tuple[Certificate, ...]:
    """The certificates of a store that hold and are signed by an authority of its organisation, the first
    that ends first."""
    server = organisation.servers.get(database)
    authorities = readable(organisation.authorities)
    good = [
        each
        for each in readable(server.certificates if server else ())
        if each.database == database and is_signed_by(each, authorities, now_ms)
    ]
    return tuple(sorted(good, key=lambda each: (each.ends_ms, each.fingerprint)))


def choose_shown(certificates: Iterable[Certificate], now_ms: int) -> Certificate | None:
    """The certificate that a server shows and signs with, of those that are good: the oldest one that has
    time enough left, or else the one that ends last."""
    ordered = sorted(certificates, key=lambda each: (each.ends_ms, each.fingerprint))
    lasting = [each for each in ordered if each.ends_ms - now_ms > CHANGE_LEFT_MS]
    return next(iter(lasting or ordered[-1:]), None)


def plan_renewals(organisation: Organisation, authority: Authority, now_ms: int) -> tuple[Renewal, ...]:
    """The certificates to make now, and those to take out since they have ended.

    A store whose certificates were all signed by another authority gets one of this one too.
    """
    return tuple(_renewals(organisation, authority, now_ms))


def _renewals(organisation: Organisation, authority: Authority, now_ms: int) -> Iterator[Renewal]:
    authorities = readable(organisation.authorities)
    for database, server in sorted(organisation.servers.items()):
        if server.is_removed:
            continue
        certificates = [each for each in readable(server.certificates) if each.database == database]
        ended = tuple(each.der for each in certificates if each.ends_ms <= now_ms)
        # Certificates that an authority of the tree did not sign say nothing of whose key theirs is.
        signed = [
            each for each in certificates if is_signed_by(each, authorities, min(now_ms, each.ends_ms - 1))
        ]
        newest = max(signed, key=lambda each: (each.ends_ms, each.fingerprint), default=None)
        new = None
        if newest is not None and _is_due(newest, authority, now_ms):
            new = certify(authority, database, newest.public_key, now_ms)
        if new is not None or ended:
            yield Renewal(database, new, ended)


def _is_due(newest: Certificate, authority: Authority, now_ms: int) -> bool:
    left_ms = newest.ends_ms - now_ms
    is_last = newest.ends_ms >= authority.certificate.ends_ms  # a new one would end no later
    if not is_signed_by(newest, [authority.certificate], min(now_ms, newest.ends_ms - 1)):
        return True
    return left_ms <= RENEW_LEFT_MS and not is_last


def with_renewals(organisation: Organisation, renewals: Iterable[Renewal]) -> dict[bytes, tuple[bytes, ...]]:
    """The certificates of each store that renewals are about, as they are afterwards."""
    changed = {}
    for renewal in renewals:
        kept = [
            der for der in organisation.servers[renewal.database].certificates if der not in renewal.ended
        ]
        changed[renewal.database] = (*kept, *((renewal.new.der,) if renewal.new else ()))
    return changed


def peers_of(organisation: Organisation, now_ms: int) -> dict[bytes, Peer]:
    """The stores by the fingerprint of each certificate that is good now; those that were removed too, so
    that they are refused by name."""
    return {
        certificate.fingerprint: Peer(database, certificate.public_key)
        for database in organisation.servers
        for certificate in good_certificates(organisation, database, now_ms)
    }
