"""The direct transport against those who are not, or no longer, what they say; on real sockets."""

from __future__ import annotations

import random
import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

from arrivals import WAIT_S, RecordedArrivals
from tls_members import TREE, Organisation

from pillarbox.replication.membership.certificates import DAY_MS, LIFETIME_MS, new_authority
from pillarbox.replication.transports.direct import (
    ALPN_ENROL,
    ALPN_REPLICATION,
    VERSION,
    Credentials,
    DirectTransport,
    Door,
    Timing,
)
from pillarbox.replication.transports.transport import Member
from pillarbox.replication.wire.transport_frames import FRAME_BYTES_MAX
from pillarbox.store.errors import Refused

A, B, C = (bytes([n]) * 16 for n in (1, 2, 3))
HEAD = struct.Struct(">IB")
QUICK = Timing(handshake_s=5, retry_first_s=0.01, retry_max_s=0.05)
IMPATIENT = QUICK._replace(alive_every_s=0.1, dead_after_s=0.6)


class Listening:
    """A transport of A, or another store, which listens."""

    def __init__(
        self,
        organisation: Organisation,
        door: Door | None = None,
        timing: Timing = QUICK,
        authorities: Callable[[], Iterable[bytes]] = tuple,
        store: bytes = A,
    ) -> None:
        self.told = RecordedArrivals()
        self.refused: Queue[str] = Queue()
        self.transport = DirectTransport(
            store,
            ("127.0.0.1:0",),
            organisation.credentials(store),
            random.Random(1),
            door=door,
            authorities=authorities,
            refused=self.refused.put,
            timing=timing,
        )
        self.transport.start(self.told)
        host, _, port = self.transport.addresses[0].rpartition(":")
        self.place = (host, int(port))

    def why_refused(self) -> str:
        return self.refused.get(timeout=WAIT_S)


@pytest.fixture
def organisation(tmp_path: Path) -> Organisation:
    return Organisation(tmp_path)


@pytest.fixture
def impatient(organisation: Organisation) -> Iterator[Listening]:
    found = Listening(organisation, timing=IMPATIENT)
    yield found
    found.transport.close()


@pytest.fixture
def listening(organisation: Organisation) -> Iterator[Listening]:
    found = Listening(organisation)
    yield found
    found.transport.close()


def client(credentials: Credentials | None, alpn: str = ALPN_REPLICATION) -> ssl.SSLContext:
    """TLS of somebody who looks at no certificate of others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    if credentials is not None:
        context.load_cert_chain(credentials.certificate_file, credentials.key_file)
    return context


def dial(listening: Listening, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(listening.place, timeout=WAIT_S))


def hello(number: int, run: bytes = b"r" * 16) -> bytes:
    return HEAD.pack(25, 1) + struct.pack(">B16sQ", VERSION, run, number)


def is_closed(connection: ssl.SSLSocket) -> bool:
    """Read to the end; True when it came without any frame."""
    try:
        while data := connection.recv(1000):
            assert HEAD.unpack(data[:5])[1] != 2
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def member(listening: Listening, connection: ssl.SSLSocket, number: int = 1) -> None:
    """Say hello as a member, and wait until it is taken."""
    connection.sendall(hello(number))
    assert connection.recv(30)[4] == 1
    assert listening.told.next_link() == (B, True)


@contextmanager
def linked(listening: Listening, organisation: Organisation) -> Iterator[ssl.SSLSocket]:
    """A connection of a member that was let in."""
    context = client(organisation.credentials(B))
    listening.transport.members_changed({B: organisation.member(B)})
    with dial(listening, context) as connection:
        member(listening, connection)
        yield connection


def test_a_member_is_let_in_by_its_certificate(listening: Listening, organisation: Organisation) -> None:
    context = client(organisation.credentials(B))
    listening.transport.members_changed({B: organisation.member(B)})
    with dial(listening, context) as connection:
        assert connection.version() == "TLSv1.3"
        member(listening, connection)
        connection.sendall(HEAD.pack(5, 2) + b"frame")
        assert listening.told.next_frame() == (B, b"frame")
    assert listening.told.next_link() == (B, False)


def test_who_is_not_listed_is_refused_whatever_certificate_it_shows(
    listening: Listening, organisation: Organisation
) -> None:
    context = client(organisation.credentials(B))
    listening.transport.members_changed({C: Member(C, "c", (), frozenset())})
    with dial(listening, context) as connection:
        connection.sendall(hello(1))
        assert is_closed(connection)
    assert "of no member" in listening.why_refused()


def test_who_is_refused_is_told_the_reason(listening: Listening, organisation: Organisation) -> None:
    address = "{}:{}".format(*listening.place)
    retired = Listening(organisation, store=B)
    listening.transport.members_changed({})
    retired.transport.members_changed({A: organisation.member(A)._replace(addresses=(address,))})
    try:
        reason = retired.why_refused()
    finally:
        retired.transport.close()
    assert "it refuses this server" in reason and "is of no member" in reason
    assert reason.startswith(f"store-1 at {address}")


@pytest.mark.parametrize("said", [b"\x1b[31m\xff\n", b""])
def test_a_reason_is_shown_in_one_line_whatever_its_bytes(
    said: bytes, listening: Listening, organisation: Organisation
) -> None:
    listening.transport.members_changed({B: organisation.member(B)})
    with dial(listening, client(organisation.credentials(B))) as connection:
        connection.sendall(HEAD.pack(len(said), 6) + said)
        assert is_closed(connection)
    assert listening.why_refused().isprintable()


def test_a_member_that_is_removed_is_cut_off_and_refused(
    listening: Listening, organisation: Organisation
) -> None:
    context = client(organisation.credentials(B))
    listening.transport.members_changed({B: organisation.member(B)})
    with dial(listening, context) as connection:
        member(listening, connection)
        listening.transport.members_changed({})
        assert listening.told.next_link() == (B, False)
        assert is_closed(connection)
    with dial(listening, context) as connection:
        connection.sendall(hello(2))
        assert is_closed(connection)
    assert "of no member" in listening.why_refused()


def test_another_certificate_than_the_listed_one_is_refused(
    listening: Listening, organisation: Organisation
) -> None:
    organisation.credentials(B)
    listed = organisation.member(B)
    other = organisation.credentials(B, now_ms=organisation.now_ms - DAY_MS)
    listening.transport.members_changed({B: listed})
    with dial(listening, client(other)) as connection:
        connection.sendall(hello(1))
        assert is_closed(connection)
    assert "not one of store-2" in listening.why_refused()


@pytest.mark.parametrize("kind", ["another authority", "ended", "none"])
def test_tls_takes_only_certificates_of_the_authority_that_hold(
    kind: str, listening: Listening, organisation: Organisation
) -> None:
    if kind == "another authority":
        credentials = organisation.credentials(B, authority=new_authority(TREE, organisation.now_ms))
    else:
        credentials = organisation.credentials(B, now_ms=organisation.now_ms - LIFETIME_MS - DAY_MS)
    listening.transport.members_changed({B: organisation.member(B)})
    with dial(listening, client(None if kind == "none" else credentials)) as connection:
        assert is_closed(connection)
    assert listening.why_refused()


def test_older_tls_is_refused(listening: Listening, organisation: Organisation) -> None:
    context = client(organisation.credentials(B))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError):
        dial(listening, context)
    assert listening.why_refused()


@pytest.mark.parametrize(
    "sent",
    [
        HEAD.pack(FRAME_BYTES_MAX + 1, 2),
        HEAD.pack(0xFFFFFFFF, 2),
        HEAD.pack(0, 2),
        HEAD.pack(1, 3) + b"x",
        HEAD.pack(1, 9) + b"x",
        HEAD.pack(0, 4),
        HEAD.pack(1, 4) + b"x" + HEAD.pack(FRAME_BYTES_MAX, 5),
        hello(5),
    ],
)
def test_a_member_that_sends_no_frames_is_cut_off(
    sent: bytes, listening: Listening, organisation: Organisation
) -> None:
    with linked(listening, organisation) as connection:
        connection.sendall(sent)
        assert is_closed(connection)
    assert listening.told.next_link() == (B, False)
    assert "no frame" in listening.why_refused()


def test_a_frame_may_come_in_pieces_with_others_between_them(
    listening: Listening, organisation: Organisation
) -> None:
    with linked(listening, organisation) as connection:
        for kind, body in ((4, b"a lo"), (4, b"ng "), (2, b"fire"), (5, b"frame"), (5, b"short")):
            connection.sendall(HEAD.pack(len(body), kind) + body)
        came = [listening.told.next_frame()[1] for _ in range(3)]
    assert came == [b"fire", b"a long frame", b"short"]


def test_an_urgent_frame_goes_between_the_pieces_of_one_that_is_being_written(
    listening: Listening, organisation: Organisation
) -> None:
    context = client(organisation.credentials(B))
    listening.transport.members_changed({B: organisation.member(B)})
    long = random.Random(1).randbytes(7 << 20)  # more than lies between the two
    with dial(listening, context) as connection:
        member(listening, connection)
        assert listening.transport.give(B, long)
        kind, piece = received(connection)
        assert kind == 4
        assert listening.transport.give(B, b"fire", is_urgent=True)
        came, pieces = [], [piece]
        while kind != 5:
            kind, body = received(connection)
            (came if kind == 2 else pieces).append(body)
    assert came == [b"fire"] and b"".join(pieces) == long


def received(connection: ssl.SSLSocket) -> tuple[int, bytes]:
    """The kind and the body of what comes next."""

    def read(length: int) -> bytes:
        found = b""
        while len(found) < length:
            found += connection.recv(length - len(found))
        return found

    length, kind = HEAD.unpack(read(HEAD.size))
    return kind, read(length)


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n\r\n", HEAD.pack(25, 1) + bytes(25), HEAD.pack(1 << 31, 1)]
)
def test_a_member_that_says_no_hello_is_cut_off(
    sent: bytes, listening: Listening, organisation: Organisation
) -> None:
    context = client(organisation.credentials(B))
    listening.transport.members_changed({B: organisation.member(B)})
    with dial(listening, context) as connection:
        connection.sendall(sent)
        assert is_closed(connection)
    assert listening.why_refused()
    assert listening.told.links.empty()


def test_who_speaks_no_tls_is_refused(listening: Listening) -> None:
    with socket.create_connection(listening.place, timeout=WAIT_S) as connection:
        connection.sendall(b"EHLO example.org\r\n" * 10)
        assert connection.recv(100)[:1] in (b"", b"\x15")  # a TLS alert at most
    assert listening.why_refused()


def test_a_peer_that_falls_silent_is_given_up(impatient: Listening, organisation: Organisation) -> None:
    context = client(organisation.credentials(B))
    impatient.transport.members_changed({B: organisation.member(B)})
    with dial(impatient, context) as connection:
        member(impatient, connection)
        assert impatient.told.next_link() == (B, False)
        assert is_closed(connection)


def test_a_peer_that_says_that_it_is_alive_is_kept(impatient: Listening, organisation: Organisation) -> None:
    context = client(organisation.credentials(B))
    impatient.transport.members_changed({B: organisation.member(B)})
    with dial(impatient, context) as connection:
        member(impatient, connection)
        for _ in range(8):  # each answers one of the other end's, which come every 100 ms: longer than 600 ms
            assert HEAD.unpack(connection.recv(5)) == (0, 3)
            connection.sendall(HEAD.pack(0, 3))
        assert impatient.told.links.empty()


def test_a_peer_that_began_anew_takes_the_place_of_its_old_connection(
    listening: Listening, organisation: Organisation
) -> None:
    context = client(organisation.credentials(B))
    listening.transport.members_changed({B: organisation.member(B)})
    with dial(listening, context) as old, dial(listening, context) as new:
        member(listening, old, 7)
        new.sendall(hello(1, b"s" * 16))  # another run of the program
        assert listening.told.next_link() == (B, False)
        assert listening.told.next_link() == (B, True)
        new.sendall(HEAD.pack(1, 2) + b"n")
        assert listening.told.next_frame() == (B, b"n")


def test_of_two_programs_of_one_identity_the_first_stays_and_the_other_is_told_of(
    listening: Listening, organisation: Organisation
) -> None:
    context = client(organisation.credentials(B))
    listening.transport.members_changed({B: organisation.member(B)})

    def come(run: bytes, number: int) -> ssl.SSLSocket:
        connection = dial(listening, context)
        connection.sendall(hello(number, run))
        return connection

    with (
        come(b"first program   ", 1) as first,
        come_in_place_of(listening, first, lambda: come(b"second program  ", 1)) as second,
        come_in_place_of(listening, second, lambda: come(b"first program   ", 2)) as back,
    ):
        assert "store-2 runs twice" in listening.why_refused()
        for number in (2, 3):
            with come(b"second program  ", number) as refused:
                assert is_closed(refused)
            assert "store-2 runs twice" in listening.why_refused()
        assert listening.told.next_link() == (B, True)
        back.sendall(HEAD.pack(1, 2) + b"n")
        assert listening.told.next_frame() == (B, b"n")
        back.close()
        assert listening.told.next_link() == (B, False)
        with come(b"second program  ", 4):  # the first has ended
            assert listening.told.next_link() == (B, True)


def come_in_place_of(
    listening: Listening, before: ssl.SSLSocket, come: Callable[[], ssl.SSLSocket]
) -> ssl.SSLSocket:
    """A connection that takes the place of the one before."""
    assert before.recv(30)[4] == 1
    assert listening.told.next_link() == (B, True)
    connection = come()
    assert listening.told.next_link() == (B, False)
    return connection


def test_two_programs_of_one_identity_do_not_chase_each_other(
    listening: Listening, organisation: Organisation
) -> None:
    both = [
        DirectTransport(B, (), organisation.credentials(B), random.Random(seed), timing=QUICK)
        for seed in (1, 2)
    ]
    members = {A: organisation.member(A, *listening.transport.addresses)}
    listening.transport.members_changed({B: organisation.member(B)})
    try:
        for each in both:
            each.start(RecordedArrivals())
            each.members_changed(members)
        for _ in range(20):
            assert "store-2 runs twice" in listening.why_refused()
        assert listening.told.links.qsize() <= 5  # the first, the second, the first again
    finally:
        for each in both:
            each.close()


def test_an_older_connection_of_the_same_run_is_refused(
    listening: Listening, organisation: Organisation
) -> None:
    context = client(organisation.credentials(B))
    listening.transport.members_changed({B: organisation.member(B)})
    with dial(listening, context) as new, dial(listening, context) as old:
        member(listening, new, 7)
        old.sendall(hello(6))
        assert is_closed(old)
        new.sendall(HEAD.pack(1, 2) + b"n")
        assert listening.told.next_frame() == (B, b"n")


def test_a_renewed_certificate_is_shown_from_the_next_connection_on(
    listening: Listening, organisation: Organisation
) -> None:
    shown = []
    for now_ms in (0, organisation.now_ms - DAY_MS):
        if now_ms:
            listening.transport.credentials_changed(organisation.credentials(A, now_ms=now_ms))
        with dial(listening, client(organisation.credentials(B))) as connection:
            shown.append(connection.getpeercert(binary_form=True))
    assert shown[0] != shown[1] == organisation.certificates[A].der


def test_certificates_of_an_authority_that_came_later_are_taken_once_members_change(
    organisation: Organisation,
) -> None:
    later, known = new_authority(TREE, organisation.now_ms), []
    listening = Listening(organisation, authorities=lambda: known)
    try:
        context = client(organisation.credentials(B, authority=later))
        listening.transport.members_changed({B: organisation.member(B)})
        with dial(listening, context) as connection:
            assert is_closed(connection)
        known.append(later.certificate.der)
        listening.transport.members_changed({B: organisation.member(B)})
        with dial(listening, context) as connection:
            member(listening, connection)
    finally:
        listening.transport.close()


def test_an_address_that_is_taken_is_said(listening: Listening, organisation: Organisation) -> None:
    again = DirectTransport(
        A, listening.transport.addresses, organisation.credentials(A), random.Random(2), timing=QUICK
    )
    with pytest.raises(Refused, match=r"cannot listen at 127\.0\.0\.1"):
        again.start(RecordedArrivals())


# --- strangers ----------------------------------------------------------------------------------------------


class Echo:
    def greeting(self) -> bytes:
        return b"hello, stranger"

    def answer(self, request: bytes) -> bytes:
        return b"you said " + request


def test_a_stranger_is_answered_once_where_there_is_a_door(organisation: Organisation) -> None:
    listening = Listening(organisation, Echo())
    try:
        with dial(listening, client(None, ALPN_ENROL)) as connection:
            assert connection.recv(100) == struct.pack(">I", 15) + b"hello, stranger"
            connection.sendall(struct.pack(">I", 2) + b"me")
            assert connection.recv(100) == struct.pack(">I", 11) + b"you said me"
            assert is_closed(connection)
        with dial(listening, client(None, ALPN_ENROL)) as connection:
            connection.sendall(struct.pack(">I", 1 << 30))
            assert listening.why_refused()
        with dial(listening, client(None)) as connection:  # and it is no member by that
            connection.sendall(hello(1))
            assert is_closed(connection)
        assert "shows no certificate" in listening.why_refused()
    finally:
        listening.transport.close()


def test_without_a_door_strangers_are_refused(listening: Listening) -> None:
    with dial(listening, client(None, ALPN_ENROL)) as connection:
        assert is_closed(connection)
    assert listening.why_refused()
