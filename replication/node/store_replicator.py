"""The replicator of one real store: drives the core by what its users change, what arrives, and time.

Each call is one transaction of the store: the changes that users made since the last call, what the call
does, and the knowledge of both. What it wants sent leaves after that. A call that fails has done nothing;
the next one begins anew from what the store has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final, NamedTuple, TypeVar

from pillarbox.replication.core import identity, organisation_folder, outbox
from pillarbox.replication.core.effects import (
    Answer,
    AnswerKey,
    Effect,
    GiveReceipt,
    Notice,
    Pass,
    Report,
    Send,
)
from pillarbox.replication.core.explanation import Explanation, explain
from pillarbox.replication.core.hello import Start
from pillarbox.replication.core.identity import Fence, Mark
from pillarbox.replication.core.preset import Preset
from pillarbox.replication.core.replica import Moment, Replica, ReplicaRecord
from pillarbox.replication.core.replicator import Replicator
from pillarbox.replication.ground.records import Folder, ObjectId, Tree
from pillarbox.replication.node import conflict_notice
from pillarbox.replication.node.bound_objects import BoundObjects
from pillarbox.replication.node.conflict_notice import ConflictNotice, Tell, notices_of
from pillarbox.replication.node.contents import contents_of
from pillarbox.replication.node.fence import FenceFile
from pillarbox.replication.node.held_copies import HeldCopies
from pillarbox.replication.node.local_numbers import changes_of, counters_since
from pillarbox.replication.node.opening import Arrived, Batch, Taken
from pillarbox.replication.node.stored_objects import OF_THE_STORE, CannotApply, Place, StoredObjects
from pillarbox.replication.node.stored_record import StoredRecord
from pillarbox.replication.organisation.topology import Organisation
from pillarbox.replication.wire.frame import VERSIONS_READ
from pillarbox.replication.wire.messages import (
    BundleKey,
    Changes,
    Class,
    Message,
    Receipt,
    Sender,
)
from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.engine import numbering
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import (
    DiskFull,
    Dismounted,
    NotFound,
    OverLimit,
    PillarboxError,
    ReadOnly,
    Refused,
)
from pillarbox.store.events import EventId
from pillarbox.store.hybrid_clock import HybridClock
from pillarbox.store.ids import LOCAL_BASE, guid_text
from pillarbox.store.mail.messages import PreparedMessage

ACTOR_TEXT: Final = "replication"
ACTOR: Final = Actor.task(ACTOR_TEXT)
NONCE_BYTES: Final = 16
PROGRAM_VERSION: Final = 1
"""The version of the program, as servers state it to each other: raised when a newer one is a better
source."""
_WARNINGS: Final = frozenset(
    {
        Notice.NUMBER_GIVEN_TWICE,
        Notice.QUARANTINED,
        Notice.WENT_BACK,
        Notice.STAMP_AHEAD,
        Notice.EXPIRED_LOST,
        Notice.SET_ASIDE,
        Notice.TOO_LARGE,
    }
)

R = TypeVar("R")
Work = Callable[[WriteTransaction, Replicator], list[Effect]]


class Outgoing(NamedTuple):
    """Something to be sent, with the raw messages that it carries. It is durable here.

    `data` is a copy of another store's bundle as that store signed it, with all that it carries. `of` is the
    class of a message to one store; a bundle has its own.
    """

    effect: Send | Pass | GiveReceipt
    contents: tuple[bytes, ...] = ()
    data: bytes = b""
    of: Class = Class.URGENT


class Failed(NamedTuple):
    """Something that arrived at which the program itself failed, and the error. Nothing of it was done."""

    taken: Taken
    error: Exception


class _Done(NamedTuple):
    """A call whose transaction is durable: all that follows from it."""

    incarnation: int
    effects: list[Effect]
    outgoing: list[Outgoing]
    notices: list[ConflictNotice]


Transport = Callable[[Outgoing], None]


class StoreReplicator:
    """A store's replicator. One thread at a time calls it; other threads use the store meanwhile.

    `transport` takes what is to be sent, after the transaction that it follows from; it may lose it. `tell`
    takes notices of conflicts; those that a crash kept from it come at the next start, and without one all
    wait for who has it. `fence` lies outside of the database. `reads` are the versions of the wire that the
    program reads. `may_send_page` says whether the store that asked for something may be sent the next page
    of its answer; it waits while not. Every call raises Dismounted, ReadOnly or DiskFull as a transaction
    does: it may be made again when there is room.
    """

    def __init__(
        self,
        database: Database,
        tree: Tree,
        organisation: Organisation,
        preset: Preset,
        fence: FenceFile,
        transport: Transport,
        reads: Collection[int] = VERSIONS_READ,
        tell: Tell | None = None,
    ) -> None:
        self._database = database
        self._tree = tree
        self._organisation = organisation
        self._preset = preset
        self._fence_file = fence
        self._transport = transport
        self._reads = frozenset(reads)
        self._stated_in: Folder | None = None  # the entries that were looked at for what this program is
        self._tell = tell
        self._untold: list[ConflictNotice] = []  # of before this replicator began
        self._told: list[ConflictNotice] = []  # that are still kept
        self._objects = BoundObjects()
        self._replicator: Replicator | None = None
        self._fence: Fence | None = None
        self._withheld = CNSet()
        self._was_numbered_anew = False
        self._begins = Start.JOINED
        self._stored = StoredRecord()
        self._copies = HeldCopies()
        self._arrived: dict[BundleKey, bytes] = {}  # copies, as long as the call under way
        self._pages: dict[AnswerKey, bool] = {}  # whose turn has come, and whether each was sent
        self._packed_bytes: dict[AnswerKey, int] = {}  # of the pages that were sent
        self.may_send_page: Callable[[bytes], bool] = lambda asker: True

    # -- from outside

    @property
    def organisation(self) -> Organisation:
        """The organisation that the store goes by: its entries, once it has them."""
        return self._replicator.replica.organisation if self._replicator else self._organisation

    @property
    def noted_cn(self) -> int:
        """The last change number up to which all that users changed is noted; 0 before the first call."""
        return LOCAL_BASE | self._replicator.replica.record.counter if self._replicator else 0

    def start(self) -> None:
        """Begin, after a mount: it says hello, and nothing else before others have answered.

        Raises Refused in a database that has not joined the tree, or of which not all is numbered yet.
        """
        fence, place = self._fence_file.read()
        self._replicator, self._begins = None, Start.AGAIN

        def begin(txn: WriteTransaction, replicator: Replicator) -> list[Effect]:
            self._refuse_unjoined(txn)
            before = fence.nonce if fence else b""
            record, nonces = replicator.replica.record, numbering.nonces(txn)
            mark = Mark(record.sender.incarnation, nonces[:NONCE_BYTES], nonces[NONCE_BYTES:])
            reason = identity.reason_to_number_anew(txn.files.guid, txn.restored, mark, fence, place)
            begins = Start.AGAIN if mark.nonce else Start.JOINED
            is_doubted = fence is not None and fence.is_doubted
            if reason is not None or (self._was_numbered_anew and not is_doubted):
                begins = Start.WENT_BACK
            elif begins is Start.AGAIN and fence is not None and fence.is_open:
                left_out = identity.leave_out_after_unclean_end(record)
                txn.leave_out_numbers(left_out.highest(record.sender.origin))
            nonce = numbering.renew_nonce(txn, before)
            self._fence = Fence(txn.files.guid, 0, nonce, self._fence_file.nowhere, is_open=True)
            return replicator.start(self._now(), begins)

        self._call(begin, is_start=True)

    def stop(self) -> None:
        """End properly: the next start finds that nothing can have been lost."""
        self._call(lambda txn, replicator: [])
        if self._fence is not None:
            self._fence_file.write(self._fence._replace(is_open=False))
        self._replicator, self._fence, self._begins = None, None, Start.JOINED

    def receive(self, batch: Batch) -> list[Failed]:
        """Apply all that arrived, as one transaction. A batch that is large holds up the store's users.

        A batch of which all was refused costs nothing, whoever sends it. Where the program itself fails at
        something in it, each message is applied in a transaction of its own; given back is what failed then
        too. No receipt is given for a bundle of which something failed, nor is it handed on.
        """
        if not batch.taken:
            return []
        try:
            done = self._take(batch)
        except OF_THE_STORE:
            raise
        except Exception as error:
            self._call(lambda txn, replicator: [])  # raises what would fail without the batch, too
            first, *others = batch.taken
            apart = batch.taken if others else _messages_apart(first, self._database.guid)
            failed = [each for one in apart for each in self.receive(batch._replace(taken=(one,)))]
            return failed if failed or others else [Failed(first, error)]
        self._follow(done)
        return []

    def _take(self, batch: Batch) -> _Done:
        self._arrived = {
            each.opened.bundle.key: each.data
            for each in batch.taken
            if isinstance(each, Arrived) and each.is_copy
        }

        def take(txn: WriteTransaction, replicator: Replicator) -> list[Effect]:
            now = self._now()
            return [effect for each in batch.taken for effect in _receive(replicator, each, now)]

        try:
            return self._made(take, prepared=batch.prepared)
        finally:
            self._arrived = {}

    def sent(self, copies: Iterable[tuple[BundleKey, bytes, int]]) -> None:
        """The links have taken copies for sites: of which bundle, the server it went to, its bytes."""

        def note(txn: WriteTransaction, replicator: Replicator) -> list[Effect]:
            now = self._now()
            return [effect for copy in copies for effect in replicator.sent(*copy, now)]

        self._call(note)

    def cannot_send(self, effect: Send | Pass, error: OverLimit) -> None:
        """Something that was to be sent is too large to be sealed. Raises `error` when no object in it is."""
        self._call(lambda txn, replicator: replicator.cannot_send(effect, error, self._now()))

    def tick(self) -> None:
        """Do all that is due, note what users changed, and send the next page of each answer."""
        is_due = self._is_due()
        if is_due:
            self._call(lambda txn, replicator: replicator.tick(self._now()))
        pages = [key for key in self._pages if self.may_send_page(key.asker)]
        for key in pages:
            if key in self._pages and self.may_send_page(key.asker):
                self._send_page(key)  # which notes what users changed, as any call does
        if not (is_due or pages):
            self._call(lambda txn, replicator: [])

    def _is_due(self) -> bool:
        due_ms = None if self._replicator is None else self._replicator.next_due_ms()
        return self._replicator is None or (
            due_ms is not None and due_ms <= self._database.clock.monotonic_ms()
        )

    def due_ms(self) -> int | None:
        """When to tick, by the machine's monotonic clock in ms; None when not before something happens.

        What users change is not waited for here, but by `Database.wait_for_change`.
        """
        if self._replicator is None or any(self.may_send_page(asker) for asker, _ in self._pages):
            return self._database.clock.monotonic_ms()
        return self._replicator.next_due_ms()

    def organisation_changed(self, organisation: Organisation) -> None:
        """Servers, sites or connectors changed."""
        self._organisation = organisation
        self._call(lambda txn, replicator: replicator.organisation_changed(organisation, self._now()))

    def link_changed(self, peer: bytes, is_up: bool) -> None:
        """The transport sees that a store can be reached from here, or no longer."""
        self._call(lambda txn, replicator: replicator.link_changed(peer, is_up, self._now()))

    def perform(self, change: Callable[[Replica], R], prepared: Mapping[bytes, PreparedMessage] = {}) -> R:
        """Make a change by functions of the core, or look: an operator's command, or a view. What that gave
        back. `prepared` is mail that the change brings, by its digest.

        A replicator that was not started takes commands too, as the functions of the store do: nothing
        leaves, and what was changed goes out after the next start. Raises what `change` does, and then
        nothing was done.
        """
        given: list[R] = []
        refused: list[PillarboxError] = []

        def ask(replica: Replica) -> None:
            try:
                given.append(change(replica))
            except PillarboxError as error:
                if replica.written or replica.effects:
                    raise  # all of the call is undone, and the replicator begins anew
                refused.append(error)

        def work(txn: WriteTransaction, replicator: Replicator) -> list[Effect]:
            given.clear()
            refused.clear()
            return replicator.local_changes(ask, self._now())[1]

        self._follow(self._made(work, prepared=prepared))
        if refused:
            raise refused[0]
        return given[0]

    def number_anew(self) -> None:
        """Number under a new incarnation: the operator chose this copy of two of a store."""
        self._call(lambda txn, replicator: replicator.number_anew(self._now()))

    def explain(self, folder: ObjectId) -> Explanation:
        """Explain a folder that is not in sync."""
        return self.perform(lambda replica: explain(replica, folder))

    # -- one call

    def _call(self, work: Work, *, is_start: bool = False) -> None:
        """Make a call, and let what it wants sent leave."""
        self._follow(self._made(work, is_start=is_start))

    def _made(
        self, work: Work, *, is_start: bool = False, prepared: Mapping[bytes, PreparedMessage] = {}
    ) -> _Done:
        """Make a call durable. Objects that cannot be applied are found one by one, and set aside in the next
        try."""
        refused: dict[Place, str] = {}
        while (done := self._attempt(work, refused, is_start, prepared)) is None:
            pass
        return done

    def _attempt(
        self,
        work: Work,
        refused: dict[Place, str],
        is_start: bool,
        prepared: Mapping[bytes, PreparedMessage],
    ) -> _Done | None:
        """Make a call once; None when an object was found that cannot be applied, and nothing was done."""
        try:
            with self._database.transaction(ACTOR) as txn:
                replicator, effects = self._bound(txn, refused, is_start, prepared)
                effects += self._note_local(txn, replicator)
                if txn.restored and not is_start:  # a command, before the node has started
                    effects += replicator.number_anew(self._now())
                effects += work(txn, replicator)
                effects += self._state_version(replicator)
                if is_start:
                    effects += self._note_local(txn, replicator)
                outgoing = self._outgoing(txn, effects)
                self._forget_told(txn)
                notices = self._report(txn, effects)
                self._keep(txn, replicator)
        except CannotApply as error:
            self._replicator = None
            if error.place in refused:
                raise
            refused[error.place] = error.reason
            return None
        except BaseException:
            self._replicator = None  # it is ahead of what the store has
            raise
        return _Done(replicator.replica.me.incarnation, effects, outgoing, notices)

    def _follow(self, done: _Done) -> None:
        """Do what follows from a call, now that it is durable."""
        self._told = []
        self._keep_fence(done.incarnation)
        for effect in done.effects:
            if isinstance(effect, Answer):
                self._pages[effect.key] = False
        for each in done.outgoing:
            self._transport(each)
        if self._tell is not None and (notices := [*self._untold, *done.notices]):
            for notice in notices:
                self._tell(notice)
            self._untold.clear()
            self._told = notices
            with suppress(DiskFull, Dismounted, ReadOnly):  # the call is done: the next one forgets them
                with self._database.transaction(ACTOR) as txn:
                    self._forget_told(txn)
                self._told = []

    def _forget_told(self, txn: WriteTransaction) -> None:
        for notice in self._told:
            conflict_notice.forget(txn, notice)

    def _bound(
        self,
        txn: WriteTransaction,
        refused: Mapping[Place, str],
        is_start: bool,
        prepared: Mapping[bytes, PreparedMessage],
    ) -> tuple[Replicator, list[Effect]]:
        """The core, over the objects as this transaction has them; begun again where a call failed."""
        self._objects.bound = objects = StoredObjects(
            txn, self._tree, self._owner_of, _content_that_came, prepared, refused
        )
        if self._replicator is not None:
            self._replicator.replica.new_guid = txn.new_guid
            return self._replicator, []
        self._refuse_unjoined(txn)
        self._pages.clear()
        self._packed_bytes.clear()
        self._withheld = CNSet()
        record = self._stored.load(txn, objects.identifiers) or ReplicaRecord(sender=_sender_of(txn))
        record.passing = self._copies.load(txn, self._tree)
        self._untold = conflict_notice.untold(txn)
        replicator = Replicator(
            record, self._tree, self._organisation, self._preset, self._objects, txn.new_guid
        )
        self._replicator = replicator
        self._was_numbered_anew = False
        if is_start:
            return replicator, []
        # At rest no hello shows what was given: `returning.notice_return`.
        is_doubted = self._fence is None and txn.numbering == txn.files.unsure_numbering
        return replicator, replicator.start(self._now(), Start.AGAIN if is_doubted else self._begins)

    def _state_version(self, replicator: Replicator) -> list[Effect]:
        """Say in the organisation which program this is and what it reads, where that is new. It takes
        a number, so the hello comes first."""
        replica = replicator.replica
        is_new = self._stated_in is None or self._tree.hierarchy in replicator.changed
        if replica.waiting is not None or not is_new:
            return []
        said = replica.folder(self._tree.organisation)
        if said is None or said is self._stated_in:
            return []
        self._stated_in = said
        _, effects = replicator.local_changes(
            lambda replica: organisation_folder.state_version(
                replica, PROGRAM_VERSION, self._reads, ACTOR_TEXT
            ),
            self._now(),
        )
        return effects

    def _refuse_unjoined(self, txn: WriteTransaction) -> None:
        joined = numbering.membership(txn)
        if joined is None or joined.stamped or joined.tree != self._tree.guid:
            raise Refused("the store is not wholly in the tree", hint="join it first: `joining.join`")

    def _note_local(self, txn: WriteTransaction, replicator: Replicator) -> list[Effect]:
        """Tell the core what users changed since the last call, under each numbering that they changed it."""
        replica, record = replicator.replica, replicator.replica.record
        record.clock = max(record.clock, HybridClock(*txn.clock))
        counters = counters_since(txn, record.counter, self._withheld)
        self._withheld = counters.withheld
        if not counters.new or replica.held(self._tree.hierarchy) is None:  # it begins with the first start
            return []
        own = dict(numbering.own_replicas(txn))
        withheld = CNSet()
        for origin in own.values():
            withheld |= counters.withheld.as_of(txn.files.guid, origin)
        ids, effects = self._objects.bound.identifiers, []
        for is_present in (False, True):
            if is_present and own[txn.numbering] != record.sender.origin:
                replica.begin(_sender_of(txn))
                self._was_numbered_anew = True
            numbers = [number for number in own if (number == txn.numbering) == is_present]
            held = [folder for folder, state in record.folders.items() if state.is_held]
            changes = changes_of(txn, ids, numbers, counters.new, held)
            effects += replicator.note_changes(changes, withheld, self._now())
        record.counter = max(record.counter, txn.counter)
        return effects

    def _keep(self, txn: WriteTransaction, replicator: Replicator) -> None:
        """Keep the record, and bring the store's own numbering and clock in line with it."""
        replica, record = replicator.replica, replicator.replica.record
        sender = record.sender
        if numbering.replica(txn, txn.numbering).origin != sender.origin:
            numbering.begin_numbering(txn, sender.origin, sender.incarnation)
        txn.files.unsure_numbering = txn.numbering if replica.is_numbering_unsure else 0
        record.counter = max(record.counter, txn.counter)
        record.clock = max(record.clock, HybridClock(*txn.clock))
        txn.clock = record.clock.time_ms, record.clock.counter
        self._stored.save(txn, self._objects.bound.identifiers, record, replicator.changed)
        self._copies.keep(txn, record.passing, self._arrived)
        replicator.changed.clear()

    def _keep_fence(self, incarnation: int) -> None:
        """Keep the incarnation in the fence: the database, which comes first, may be ahead of it."""
        if self._fence is not None and self._fence.incarnation != incarnation:
            self._fence = self._fence_file.write(self._fence._replace(incarnation=incarnation))

    def _now(self) -> Moment:
        clock = self._database.clock
        return Moment(clock.monotonic_ms(), clock.now_ms())

    def _owner_of(self, origin: bytes) -> tuple[bytes, int]:
        """The owner of a replica GUID; of one that nobody has told of yet nothing is known."""
        owners = self._replicator.replica.record.owners if self._replicator else {}
        return owners.get(origin, (bytes(len(origin)), 0))

    # -- contents

    def _outgoing(self, txn: WriteTransaction, effects: Iterable[Effect]) -> list[Outgoing]:
        """All that is to be sent, with its contents; those of one body for several stores are read once."""
        read: dict[int, tuple[bytes, ...]] = {}
        found = []
        for effect in effects:
            match effect:
                case Send(message):
                    if id(message.body) not in read:
                        read[id(message.body)] = contents_of(txn, [message])
                    found.append(Outgoing(effect, read[id(message.body)], of=self._class_of(message)))
                case Pass(_, bundle) if bundle.key in self._arrived:
                    found.append(Outgoing(effect, data=self._arrived[bundle.key]))
                case Pass(_, bundle) if bundle.key in self._copies:
                    found.append(Outgoing(effect, data=self._copies.data(txn, bundle.key)))
                case Pass(_, bundle):
                    found.append(Outgoing(effect, contents_of(txn, bundle.messages)))
                case GiveReceipt():
                    found.append(Outgoing(effect))
        return found

    def _class_of(self, message: Message) -> Class:
        """The class of a message to one store: that of its folder for changes, after all else for answers."""
        if not isinstance(message.body, Changes) or self._replicator is None:
            return Class.URGENT
        if message.folder != self._tree.hierarchy and message.body.answer is not None:
            return Class.ANSWERS
        return outbox.class_of(self._replicator.replica, message.folder)

    def page_packed(self, message: Message, packed_bytes: int) -> None:
        """Note the size of a message that was sealed, where it is a page of an answer."""
        if isinstance(message.body, Changes) and message.body.answer is not None:
            self._packed_bytes[AnswerKey(message.to, message.folder)] = packed_bytes

    def _send_page(self, key: AnswerKey) -> None:
        """Send a page whose turn has come; or say that the link has taken the one that was sent, since it has
        room again, and send the next one where that has its turn at once."""

        was_sent, packed_bytes = self._pages.pop(key), self._packed_bytes.pop(key, 0)
        is_turn = not was_sent

        def page(txn: WriteTransaction, replicator: Replicator) -> list[Effect]:
            nonlocal is_turn
            effects = replicator.page_taken(key, self._now(), packed_bytes) if was_sent else []
            others = [each for each in effects if not (isinstance(each, Answer) and each.key == key)]
            is_turn = not was_sent or len(others) < len(effects)
            message = replicator.answer_page(key, self._now()) if is_turn else None
            return others if message is None else [*others, Send(message)]

        self._call(page)
        if is_turn:
            self._pages[key] = True

    def _report(self, txn: WriteTransaction, effects: Iterable[Effect]) -> list[ConflictNotice]:
        """Report events; what people are to be told of them once all is durable."""
        notices: list[ConflictNotice] = []
        for effect in effects:
            if isinstance(effect, Report):
                for notice in notices_of(txn, self._objects.bound.identifiers, effect):
                    conflict_notice.keep(txn, notice)
                    notices.append(notice)
                needs_attention = effect.notice in _WARNINGS
                about = f" (message {_name(effect.object_id)})" if effect.object_id else ""
                txn.report(
                    EventId.REPLICATION_NEEDS_ATTENTION if needs_attention else EventId.REPLICATION_NOTICE,
                    notice=f"{effect.notice}{about}",
                    folder=_name(effect.folder),
                )
        return notices


def _name(object_id: ObjectId) -> str:
    return f"{guid_text(object_id.origin)}:{object_id.counter:x}"


def _receive(replicator: Replicator, taken: Taken, now: Moment) -> list[Effect]:
    """Give the core what arrived."""
    if isinstance(taken, Receipt):
        return replicator.receipt_came(taken, now)
    bundle = taken.opened.bundle
    if taken.is_copy:
        return replicator.receive_copy(taken.label, bundle, taken.hop, now)
    return [effect for message in bundle.messages for effect in replicator.receive(message, now)]


def _messages_apart(taken: Taken, me: bytes) -> list[Taken]:
    """The messages of a bundle of several, each as if it had come alone to this store; of others nothing."""
    if isinstance(taken, Receipt) or len(taken.opened.bundle.messages) == 1:
        return []
    bundle = taken.opened.bundle
    alone = [replace(bundle, messages=(message,), to=me) for message in bundle.messages]
    return [taken._replace(opened=taken.opened._replace(bundle=each)) for each in alone]


def _content_that_came(digest: bytes) -> bytes:
    """The content of a version that was not ready before the transaction, since its bundle holds it not."""
    raise NotFound("a message came without its content", hint="it is asked for again")


def _sender_of(txn: WriteTransaction) -> Sender:
    """The identity under which the store numbers its changes now."""
    replica = numbering.replica(txn, txn.numbering)
    return Sender(replica.database, replica.incarnation, replica.origin)
