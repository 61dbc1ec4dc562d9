"""The replicator of one store: takes messages, time and local changes, and gives back effects.

It owns no socket, clock, thread or randomness. Each call is one transaction of the store: the objects it
changed and its record become durable together, and only then may its effects leave the node.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from pillarbox.replication.core import (
    answering,
    applying,
    at_rest,
    backfill,
    broadcasting,
    deletion,
    flow,
    forwarding,
    hello,
    hierarchy,
    leaving,
    links,
    mates,
    noting,
    outbox,
    replacing,
    setting_aside,
    status,
    too_large,
    transit,
)
from pillarbox.replication.core.effects import AnswerKey, Effect, Notice, Pass, Report, Send
from pillarbox.replication.core.explanation import Explanation, explain
from pillarbox.replication.core.hello import Start
from pillarbox.replication.core.objects import ObjectStore
from pillarbox.replication.core.preset import Preset
from pillarbox.replication.core.replica import Moment, Replica, ReplicaRecord
from pillarbox.replication.core.state import NEVER_MS, FolderState
from pillarbox.replication.ground.records import ObjectId, Tree
from pillarbox.replication.organisation.topology import Organisation
from pillarbox.replication.wire.messages import (
    EVERYONE,
    BackfillRequest,
    BucketDigests,
    BucketQuestion,
    Bundle,
    BundleKey,
    Changes,
    Fetching,
    Hello,
    HelloAnswer,
    Label,
    LinkReport,
    Message,
    Receipt,
    ReconcileAnswer,
    ReconcileQuestion,
    RestPoll,
    RestSums,
    Says,
    Status,
    StatusRequest,
)
from pillarbox.store.change_number import CNSet
from pillarbox.store.errors import OverLimit

R = TypeVar("R")
_AT_REST: Final = (RestPoll, RestSums, BucketQuestion, BucketDigests)


class Replicator:
    """One store's replicator, over the record and the objects that the store keeps for it."""

    def __init__(
        self,
        record: ReplicaRecord,
        tree: Tree,
        organisation: Organisation,
        preset: Preset,
        objects: ObjectStore,
        new_guid: Callable[[], bytes],
    ) -> None:
        self.replica = Replica(record, tree, organisation, preset, objects, new_guid)
        self.changed: set[ObjectId] = set()  # folders whose state calls changed, until it is kept
        self._agenda: list[tuple[int, ObjectId]] = []
        self._due: dict[ObjectId, int] = {}

    @property
    def fired(self) -> Counter[str]:
        """Counts of each rule's actions since this object was made."""
        return self.replica.fired

    def start(self, now: Moment, begins: Start = Start.AGAIN) -> list[Effect]:
        """Begin, or go on after a restart: all is planned anew, once a hello has shown which numbers are
        free."""
        return self._call(now, lambda: self._start(begins))

    def _start(self, begins: Start) -> None:
        replica = self.replica
        hello.begin(replica, begins)
        state = replica.state(replica.tree.hierarchy)
        if not state.is_held:
            hierarchy.begin(replica, replica.tree.hierarchy)
        hierarchy.even_out(replica, replica.objects.ids(replica.tree.hierarchy))
        if begins is not Start.WENT_BACK and not replica.record.unsure:
            _tell_no_more(replica, Notice.LAST_REPLICA_KEPT)
        replica.started_ms = replica.now_ms
        replica.heard.clear()
        replica.unanswered.clear()
        replica.postponed.clear()
        outbox.restart(replica)
        at_rest.restart(replica)
        nearest = backfill.nearest_first(replica)
        for folder, held in list(replica.record.folders.items()):
            if held.is_held:
                held.restart(replica.now_ms, replica.preset.purge_interval_ms)
                hierarchy.match_rows(replica, folder)
                hierarchy.ask_one(replica, folder, nearest)
                replica.touched.add(folder)

    def number_anew(self, now: Moment) -> list[Effect]:
        """Number under a new incarnation from now on: the operator chose this copy of two of a store."""
        return self._call(now, lambda: hello.begin(self.replica, Start.WENT_BACK))

    def receive(self, message: Message, now: Moment) -> list[Effect]:
        """Apply a message; one that arrives twice, late or out of order changes nothing that is wrong."""
        return self._call(now, lambda: self._receive(message))

    def receive_copy(self, label: Label, bundle: Bundle, hop: bytes, now: Moment) -> list[Effect]:
        """Take a copy of a bundle that the store `hop` gave: hand it on where that is due, and apply it.

        The receipt is among the effects, so it leaves when the copy is durable.
        """

        def take() -> None:
            mates.note_traffic(self.replica, bundle.sender.database, label.behind_ms)
            if forwarding.take(self.replica, label, bundle, hop):
                for message in bundle.messages:
                    self._receive(message)

        return self._call(now, take)

    def receipt_came(self, receipt: Receipt, now: Moment) -> list[Effect]:
        """A store of a neighbour site took a copy that this one gave, or refused it, or asks whether this one
        took what it gave."""
        take = forwarding.answer if receipt.says is Says.ASKS else outbox.receipt_came
        return self._call(now, lambda: take(self.replica, receipt))

    def cannot_send(self, effect: Send | Pass, error: OverLimit, now: Moment) -> list[Effect]:
        """A message that this store made is too large to be sealed: the object in it for which it is is set
        aside here, and all others go. Raises `error` when there is none."""

        def look() -> None:
            if isinstance(effect, Send):
                too_large.set_aside(self.replica, [effect.message], error)
            else:
                too_large.set_aside(self.replica, effect.bundle.messages, error)
                outbox.take_back(self.replica, effect.bundle.key)

        return self._call(now, look)

    def sent(self, key: BundleKey, to: bytes, packed_bytes: int, now: Moment) -> list[Effect]:
        """The link has taken a copy for a site: its receipt is due ten seconds from now.

        `packed_bytes` is its size, by which the next ones are filled. A transport that cannot reach `to` says
        so too: no receipt will come then.
        """
        return self._call(now, lambda: outbox.sent(self.replica, key, to, packed_bytes))

    def _receive(self, message: Message) -> None:
        replica, folder = self.replica, message.folder
        source, body = message.sender.database, message.body
        is_mine = message.to in (replica.me.database, EVERYONE)
        is_known = is_mine and not replica.organisation.is_removed(source)
        if is_known and isinstance(body, Hello):
            links.began_anew(replica, source)
            answering.forget_asked(replica, source)
            hello.answer(replica, source, body)
            return
        if not is_known or message.sender.origin in replica.record.quarantined:
            return
        replica.record.owners.setdefault(message.sender.origin, (source, message.sender.incarnation))
        if isinstance(body, HelloAnswer):
            hello.answered(replica, source, body, message.statement)
            return
        if isinstance(body, _AT_REST):
            mates.hear(replica, source)
            at_rest.take(replica, source, body)
            return
        hello.heard(replica, message.statement)
        state = replica.held(folder)
        if state is None or source not in state.rows:
            replica.record.remember_reach(message.statement.had)
        if state is None:  # folders never wait for content: what comes too early is asked for later
            replica.fired["came_before_its_folder"] += isinstance(body, Changes)
            return
        if source in state.rows:
            status.take_statement(replica, folder, source, message.statement)
        mates.hear(replica, source)
        backfill.heard(replica, folder, source)
        is_content = isinstance(body, Changes | ReconcileAnswer)
        if is_content and replica.has_ended(source, message.sender.incarnation):
            # What it had given and nobody holds may count as left out by now. Who holds it answers for it.
            replica.fired["numbering_ended"] += 1
            return
        self._take(message)
        deletion.ask_to_reconcile(replica, folder)
        if folder == replica.tree.hierarchy and isinstance(body, Changes):
            hierarchy.even_out(replica, [object_id for object_id, _ in body.objects])
        elif folder == replica.tree.hierarchy and isinstance(body, ReconcileAnswer):
            hierarchy.even_out(replica, {*body.gone, *(object_id for object_id, _ in body.objects)})
        elif isinstance(body, Changes | ReconcileAnswer):
            hierarchy.even_out(replica, [folder])

    def _take(self, message: Message) -> None:
        replica, folder, source = self.replica, message.folder, message.sender.database
        match message.body:
            case Changes() as changes:
                self._take_changes(message, changes)
            case BackfillRequest() as request:
                answering.begin(replica, folder, source, message.statement, request)
            case ReconcileQuestion() as question:
                deletion.answer_reconcile(replica, folder, source, message.statement.life, question)
            case ReconcileAnswer() as answer:
                deletion.apply_reconcile(replica, folder, source, message.statement, answer)
            case StatusRequest(leaving=None):
                status.tell(replica, folder, source)
            case StatusRequest(leaving=int(number)):
                leaving.answer(replica, folder, message, number)
            case LinkReport() as report:
                links.heard(replica, source, report)
            case Fetching() as fetching:
                mates.is_fetching(replica, folder, source, fetching)
            case Status() as told:
                status.take(replica, folder, told)
                if told.acknowledgement:
                    leaving.acknowledged(replica, folder, source, told.acknowledgement, message.statement)

    def _take_changes(self, message: Message, changes: Changes) -> None:
        replica, folder, source = self.replica, message.folder, message.sender.database
        before = replica.state(folder).knowledge.known
        applying.take_all(replica, folder, changes.objects)
        mates.progress(replica, folder, source)
        answer = changes.answer
        if answer is None:
            transit.note(replica, message, changes.objects)
        if answer is None or is_for_this_life(replica, folder, source, answer.life):
            applying.tell_gaps(replica, folder, source, changes.pair)
        if answer is not None:
            backfill.part_came(replica, folder)
            if answer.is_last:
                backfill.answered(replica.state(folder), source)
            mates.hand_on(replica, folder, changes.objects, source, before)
            if answer.purged and answer.is_last:
                first = changes.pair.required - answer.purged
                replica.state(folder).reconciles[source] = first

    def tick(self, now: Moment) -> list[Effect]:
        """Do all that is due by now."""
        return self._call(now, self._tick)

    def _tick(self) -> None:
        # First what tells who is up and which ways are: whom a folder asks follows from it.
        outbox.retry(self.replica)
        if self.replica.waiting is None:
            links.state_all(self.replica)
            at_rest.work(self.replica)
        while self._agenda and self._agenda[0][0] <= self.replica.now_ms:
            due_ms, folder = heapq.heappop(self._agenda)
            if self._due.get(folder) == due_ms:
                del self._due[folder]
                self._work(folder)

    def _work(self, folder: ObjectId) -> None:
        """Do what is due in one folder; until the hello is complete, only that."""
        replica, now_ms = self.replica, self.replica.now_ms
        state = replica.held(folder)
        if state is None:
            return
        if hello.due_ms(replica) <= now_ms:
            hello.say(replica)
            if replica.waiting is None:  # which ways are open was not followed until now
                links.follow(replica)
        if replica.waiting is not None:
            return
        state.knowledge.settle(replica.assumed(folder))
        if broadcasting.due_ms(replica, folder, state) <= now_ms:
            broadcasting.broadcast(replica, folder)
        if state.await_due_ms <= now_ms:
            status.ask_awaited(replica, folder)
        if status.due_ms(replica, folder, state) <= now_ms:
            status.tell_all(replica, folder)
        if state.site_status_due_ms <= now_ms:
            status.tell_other_sites(replica, folder)
        if backfill.due_ms(replica, folder, state) <= now_ms:
            backfill.note_missing(replica, folder)
            backfill.ask(replica, folder)
        if setting_aside.due_ms(state) <= now_ms:
            setting_aside.retry(replica, folder)
        if leaving.due_ms(replica, folder, state) <= now_ms:
            leaving.state_all(replica, folder)
        if state.purge_due_ms <= now_ms:
            deletion.purge(replica, folder)
        if replacing.finish(replica, folder):
            hierarchy.even_out(replica, [folder])

    def local_changes(self, change: Callable[[Replica], R], now: Moment) -> tuple[R, list[Effect]]:
        """Make changes of this store by functions of `writing`, `hierarchy` and `expiry`; what the call gave
        back."""
        given: list[R] = []

        def make() -> None:
            given.append(change(self.replica))
            hierarchy.even_out(self.replica, set(self.replica.written))

        effects = self._call(now, make)
        return given[0], effects

    def note_changes(self, changes: Mapping[ObjectId, CNSet], withheld: CNSet, now: Moment) -> list[Effect]:
        """Note changes that the store made by its own functions, by folder (`noting`)."""
        return self._call(now, lambda: noting.note(self.replica, changes, withheld))

    def organisation_changed(self, organisation: Organisation, now: Moment) -> list[Effect]:
        """Servers, sites or connectors changed: rows, lists and costs follow."""

        def change() -> None:
            self.replica.organisation = organisation
            outbox.drop_removed(self.replica)
            hierarchy.even_out_organisation(self.replica)

        return self._call(now, change)

    def link_changed(self, peer: bytes, is_up: bool, now: Moment) -> list[Effect]:
        """A transport sees that a store can be reached from here, or no longer; until it says so, it may be.

        A connector over which no store of a site can be reached is stated as down when it has stayed so, and
        costs are by the ways that are left then.
        """

        def change() -> None:
            answering.forget_asked(self.replica, peer)
            links.peer_changed(self.replica, peer, is_up)

        return self._call(now, change)

    def answer_page(self, key: AnswerKey, now: Moment) -> Message | None:
        """The next page of an answer whose turn has come; `page_taken` follows, whatever comes of it.

        None where content is held back, or the answer is over: content was stopped meanwhile, or the replica
        went. Whoever still lacks something asks again.
        """
        self._set_now(now)
        if self.replica.is_held_back(key.folder):
            return None
        answer = self.replica.answers.pop(key, None)
        if answer is None or self.replica.held(key.folder) is None:
            return None
        message, left = answering.next_page(self.replica, answer)
        if left is not None:
            self.replica.answers[key] = left
        return message

    def page_taken(self, key: AnswerKey, now: Moment, packed_bytes: int = 0) -> list[Effect]:
        """The link has taken the page of an answer: the next one takes its turn. `packed_bytes` is its size,
        by which the next ones are filled; 0 where nobody knows."""
        return self._call(now, lambda: answering.page_taken(self.replica, key, packed_bytes))

    def next_due_ms(self) -> int | None:
        """The next time at which `tick` has something to do; None when never."""
        while self._agenda and self._due.get(self._agenda[0][1]) != self._agenda[0][0]:
            heapq.heappop(self._agenda)
        first_ms = self._agenda[0][0] if self._agenda else NEVER_MS
        replica = self.replica
        due_ms = min(first_ms, outbox.due_ms(replica), flow.due_ms(replica), at_rest.due_ms(replica))
        if replica.waiting is None:  # until its hello is complete a store states nothing of links
            due_ms = min(due_ms, links.due_ms(replica))
        return due_ms if due_ms < NEVER_MS else None

    def explain(self, folder: ObjectId, now: Moment) -> Explanation:
        """Explain a folder: missing numbers, their holders, the sources that are asked and why, and the next
        time.
        """
        self._set_now(now)
        return explain(self.replica, folder)

    def _call(self, now: Moment, work: Callable[[], None]) -> list[Effect]:
        replica = self.replica
        self._set_now(now)
        replica.effects = []
        replica.touched.clear()
        replica.written.clear()
        work()
        if replica.waiting is None and (otherwise := replica.read_otherwise()):
            hierarchy.even_out(replica, otherwise)
        flow.look(replica)
        if replica.waiting is None:
            links.follow(replica)
            outbox.pump(replica)
            links.watch(replica)
            mates.ask_postponed(replica)
        for folder in sorted(replica.touched):
            self._plan(folder)
        self.changed |= replica.touched
        replica.rounds.sums.changed |= replica.touched
        return flow.sendable(replica, hello.sendable(replica, replica.effects))

    def _set_now(self, now: Moment) -> None:
        self.replica.now_ms, self.replica.wall_ms = now

    def _plan(self, folder: ObjectId) -> None:
        """Note when something is due next in a folder that this call touched."""
        state = self.replica.record.folders.get(folder)
        if state is None or not state.is_held:
            self._due.pop(folder, None)
            return
        hierarchy.match_rows(self.replica, folder)
        backfill.note_missing(self.replica, folder)
        backfill.ask_whether_expired(self.replica, folder)
        due_ms = self._due_ms(folder, state)
        if due_ms < NEVER_MS and self._due.get(folder) != due_ms:
            self._due[folder] = due_ms
            heapq.heappush(self._agenda, (due_ms, folder))

    def _due_ms(self, folder: ObjectId, state: FolderState) -> int:
        if self.replica.waiting is not None:
            return hello.due_ms(self.replica) if folder == self.replica.tree.hierarchy else NEVER_MS
        return min(
            broadcasting.due_ms(self.replica, folder, state),
            status.due_ms(self.replica, folder, state),
            backfill.due_ms(self.replica, folder, state),
            leaving.due_ms(self.replica, folder, state),
            setting_aside.due_ms(state),
            state.await_due_ms,
            state.site_status_due_ms,
            state.purge_due_ms,
        )


def _tell_no_more(replica: Replica, notice: Notice) -> None:
    """Take back the reports of what was so before this start: each was told in the call that it came with.

    After an unclean end it may have been lost with the process, and after a return in time much is news.
    """
    replica.effects = [
        each for each in replica.effects if not (isinstance(each, Report) and each.notice is notice)
    ]


def is_for_this_life(replica: Replica, folder: ObjectId, source: bytes, life: object) -> bool:
    """True when an answer was made for this replica as it is: gaps stated to an earlier one say nothing of
    it, nor do those that were asked for before this start. The store may have gone back since, and not know
    it yet."""
    return life == replica.life(folder) and source in replica.state(folder).requested
