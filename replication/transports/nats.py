"""The NATS transport: frames wait in streams of NATS JetStream, one for each site (docs/nodes.md, "The NATS
transport").

An event loop in a thread of its own has the connection, of which there is one at a time: when it ends,
another one is made, for as long as it takes. What is under way outlives it on both sides: frames that were
taken and not confirmed are sent again, and messages of frames that are not settled are not acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.js import JetStreamContext
from nats.js.errors import APIError

from pillarbox.replication.transports.bounded_queue import BoundedQueue
from pillarbox.replication.transports.nats_messages import (
    DIGEST_HEADER,
    ID_HEADER,
    RUN_BYTES,
    MessageId,
    Unfinished,
    cut,
    digest_of,
    parse_message_id,
)
from pillarbox.replication.transports.nats_settings import NatsSettings
from pillarbox.replication.transports.nats_streams import (
    MESSAGES_MAX,
    Names,
    StreamBounds,
    require_consumer,
    require_stream,
)
from pillarbox.replication.transports.telling import Teller
from pillarbox.replication.transports.transport import (
    OUTBOX_BYTES_MAX,
    Arrivals,
    Member,
    Members,
    check_frame,
    nothing,
)
from pillarbox.store.arguments import PathLike, as_path
from pillarbox.store.errors import InvalidContent, PeerUnreachable, PillarboxError, Refused
from pillarbox.store.ids import guid_text, parse_guid


class Timing(NamedTuple):
    """Delays of the NATS transport, in seconds."""

    connect_s: float = 10
    request_s: float = 10
    retry_first_s: float = 0.25
    retry_max_s: float = 30
    stood_s: float = 10
    """A connection that stood for so long makes the next tries begin anew."""
    ping_every_s: float = 10
    pull_s: float = 10
    full_first_s: float = 0.02
    full_s: float = 1
    """A stream that is full is tried again after the first of these, doubling to the other."""
    ack_wait_s: float = 10
    """Messages that were not acknowledged come again after so long."""
    unsettled_s: float = 3600
    """What is not settled after so long is given up: parts whose rest never came."""
    stranger_s: float = 60


TIMING: Final = Timing()
_BATCH_BYTES_MAX: Final = 2 << 20
_WINDOW_MAX: Final = 64
_PULL_MESSAGES: Final = 64
_PULL_BYTES: Final = 8 << 20
_STRANGER_TRIES: Final = 10
_DAMAGED_TRIES: Final = 3
_LINK_WAIT_S: Final = 2
_STREAM_FULL: Final = 10077
_FAILURES: Final = (NatsError, OSError, TimeoutError, ValueError, PillarboxError)


class NatsTransport:
    """Implements `Transport`. A link stands while NATS is connected and the stream of the other end's site is
    there; nobody knows whether there is somebody at the other end."""

    def __init__(
        self,
        database: bytes,
        tree: bytes,
        settings: NatsSettings,
        rng: random.Random,
        *,
        directory: PathLike = ".",
        refused: Callable[[str], None] = lambda reason: None,
        outbox_bytes_max: int = OUTBOX_BYTES_MAX,
        messages_max: int = MESSAGES_MAX,
        timing: Timing = TIMING,
    ) -> None:
        """Files in the settings are named from `directory`. `rng` spreads the tries to connect. `refused` is
        told of what is in the way, and must not block. `messages_max` bounds what waits for one store from
        another in streams that are made here."""
        self._directory = as_path(directory, "directory")
        self._database = database
        self._names = Names(tree)
        self._settings = settings
        self._bounds = StreamBounds(settings.stream_bytes_max, messages_max)
        self._rng = rng
        self._refused = refused
        self._outbox_bytes_max = outbox_bytes_max
        self._timing = timing
        self._run = rng.randbytes(RUN_BYTES)
        self._last_number = 0
        self._lock = threading.Lock()
        self._members: Members = {}
        self._links: dict[bytes, _Peer] = {}  # those that stand, for `give` from any thread
        self._peers: dict[bytes, _Peer] = {}  # for the loop's thread alone, as all below
        self._site = ""
        self._site_changed = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self._jetstream: JetStreamContext | None = None  # of the connection that stands
        self._payload_bytes_max = 0
        self._connection_ended = asyncio.Event()
        self._under_way: dict[_MessageKey, _UnderWay] = {}
        self._acknowledgements: deque[Msg] = deque()
        self._has_acknowledgements = asyncio.Event()
        self._told: dict[str, str] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._teller: Teller | None = None

    # -- the interface

    def start(self, arrivals: Arrivals) -> None:
        """As `Transport.start`. NATS need not be there: it is looked for until it is."""
        _keep_out_of_logs()
        self._teller = Teller(arrivals, "NATS transport: arrivals")
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(ready)), name="NATS transport", daemon=True
        )
        self._thread.start()
        ready.result()

    def give(
        self, peer: bytes, frame: bytes, went: Callable[[], None] = nothing, is_urgent: bool = False
    ) -> bool:
        check_frame(frame)
        with self._lock:
            link = self._links.get(peer)
            if link is None or not link.outbox.put(frame, went):
                return False
            is_first = len(link.outbox) == 1
        if is_first:
            self._in_loop(link.has_frames.set)
        return True

    def members_changed(self, members: Members) -> None:
        with self._lock:
            self._members = {peer: member for peer, member in members.items() if peer != self._database}
        self._in_loop(self._follow_members)

    def close(self) -> None:
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

    # -- the connection

    async def _serve(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._follow_members()
        ready.set_result(None)
        keeping = asyncio.ensure_future(self._keep_connected())
        await self._stop.wait()
        self._connection_ended.set()
        if self._connecting is not None:
            self._connecting.cancel()
        await asyncio.wait([keeping])

    async def _keep_connected(self) -> None:
        """Have a connection, and another one when it ends."""
        loop = asyncio.get_running_loop()
        tries = 0
        while not self._stop.is_set():
            tries += 1
            since_s = loop.time()
            try:
                await self._connected()
            except _FAILURES as error:
                self._tell(
                    "NATS", f"NATS at {', '.join(self._settings.servers)} cannot be used: {_text(error)}"
                )
            except Exception as error:
                self._tell("NATS", f"NATS cannot be used, for a fault of the program: {error!r}")
            if loop.time() - since_s > self._timing.stood_s:
                tries = 0
            await self._rest(tries, self._stop)

    async def _rest(self, tries: int, sooner: asyncio.Event | None = None) -> None:
        """Wait before the next try: longer after each, and not all stores at once."""
        bound_s = min(self._timing.retry_first_s * 2 ** min(tries, 16), self._timing.retry_max_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(bound_s * self._rng.uniform(0.5, 1)):
                await (sooner or asyncio.Event()).wait()

    async def _connected(self) -> None:
        """Connect, and work until the connection ends. Raises what ended it, where that is known."""
        self._connection_ended.clear()
        reasons: list[Exception] = []
        connection = Client()
        try:
            self._connecting = asyncio.ensure_future(self._connect(connection, reasons))
            async with asyncio.timeout(self._timing.connect_s):
                await self._connecting
        except BaseException as error:
            await _close(connection)
            if reasons and not isinstance(error, PillarboxError | asyncio.CancelledError):
                raise PeerUnreachable(_text(reasons[-1])) from error
            raise
        self._told.pop("NATS", None)
        self._payload_bytes_max = connection.max_payload
        self._jetstream = jetstream = connection.jetstream(timeout=self._timing.request_s)
        tasks = [
            self._task(partial(self._read, connection, jetstream)),
            self._task(partial(self._acknowledge, connection)),
        ]
        for peer in self._peers.values():
            self._open(peer, jetstream)
        try:
            await self._connection_ended.wait()
        finally:
            self._jetstream = None
            self._connection_ended.set()
            linking = [peer.task for peer in self._peers.values() if peer.task is not None]
            await _end([*tasks, *linking])
            with suppress(*_FAILURES):
                await self._let_go(connection)
            await _close(connection)
        if reasons:
            raise PeerUnreachable(f"the connection ended: {_text(reasons[-1])}")

    async def _connect(self, connection: Client, reasons: list[Exception]) -> None:
        async def failed(error: Exception) -> None:
            reasons.append(error)

        async def ended() -> None:
            self._connection_ended.set()

        await connection.connect(
            servers=[f"nats://{address}" for address in self._settings.servers],
            name=f"pillarbox {guid_text(self._database)}",
            error_cb=failed,
            closed_cb=ended,
            allow_reconnect=False,  # here, with what was learned before
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=max(1, int(self._timing.connect_s)),
            ping_interval=max(1, int(self._timing.ping_every_s)),
            max_outstanding_pings=2,
            flush_timeout=self._timing.request_s,
            **self._login(connection),
        )
        self._require_tls(connection)

    def _login(self, connection: Client) -> dict[str, Any]:
        """The ways to log in, as the client wants them. Raises Refused where a file cannot be read."""
        settings, login = self._settings, dict[str, Any]()
        if settings.wants_tls:
            ca_file = settings.ca_file and str(self._file(settings.ca_file))
            login["tls"] = ssl.create_default_context(cafile=ca_file or None)
        if settings.user:
            password = self._file(settings.password_file).read_text().strip()

            def said() -> str:
                self._require_tls(connection)  # before it is told to anyone
                return password

            login |= {"user": settings.user, "password": said}
        if settings.credentials_file:
            login["user_credentials"] = str(self._file(settings.credentials_file))
        if settings.nkey_file:
            login["nkeys_seed"] = str(self._file(settings.nkey_file))
        return login

    def _file(self, name: str) -> Path:
        path = self._directory / name
        try:
            with path.open("rb"):
                return path
        except OSError as error:
            raise Refused(
                f"{path} cannot be read: {error.strerror}", hint="look at the table nats of node.toml"
            ) from error

    def _require_tls(self, connection: Client) -> None:
        # The client goes over to TLS only where the server asks for it, and says so nowhere else.
        if self._settings.wants_tls and not connection._server_info.get("tls_required"):
            raise Refused("the server has no TLS, which node.toml asks for")

    async def _let_go(self, connection: Client) -> None:
        """Acknowledge what is settled. What is not comes again in time; asked to send it at once, servers of
        2.9 try where nobody pulls any more, and count it as sent."""
        if not connection.is_connected:
            return
        async with asyncio.timeout(self._timing.connect_s / 5):
            while self._acknowledgements:
                await connection.publish(self._acknowledgements.popleft().reply)
            await connection.flush(timeout=max(1, int(self._timing.connect_s / 5)))

    def _task(self, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Work while the connection stands; a fault in it ends the connection."""

        async def guarded() -> None:
            try:
                await work()
            except _FAILURES as error:
                if not self._connection_ended.is_set():
                    self._tell("NATS", f"NATS cannot be used: {_text(error)}")
                self._connection_ended.set()
            except Exception as error:
                self._tell("NATS", f"NATS cannot be used, for a fault of the program: {error!r}")
                self._connection_ended.set()

        return asyncio.ensure_future(guarded())

    def _tell(self, what: str, reason: str) -> None:
        """Say what is in the way, once until it changes."""
        if self._told.get(what) != reason:
            self._told[what] = reason
            self._refused(reason)

    # -- members

    def _follow_members(self) -> None:
        with self._lock:
            members = dict(self._members)
        site = next((member.sites[0] for member in members.values()), self._site)
        if site != self._site or not self._peers:
            self._site = site
            self._site_changed.set()
        for database in list(self._peers.keys() - members.keys()):
            self._shut(self._peers.pop(database))
        for database, member in members.items():
            peer = self._peers.get(database)
            if peer is not None and peer.is_bound_elsewhere(member):
                self._shut(self._peers.pop(database))
                peer = None
            if peer is None:
                peer = self._peers[database] = _Peer(member, self._outbox_bytes_max)
                if self._jetstream is not None:
                    self._open(peer, self._jetstream)
            peer.member = member

    def _open(self, peer: _Peer, jetstream: JetStreamContext) -> None:
        if not peer.member.is_heard_only:
            peer.task = self._task(partial(self._link, peer, jetstream))

    def _shut(self, peer: _Peer) -> None:
        """Take a link down for good. Its task may take a while to end: the client swallows cancellations."""
        self._down(peer)
        peer.is_shut = True
        for key in peer.unfinished.clear():
            self._under_way.pop(key, None)
        if peer.task is not None:
            peer.task.cancel()

    def _up(self, peer: _Peer) -> None:
        database = peer.member.database
        assert self._teller is not None
        with self._lock:
            self._links[database] = peer
        self._teller.tell(lambda arrivals: arrivals.link_changed(database, True))
        peer.is_up.set()
        self._told.pop(peer.member.name, None)

    def _down(self, peer: _Peer) -> None:
        if not peer.is_up.is_set():
            return
        database = peer.member.database
        assert self._teller is not None
        with self._lock:
            if self._links.get(database) is peer:
                del self._links[database]
        peer.is_up.clear()
        self._teller.tell(lambda arrivals: arrivals.link_changed(database, False))

    # -- out

    async def _link(self, peer: _Peer, jetstream: JetStreamContext) -> None:
        """Let the link to a member stand, and send what waits for it."""
        tries = 0
        while not peer.is_shut and not self._connection_ended.is_set():
            tries += 1
            try:
                await require_stream(jetstream, self._names, peer.member.sites[1], self._bounds)
                if peer.is_shut:
                    return
                self._up(peer)
                tries = 0
                while not peer.is_shut and not self._connection_ended.is_set():
                    await self._send(peer, jetstream)
            except _FAILURES as error:
                if self._connection_ended.is_set():
                    return
                self._tell(
                    peer.member.name, f"nothing can be sent to {peer.member.name} by NATS: {_text(error)}"
                )
            finally:
                self._down(peer)
            await self._rest(tries)

    async def _send(self, peer: _Peer, jetstream: JetStreamContext) -> None:
        """Send what waits, once there is something, and let it go once it is confirmed."""
        if not peer.sending:
            peer.has_frames.clear()
            with self._lock:
                frames = peer.outbox.first(_BATCH_BYTES_MAX)
            if not frames:
                await peer.has_frames.wait()
                return
            peer.sending = deque(self._cut(peer, frame) for frame in frames)
        waiting = [(frame, message) for frame in peer.sending for message in frame]
        del waiting[peer.window :]
        site, to = peer.member.sites[1], peer.member.database
        subject = self._names.subject(site, to, self._database)
        results = await asyncio.gather(
            *(
                jetstream.publish(
                    subject,
                    payload,
                    headers={ID_HEADER: str(message_id), DIGEST_HEADER: digest_of(payload)},
                )
                for _, (message_id, payload) in waiting
            ),
            return_exceptions=True,
        )
        for (frame, message), result in zip(waiting, results, strict=True):
            if not isinstance(result, BaseException):
                frame.remove(message)
        self._let_confirmed_go(peer)
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if isinstance(failure, MaxPayloadError):  # it is another server now, which takes less
                peer.sending.clear()
                return
            if not isinstance(failure, APIError) or failure.err_code != _STREAM_FULL:
                raise failure
        if not failures:
            peer.window = min(2 * peer.window, _WINDOW_MAX)
            if peer.full_tries:
                peer.full_tries = 0
                self._told.pop(peer.member.name, None)
            return
        peer.window = max(peer.window // 4, 1)
        rest_s = min(self._timing.full_first_s * 2 ** min(peer.full_tries, 16), self._timing.full_s)
        peer.full_tries += 1
        if rest_s == self._timing.full_s:
            self._tell(peer.member.name, f"what waits for {peer.member.name} in NATS is at its bound")
        with suppress(TimeoutError):
            async with asyncio.timeout(rest_s * self._rng.uniform(0.5, 1)):
                await self._connection_ended.wait()

    def _cut(self, peer: _Peer, frame: bytes) -> _Cut:
        self._last_number += 1
        try:
            return cut(frame, self._run, self._last_number, self._payload_bytes_max)
        except InvalidContent as error:
            self._refused(f"a frame for {peer.member.name} is lost: {error}")
            return []

    def _let_confirmed_go(self, peer: _Peer) -> None:
        database = peer.member.database
        assert self._teller is not None
        while peer.sending and not peer.sending[0]:
            peer.sending.popleft()
            with self._lock:
                has_room = peer.outbox.took() and self._links.get(database) is peer
            if has_room:
                self._teller.tell(lambda arrivals: arrivals.has_room(database))

    # -- in

    async def _read(self, connection: Client, jetstream: JetStreamContext) -> None:
        """Read what waits for this store, in the stream of its site."""
        tries = 0
        while not self._connection_ended.is_set():
            self._site_changed.clear()
            if not self._peers:
                await self._site_changed.wait()
                continue
            site = self._site
            tries += 1
            try:
                await require_stream(jetstream, self._names, site, self._bounds)
                await require_consumer(jetstream, self._names, site, self._database, self._timing.ack_wait_s)
                self._told.pop("reading", None)
                tries = 0
                await self._pull(connection, self._names.stream(site))
            except _FAILURES as error:
                if self._connection_ended.is_set():
                    return
                self._tell("reading", f"what waits in NATS cannot be read: {_text(error)}")
            if not self._site_changed.is_set():
                await self._rest(tries, self._site_changed)

    async def _pull(self, connection: Client, stream: str) -> None:
        """Ask for messages and take them, until this store is at another site. Raises Refused and
        PeerUnreachable where the consumer is gone."""
        came: asyncio.Queue[Msg] = asyncio.Queue()
        inbox = connection.new_inbox()
        subscription = await connection.subscribe(inbox, cb=came.put)
        consumer = guid_text(self._database)
        asked = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        alive_s = self._timing.pull_s / 5
        request = json.dumps(
            {
                "batch": _PULL_MESSAGES,
                "max_bytes": _PULL_BYTES,
                "expires": int(self._timing.pull_s * 1e9),
                "idle_heartbeat": int(alive_s * 1e9),
            }
        ).encode()
        try:
            while not self._site_changed.is_set():
                await connection.publish(asked, request, inbox)
                left = _PULL_MESSAGES
                while left and not self._site_changed.is_set():
                    message = await _next(came, 3 * alive_s)
                    if _ends_a_pull(message):
                        break
                    if not _is_alive(message):
                        left -= 1
                        await self._take(message)
        finally:
            if connection.is_connected:
                with suppress(*_FAILURES):
                    await subscription.unsubscribe()

    async def _take(self, message: Msg) -> None:
        """Take a message, and give the node the frame that is whole with it."""
        meta = message.metadata
        key = meta.sequence.stream, meta.timestamp.timestamp()
        if key in self._under_way:
            return
        peer = await self._sender_of(message)
        if peer is None:
            return
        headers = message.headers or {}
        if headers.get(DIGEST_HEADER, "") != digest_of(message.data) and meta.num_delivered <= _DAMAGED_TRIES:
            await message.nak(delay=self._timing.retry_first_s)  # it may be whole in the stream
            return
        try:
            message_id = _id_of(headers, message.data)
        except InvalidContent as error:
            self._refused(f"a message of {peer.member.name} in NATS is no frame: {error}")
            await message.ack()
            return
        self._under_way[key] = _UnderWay(message, asyncio.get_running_loop().time())
        whole = peer.unfinished.take(message_id, message.data, key)
        if whole is None:
            self._settled(peer.unfinished.forgotten())
            return
        settled = partial(self._in_loop, partial(self._settled, whole.messages))
        database, frame = peer.member.database, whole.frame
        assert self._teller is not None
        await self._teller.told(lambda arrivals: arrivals.frame_came(database, frame, settled))

    async def _sender_of(self, message: Msg) -> _Peer | None:
        """The member that sent a message, by its subject, once its link stands, if it is to. None for a
        stranger, whose message comes again a little later, since it may become a member, but not for ever.
        """
        peer = None
        with suppress(ValueError):
            peer = self._peers.get(parse_guid(message.subject.rpartition(".")[2]))
        if peer is not None:
            if peer.member.is_heard_only:
                return peer
            with suppress(TimeoutError):
                async with asyncio.timeout(_LINK_WAIT_S):
                    await peer.is_up.wait()
                return peer
        elif message.metadata.num_delivered > _STRANGER_TRIES:
            self._tell("strangers", f"messages to {message.subject} are thrown away: they are of no member")
            await message.ack()
            return None
        await message.nak(delay=self._timing.stranger_s if peer is None else _LINK_WAIT_S)
        return None

    def _settled(self, keys: list[_MessageKey]) -> None:
        for key in keys:
            under_way = self._under_way.pop(key, None)
            if under_way is not None:
                self._acknowledgements.append(under_way.message)
        self._has_acknowledgements.set()

    async def _acknowledge(self, connection: Client) -> None:
        """Acknowledge what is settled, and keep what is not from coming again."""
        loop = asyncio.get_running_loop()
        every_s = self._timing.ack_wait_s / 3
        next_s = loop.time() + every_s
        while not self._connection_ended.is_set():
            self._has_acknowledgements.clear()
            while self._acknowledgements:
                await connection.publish(self._acknowledgements[0].reply)
                self._acknowledgements.popleft()
            if loop.time() >= next_s:
                next_s = loop.time() + every_s
                await self._keep_under_way(connection, loop.time())
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0, next_s - loop.time())):
                    await self._has_acknowledgements.wait()

    async def _keep_under_way(self, connection: Client, now_s: float) -> None:
        given_up_s = now_s - self._timing.unsettled_s
        self._settled([key for key, each in self._under_way.items() if each.since_s < given_up_s])
        for under_way in list(self._under_way.values()):
            await connection.publish(under_way.message.reply, Msg.Ack.Progress)


_Cut = list[tuple[MessageId, bytes]]
_MessageKey = tuple[int, float]  # place in the stream, and the time of storing: streams may be made anew


class _UnderWay(NamedTuple):
    """A message whose frame is not settled."""

    message: Msg
    since_s: float


class _Peer:
    """A member, with what waits for it, and what came of it and is not whole."""

    def __init__(self, member: Member, outbox_bytes_max: int) -> None:
        self.member = member
        self.outbox = BoundedQueue(outbox_bytes_max)
        self.has_frames = asyncio.Event()
        self.sending: deque[_Cut] = deque()  # frames at the front of the outbox: what is not confirmed
        self.window = _WINDOW_MAX  # messages that are sent at once: fewer where the stream was full
        self.full_tries = 0
        self.is_up = asyncio.Event()
        self.is_shut = False
        self.unfinished: Unfinished[_MessageKey] = Unfinished()
        self.task: asyncio.Task[None] | None = None

    def is_bound_elsewhere(self, member: Member) -> bool:
        """True when frames to the member go to another stream than before, or begin or cease to go."""
        before = self.member
        return before.sites[1] != member.sites[1] or before.is_heard_only != member.is_heard_only


def _id_of(headers: Mapping[str, str], payload: bytes) -> MessageId:
    message_id = parse_message_id(headers.get(ID_HEADER, ""))
    if headers.get(DIGEST_HEADER, "") != digest_of(payload):
        raise InvalidContent("it has another digest than it says", hint="look what damages it; use TLS")
    return message_id


def _ends_a_pull(message: Msg) -> bool:
    """True for the server's word that no more messages come for a request. Raises Refused where the next
    request would fare no better."""
    status = (message.headers or {}).get("Status")
    if status is None or _is_alive(message):
        return False
    said = (message.headers or {}).get("Description", "")
    if status in ("404", "408") or "MaxBytes" in said:
        return True
    raise Refused(f"the server says {status} {said}")


def _text(error: Exception) -> str:
    if isinstance(error, APIError):
        return f"NATS says {error.description} ({error.err_code})"
    return str(error) or type(error).__name__


def _is_alive(message: Msg) -> bool:
    return (message.headers or {}).get("Status") == "100"


async def _next(came: asyncio.Queue[Msg], within_s: float) -> Msg:
    try:
        async with asyncio.timeout(within_s):
            return await came.get()
    except TimeoutError as error:
        raise PeerUnreachable("nothing is heard of the consumer") from error


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """End tasks. The client swallows a cancellation while it writes, so that one may not be enough."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.1)


async def _close(connection: Client) -> None:
    # A client that has not begun to connect has nothing to close, and says so by an assertion.
    with suppress(*_FAILURES, AssertionError):
        async with asyncio.timeout(1):
            await connection.close()


def _keep_out_of_logs() -> None:
    """Keep a line out of the log that asyncio writes at each end of a connection with TLS, which the client
    makes in two steps."""
    log = logging.getLogger("asyncio")
    if _is_told not in log.filters:
        log.addFilter(_is_told)


def _is_told(record: logging.LogRecord) -> bool:
    return "eof_received()" not in record.getMessage()
