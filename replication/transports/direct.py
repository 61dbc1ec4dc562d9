"""The direct transport: mutual TLS 1.3 between each two members, one connection a pair (docs/nodes.md, "The
direct transport").

An event loop in a thread of its own has the connections; another thread tells the node, so that a node that
blocks stops those who send to it, and nobody else.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from pillarbox.replication.membership.certificates import read_certificate
from pillarbox.replication.organisation.addresses import split_address
from pillarbox.replication.organisation.entries import fingerprint_of
from pillarbox.replication.transports.bounded_queue import BoundedQueue
from pillarbox.replication.transports.telling import Teller
from pillarbox.replication.transports.transport import (
    OUTBOX_BYTES_MAX,
    Arrivals,
    Member,
    Members,
    check_frame,
    nothing,
)
from pillarbox.replication.wire.transport_frames import FRAME_BYTES_MAX
from pillarbox.store.errors import InvalidContent, InvalidSetting, PillarboxError, Refused
from pillarbox.store.ids import guid_text

ALPN_REPLICATION: Final = "pillarbox-replication/1"
ALPN_ENROL: Final = "pillarbox-enrol/1"
VERSION: Final = 2
DOOR_REQUEST_BYTES_MAX: Final = 64 << 10
_DOOR_CALLERS_MAX: Final = 4
_STRANGERS_MAX: Final = 64  # connections whose other end has not said yet who it is
_HEAD: Final = struct.Struct(">IB")  # length of the body, kind
_LENGTH: Final = struct.Struct(">I")
_HELLO: Final = struct.Struct(">B16sQ")  # version, run of the program, number of the connection
_REASON_BYTES_MAX: Final = 300
_REPLACED_RUNS_MAX: Final = 16
_STREAM_BYTES: Final = 256 << 10
_SLICE_BYTES: Final = 256 << 10
_UNSENT_BYTES_MAX: Final = 32 << 10
"""Each buffer before the link takes no more than this beyond what is on its way: on a slow link a frame has
not left while it lies in one."""
_PIECE_BYTES: Final = 32 << 10
"""Of a longer frame: a second of a link of 0.3 Mbit/s, for which urgent frames wait."""


class Kind(IntEnum):
    """Kinds of what goes over a connection."""

    HELLO = 1
    FRAME = 2
    ALIVE = 3
    PIECE = 4
    LAST_PIECE = 5
    REFUSED = 6


class Timing(NamedTuple):
    """Delays of the direct transport, in seconds."""

    handshake_s: float = 10
    retry_first_s: float = 0.25
    retry_max_s: float = 30
    stood_s: float = 10
    """A link that stood for so long makes the next tries begin anew."""
    retry_short_max_s: float = 5
    """After links that stood for less, the next try comes so late at most."""
    alive_every_s: float = 10
    dead_after_s: float = 30


TIMING: Final = Timing()


class Credentials(NamedTuple):
    """The certificate that a server shows and its key, as files (PEM), and the authorities that it goes by
    (DER)."""

    certificate_file: Path
    key_file: Path
    authorities: tuple[bytes, ...]


class Door(Protocol):
    """Answers strangers that have no certificate yet: one request each."""

    def greeting(self) -> bytes:
        """The first thing a stranger is told."""
        ...

    def answer(self, request: bytes) -> bytes:
        """Answer a request that may come from anyone. Called from a thread of its own; may block."""
        ...


class DirectTransport:
    """Implements `Transport`.

    A certificate is looked at twice: TLS wants one that an authority has signed, and here it has to be one
    of the member that it names.
    """

    def __init__(
        self,
        database: bytes,
        listen: tuple[str, ...],
        credentials: Credentials,
        rng: random.Random,
        *,
        door: Door | None = None,
        authorities: Callable[[], Iterable[bytes]] = tuple,
        refused: Callable[[str], None] = lambda reason: None,
        outbox_bytes_max: int = OUTBOX_BYTES_MAX,
        timing: Timing = TIMING,
    ) -> None:
        """`listen` are the addresses to listen at, none for a store that only dials. `rng` spreads the tries
        to connect. `authorities` tells those of the organisation now (DER), to be gone by too when members
        change. `refused` is told why a connection was refused, and must not block."""
        self._database = database
        self._listen = listen
        self._rng = rng
        self._door = door
        self._authorities = authorities
        self._credentials = credentials
        self._refused = refused
        self._outbox_bytes_max = outbox_bytes_max
        self._timing = timing
        self._run = rng.randbytes(16)
        self._last_number = 0
        self._contexts = _Contexts(credentials, has_door=door is not None)
        self._lock = threading.Lock()
        self._members: Members = {}
        self._links: dict[bytes, _Link] = {}  # those that stand, for `give` from any thread
        self._peers: dict[bytes, _Peer] = {}  # for the loop's thread alone, as all below
        self._accepted: set[asyncio.Task[None]] = set()
        self._door_callers = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._teller: Teller | None = None
        self.addresses: tuple[str, ...] = ()
        """Where it listens, once it was started: with the port that the system chose for port 0."""

    # -- the interface

    def start(self, arrivals: Arrivals) -> None:
        """As `Transport.start`. Raises Refused where it cannot listen."""
        self._teller = Teller(arrivals, "direct transport: arrivals")
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(ready)), name="direct transport", daemon=True
        )
        self._thread.start()
        try:
            ready.result()
        except BaseException:
            self.close()
            raise

    def give(
        self, peer: bytes, frame: bytes, went: Callable[[], None] = nothing, is_urgent: bool = False
    ) -> bool:
        check_frame(frame)
        with self._lock:
            link = self._links.get(peer)
            if link is None or not link.outbox.put(frame, went, is_urgent):
                return False
            is_first = len(link.outbox) == 1
        if is_first:
            self._in_loop(link.has_frames.set)
        return True

    def members_changed(self, members: Members) -> None:
        known = tuple(dict.fromkeys((*self._credentials.authorities, *self._authorities())))
        if known != tuple(self._credentials.authorities):
            self.credentials_changed(self._credentials._replace(authorities=known))
        with self._lock:
            self._members = {peer: member for peer, member in members.items() if peer != self._database}
        self._in_loop(self._follow_members)

    def credentials_changed(self, credentials: Credentials) -> None:
        """Show another certificate from now on, and go by these authorities too. Connections stay."""
        self._credentials = credentials
        self._contexts.load(credentials)

    def close(self) -> None:
        """As `Transport.close`; not from within a call of `arrivals`."""
        with self._lock:
            self._links.clear()
        if self._teller is not None:
            self._teller.stop()
        self._in_loop(self._stop.set)
        if self._thread is not None:
            self._thread.join()
        if self._teller is not None:
            self._teller.join()

    def _in_loop(self, call: Callable[[], object]) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(call)

    # -- the loop

    async def _serve(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            try:
                listeners = [stack.enter_context(_listen_at(address)) for address in self._listen]
            except BaseException as error:
                ready.set_exception(error)
                return
            self.addresses = tuple(_text_of(listener) for listener in listeners)
            accepting = [asyncio.ensure_future(self._accept(listener)) for listener in listeners]
            self._follow_members()
            ready.set_result(None)
            await self._stop.wait()
            dialling = (peer.task for peer in self._peers.values() if peer.task)
            tasks = [*accepting, *self._accepted, *dialling]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _follow_members(self) -> None:
        with self._lock:
            members = dict(self._members)
        for database in list(self._peers.keys() - members.keys()):
            self._peers.pop(database).leave()
        for database, member in members.items():
            peer = self._peers.get(database)
            if peer is None:
                peer = self._peers[database] = _Peer(member)
                peer.task = asyncio.ensure_future(self._dial(peer))
            elif peer.member != member:
                peer.member = member
                if peer.link is not None and peer.link.fingerprint not in member.fingerprints:
                    peer.link.writer.transport.abort()
                peer.poke.set()

    # -- dialling

    async def _dial(self, peer: _Peer) -> None:
        """Keep a link to a member that has addresses and is not heard only, unless it dials itself."""
        tries = 0
        while True:
            peer.poke.clear()
            tries += 1
            addresses = () if peer.member.is_heard_only else peer.member.addresses
            for address in addresses:
                if peer.link is None:
                    await self._dial_at(peer, address)
            if peer.link is not None:  # it has dialled
                await peer.link.ended.wait()
            longest_s = self._timing.retry_max_s
            if peer.stood_s is not None:
                longest_s = self._timing.retry_short_max_s
                tries = 0 if peer.stood_s >= self._timing.stood_s else tries
                peer.stood_s = None
            bound_s = min(self._timing.retry_first_s * 2 ** min(tries, 16), longest_s)
            rest_s = bound_s * self._rng.uniform(0.5, 1) if addresses else None
            with suppress(TimeoutError):
                async with asyncio.timeout(rest_s):  # `wait_for` may lose a cancellation
                    await peer.poke.wait()

    async def _dial_at(self, peer: _Peer, address: str) -> None:
        """Connect, and stay until the connection ends."""
        try:
            async with asyncio.timeout(self._timing.handshake_s):
                connection = await _connected(address)
                reader, writer = await _secured(connection, self._contexts.client, is_server=False)
        except (*_HANG_UPS, InvalidSetting):
            return
        try:
            fingerprint = self._fingerprint_of(peer, writer)
            if peer.link is not None:
                return
            peer.dialling = writer
            self._send_hello(writer)
            hello = await self._read_hello(reader)
            if peer.link is not None:  # it dialled too, and was taken
                return
            peer.dialling = None
            await self._stand(peer, _Link(reader, writer, fingerprint, hello, self._outbox_bytes_max))
        except _HANG_UPS:
            pass
        except PillarboxError as error:
            self._refused(f"{peer.member.name} at {address}: {error}")
        finally:
            if peer.dialling is writer:
                peer.dialling = None
            await _hang_up(writer)

    # -- accepting

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await _accepted(loop, listener)
            except OSError as error:  # of files or memory there are too many in use; others may end
                self._refused(f"no connection can be taken: {error}")
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._timing.retry_first_s):
                        await self._stop.wait()
                continue
            if len(self._accepted) >= len(self._peers) + _STRANGERS_MAX:
                connection.close()
                self._refused(f"{address[0]}: too many connections wait to be known")
                continue
            task = asyncio.ensure_future(self._meet(connection, address[0]))
            self._accepted.add(task)
            task.add_done_callback(self._accepted.discard)
            # One that is cancelled before its first turn has taken over nothing.
            task.add_done_callback(lambda _, connection=connection: connection.close())  # type: ignore[misc]

    async def _meet(self, connection: socket.socket, address: str) -> None:
        try:
            async with asyncio.timeout(self._timing.handshake_s):
                reader, writer = await _secured(connection, self._contexts.server, is_server=True)
        except _HANG_UPS as error:
            self._refused(f"{address}: {error or 'it says nothing'}")
            return
        is_stranger = writer.get_extra_info("ssl_object").selected_alpn_protocol() == ALPN_ENROL
        try:
            if is_stranger:
                await self._answer_stranger(reader, writer)
            else:
                await self._take(reader, writer, address)
        except _HANG_UPS:
            pass
        except PillarboxError as error:
            self._refused(f"{address}: {error}")
            if not is_stranger:
                with suppress(*_HANG_UPS):  # it may not wait for the reason
                    await _tell_refused(writer, str(error))
        finally:
            await _hang_up(writer)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        peer = self._peer_that_shows(writer)
        fingerprint = self._fingerprint_of(peer, writer)
        hello = await self._read_hello(reader)
        if peer.dialling is not None and self._database < peer.member.database:
            return  # both dial: the connection of the lower GUID stays
        if peer.link is not None:
            if not hello.is_later_than(peer.link.hello):
                return
            is_second = peer.is_second(hello)
            if is_second or peer.replaces(hello):
                self._refused(
                    f"{peer.member.name} runs twice, at {address} too: one of them has to end "
                    "(docs/nodes.md, A server that is lost, or restored)"
                )
            if is_second:
                return
            await peer.link.end()  # the peer knows nothing of it any more
        if self._peers.get(peer.member.database) is not peer or peer.link is not None:
            return
        if peer.dialling is not None:
            peer.dialling.close()
        # From here to `_stand` nothing is waited for: no other connection can come in between.
        self._send_hello(writer)
        await self._stand(peer, _Link(reader, writer, fingerprint, hello, self._outbox_bytes_max))

    def _peer_that_shows(self, writer: asyncio.StreamWriter) -> _Peer:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if not der:
            raise Refused("it shows no certificate")
        database = read_certificate(der).database
        peer = self._peers.get(database)
        if peer is None:
            raise Refused(f"the certificate of {guid_text(database)} is of no member")
        return peer

    def _fingerprint_of(self, peer: _Peer, writer: asyncio.StreamWriter) -> bytes:
        """The fingerprint of what the other end shows. Raises Refused where that is not the member's."""
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
        fingerprint = fingerprint_of(der)
        is_named = bool(der) and read_certificate(der).database == peer.member.database
        if not is_named or fingerprint not in peer.member.fingerprints:
            raise Refused(
                f"it shows a certificate that is not one of {peer.member.name}",
                hint="it may have been renewed a moment ago",
            )
        return fingerprint

    async def _answer_stranger(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._door is None or self._door_callers >= _DOOR_CALLERS_MAX:
            raise Refused("nobody can enrol here now")
        self._door_callers += 1
        try:
            async with asyncio.timeout(self._timing.handshake_s):
                greeting = await asyncio.to_thread(self._door.greeting)
                writer.write(_LENGTH.pack(len(greeting)) + greeting)
                await writer.drain()
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                if length > DOOR_REQUEST_BYTES_MAX:
                    raise InvalidContent(f"it claims a request of {length} bytes")
                request = await reader.readexactly(length)
            answer = await asyncio.to_thread(self._door.answer, request)
            async with asyncio.timeout(self._timing.handshake_s):
                writer.write(_LENGTH.pack(len(answer)) + answer)
                await writer.drain()
        finally:
            self._door_callers -= 1

    # -- a connection

    def _send_hello(self, writer: asyncio.StreamWriter) -> None:
        self._last_number += 1
        body = _HELLO.pack(VERSION, self._run, self._last_number)
        writer.write(_HEAD.pack(len(body), Kind.HELLO) + body)

    async def _read_hello(self, reader: asyncio.StreamReader) -> _Hello:
        async with asyncio.timeout(self._timing.handshake_s):
            length, kind = _HEAD.unpack(await reader.readexactly(_HEAD.size))
            if kind == Kind.REFUSED and length <= _REASON_BYTES_MAX:
                reason = (await reader.readexactly(length)).decode(errors="replace")
                shown = "".join(each if each.isprintable() else " " for each in reason)
                raise Refused(f"it refuses this server, which may have been retired: {shown}")
            if kind != Kind.HELLO or length != _HELLO.size:
                raise InvalidContent("it does not begin with a hello")
            version, run, number = _HELLO.unpack(await reader.readexactly(length))
        if version != VERSION:
            raise InvalidContent(
                f"it speaks version {version}", hint=f"this program speaks version {VERSION}"
            )
        return _Hello(run, number)

    async def _stand(self, peer: _Peer, link: _Link) -> None:
        """Let a link stand until its connection ends."""
        database = peer.member.database
        since_s = asyncio.get_running_loop().time()
        peer.link = link
        assert self._teller is not None
        with self._lock:
            self._links[database] = link
        self._teller.tell(lambda arrivals: arrivals.link_changed(database, True))
        tasks = [
            asyncio.ensure_future(self._read(database, link)),
            asyncio.ensure_future(self._write(database, link)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            link.writer.close()
            await asyncio.gather(*tasks, return_exceptions=True)
            with self._lock:
                if self._links.get(database) is link:
                    del self._links[database]
            self._teller.tell(lambda arrivals: arrivals.link_changed(database, False))
            peer.link = None
            peer.stood_s = asyncio.get_running_loop().time() - since_s
            link.ended.set()

    async def _read(self, database: bytes, link: _Link) -> None:
        assert self._teller is not None
        pieces = bytearray()  # as long as what came, however small its pieces are
        while True:
            async with asyncio.timeout(self._timing.dead_after_s):
                length, kind = _HEAD.unpack(await link.reader.readexactly(_HEAD.size))
            if kind == Kind.ALIVE and length == 0:
                continue
            is_piece = kind in (Kind.PIECE, Kind.LAST_PIECE)
            is_frame = kind == Kind.FRAME or is_piece
            room_bytes = FRAME_BYTES_MAX - is_piece * len(pieces)
            if not is_frame or not 0 < length <= room_bytes:
                raise InvalidContent(f"a member sent {length} bytes of kind {kind}, which is no frame")
            frame = await self._read_frame(link.reader, length)
            if is_piece:
                pieces += frame
                if kind == Kind.PIECE:
                    continue
                frame, pieces = bytes(pieces), bytearray()
            await self._teller.told(lambda arrivals, frame=frame: arrivals.frame_came(database, frame))  # type: ignore[misc]

    async def _read_frame(self, reader: asyncio.StreamReader, length: int) -> bytes:
        """Read a frame; memory is taken as its bytes come, whatever length was claimed."""
        pieces = []
        while length:
            async with asyncio.timeout(self._timing.dead_after_s):
                piece = await reader.read(min(length, _SLICE_BYTES))
            if not piece:
                raise asyncio.IncompleteReadError(b"", length)
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)

    async def _write(self, database: bytes, link: _Link) -> None:
        assert self._teller is not None
        while True:
            if not len(link.outbox):
                link.has_frames.clear()
                if not len(link.outbox):  # none came before the flag was taken down
                    await self._write_when_idle(link)
                continue
            with self._lock:
                frame = link.outbox.begin()
            await self._write_frame(link, frame)
            with self._lock:
                has_room = link.outbox.took()
            if has_room:
                self._teller.tell(lambda arrivals: arrivals.has_room(database))

    async def _write_frame(self, link: _Link, frame: bytes) -> None:
        """Write a frame: a long one in pieces, between which urgent ones go."""
        last = (len(frame) - 1) // _PIECE_BYTES * _PIECE_BYTES
        for begin in range(0, last, _PIECE_BYTES):
            piece = frame[begin : begin + _PIECE_BYTES]
            await _write_one(link, Kind.PIECE, piece)
            await self._write_urgent(link)
        await _write_one(link, Kind.LAST_PIECE if last else Kind.FRAME, frame[last:])

    async def _write_urgent(self, link: _Link) -> None:
        while True:
            with self._lock:
                urgent = link.outbox.take_urgent()
            if urgent is None:
                return
            await _write_one(link, Kind.FRAME, urgent.frame)
            urgent.went()

    async def _write_when_idle(self, link: _Link) -> None:
        try:
            async with asyncio.timeout(self._timing.alive_every_s):
                await link.has_frames.wait()
        except TimeoutError:
            link.writer.write(_HEAD.pack(0, Kind.ALIVE))
            await link.writer.drain()


_HANG_UPS: Final = (OSError, EOFError, TimeoutError, ssl.SSLError, asyncio.IncompleteReadError)


class _Hello(NamedTuple):
    """The first words of a connection: which run of the peer's program made it, and as which one."""

    run: bytes
    number: int

    def is_later_than(self, other: _Hello) -> bool:
        """True when the peer said it after the other: it dials only without a connection that it knows of."""
        return self.run != other.run or self.number > other.number


class _Link:
    """A connection to a member that stands."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        fingerprint: bytes,
        hello: _Hello,
        outbox_bytes_max: int,
    ) -> None:
        self.reader, self.writer = reader, writer
        self.fingerprint = fingerprint
        self.hello = hello
        self.outbox = BoundedQueue(outbox_bytes_max)
        self.has_frames = asyncio.Event()
        self.ended = asyncio.Event()

    async def end(self) -> None:
        """Hang up, and wait until the link stands no more."""
        self.writer.transport.abort()
        await self.ended.wait()


async def _write_one(link: _Link, kind: Kind, body: bytes) -> None:
    link.writer.write(_HEAD.pack(len(body), kind) + body)  # at once: each write is a TLS record and a send
    await link.writer.drain()


async def _tell_refused(writer: asyncio.StreamWriter, reason: str) -> None:
    body = reason.encode()[:_REASON_BYTES_MAX]
    writer.write(_HEAD.pack(len(body), Kind.REFUSED) + body)
    await writer.drain()


class _Peer:
    """A member, and the connection to it."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.link: _Link | None = None
        self.dialling: asyncio.StreamWriter | None = None
        self.poke = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.stood_s: float | None = None  # how long the last link stood, until a try to dial has seen it
        self._replaced_runs: deque[bytes] = deque(maxlen=_REPLACED_RUNS_MAX)
        self._second_runs: deque[bytes] = deque(maxlen=_REPLACED_RUNS_MAX)

    def replaces(self, hello: _Hello) -> bool:
        """Note that a connection with this hello takes the place of the one that stands; True when its run
        was replaced itself before: the member runs more than once, and the other run is its second one."""
        assert self.link is not None
        standing = self.link.hello.run
        if hello.run == standing:
            return False
        comes_back = hello.run in self._replaced_runs
        self._replaced_runs.append(standing)
        if comes_back:
            self._second_runs.append(standing)
        return comes_back

    def is_second(self, hello: _Hello) -> bool:
        """True for a second run while another one's connection stands. Would it take that place, and the
        other one come back, then the two, which are one store, would number anew by turns without end."""
        assert self.link is not None
        return hello.run != self.link.hello.run and hello.run in self._second_runs

    def leave(self) -> None:
        """Let go of one that is no member any more."""
        if self.task is not None:
            self.task.cancel()
        if self.link is not None:
            self.link.writer.transport.abort()


class _Contexts:
    """The TLS of both ends: 1.3 alone, with certificates, and no session that outlives its connection."""

    def __init__(self, credentials: Credentials, *, has_door: bool) -> None:
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.client.check_hostname = False  # who answers is known by the member's fingerprint
        for context in (self.server, self.client):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
        self.server.num_tickets = 0
        self.client.set_alpn_protocols([ALPN_REPLICATION])
        names = [ALPN_REPLICATION]
        if has_door:
            # Strangers have no certificate; who is no stranger is asked for one by `_peer_that_shows`.
            self.server.verify_mode = ssl.CERT_OPTIONAL
            names.append(ALPN_ENROL)
        self.server.set_alpn_protocols(names)
        self.load(credentials)

    def load(self, credentials: Credentials) -> None:
        """Go by these from the next handshake on."""
        for context in (self.server, self.client):
            context.load_cert_chain(credentials.certificate_file, credentials.key_file)
            context.load_verify_locations(cadata=b"".join(credentials.authorities))


def _listen_at(address: str) -> socket.socket:
    host, port = split_address(address)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=_STRANGERS_MAX)
    except OSError as error:
        raise Refused(
            f"cannot listen at {address}: {error.strerror or error}",
            hint="another process may have the port; look at `listen` in node.toml",
        ) from error
    listener.setblocking(False)
    return listener


def _text_of(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _accepted(
    loop: asyncio.AbstractEventLoop, listener: socket.socket
) -> tuple[socket.socket, tuple[str, int]]:
    taking = asyncio.ensure_future(loop.sock_accept(listener))
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        taking.cancel()
        [taken] = await asyncio.gather(taking, return_exceptions=True)
        if isinstance(taken, tuple):  # it came in the meantime
            taken[0].close()
        raise


async def _connected(address: str) -> socket.socket:
    """A TCP connection to an address. Raises OSError, InvalidSetting."""
    loop = asyncio.get_running_loop()
    host, port = split_address(address)
    reason: OSError | None = None
    for family, kind, protocol, _, place in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setblocking(False)
            await loop.sock_connect(connection, place)
            return connection
        except OSError as error:
            connection.close()
            reason = error
        except BaseException:
            connection.close()
            raise
    raise reason or OSError(f"{host} has no address")


async def _secured(
    connection: socket.socket, context: ssl.SSLContext, *, is_server: bool
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """TLS over a connection, which is taken over, and closed where nothing comes of it. Raises OSError."""
    loop = asyncio.get_running_loop()
    connection = socket.socket(fileno=connection.detach())
    with suppress(OSError):  # where the system has no such option it takes more than it sends
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES_MAX)
    reader = asyncio.StreamReader(_STREAM_BYTES)
    protocol = asyncio.StreamReaderProtocol(reader)
    if is_server:
        making = loop.connect_accepted_socket(lambda: protocol, connection, ssl=context)
    else:
        making = loop.create_connection(lambda: protocol, sock=connection, ssl=context, server_hostname="")
    task = asyncio.ensure_future(making)
    try:
        transport, _ = await asyncio.shield(task)
    except asyncio.CancelledError:
        # In its first turns asyncio would leave the connection open, and after the last ones too.
        await _some_turns(loop)
        task.cancel()
        [made] = await asyncio.gather(task, return_exceptions=True)
        if isinstance(made, tuple):  # it was made in the meantime
            made[0].abort()
        await _some_turns(loop)
        raise
    transport.set_write_buffer_limits(high=_UNSENT_BYTES_MAX)  # beyond it `drain` waits
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _some_turns(loop: asyncio.AbstractEventLoop) -> None:
    for _ in range(3):
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection at once; what is not sent is lost."""
    writer.transport.abort()
    with suppress(*_HANG_UPS):
        await writer.wait_closed()
