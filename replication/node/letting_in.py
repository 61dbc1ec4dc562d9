"""Lets servers into the organisation, and keeps certificates new: at the server with the authority's key."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Protocol, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pillarbox.replication.core import organisation_folder
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.membership.certificates import (
    Authority,
    Certificate,
    SigningRequest,
    certify,
    read_request,
)
from pillarbox.replication.membership.enrolment import EnrolmentRequest, Welcome, refusal
from pillarbox.replication.membership.invitation import admit, living
from pillarbox.replication.membership.renewal import plan_renewals, readable, with_renewals
from pillarbox.replication.node.member_files import MemberFiles
from pillarbox.replication.node.membership import choose_certificate
from pillarbox.replication.organisation.topology import Organisation, Server
from pillarbox.store.clock import Clock
from pillarbox.store.errors import AccessDenied, AlreadyExists, NotFound, PillarboxError, Refused
from pillarbox.store.names import check_held_name, name_key

R = TypeVar("R")
ACTOR_TEXT = "membership"


class Performs(Protocol):
    """Makes changes where the store's replicator is."""

    def perform(self, change: Callable[[Replica], R]) -> R: ...


class EnrolmentDoor:
    """Implements `Door` of the direct transport: lets those in who have a token."""

    def __init__(self, files: MemberFiles, performs: Callable[[], Performs], clock: Clock) -> None:
        self._files = files
        self._performs = performs
        self._clock = clock
        self._one_at_a_time = threading.Lock()

    def greeting(self) -> bytes:
        """The certificate of the authority."""
        authority = self._files.authority()
        return authority.certificate.der if authority else b""

    def answer(self, request: bytes) -> bytes:
        """A welcome, or why there is none."""
        try:
            with self._one_at_a_time:
                return self._welcome(EnrolmentRequest.decode(request)).encode()
        except PillarboxError as error:
            return refusal(error)

    def _welcome(self, asked: EnrolmentRequest) -> Welcome:
        now_ms = self._clock.now_ms()
        authority = require_authority(self._files)
        request = read_request(asked.signing_request)
        invitations = self._files.invitations()
        used = admit(invitations, asked.secret, request, key_digest(request), now_ms)
        if request.tree != authority.certificate.tree:
            raise AccessDenied("the request is for another tree", hint="make another token: `node invite`")
        # Bound to the key first: a token that was used by half lets nobody else in.
        others = [each for each in invitations if each.digest != used.digest]
        self._files.keep_invitations(living([*others, used], now_ms))

        def enter(replica: Replica) -> Welcome:
            _refuse_member_with_another_key(replica, request)
            return let_in(replica, authority, request, used.name, used.site, asked.addresses, now_ms)

        return self._performs().perform(enter)


def _refuse_member_with_another_key(replica: Replica, request: SigningRequest) -> None:
    """Let a token make nobody a member under the name of another: one that is there shows its own key."""
    present = organisation_folder.reading(replica).organisation.servers.get(request.database)
    certificates = readable(present.certificates) if present else ()
    if present is not None and not any(each.has_key(request.public_key) for each in certificates):
        raise AccessDenied(
            "this store is a member already, with another key",
            hint="for another certificate: `pillarbox node request`, and `node approve`",
        )


def let_in(
    replica: Replica,
    authority: Authority,
    request: SigningRequest,
    name: str,
    site: str,
    addresses: tuple[str, ...],
    now_ms: int,
) -> Welcome:
    """Make the store of a request a member, or give a member another certificate.

    Raises Refused for one that was removed, AlreadyExists for a name that another server has, NotFound for a
    site that is not there.
    """
    organisation = organisation_folder.reading(replica).organisation
    present = organisation.servers.get(request.database)
    if present is not None and present.is_removed:
        raise Refused("this store was removed, for ever", hint="join with a new public folder store")
    if present is None:
        check_free(organisation, name, site)
        present = Server(request.database, name, site, 0)
    certificate = certify(authority, request.database, request.public_key, now_ms)
    server = present._replace(
        addresses=addresses or present.addresses, certificates=(*present.certificates, certificate.der)
    )
    after = replace(organisation, servers={**organisation.servers, request.database: server})
    organisation_folder.apply(replica, after, ACTOR_TEXT)
    return Welcome(certificate.der, organisation_folder.entries(replica))


def check_free(organisation: Organisation, name: str, site: str) -> None:
    """Refuse a name that another server has, and a site that is not there."""
    check_held_name(name)
    if any(
        name_key(each.name) == name_key(name) for each in organisation.servers.values() if not each.is_removed
    ):
        raise AlreadyExists(f"there is a server {name} already", hint="choose another name")
    if site not in organisation.sites:
        raise NotFound(
            f"there is no site {site!r}",
            hint=f"the sites: {', '.join(organisation.sites)}; `pillarbox org apply` makes more",
        )


def require_authority(files: MemberFiles) -> Authority:
    """The authority, where its key is. Raises Refused elsewhere."""
    authority = files.authority()
    if authority is None:
        raise Refused(
            "the key of the organisation's authority is not at this server",
            hint="`pillarbox node list` says where it is; if it is lost: docs/nodes.md, A lost authority",
        )
    return authority


def key_digest(request: SigningRequest) -> bytes:
    """SHA-256 of the public key in a request."""
    return sha256(request.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def renew(replica: Replica, authority: Authority, now_ms: int) -> int:
    """Make the certificates anew that are due, and take out those that have ended; how many are new.

    Nothing where another server has the authority's key by what the organisation says.
    """
    organisation = organisation_folder.reading(replica).organisation
    if organisation.authority_holder != replica.me.database:
        return 0
    renewals = plan_renewals(organisation, authority, now_ms)
    if renewals:
        changed = with_renewals(organisation, renewals)
        servers = {
            database: server._replace(certificates=changed.get(database, server.certificates))
            for database, server in organisation.servers.items()
        }
        organisation_folder.apply(replica, replace(organisation, servers=servers), ACTOR_TEXT)
    return sum(renewal.new is not None for renewal in renewals)


def keep_new(performs: Performs, database: bytes, files: MemberFiles, now_ms: int) -> bool:
    """Make certificates anew where this server signs them, let the authority's key go where another one does,
    and keep this server's own new certificate; True when it is to show another one."""
    authority, key = files.authority(), files.key()

    def look(replica: Replica) -> Organisation:
        if authority is not None:
            renew(replica, authority, now_ms)
        return organisation_folder.reading(replica).organisation

    organisation = performs.perform(look)
    if authority is not None and organisation.authority_holder not in (b"", database):
        files.drop_authority()
    if key is None:
        return False
    kept = files.certificate()
    shown = choose_certificate(organisation, database, key, kept, now_ms)
    return shown is not None and (kept is None or kept.fingerprint != shown.fingerprint)


def hand_over(replica: Replica, authority: Certificate) -> None:
    """Say that this server has the key of an authority from now on."""
    organisation = organisation_folder.reading(replica).organisation
    authorities = tuple(dict.fromkeys((*organisation.authorities, authority.der)))
    after = replace(organisation, authorities=authorities, authority_holder=replica.me.database)
    organisation_folder.apply(replica, after, ACTOR_TEXT)
