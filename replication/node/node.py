"""A node: the replicator of one store at work, in a thread of its own, with a transport to the others.

All that happens is put into one inbox, from whichever thread: frames, links, commands, and the bell of the
store's commits. The node's thread takes it from there, gives it to the replicator, seals what that wants
sent, and waits until something comes or is due. A failure of the disk, and a fault of the program, end no
thread: the links are closed, so that the others see that nothing arrives here, and all begins anew a little
later. What arrived and makes the program fail is refused by itself, and all else goes on.
"""

from __future__ import annotations

import math
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

from pillarbox.replication.core.effects import GiveReceipt, Pass, Send
from pillarbox.replication.core.preset import Preset
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import Tree
from pillarbox.replication.node.conflict_notice import Tell, tell_nobody
from pillarbox.replication.node.fence import FenceFile
from pillarbox.replication.node.gate import Frame, Gate
from pillarbox.replication.node.inbox import Inbox
from pillarbox.replication.node.pacing import Pace
from pillarbox.replication.node.sealing import Sealer, version_for
from pillarbox.replication.node.store_replicator import Outgoing, StoreReplicator
from pillarbox.replication.organisation.topology import Organisation
from pillarbox.replication.transports.bounded_queue import BoundedQueue
from pillarbox.replication.transports.transport import Members, Transport, nothing
from pillarbox.replication.wire.frame import VERSIONS_READ
from pillarbox.replication.wire.messages import BundleKey, Receipt
from pillarbox.replication.wire.seal import Peer, Signer
from pillarbox.replication.wire.transport_frames import is_urgent
from pillarbox.store.engine.commit_notification import CommitNotification
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import Dismounted, OverLimit, PillarboxError, Refused
from pillarbox.store.events import EventId
from pillarbox.store.mail.messages import PreparedMessage

R = TypeVar("R")

NOTE_MS: Final = 100
"""Users' changes are noted so long after the first at the latest; when they are sent is the preset's."""
BATCH_BYTES_MAX: Final = 4 << 20
"""Frames that are applied in one transaction, in which the store's users wait."""
BATCH_FRAMES_MAX: Final = 64
HELD_BYTES_MAX: Final = 8 << 20
"""Frames for one store that its outbox had no room for; what is more is lost, and asked for again."""
RETRY_MS: Final = 5_000
STOP_SECONDS: Final = 6


class Membership(Protocol):
    """By what the stores of a tree know each other, as an organisation says."""

    def signer(self, organisation: Organisation) -> Signer:
        """The key and certificate with which this store signs."""
        ...

    def peers(self, organisation: Organisation) -> Mapping[bytes, Peer]:
        """All stores by certificate fingerprint, also those that were removed."""
        ...

    def members(self, organisation: Organisation) -> Members:
        """The stores that this one may be linked to."""
        ...


@dataclass(frozen=True)
class Belonging:
    """The tree that a store belongs to, and all by which it takes part: what a node is made with.

    `organisation` and `preset` count until the store has the organisation's own entries. `reads` are the
    versions of the wire that the program reads and writes.
    """

    tree: Tree
    organisation: Organisation
    preset: Preset
    fence: FenceFile
    membership: Membership
    reads: frozenset[int] = VERSIONS_READ


class _Link(NamedTuple):
    peer: bytes
    is_up: bool


class _Room(NamedTuple):
    peer: bytes


class _Bell(NamedTuple):
    """The store has advanced."""


class _Went(NamedTuple):
    """A copy for a site has left over the link to a server."""

    key: BundleKey
    to: bytes
    size_bytes: int


class _Stop(NamedTuple):
    pass


class _Asked(NamedTuple):
    """A command or view that another thread waits for."""

    change: Callable[[Replica], Any]
    prepared: Mapping[bytes, PreparedMessage]
    future: Future[Any]


_Item: TypeAlias = Frame | _Link | _Room | _Bell | _Went | _Stop | _Asked


class State(StrEnum):
    """The states of a node."""

    RUNNING = "running"
    WAITING = "waiting"
    """Something is in the way, and is tried again."""
    STOPPED = "stopped"


class Standing(NamedTuple):
    """The state of a node, and what is in the way when it waits."""

    state: State
    reason: str = ""


class Node:
    """Keeps one store in line with the others of its tree. Made, started and stopped once.

    `make_transport` gives a transport that was not started. `tell_fault` is given the traceback of a fault of
    the program; `tell` the notices of conflicts to people, and delivers those whose mailboxes are here.
    `links` are the stores that can be reached; `came_bytes` and `went_bytes` count the bytes of frames that
    came from a store, and that were given to its link.
    """

    def __init__(
        self,
        database: Database,
        belonging: Belonging,
        make_transport: Callable[[], Transport],
        tell_fault: Callable[[str], None],
        tell: Tell = tell_nobody,
    ) -> None:
        self._database = database
        self._belonging = belonging
        self._make_transport = make_transport
        self._tell_fault = tell_fault
        self._tell = tell
        self._clock = database.clock
        self._organisation = belonging.organisation
        self._inbox: Inbox[_Item] = Inbox()
        self._bell = _Ringing(self._inbox)
        self._gate = Gate(database, belonging.tree, lambda: self._peers, tell_fault, belonging.reads)
        self._sealer = Sealer(belonging.tree)
        self._version = version_for(belonging.organisation, belonging.reads)
        self._peers: Mapping[bytes, Peer] = {}
        self._replicator: StoreReplicator | None = None
        self._transport: Transport | None = None
        self._notification: CommitNotification | None = None
        self._note_ms: int | None = None
        self._retry_ms: int | None = None
        self._told = ""
        self._pace = Pace(database.guid)
        self._held: dict[bytes, BoundedQueue] = {}
        self._went: list[_Went] = []
        self._unsendable: list[tuple[Send | Pass, OverLimit]] = []
        self._thread: threading.Thread | None = None
        self._awaited_links: set[bytes] = set()  # of members whose link was told of, or is waited for
        self._ending = threading.Lock()
        self._has_ended = False
        self.links: set[bytes] = set()
        self.came_bytes: Counter[bytes] = Counter()
        self.went_bytes: Counter[bytes] = Counter()
        self.standing = Standing(State.STOPPED)

    # -- from any thread

    def start(self) -> None:
        """Begin, in a thread. What is in the way of it is told by an event, and tried again."""
        self._thread = threading.Thread(target=self._run, name="pillarbox-replication", daemon=True)
        self._thread.start()

    def stop(self) -> bool:
        """End properly, within seconds; False when the store is so busy that it has not ended by then."""
        self._inbox.close()
        self._inbox.put(_Stop())
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
            return not self._thread.is_alive()
        self.end()
        return True

    def perform(self, change: Callable[[Replica], R], prepared: Mapping[bytes, PreparedMessage] = {}) -> R:
        """Make a change by functions of the core, or look, in the node's thread. What it gave back.
        `prepared` is mail that the change brings, by its digest.

        Raises what that raises, and Refused with the reason while the node does not run.
        """
        return self.asked(change, prepared).result()

    def asked(
        self, change: Callable[[Replica], R], prepared: Mapping[bytes, PreparedMessage] = {}
    ) -> Future[R]:
        """The result of a change or a look that the node's thread is asked for; cancelled before that comes
        to it, it is not done. Raises Refused as `perform`."""
        future: Future[R] = Future()
        with self._ending:
            if self._has_ended:
                raise self._not_running()
            self._inbox.put(_Asked(change, prepared, future))
        return future

    @property
    def organisation(self) -> Organisation:
        """The organisation by which the node goes."""
        return self._organisation

    @property
    def refused_counts(self) -> Mapping[str, int]:
        """Frames that were refused since the start, by reason."""
        return {str(reason): count for reason, count in self._gate.refused_counts.copy().items()}

    def frame_came(self, peer: bytes, frame: bytes, settled: Callable[[], None] = nothing) -> None:
        """For the transport; returns when there is room for the next one."""
        self.came_bytes[peer] += len(frame)
        self._inbox.put_bytes(Frame(peer, frame, settled), len(frame), is_urgent(frame))

    def link_changed(self, peer: bytes, is_up: bool) -> None:
        """For the transport."""
        self._inbox.put(_Link(peer, is_up))

    def has_room(self, peer: bytes) -> None:
        """For the transport."""
        self._inbox.put(_Room(peer))

    # -- the node's thread

    def _run(self) -> None:
        try:
            while True:
                due_ms = self.work()
                if self._has_ended:
                    return
                wait_ms = None if due_ms is None else max(due_ms - self._clock.monotonic_ms(), 0)
                item = self._inbox.take(wait_ms)
                if item is not None and not self._take(item):
                    return
        finally:
            self.end()

    def work(self) -> int | None:
        """Do all that waits in the inbox and all that is due; when to call again (monotonic ms), None for
        not before something comes.
        """
        while (item := self._inbox.take()) is not None:
            if not self._take(item):
                self.end()
                return None
        if not self._is_running and (self._retry_ms or 0) <= self._clock.monotonic_ms():
            self._guarded(self._begin)
        if self._is_running:
            self._guarded(self._do_due)
        return self._due_ms()

    @property
    def _is_running(self) -> bool:
        return self._replicator is not None

    def _take(self, item: _Item) -> bool:
        """Take one thing from the inbox, and frames that come right behind it; False to end."""
        match item:
            case _Stop():
                return False
            case _Asked():
                self._answer(item)
            case _Bell():
                self._bell.is_hung = False
            case _Went():
                self._went.append(item)
            case _Link() if self._is_running:
                self._guarded(lambda: self._link(item))
            case _Room(peer):
                self._flush(peer)
            case Frame() if self._is_running:
                return self._take_frames(item)
        return True

    def _take_frames(self, first: Frame) -> bool:
        """Apply a frame and those that wait behind it, as one batch."""
        frames, size_bytes, rest = [first], len(first.data), None
        while size_bytes < BATCH_BYTES_MAX and len(frames) < BATCH_FRAMES_MAX:
            rest = self._inbox.take()
            if not isinstance(rest, Frame):
                break
            frames.append(rest)
            size_bytes += len(rest.data)
            rest = None
        self._guarded(lambda: self._apply(frames))
        return rest is None or self._take(rest)

    def _apply(self, frames: list[Frame]) -> None:
        batch = self._gate.open(frames)
        if batch.taken and self._replicator is not None:
            for taken, error in self._replicator.receive(batch):
                self._gate.refuse_fault(taken.by if isinstance(taken, Receipt) else taken.hop, error)
            self._called()
        for settled in batch.settled:
            settled()

    def _link(self, link: _Link) -> None:
        self._awaited_links.add(link.peer)
        if link.is_up:
            self.links.add(link.peer)
        else:
            self.links.discard(link.peer)
            self._held.pop(link.peer, None)
        if self._replicator is not None:
            self._replicator.link_changed(link.peer, link.is_up)
            self._called()

    def _answer(self, asked: _Asked) -> None:
        if not asked.future.set_running_or_notify_cancel():
            return  # nobody waits for it any more
        replicator = self._replicator
        if replicator is None:
            asked.future.set_exception(self._not_running())
            return
        try:
            result = replicator.perform(asked.change, asked.prepared)
        except BaseException as error:  # the caller's: it is raised there
            asked.future.set_exception(error)
        else:
            asked.future.set_result(result)
        self._guarded(self._called)

    def _not_running(self) -> Refused:
        return Refused(
            f"replication does not run: {self.standing.reason or 'it has not begun'}",
            hint="see the log of the serving process",
        )

    def _begin(self) -> None:
        """Start the replicator, then the transport: what arrives is wanted from then on."""
        belonging = self._belonging
        replicator = StoreReplicator(
            self._database,
            belonging.tree,
            belonging.organisation,
            belonging.preset,
            belonging.fence,
            self._give,
            belonging.reads,
            self._tell,
        )
        replicator.may_send_page = self._may_send_page
        replicator.start()
        self._replicator = replicator
        self._notification, self._bell.is_hung = self._database.notification, False
        self._go_by(replicator.organisation)
        self._inbox.open()
        transport = self._make_transport()
        transport.start(self)
        self._transport = transport
        self._link_to(transport)
        self.standing, self._told = Standing(State.RUNNING), ""

    def _do_due(self) -> None:
        replicator = self._replicator
        assert replicator is not None
        self._watch()
        for peer in [peer for peer, held in self._held.items() if held]:
            self._flush(peer)
        now_ms = self._clock.monotonic_ms()
        due_ms = replicator.due_ms()
        is_noted = self._note_ms is not None and self._note_ms <= now_ms
        if is_noted or (due_ms is not None and due_ms <= now_ms):
            replicator.tick()
            self._called()
        elif self._went:
            self._called()

    def _called(self) -> None:
        """After a call of the replicator: it has noted all that users changed before, and may have learned of
        another organisation."""
        replicator = self._replicator
        if replicator is None:
            return
        self._note_ms = None
        while self._went or self._unsendable:
            went, self._went = self._went, []
            if went:
                replicator.sent(went)
            unsendable, self._unsendable = self._unsendable, []
            for effect, error in unsendable:
                replicator.cannot_send(effect, error)
        if replicator.organisation is not self._organisation:
            self._go_by(replicator.organisation)
            if self._transport is not None:
                self._link_to(self._transport)
        self._watch()

    def _go_by(self, organisation: Organisation) -> None:
        """Go by another organisation: whom it lets speak, and in which version all understand each other."""
        self._organisation = organisation
        self._pace.follow(organisation)
        self._peers = self._belonging.membership.peers(organisation)
        self._version = version_for(organisation, self._belonging.reads)

    def _link_to(self, transport: Transport) -> None:
        """Link to the members of now. Until its link stands a store is out of reach: what was given to it
        would be waited for in vain."""
        members = self._belonging.membership.members(self._organisation)
        transport.members_changed(members)
        for peer in sorted(members.keys() - self._awaited_links - self.links):
            self._awaited_links.add(peer)
            if self._replicator is not None:
                self._replicator.link_changed(peer, False)

    def _watch(self) -> None:
        """Hang the bell of the store's commits, and see whether users changed something."""
        replicator, notification = self._replicator, self._notification
        if replicator is None or notification is None:
            return
        if not self._bell.is_hung:
            self._bell.is_hung = True
            notification.hang(self._bell)
        if notification.has_passed(replicator.noted_cn) and self._note_ms is None:
            self._note_ms = self._clock.monotonic_ms() + NOTE_MS

    def _due_ms(self) -> int | None:
        if self._replicator is None:
            return self._retry_ms
        due = [each for each in (self._replicator.due_ms(), self._note_ms) if each is not None]
        now_ms = self._clock.monotonic_ms()
        free_ms = (math.ceil(self._pace.free_ms(peer)) for peer, held in self._held.items() if held)
        return min((*due, *(each for each in free_ms if each > now_ms)), default=None)

    # -- sending

    def _give(self, outgoing: Outgoing) -> None:
        """Seal something and give it to the transport. The store that makes it may lose it."""
        signer = self._belonging.membership.signer(self._organisation)
        try:
            sealed = self._sealer.frames_of(outgoing, signer, self._clock.now_ms(), self._version)
        except OverLimit as error:
            assert not isinstance(outgoing.effect, GiveReceipt)
            self._unsendable.append((outgoing.effect, error))  # for when the call under way is over
            return
        effect, went = outgoing.effect, nothing
        if isinstance(effect, Send) and self._replicator is not None:
            self._replicator.page_packed(effect.message, sealed.size_bytes)
        if isinstance(effect, Pass) and effect.label.is_for_site:
            went = partial(self._inbox.put, _Went(effect.bundle.key, sealed.to, sealed.size_bytes))
        is_linked = sealed.to in self.links
        if isinstance(effect, GiveReceipt) and is_linked and self._hand(sealed.to, sealed.frames[0], went):
            return  # some sixty bytes, which are waited for: they pass what the rate holds
        for frame in sealed.frames:
            is_last = frame is sealed.frames[-1]
            self._give_frame(sealed.to, frame, went if is_last else nothing)

    def _give_frame(self, to: bytes, frame: bytes, went: Callable[[], None]) -> None:
        """Give a frame to the link, or hold it until that has room and its rate lets it leave; an urgent one
        passes what is held. What is lost here counts as gone: whoever waits for a receipt is to wait no
        longer than for any other."""
        if to not in self.links or self._transport is None:
            went()
            return
        held, hurries = self._held.setdefault(to, BoundedQueue(HELD_BYTES_MAX)), is_urgent(frame)
        if (not len(held) or hurries) and self._is_free(to) and self._hand(to, frame, went):
            return
        if not held.put(frame, went, hurries):
            went()

    def _flush(self, peer: bytes) -> None:
        held = self._held.get(peer)
        while held and self._is_free(peer) and held.hand_on(partial(self._hand, peer)):
            pass

    def _is_free(self, peer: bytes) -> bool:
        """True when the rate of the link lets the next frame leave."""
        return self._pace.free_ms(peer) <= self._clock.monotonic_ms()

    def _hand(self, to: bytes, frame: bytes, went: Callable[[], None]) -> bool:
        is_taken = self._transport is not None and self._transport.give(to, frame, went, is_urgent(frame))
        self.went_bytes[to] += len(frame) * is_taken
        if is_taken:
            self._pace.left(to, len(frame), self._clock.monotonic_ms())
        return is_taken

    def _may_send_page(self, asker: bytes) -> bool:
        """True when the next page of an answer may be made: of one that nobody can take the asker asks
        again."""
        return asker not in self.links or not self._held.get(asker)

    # -- failures

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do something; a failure is told, and all begins anew a little later."""
        try:
            action()
        except PillarboxError as error:
            self._suspend(error)
        except Exception as error:
            self._tell_fault(traceback.format_exc())
            self._replicator = None  # nobody knows what it is in
            self._suspend(PillarboxError(f"a fault of the program: {error}"))

    def _suspend(self, error: PillarboxError) -> None:
        self._let_go()
        self._retry_ms = self._clock.monotonic_ms() + RETRY_MS
        self.standing = Standing(State.WAITING, str(error))
        if self._told != str(error):
            self._told = str(error)
            if not isinstance(error, Dismounted):  # which was told by who dismounted it
                self._database.report(EventId.REQUEST_FAILED, request="replication", error=str(error))

    def _let_go(self) -> None:
        """Close the links, end the replicator, and forget what was on its way."""
        transport, self._transport = self._transport, None
        replicator, self._replicator = self._replicator, None
        self._inbox.close()
        if transport is not None:
            transport.close()
        if replicator is not None:
            with suppress(PillarboxError):  # the next start finds that it did not end properly
                replicator.stop()
        self._notification = self._note_ms = None
        self.links.clear()
        self._awaited_links.clear()
        self._held.clear()
        self._went.clear()
        self._unsendable.clear()
        kept = []
        while (item := self._inbox.take()) is not None:
            if isinstance(item, _Asked | _Stop):
                kept.append(item)
        for item in kept:
            self._inbox.put(item)

    def end(self) -> None:
        """End: the links first, then the replicator. For the node's thread, or a node that has none."""
        self._let_go()
        self.standing = Standing(State.STOPPED, "it has stopped")
        with self._ending:
            self._has_ended = True
        while (item := self._inbox.take()) is not None:
            if isinstance(item, _Asked):
                self._answer(item)


class _Ringing:
    """The bell that a node hangs into its store: it is rung once, by the writer."""

    def __init__(self, inbox: Inbox[_Item]) -> None:
        self._inbox = inbox
        self.is_hung = False

    def put(self, item: None) -> None:
        self._inbox.put(_Bell())
