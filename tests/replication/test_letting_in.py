"""A server keeps certificates new, and the authority's key where it belongs; links use the transport that the
organisation says."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

from arrivals import RecordedArrivals

from pillarbox.replication.core import organisation_folder
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.membership.certificates import (
    DAY_MS,
    LIFETIME_MS,
    Key,
    certify,
    new_authority,
    new_key,
    signing_request,
)
from pillarbox.replication.membership.enrolment import EnrolmentRequest, Welcome
from pillarbox.replication.membership.invitation import invite
from pillarbox.replication.membership.renewal import CHANGE_LEFT_MS, RENEW_LEFT_MS
from pillarbox.replication.node.fence import FenceFile
from pillarbox.replication.node.letting_in import EnrolmentDoor, keep_new
from pillarbox.replication.node.member_files import MemberFiles, NodeSettings
from pillarbox.replication.node.membership import membership_of
from pillarbox.replication.node.stored_organisation import replicator_at_rest
from pillarbox.replication.organisation.entries import read_organisation
from pillarbox.replication.organisation.topology import Organisation, Server, TransportName
from pillarbox.replication.transports.joined import JoinedTransports
from pillarbox.replication.transports.memory import MemoryNetwork
from pillarbox.replication.transports.nats_settings import NatsSettings
from pillarbox.replication.transports.transport import Member
from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import AccessDenied, InvalidSetting, Refused, UnsupportedVersion
from pillarbox.store.upkeep.joining import join

R = TypeVar("R")
TREE = b"t" * 16
A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
ANNA = Actor.user("anna")


class SigningServer:
    """A store of a server with the authority's key, in an organisation with another one."""

    def __init__(self, place: Path) -> None:
        self.clock = VirtualClock(1_800_000_000_000)
        self.database = Database(
            place / "store",
            A,
            "store",
            DatabaseKind.PUBLIC_FOLDER_STORE,
            clock=self.clock,
            rng=random.Random(1),
        )
        self.database.create()
        self.database.mount()
        join(self.database, ANNA, TREE)
        self.fence = FenceFile(place / "fence", b"m" * 16)
        self.files = MemberFiles(place)
        authority, key, now_ms = new_authority(TREE, self.now_ms), new_key(), self.now_ms
        self.files.keep_authority(authority)
        self.files.keep_key(key)
        mine = certify(authority, A, key.public_key(), now_ms)
        theirs = certify(authority, B, new_key().public_key(), now_ms)
        self.files.keep_certificate(mine)
        first = Organisation(
            {
                A: Server(A, "a", "berlin", 0, certificates=(mine.der,)),
                B: Server(B, "b", "berlin", 0, certificates=(theirs.der,)),
            },
            sites=("berlin",),
            authorities=(authority.certificate.der,),
            authority_holder=A,
        )
        self.apply(lambda organisation: first)

    @property
    def now_ms(self) -> int:
        return self.clock.now_ms()

    def perform(self, change: Callable[[Replica], R]) -> R:
        return replicator_at_rest(self.database, self.fence).perform(change)

    def apply(self, change: Callable[[Organisation], Organisation]) -> None:
        self.perform(
            lambda replica: organisation_folder.apply(
                replica, change(organisation_folder.reading(replica).organisation), "anna"
            )
        )

    def organisation(self) -> Organisation:
        return self.perform(lambda replica: organisation_folder.reading(replica).organisation)

    def keep_new(self) -> bool:
        return keep_new(self, A, self.files, self.now_ms)


@pytest.fixture
def member(tmp_path: Path) -> SigningServer:
    return SigningServer(tmp_path)


def test_nothing_changes_while_certificates_last(member: SigningServer) -> None:
    before = member.organisation()
    assert not member.keep_new()
    assert member.organisation() == before


def test_certificates_are_made_anew_and_shown_in_time(member: SigningServer) -> None:
    first = member.files.certificate()
    assert first
    member.clock.advance_ms(LIFETIME_MS - RENEW_LEFT_MS)
    assert not member.keep_new()  # there is a new one, which others have yet to hear of
    assert [len(server.certificates) for server in member.organisation().servers.values()] == [2, 2]
    member.clock.advance_ms(RENEW_LEFT_MS - CHANGE_LEFT_MS)
    assert member.keep_new()
    membership, _ = membership_of(A, member.files, member.organisation(), member.clock)
    shown = member.files.certificate()
    assert shown and shown != first
    assert membership.signer(member.organisation()).fingerprint == shown.fingerprint
    assert not member.keep_new()
    member.clock.advance_ms(CHANGE_LEFT_MS)
    member.keep_new()
    assert [len(server.certificates) for server in member.organisation().servers.values()] == [1, 1]


def test_who_holds_no_authority_signs_nothing_and_lets_its_key_go(member: SigningServer) -> None:
    member.apply(lambda organisation: replace(organisation, authority_holder=B))
    member.clock.advance_ms(LIFETIME_MS - RENEW_LEFT_MS)
    before = member.organisation()
    member.keep_new()
    assert member.organisation() == before
    assert member.files.authority() is None
    assert member.files.key() is not None


def test_without_a_certificate_that_holds_a_server_takes_no_part(member: SigningServer) -> None:
    organisation = member.organisation()
    member.clock.advance_ms(LIFETIME_MS + DAY_MS)
    with pytest.raises(Refused, match="no certificate that holds"):
        membership_of(A, member.files, organisation, member.clock)


def test_members_are_the_others_with_where_and_how_they_are_reached(member: SigningServer) -> None:
    member.apply(
        lambda organisation: replace(
            organisation,
            servers={
                **organisation.servers,
                B: organisation.servers[B]._replace(addresses=("b:1",)),
                C: Server(C, "c", "berlin", 0),
            },
            transports={"berlin": TransportName.SPOOL},
        )
    )
    member.apply(
        lambda organisation: replace(
            organisation,
            servers={**organisation.servers, C: organisation.servers[C]._replace(is_removed=True)},
        )
    )
    membership, _ = membership_of(A, member.files, member.organisation(), member.clock)
    [found] = membership.members(member.organisation()).values()
    assert (found.database, found.addresses, found.transport) == (B, ("b:1",), TransportName.SPOOL)
    assert len(found.fingerprints) == 1 and found.sites == ("berlin", "berlin")


# --- who has a token ----------------------------------------------------------------------------------------


def asked(member: SigningServer, database: bytes, key: Key, secret: bytes) -> Welcome:
    door = EnrolmentDoor(member.files, lambda: member, member.clock)
    assert door.greeting() == member.organisation().authorities[0]
    request = EnrolmentRequest(secret, signing_request(key, TREE, database), ("c:1",))
    return Welcome.decode(door.answer(request.encode()))


def invited(member: SigningServer, name: str = "c") -> bytes:
    authority = member.files.authority()
    assert authority
    fingerprint = authority.certificate.fingerprint
    token, invitation = invite(
        random.Random(3).randbytes, TREE, fingerprint, ("a:1",), name, "berlin", member.now_ms
    )
    member.files.keep_invitations([invitation])
    return token.secret


def test_a_token_makes_a_server_a_member_once(member: SigningServer) -> None:
    secret, key = invited(member), new_key()
    welcome = asked(member, C, key, secret)
    again = asked(member, C, key, secret)
    found = read_organisation(again.entries).organisation.servers[C]
    assert (found.name, found.site, found.addresses) == ("c", "berlin", ("c:1",))
    assert {welcome.certificate, again.certificate} == set(found.certificates)
    with pytest.raises(AccessDenied, match="was used"):
        asked(member, C, new_key(), secret)


def test_no_token_gives_the_name_of_a_member_to_another_key(member: SigningServer) -> None:
    before = member.organisation()
    for database in (A, B):
        with pytest.raises(AccessDenied, match="member already, with another key"):
            asked(member, database, new_key(), invited(member))
    assert member.organisation() == before


def test_a_token_lets_no_removed_server_back_and_no_second_of_a_name_in(member: SigningServer) -> None:
    with pytest.raises(AccessDenied, match="there is a server b already"):
        asked(member, C, new_key(), invited(member, "b"))
    key = new_key()
    asked(member, C, key, secret := invited(member))
    member.apply(
        lambda organisation: replace(
            organisation,
            servers={**organisation.servers, C: organisation.servers[C]._replace(is_removed=True)},
        )
    )
    with pytest.raises(AccessDenied, match="was removed, for ever"):
        asked(member, C, key, secret)


# --- files --------------------------------------------------------------------------------------------------


def test_settings_are_kept_with_their_comments(tmp_path: Path) -> None:
    files = MemberFiles(tmp_path)
    assert files.settings() == NodeSettings()
    files.keep_settings(NodeSettings(("0.0.0.0:7337",)))
    path = files.directory / "node.toml"
    path.write_text(path.read_text() + "# ours\n")
    files.keep_settings(NodeSettings(("[::]:7337",), "spool", 5))
    assert files.settings() == NodeSettings(("[::]:7337",), "spool", 5)
    files.keep_settings(NodeSettings())
    assert files.settings() == NodeSettings()  # nothing said is not the same as none
    nats = NatsSettings(("n1:4222", "n2:4222"), "pillarbox", "password", ca_file="ca.pem")
    files.keep_settings(NodeSettings((), nats=nats))
    assert files.settings() == NodeSettings((), nats=nats) and nats.wants_tls
    assert "# ours" in path.read_text()


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("version = 2", UnsupportedVersion),
        ("version = 1\nlisten = ['nowhere']", InvalidSetting),
        ("version = 1\nlisten = '0.0.0.0:1'", InvalidSetting),
        ("version = 1\nspool = 5", InvalidSetting),
        ("version = 1\nspool_bytes_max = 0", InvalidSetting),
        ("version = 1\nnats = 5", InvalidSetting),
        ("version = 1\n[nats]", InvalidSetting),
        ("version = 1\n[nats]\nservers = ['nowhere']", InvalidSetting),
        ("version = 1\n[nats]\nservers = ['n:4222']\nuser = 'u'", InvalidSetting),
        (
            "version = 1\n[nats]\nservers = ['n:4222']\ncredentials_file = 'c'\nnkey_file = 'n'",
            InvalidSetting,
        ),
        ("version = 1\n[nats]\nservers = ['n:4222']\nstream_bytes_max = 0", InvalidSetting),
        ("version = 1\n[nats]\nservers = ['n:4222']\ntls = 1", InvalidSetting),
        ("version = 1\n[nats]\nservers = ['n:4222']\nca_file = 1", InvalidSetting),
        ("version = 1\n[nats]\nservers = ['n:4222']\nother = 1", InvalidSetting),
        ("version = 1\nother = 5", InvalidSetting),
        ("version = ", InvalidSetting),
    ],
)
def test_settings_that_are_wrong_are_refused(line: str, error: type[Exception], tmp_path: Path) -> None:
    files = MemberFiles(tmp_path)
    files.keep_settings(NodeSettings())
    (files.directory / "node.toml").write_text(f'format = "pillarbox-node"\n{line}\n')
    with pytest.raises(error):
        files.settings()


def test_what_was_cut_off_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    files, key = MemberFiles(tmp_path), new_key()
    files.keep_key(key)
    files.key_file.with_name("key.pem.new").write_bytes(b"half a key")
    kept = files.key()
    assert kept and kept.private_numbers() == key.private_numbers()
    files.keep_key(key)
    assert [path.name for path in files.directory.iterdir()] == ["key.pem"]
    assert files.key_file.stat().st_mode & 0o777 == 0o600


# --- several transports -------------------------------------------------------------------------------------


def test_each_link_uses_the_transport_that_the_organisation_says() -> None:
    direct, spool = MemoryNetwork(), MemoryNetwork()
    told = {each: RecordedArrivals() for each in (A, B, C)}
    refused: list[str] = []
    mine = JoinedTransports(
        {TransportName.DIRECT: direct.transport(A), TransportName.SPOOL: spool.transport(A)}, refused.append
    )
    others = {B: direct.transport(B), C: spool.transport(C)}
    members = {
        B: Member(B, "b", transport=TransportName.DIRECT),
        C: Member(C, "c", transport=TransportName.SPOOL),
    }
    try:
        mine.start(told[A])
        for each, transport in others.items():
            transport.start(told[each])
            transport.members_changed({A: Member(A, "a")})
        mine.members_changed(members)
        assert {told[A].next_link(), told[A].next_link()} == {(B, True), (C, True)}
        assert mine.give(B, b"to b") and mine.give(C, b"to c")
        assert (told[B].next_frame(), told[C].next_frame()) == ((A, b"to b"), (A, b"to c"))
        mine.members_changed({B: members[B], C: members[C]._replace(transport=TransportName.DIRECT)})
        assert told[A].next_link() == (C, False)
        assert not mine.give(C, b"x")
        assert mine.give(B, b"still")
        without = {B: members[B]._replace(transport=TransportName.NATS)}
        mine.members_changed(without)
        mine.members_changed(without)
        assert told[A].next_link() == (B, False) and not mine.give(B, b"x")
        assert refused == ["the link to b is to use nats, which node.toml here does not name"]
    finally:
        for transport in (mine, *others.values()):
            transport.close()


def test_what_comes_by_the_transport_of_before_is_taken() -> None:
    """One end of a link was given another transport; the other one has not heard of it, and has both."""
    direct, spool = MemoryNetwork(), MemoryNetwork()
    told = {each: RecordedArrivals() for each in (A, B)}
    joined = {
        each: JoinedTransports(
            {TransportName.DIRECT: direct.transport(each), TransportName.SPOOL: spool.transport(each)}
        )
        for each in (A, B)
    }
    other = {A: B, B: A}
    try:
        for each, transport in joined.items():
            transport.start(told[each])
        for each, transport in joined.items():
            transport.members_changed({other[each]: Member(other[each], "other")})
        assert (told[A].next_link(), told[B].next_link()) == ((B, True), (A, True))
        joined[A].members_changed({B: Member(B, "b", transport=TransportName.SPOOL)})
        assert (told[A].next_link(), told[A].next_link()) == ((B, False), (B, True))
        assert joined[A].give(B, b"by the spool") and joined[B].give(A, b"as before")
        assert (told[B].next_frame(), told[A].next_frame()) == ((A, b"by the spool"), (B, b"as before"))
        direct.cut(A, B)
        assert told[B].next_link() == (A, False)
        assert joined[A].give(B, b"all the same") and told[A].links.empty()
    finally:
        for transport in joined.values():
            transport.close()
