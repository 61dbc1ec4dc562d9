"""The NATS transport: servers that are killed, hang, are full or want a login, and messages that are none."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

pytest.importorskip("nats", reason="nats-py (the extra `nats`) is not installed")

from arrivals import WAIT_S, RecordedArrivals
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError
from nats_server import NatsServer, require_nats
from server_certificates import ServerAuthority

from pillarbox.replication.transports.nats import NatsTransport, Timing
from pillarbox.replication.transports.nats_messages import digest_of
from pillarbox.replication.transports.nats_settings import NatsSettings
from pillarbox.replication.transports.nats_streams import Names
from pillarbox.replication.transports.transport import Member
from pillarbox.store.ids import guid_text

A, B, C, TREE = (bytes([n]) * 16 for n in (1, 2, 3, 9))
SITES = {A: "berlin", B: "paris", C: "paris"}
NAMES = Names(TREE)
TIMING = Timing(
    connect_s=2,
    retry_first_s=0.02,
    retry_max_s=0.1,
    ping_every_s=1,
    full_s=0.05,
    ack_wait_s=1,
    stranger_s=0.02,
)


class Linked:
    """A store's transport, with what it told."""

    def __init__(self, database: bytes, server: NatsServer, place: Path, timing: Timing, **of: Any) -> None:
        self.database = database
        self.told = RecordedArrivals()
        self.refused: Queue[str] = Queue()
        self.transport = NatsTransport(
            database,
            TREE,
            NatsSettings((server.address,), **of),
            random.Random(database),
            directory=str(place),
            refused=self.refused.put,
            timing=timing,
        )

    def set_members(self, *others: bytes, sites: dict[bytes, str] = SITES) -> None:
        self.transport.members_changed(
            {
                each: Member(each, f"store-{each[0]}", sites=(sites[self.database], sites[each]))
                for each in others
            }
        )

    def give_all(self, to: bytes, *frames: bytes) -> None:
        for frame in frames:
            assert self.transport.give(to, frame)

    def next_frames(self, count: int) -> set[bytes]:
        return {self.told.next_frame()[1] for _ in range(count)}


class Place:
    def __init__(self, place: Path, stack: ExitStack) -> None:
        self._place, self._stack = place, stack
        self.server = NatsServer(place / "nats")
        stack.callback(self.server.kill)

    def add(self, database: bytes, *others: bytes, timing: Timing = TIMING, **of: Any) -> Linked:
        made = Linked(database, self.server, self._place, timing, **of)
        made.transport.start(made.told)
        made.set_members(*others)
        self._stack.callback(made.transport.close)
        self._stack.callback(made.told.gate.set)
        return made

    def linked(self, database: bytes, *others: bytes, **of: Any) -> Linked:
        made = self.add(database, *others, **of)
        for _ in others:
            assert made.told.next_link()[1]
        return made

    def asked(self, work: Callable[[JetStreamContext], Awaitable[Any]]) -> Any:
        """Ask the server something, beside the transports."""

        async def connected() -> Any:
            client = Client()
            await client.connect(f"nats://{self.server.address}")
            try:
                return await work(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(connected())

    def published(self, subject: str, payload: bytes, message_id: str = "", digest: str = "") -> None:
        headers = {"Pillarbox-Digest": digest or digest_of(payload)}
        if message_id:
            headers["Nats-Msg-Id"] = message_id
        self.asked(lambda jetstream: jetstream.publish(subject, payload, headers=headers))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    require_nats()
    with ExitStack() as stack:
        yield Place(tmp_path, stack)


def until(what: Callable[[], bool]) -> None:
    """Wait for something that the transport's threads do."""
    done = threading.Event()
    for _ in range(WAIT_S * 100):
        if what():
            return
        done.wait(0.01)
    pytest.fail("it did not come")


# --- servers that go away -----------------------------------------------------------------------------------


def test_a_server_that_comes_late_is_waited_for(place: Place) -> None:
    a, b = place.add(A, B), place.add(B, A)
    assert "cannot be used" in a.refused.get(timeout=WAIT_S)
    place.server.start()
    assert a.told.next_link() == (B, True) and b.told.next_link() == (A, True)
    a.give_all(B, b"x")
    assert b.told.next_frame() == (A, b"x")
    assert a.refused.empty(), "told once, however often it was tried"


def test_nothing_that_was_taken_is_lost_when_the_server_is_killed_again_and_again(place: Place) -> None:
    place.server.start()
    a, b = place.linked(A, B), place.linked(B, A)
    given: list[bytes] = []
    for _ in range(4):
        for _ in range(50):
            frame = b"%d-" % len(given) + bytes(1000)
            if a.transport.give(B, frame):
                given.append(frame)
        place.server.kill()
        assert a.told.next_link() == (B, False)
        assert not a.transport.give(B, b"nobody is there")
        place.server.start()
        assert a.told.next_link() == (B, True)
    came: set[bytes] = set()
    while len(came) < len(given):
        came.add(b.told.next_frame()[1])
    assert came == {*given}


def test_a_frame_whose_confirmation_is_lost_comes_once_and_in_its_order(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.server.start()
    a, b = place.linked(A, B), place.linked(B, A)
    frames = [b"%d" % n for n in range(12)]
    publish, lost = JetStreamContext.publish, {b"3", b"7"}

    async def published(self: JetStreamContext, subject: str, payload: bytes, **of: Any) -> Any:
        told = await publish(self, subject, payload, **of)
        if payload in lost:
            lost.remove(payload)
            raise TimeoutError("no confirmation came")
        return told

    monkeypatch.setattr(JetStreamContext, "publish", published)
    a.give_all(B, *frames)
    assert a.told.next_link() == (B, False) and a.told.next_link() == (B, True)
    a.give_all(B, b"last")
    assert [b.told.next_frame()[1] for _ in range(13)] == [*frames, b"last"]
    assert not lost


def test_a_frame_that_was_refused_as_the_stream_was_full_comes_behind_those_that_were_taken(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.server.start()
    a, b = place.linked(A, B), place.linked(B, A)
    publish, refused, all_given = JetStreamContext.publish, {b"3"}, threading.Event()

    async def published(self: JetStreamContext, subject: str, payload: bytes, **of: Any) -> Any:
        await asyncio.to_thread(all_given.wait, WAIT_S)  # so that those behind the first go at once
        if payload in refused:
            refused.remove(payload)
            raise APIError(code=503, err_code=10077, description="maximum messages per subject exceeded")
        return await publish(self, subject, payload, **of)

    monkeypatch.setattr(JetStreamContext, "publish", published)
    a.give_all(B, *(b"%d" % n for n in range(6)))
    all_given.set()
    came = [b.told.next_frame()[1] for _ in range(6)]
    assert came.index(b"3") > came.index(b"2") and sorted(came) == [b"%d" % n for n in range(6)]
    a.give_all(B, b"last")
    assert b.told.next_frame()[1] == b"last", "none came twice"


def test_what_waits_for_a_store_that_is_away_outlives_the_server(place: Place) -> None:
    place.server.start()
    a = place.linked(A, B)
    a.give_all(B, b"one", b"two")
    until(lambda: waiting(place, "paris") == 2)
    a.transport.close()
    place.server.kill()
    place.server.start()
    assert place.linked(B, A).next_frames(2) == {b"one", b"two"}


def test_what_is_settled_while_the_server_is_away_comes_no_second_time(place: Place) -> None:
    place.server.start()
    a, b = place.linked(A, B), place.linked(B, A)
    b.told.settles = False
    a.give_all(B, b"one", b"two")
    assert b.next_frames(2) == {b"one", b"two"}
    place.server.kill()
    assert b.told.next_link() == (A, False)
    for settled in b.told.unsettled:
        settled()
    place.server.start()
    assert b.told.next_link() == (A, True)
    until(lambda: waiting(place, "paris") == 0)
    assert b.told.frames.empty()


def test_what_is_not_settled_for_long_comes_no_second_time_while_its_store_goes_on(place: Place) -> None:
    place.server.start()
    timing = TIMING._replace(ack_wait_s=0.3)
    a, b = place.linked(A, B), place.linked(B, A, timing=timing)
    b.told.settles = False
    a.give_all(B, b"one")
    assert b.next_frames(1) == {b"one"}
    threading.Event().wait(1)
    delivered = place.asked(
        lambda jetstream: jetstream.consumer_info(NAMES.stream("paris"), guid_text(B))
    ).delivered
    assert delivered.consumer_seq == 1
    assert b.told.frames.empty()


def test_what_is_never_settled_is_given_up(place: Place) -> None:
    place.server.start()
    a, b = place.linked(A, B), place.linked(B, A, timing=TIMING._replace(ack_wait_s=0.1, unsettled_s=0.2))
    b.told.settles = False
    a.give_all(B, b"one")
    assert b.next_frames(1) == {b"one"}
    until(lambda: waiting(place, "paris") == 0)


@pytest.mark.slow
def test_a_server_that_hangs_takes_the_links_down_until_it_answers(place: Place) -> None:
    place.server.start()
    a, b = place.linked(A, B), place.linked(B, A)
    place.server.hang()
    a.give_all(B, b"one")
    assert a.told.next_link() == (B, False) and b.told.next_link() == (A, False)
    place.server.go_on()
    assert a.told.next_link() == (B, True)
    assert b.next_frames(1) == {b"one"}


def test_closing_takes_no_longer_for_a_server_that_is_away(place: Place) -> None:
    place.server.start()
    a = place.linked(A, B)
    place.server.kill()
    assert a.told.next_link() == (B, False)
    ended = threading.Thread(target=a.transport.close)
    ended.start()
    ended.join(WAIT_S / 4)
    assert not ended.is_alive()


def waiting(place: Place, site: str) -> int:
    count: int = place.asked(lambda jetstream: jetstream.stream_info(NAMES.stream(site))).state.messages
    return count


# --- streams ------------------------------------------------------------------------------------------------


def test_each_site_has_a_stream_that_is_bounded_and_loses_nothing(place: Place) -> None:
    place.server.start()
    place.linked(A, B, stream_bytes_max=5_000_000)
    for site in ("berlin", "paris"):
        config = place.asked(lambda jetstream, site=site: jetstream.stream_info(NAMES.stream(site))).config
        assert (config.retention, config.discard, config.max_bytes) == ("workqueue", "new", 5_000_000)
        assert config.discard_new_per_subject and config.storage == "file"


def test_names_of_streams_keep_sites_apart() -> None:
    sites = ["a", "A", "a b", "a_20b", "a.b", "ä", "ae", "_", "__"]
    assert len({NAMES.stream(site) for site in sites}) == len(sites)
    assert NAMES.stream("a b").endswith("-a_20b") and NAMES.stream("ä").endswith("-_c3_a4")


def test_a_stream_that_is_full_stops_its_senders_until_there_is_room(place: Place) -> None:
    place.server.start()
    a = place.linked(A, B, stream_bytes_max=300_000)
    frames = [bytes([n]) * 100_000 for n in range(6)]
    a.give_all(B, *frames)
    assert "at its bound" in a.refused.get(timeout=WAIT_S)
    b = place.linked(B, A)
    assert b.next_frames(6) == {*frames}
    assert a.told.links.empty() and b.told.frames.empty()


def test_a_receiver_that_is_slower_than_its_sender_is_no_fault(place: Place) -> None:
    place.server.start()
    timing = TIMING._replace(full_s=60)  # a test that waits for it fails
    a, b = place.linked(A, B, timing=timing), place.linked(B, A)
    frames = {b"%d" % n for n in range(1500)}
    a.give_all(B, *frames)  # six times what may wait
    assert b.next_frames(len(frames)) == frames
    assert a.refused.empty() and a.told.links.empty()


def test_a_stream_that_is_deleted_is_made_again(place: Place) -> None:
    place.server.start()
    # A server of 2.9 that makes a stream anew while it removes the files of the old one removes those too.
    timing = TIMING._replace(retry_first_s=0.3, retry_max_s=0.6)
    a, b = place.linked(A, B, timing=timing), place.linked(B, A, timing=timing)
    place.asked(lambda jetstream: jetstream.delete_stream(NAMES.stream("paris")))
    a.give_all(B, b"one")
    assert b.next_frames(1) == {b"one"}


def test_a_consumer_that_is_deleted_is_made_again(place: Place) -> None:
    place.server.start()
    a, b = place.linked(A, B), place.linked(B, A)
    a.give_all(B, b"zero")
    assert b.next_frames(1) == {b"zero"}
    until(lambda: waiting(place, "paris") == 0)
    place.asked(lambda jetstream: jetstream.delete_consumer(NAMES.stream("paris"), guid_text(B)))
    a.give_all(B, b"one")
    assert b.next_frames(1) == {b"one"}


def test_a_stream_of_another_kind_is_refused_by_name_until_it_is_gone(place: Place) -> None:
    place.server.start()
    name = NAMES.stream("paris")
    place.asked(lambda jetstream: jetstream.add_stream(name=name, subjects=[NAMES.subjects("paris")]))
    a = place.add(A, B)
    assert name in a.refused.get(timeout=WAIT_S)
    place.asked(lambda jetstream: jetstream.delete_stream(name))
    assert a.told.next_link() == (B, True)


def test_a_store_that_goes_to_another_site_reads_the_stream_of_that(place: Place) -> None:
    place.server.start()
    a, b = place.linked(A, B), place.linked(B, A)
    moved = {**SITES, B: "rome"}
    b.set_members(A, sites=moved)
    a.set_members(B, sites=moved)
    assert a.told.next_link() == (B, False) and a.told.next_link() == (B, True)
    a.give_all(B, b"one")
    assert b.next_frames(1) == {b"one"}
    until(lambda: waiting(place, "rome") == 0)


# --- messages -----------------------------------------------------------------------------------------------


def test_a_frame_that_the_server_takes_in_no_message_goes_in_parts(place: Place) -> None:
    place.server.write("max_payload: 40KB")
    place.server.start()
    a, b = place.linked(A, B), place.linked(B, A)
    frame = random.Random(1).randbytes(3_000_000)
    a.give_all(B, frame, b"behind it")
    assert b.next_frames(2) == {frame, b"behind it"}
    until(lambda: waiting(place, "paris") == 0)


def test_a_frame_of_too_many_parts_is_refused_by_name_and_the_next_one_goes(place: Place) -> None:
    place.server.write("max_payload: 8KB")
    place.server.start()
    a, b = place.linked(A, B), place.linked(B, A)
    a.give_all(B, bytes(3_000_000), b"behind it")
    assert b.next_frames(1) == {b"behind it"}
    assert "too small for a frame of 3000000 bytes" in a.refused.get(timeout=WAIT_S)


def test_a_frame_of_which_a_part_came_before_a_kill_comes_whole_after_it(place: Place) -> None:
    place.server.start()
    b = place.linked(B, A)
    until(lambda: is_read(place))
    subject = NAMES.subject("paris", B, A)
    place.published(subject, b"one ", f"{'0a' * 16}-1-0-2")
    until(lambda: unacknowledged(place) == 1)
    b.transport.close()
    b = place.linked(B, A)
    place.published(subject, b"frame", f"{'0a' * 16}-1-1-2")
    assert b.told.next_frame() == (A, b"one frame")


def unacknowledged(place: Place) -> int:
    info = place.asked(lambda jetstream: jetstream.consumer_info(NAMES.stream("paris"), guid_text(B)))
    count: int = info.num_ack_pending
    return count


def is_read(place: Place) -> bool:
    """True once B has begun to read."""
    try:
        return unacknowledged(place) == 0
    except NotFoundError:
        return False


def test_messages_that_are_no_frames_are_refused_and_others_go_on(place: Place) -> None:
    place.server.start()
    a, b = place.linked(A, B), place.linked(B, A)
    until(lambda: is_read(place))
    subject = NAMES.subject("paris", B, A)
    place.published(subject, b"no id")
    for said in ("", "x", f"{'0a' * 16}-1-2-2", f"{'0a' * 16}-1-0-999", f"{'0A' * 16}-1", f"{'0a' * 16}-01"):
        place.published(subject, b"a wrong id", said or " ")
    place.published(subject, b"a wrong digest", f"{'0a' * 16}-1", digest_of(b"another"))
    a.give_all(B, b"one")
    assert b.next_frames(1) == {b"one"}
    for _ in range(8):
        assert "is no frame" in b.refused.get(timeout=WAIT_S)
    until(lambda: waiting(place, "paris") == 0)


def test_messages_of_strangers_wait_until_they_are_members_but_not_for_ever(place: Place) -> None:
    place.server.start()
    b, c = place.linked(B, A), place.linked(C, B)
    until(lambda: is_read(place))
    c.give_all(B, b"from c")
    until(lambda: unacknowledged(place) == 1)
    b.set_members(A, C)
    assert b.told.next_frame() == (C, b"from c")
    b.set_members(A)
    c.give_all(B, b"again")
    until(lambda: waiting(place, "paris") == 0)
    assert "no member" in b.refused.get(timeout=WAIT_S)
    assert b.told.frames.empty()


def test_two_of_one_identity_get_each_frame_once_between_them(place: Place) -> None:
    place.server.start()
    a, b, copy = place.linked(A, B), place.linked(B, A), place.linked(B, A)
    until(lambda: is_read(place))
    frames = {b"%d" % n for n in range(50)}
    a.give_all(B, *frames)
    until(lambda: b.told.frames.qsize() + copy.told.frames.qsize() == len(frames))
    assert b.next_frames(b.told.frames.qsize()) | copy.next_frames(copy.told.frames.qsize()) == frames


# --- logging in ---------------------------------------------------------------------------------------------


def test_a_user_with_a_password_is_let_in_once_it_is_right(place: Place, tmp_path: Path) -> None:
    place.server.write('authorization { user: "pillarbox", password: "right" }')
    place.server.start()
    (tmp_path / "password").write_text("wrong\n")
    a = place.add(A, B, user="pillarbox", password_file="password")
    # It may hang up so fast that its word is not read: then at the next try.
    until(lambda: "Authorization Violation" in a.refused.get(timeout=WAIT_S))
    (tmp_path / "password").write_text("right\n")
    assert a.told.next_link() == (B, True)


def test_a_user_needs_no_more_rights_than_the_document_says(place: Place, tmp_path: Path) -> None:
    rights = {
        name: f'{{ publish: ["pillarbox.{guid_text(TREE)}.*.*.{guid_text(of)}", "$JS.API.>", "$JS.ACK.>"], '
        'subscribe: ["_INBOX.>"] }'
        for name, of in (("a", A), ("b", B))
    }
    users = ", ".join(
        f'{{ user: "{name}", password: "x", permissions: {of} }}' for name, of in rights.items()
    )
    place.server.write(f"authorization {{ users: [ {users} ] }}")
    place.server.start()
    (tmp_path / "password").write_text("x")
    a = place.linked(A, B, user="a", password_file="password")
    b = place.linked(B, A, user="b", password_file="password")
    a.give_all(B, b"one")
    b.give_all(A, b"two")
    assert (a.next_frames(1), b.next_frames(1)) == ({b"two"}, {b"one"})
    assert a.refused.empty() and b.refused.empty()


def test_an_nkey_is_let_in(place: Place, tmp_path: Path) -> None:
    nkeys = pytest.importorskip("nkeys", reason="nkeys (the extra `nats`) is not installed")
    seed = nkeys.encode_seed(random.Random(1).randbytes(32), nkeys.PREFIX_BYTE_USER)
    place.server.write(
        f'authorization {{ users: [ {{ nkey: "{nkeys.from_seed(seed).public_key.decode()}" }} ] }}'
    )
    place.server.start()
    (tmp_path / "nkey").write_bytes(bytes(seed))
    place.linked(A, B, nkey_file="nkey")


class Signer:
    """A key of NATS that signs tokens (JWT), as `nsc` makes them."""

    def __init__(self, number: int, kind: str) -> None:
        nkeys = pytest.importorskip("nkeys", reason="nkeys (the extra `nats`) is not installed")
        prefix = getattr(nkeys, f"PREFIX_BYTE_{kind.upper()}")
        self.seed = bytes(nkeys.encode_seed(random.Random(number).randbytes(32), prefix))
        self._pair, self._kind = nkeys.from_seed(bytearray(self.seed)), kind
        self.name: str = self._pair.public_key.decode()

    def token(self, of: Signer, **claims: Any) -> str:
        """The token by which this key vouches for another one."""
        about = {**claims, "type": of._kind, "version": 2}
        payload = {
            "jti": of.name,
            "iat": 1,
            "iss": self.name,
            "name": of._kind,
            "sub": of.name,
            "nats": about,
        }
        parts = [_part({"typ": "JWT", "alg": "ed25519-nkey"}), _part(payload)]
        signature = self._pair.sign(".".join(parts).encode())
        return ".".join([*parts, base64.urlsafe_b64encode(signature).decode().rstrip("=")])


def _part(claims: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")


UNLIMITED = dict.fromkeys(
    ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage"), -1
) | {"streams": -1, "consumer": -1, "wildcards": True}


def test_a_user_of_an_account_is_let_in_by_a_credentials_file(place: Place, tmp_path: Path) -> None:
    operator, system = Signer(1, "operator"), Signer(2, "account")
    account, user, stranger = Signer(3, "account"), Signer(4, "user"), Signer(5, "account")
    known = {system.name: operator.token(system), account.name: operator.token(account, limits=UNLIMITED)}
    place.server.write(
        f"operator: {operator.token(operator)}\nsystem_account: {system.name}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {', '.join(f'{name}: {token}' for name, token in known.items())} }}"
    )
    place.server.start()
    for name, signer in (("b1.creds", account), ("other.creds", stranger)):
        lines = [
            "-----BEGIN NATS USER JWT-----",
            signer.token(user, subs=-1, data=-1, payload=-1),
            "------END NATS USER JWT------",
            "",
            "-----BEGIN USER NKEY SEED-----",
            user.seed.decode(),
            "------END USER NKEY SEED------",
            "",
        ]
        (tmp_path / name).write_text("\n".join(lines))
    a, b = (place.linked(A, B, credentials_file="b1.creds"), place.linked(B, A, credentials_file="b1.creds"))
    a.give_all(B, b"one")
    assert b.next_frames(1) == {b"one"}
    assert "NATS" in place.add(C, B, credentials_file="other.creds").refused.get(timeout=WAIT_S)


def test_a_file_that_is_missing_is_named(place: Place, tmp_path: Path) -> None:
    place.server.start()
    a = place.add(A, B, user="pillarbox", password_file="password")
    assert f"{tmp_path / 'password'} cannot be read" in a.refused.get(timeout=WAIT_S)


def test_a_server_with_tls_is_known_by_its_authority(place: Place, tmp_path: Path) -> None:
    authority, other = ServerAuthority(tmp_path / "ca.pem"), ServerAuthority(tmp_path / "other.pem")
    authority.certify("127.0.0.1", tmp_path / "server.pem", tmp_path / "server.key")
    place.server.write(
        f'tls {{ cert_file: "{tmp_path / "server.pem"}", key_file: "{tmp_path / "server.key"}" }}'
    )
    place.server.start()
    a, b = place.linked(A, B, ca_file="ca.pem"), place.linked(B, A, ca_file="ca.pem")
    a.give_all(B, b"one")
    assert b.next_frames(1) == {b"one"}
    assert other
    assert "certificate" in place.add(C, B, ca_file="other.pem").refused.get(timeout=WAIT_S)
    assert "certificate" in place.add(C, B, tls=True).refused.get(timeout=WAIT_S)


def test_no_password_is_told_to_a_server_without_tls_where_tls_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret")
    ServerAuthority(tmp_path / "ca.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)
        transport = NatsTransport(
            A,
            TREE,
            NatsSettings(
                (f"127.0.0.1:{listener.getsockname()[1]}",),
                user="pillarbox",
                password_file="password",
                ca_file="ca.pem",
            ),
            random.Random(1),
            directory=tmp_path,
            refused=(refused := Queue[str]()).put,
            timing=TIMING,
        )
        transport.start(RecordedArrivals())
        try:
            taken, _ = listener.accept()
            with taken:
                info = {"server_id": "x", "version": "2.9.10", "auth_required": True, "max_payload": 1 << 20}
                taken.sendall(b"INFO " + json.dumps(info).encode() + b"\r\n")
                taken.settimeout(WAIT_S)
                assert taken.recv(1000) == b""
            assert "no TLS" in refused.get(timeout=WAIT_S)
        finally:
            transport.close()
