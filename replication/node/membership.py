"""By what a store and the others of its tree know each other (`node.Membership`)."""

from __future__ import annotations

from collections.abc import Mapping

from pillarbox.replication.membership.certificates import Certificate, Key
from pillarbox.replication.membership.renewal import choose_shown, good_certificates, peers_of, readable
from pillarbox.replication.node.member_files import MemberFiles
from pillarbox.replication.organisation.entries import fingerprint_of
from pillarbox.replication.organisation.topology import Organisation
from pillarbox.replication.transports.direct import Credentials
from pillarbox.replication.transports.transport import Member, Members
from pillarbox.replication.wire.seal import Peer, Signer
from pillarbox.store.clock import Clock
from pillarbox.store.errors import Refused

JOIN_HINT = "make an organisation (`pillarbox org init`), or join one (`pillarbox node join`)"


class StoreMembership:
    """The membership of one store, with the certificate that it shows from now on until it is made anew."""

    def __init__(self, database: bytes, key: Key, shown: Certificate, clock: Clock) -> None:
        self._database = database
        self._signer = Signer(key, shown.fingerprint)
        self._clock = clock

    def signer(self, organisation: Organisation) -> Signer:
        """The key and certificate with which this store signs."""
        return self._signer

    def peers(self, organisation: Organisation) -> Mapping[bytes, Peer]:
        """All stores by certificate fingerprint, also those that were removed."""
        return peers_of(organisation, self._clock.now_ms())

    def members(self, organisation: Organisation) -> Members:
        """The stores that this one may be linked to."""
        if self._database not in organisation.servers:
            return {}
        return {
            other: Member(
                other,
                organisation.servers[other].name,
                organisation.servers[other].addresses,
                frozenset(map(fingerprint_of, organisation.servers[other].certificates)),
                organisation.transport_between(self._database, other),
                (organisation.servers[self._database].site, organisation.servers[other].site),
            )
            for other in organisation.others(self._database)
        }


def choose_certificate(
    organisation: Organisation, database: bytes, key: Key, kept: Certificate | None, now_ms: int
) -> Certificate | None:
    """The certificate that a store shows: of those that the organisation lists for its key, or else the one
    that it was given when it joined. None when it has none that holds."""
    good = [
        each for each in good_certificates(organisation, database, now_ms) if each.has_key(key.public_key())
    ]
    shown = choose_shown(good, now_ms)
    if shown is None and kept is not None and kept.holds_at(now_ms) and kept.has_key(key.public_key()):
        return kept
    return shown


def membership_of(
    database: bytes, files: MemberFiles, organisation: Organisation, clock: Clock
) -> tuple[StoreMembership, Credentials]:
    """The membership of a store by the files of its server, and what its connections show.

    Raises Refused where the server has no key, or no certificate that holds.
    """
    key = files.key()
    if key is None:
        raise Refused("the server has no key by which others know it", hint=JOIN_HINT)
    kept = files.certificate()
    shown = choose_certificate(organisation, database, key, kept, clock.now_ms())
    if shown is None:
        raise Refused(
            "the server has no certificate that holds",
            hint="ask for one: `pillarbox node request`; docs/nodes.md, Certificates",
        )
    if kept is None or kept.fingerprint != shown.fingerprint:
        files.keep_certificate(shown)
    authorities = tuple(each.der for each in readable(organisation.authorities))
    credentials = Credentials(files.certificate_file, files.key_file, authorities)
    return StoreMembership(database, key, shown, clock), credentials
