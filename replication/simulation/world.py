"""An organisation in virtual time: machines, their network, and the queue of what happens next."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

from pillarbox.replication.core import hello
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
from pillarbox.replication.core.hello import Start
from pillarbox.replication.core.preset import PROMPT, Preset
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import NEVER_MS
from pillarbox.replication.ground.records import ObjectId, Tree
from pillarbox.replication.organisation.site_tree import site_tree
from pillarbox.replication.organisation.topology import Connector, Organisation, Server
from pillarbox.replication.simulation import shapes
from pillarbox.replication.simulation.invariants import Invariants
from pillarbox.replication.simulation.link_sight import LinkSight
from pillarbox.replication.simulation.machine import Machine
from pillarbox.replication.simulation.network import FRAME, Carried, Freight, Link, Network
from pillarbox.replication.simulation.replays import Delivery, Replays
from pillarbox.replication.simulation.requests import check_requests
from pillarbox.replication.simulation.stops import check_stopped
from pillarbox.replication.wire.messages import (
    BackfillRequest,
    Bundle,
    Changes,
    Class,
    Label,
    Message,
    Sender,
)
from pillarbox.store.change_number import CNSet
from pillarbox.store.ids import COUNTER_MAX, guid_text, new_guid

START_MS = 1_800_000_000_000
Trace = Callable[[str], None]


class World:
    """Everything that exists in one run. What happens follows from the seed alone.

    The network is wired once and for all: a chain of sites, and in each `places` says which machines stand
    there. The organisation says what operators make of that. It is told to all machines at once, or, once it
    `is_data`, is entries that are written at one store and spread as any change does.
    """

    def __init__(self, seed: int, sites: int, preset: Preset = PROMPT, trace: Trace | None = None) -> None:
        self.rng = random.Random(seed)
        self.preset, self.trace = preset, trace
        self.now_ms = START_MS
        self.tree = Tree(new_guid(self.rng))
        self.sites = tuple(f"site{k}" for k in range(sites))
        self.organisation = Organisation(
            {}, tuple(self._connectors(random.Random(f"sites {seed}"))), sites=self.sites
        )
        self.wires = self.organisation.connectors
        self.places: dict[bytes, str] = {}
        self.is_data = False
        self.network = Network(random.Random(self.rng.random()))
        self.machines: dict[bytes, Machine] = {}
        self.down: set[bytes] = set()
        self.invariants = Invariants(self.tree, self.machines)
        self.replays = Replays(random.Random(self.rng.random()))
        self.messages: Counter[str] = Counter()
        self.fired: Counter[str] = Counter()
        self.sight = LinkSight(
            random.Random(f"links of {seed}"), self.at, self._link_changed, self._is_reachable
        )
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self._due: dict[bytes, int] = {}  # when a tick of each machine has something to do
        self._looks: dict[bytes, int] = {}  # when that is looked at
        self._paths: dict[tuple[str, str], tuple[str, ...]] = {}
        self._hops: dict[tuple[str, str], tuple[str, ...]] = {}
        self._led_to: dict[tuple[str, str], frozenset[str]] = {}
        self._both_ways: dict[tuple[str, str], tuple[Link, ...]] = {}

    def _connectors(self, shape: random.Random) -> Iterator[Connector]:
        """The connectors of a chain of sites, so that some ways lead over two; of a star, where one site
        passes on to several; and of either with a second way."""
        is_star = len(self.sites) > 3 and shape.random() < 0.5
        for k, other in enumerate(self.sites[1:]):
            one = self.sites[0 if is_star else k]
            yield Connector(f"{one}-{other}", (one, other), self.rng.choice((1, 10, 50)))
        if len(self.sites) > 2 and shape.random() < 0.3:
            ends = self.sites[1 if is_star else 0], self.sites[-1]
            yield Connector("second way", ends, shape.choice((5, 25, 100)))

    # --- machines -------------------------------------------------------------------------------------------

    def add_store(self, site: str, version: int) -> Machine:
        """Add a store to the tree and start it."""
        return self.add_stores([(site, version)])[0]

    def add_stores(self, wanted: Iterable[tuple[str, int]]) -> list[Machine]:
        """Add stores to the tree, each of a site and a version, and start them."""
        servers = dict(self.organisation.servers)
        new = []
        for site, version in wanted:
            database = new_guid(self.rng)
            servers[database] = Server(database, f"store{len(servers)}", site, version)
            self.places[database] = site
            new.append(database)
        if self.is_data:
            self.organisation = replace(self.organisation, servers=servers)
            return [self._let_in(servers[database]) for database in new]
        self.set_organisation(replace(self.organisation, servers=servers))
        return [self._add_machine(database, self.organisation) for database in new]

    def _let_in(self, server: Server) -> Machine:
        """Let a store join at another one, by an entry there, from which it has the organisation to begin
        with."""
        host = self.rng.choice(self.running())
        self.local(host, lambda replica: shapes.let_in(replica, server))
        self.say(f"{self.name(host.database)} lets {server.name} in")
        return self._add_machine(server.database, host.replicator.replica.organisation)

    def _add_machine(self, database: bytes, organisation: Organisation) -> Machine:
        guids = random.Random(self.rng.random())
        machine = Machine(
            Sender(database, 1, new_guid(self.rng)),
            self.tree,
            organisation,
            self.preset,
            self.invariants.history.witness,
            lambda: new_guid(guids),
        )
        self.machines[database] = machine
        self.start(machine)
        return machine

    def start(self, machine: Machine) -> None:
        """Start a machine.

        One that was put back gives some numbers twice, and rightly, if nobody is left who knows of them. A
        hello tells it of the numbers that it gave and does not remember. If nobody who knows of one can be
        reached, or was in the tree when the copy was made, no hello can tell, and somebody must have told.
        """
        self.down.discard(machine.database)
        origin, last = machine.record.sender.origin, machine.record.counter
        knowing = [
            database
            for database, other in self.machines.items()
            if other is not machine and hello.highest_heard(other.replicator.replica, origin) > last
        ]
        asked = shapes.others(machine.replicator.replica)
        if not any(each in asked and self._is_reachable(machine.database, each) for each in knowing):
            machine.is_restored |= bool(knowing)
        if not knowing and machine.begins() is Start.AGAIN:
            self.invariants.history.forget(CNSet.of_range(origin, last + 1, COUNTER_MAX))
        self.do(machine, machine.start(self.now_ms))
        self.links_changed(self.now_ms)

    def links_changed(self, time_ms: int) -> None:
        """Links or stores fall or come back at a time: some machines see it."""
        self.sight.changed(self.machines.values(), time_ms)

    def _link_changed(self, machine: Machine, peer: bytes, is_up: bool) -> None:
        if self._is_running(machine):
            self.fired["link_seen_up" if is_up else "link_seen_down"] += 1
            now = machine.moment(self.now_ms)
            self.do(machine, machine.call(lambda replicator: replicator.link_changed(peer, is_up, now)))

    def _is_reachable(self, database: bytes, other: bytes) -> bool:
        """True when messages come through between two stores, in both directions."""
        if database not in self.machines or other not in self.machines:
            return False
        if other in self.down or self.machines[other].deaf_until_ms > self.now_ms:
            return False
        return self.machines[database].deaf_until_ms <= self.now_ms and not self._is_cut(database, other)

    def _is_cut(self, one: bytes, other: bytes) -> bool:
        """True when a link on the way between two stores is cut, in either direction."""
        sites = self.places[one], self.places[other]
        if sites not in self._both_ways:
            hops = (*pairwise(self._path(one, other)), *pairwise(self._path(other, one)))
            self._both_ways[sites] = tuple(self.network.link(*hop) for hop in hops)
        return self.now_ms < max((link.cut_until_ms for link in self._both_ways[sites]), default=0)

    def name(self, database: bytes) -> str:
        """The name of a store."""
        server = self.organisation.servers.get(database)
        return server.name if server else guid_text(database)

    def running(self) -> list[Machine]:
        """The machines that are up, in the order in which they were added."""
        return [machine for database, machine in self.machines.items() if database not in self.down]

    def _is_running(self, machine: Machine) -> bool:
        """True unless a machine is down or lost."""
        return machine is self.machines.get(machine.database) and machine.database not in self.down

    def set_organisation(self, organisation: Organisation) -> None:
        """Change servers or connectors; every machine that is up learns it at once, until the organisation is
        data."""
        self.organisation = organisation
        for machine in self.machines.values():
            machine.organisation = organisation
        for machine in self.running():
            self.do(machine, machine.organisation_changed(self.now_ms))

    def let_in_again(self) -> None:
        """Let in the stores that some other one does not know: who had let them in is lost, or went back, and
        nobody takes what an unknown store says."""
        for database, machine in self.machines.items():
            others = [other for other in self.running() if other is not machine]
            host = next(
                (other for other in others if not shapes.knows(other.replicator.replica, database)), None
            )
            if host is not None:
                server = machine.replicator.replica.organisation.servers[database]
                self.local(host, partial(shapes.let_in, server=server))
                self.say(f"{self.name(host.database)} lets {server.name} in again")

    def remove_lost(self) -> None:
        """Take the stores that are lost for good out of the tree."""
        lost = self.places.keys() - self.machines.keys()
        if self.is_data:
            machine = self.rng.choice(self.running())
            self.local(machine, lambda replica: shapes.remove(replica, lost))
            return
        servers = {
            database: server._replace(is_removed=True) if database in lost else server
            for database, server in self.organisation.servers.items()
        }
        self.set_organisation(replace(self.organisation, servers=servers))

    def make_data(self, machine: Machine) -> None:
        """Write the organisation at a machine: from now on it is entries, which spread as any change does."""
        self.is_data = True
        self.local(machine, lambda replica: shapes.write_all(replica, self.organisation))

    def local(self, machine: Machine, change: Callable[[Replica], Any], is_acknowledged: bool = True) -> Any:
        """Make a local change; one that is acknowledged is durable."""
        result, effects = machine.local(change, self.now_ms)
        if is_acknowledged:
            machine.commit()
        self.do(machine, effects)
        return result

    # --- what happens ---------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Write a line of the trace."""
        if self.trace:
            self.trace(f"{(self.now_ms - START_MS) / 1000:11.3f} {text}")

    def at(self, time_ms: int, action: Callable[[], None]) -> None:
        """Do something at a time."""
        self._order += 1
        heapq.heappush(self._queue, (max(time_ms, self.now_ms), self._order, action))

    def run_until(self, time_ms: int) -> None:
        """Let everything happen up to a time."""
        while self._queue and self._queue[0][0] <= time_ms:
            self.now_ms, _, action = heapq.heappop(self._queue)
            action()
        self.now_ms = time_ms

    def do(self, machine: Machine, effects: list[Effect]) -> None:
        """Do what a machine's call wants done, look at what it changed, and plan its next tick."""
        replica = machine.replicator.replica
        if effects:
            check_stopped(replica, effects)
            self.invariants.acknowledgements.look(replica, effects)
        asked: dict[ObjectId, dict[bytes, CNSet]] = {}
        for effect in effects:
            if isinstance(effect, Send):
                self.send(effect.message)
                if isinstance(effect.message.body, BackfillRequest):
                    of_folder = asked.setdefault(effect.message.folder, {})
                    of_folder[effect.message.to] = effect.message.body.needed
            elif isinstance(effect, Pass):
                self._pass(machine, effect.label, effect.bundle)
            elif isinstance(effect, GiveReceipt):
                self._give_receipt(machine, effect)
            elif isinstance(effect, Answer):
                self._plan(machine, self.now_ms, partial(self._page, machine, effect.key))
            elif isinstance(effect, Report):
                self._note(machine, effect)
        if machine.replicator.fired:
            for name, count in machine.replicator.fired.items():  # as `update` does, in half of the time
                self.fired[name] += count
            machine.replicator.fired.clear()
        for folder, requests in asked.items():
            check_requests(replica, folder, requests)
        self.invariants.look_at(machine)
        self._plan_tick(machine)

    def _note(self, machine: Machine, report: Report) -> None:
        if report.notice is Notice.HOLE_CLOSED:
            self.invariants.give_up(machine, report.folder, report.numbers)
        self.say(f"{self.name(machine.database)}: {report.notice.name} {report.folder.counter}")

    def _plan_tick(self, machine: Machine) -> None:
        due_ms = machine.replicator.next_due_ms()
        self._due[machine.database] = NEVER_MS if due_ms is None else due_ms
        self._look_when_due(machine)

    def _look_when_due(self, machine: Machine) -> None:
        """See to it that something looks at what is due, no later than it is."""
        database = machine.database
        look_ms = max(self._due[database], self.now_ms + 1)
        if look_ms < self._looks.get(database, NEVER_MS):
            self._looks[database] = look_ms
            self.at(look_ms, lambda: self._tick(machine, look_ms))

    def _tick(self, machine: Machine, planned_ms: int) -> None:
        """Let a machine do what is due, unless that is due later by now."""
        database = machine.database
        if self._looks.get(database) == planned_ms:
            del self._looks[database]
        if not self._is_running(machine):
            return
        if self._due[database] > self.now_ms:
            self._look_when_due(machine)
            return
        now = machine.moment(self.now_ms)
        self.do(machine, machine.call(lambda replicator: replicator.tick(now)))

    def send(self, message: Message) -> int:
        """Give a message to the network; the time at which the links have taken it."""
        self._count(message)
        path = self._path(message.sender.database, message.to)
        alone = Bundle(message.sender, 0, Class.URGENT, 0, (), (message,), message.to)
        journey = self.network.travel(self.weigh(alone, path), path, self.now_ms, self.is_had_behind)
        for time_ms in journey.arrives_ms:
            self._arrive(
                time_ms,
                message.to,
                lambda replicator, now: replicator.receive(message, now),
                (message,),
            )
        return journey.sent_ms

    def weigh(self, bundle: Bundle, path: Sequence[str]) -> Freight:
        """The freight that a bundle is along these sites; here its content alone weighs anything."""
        return Freight.of(bundle.messages)

    def is_had_behind(self, one: str, other: str, version: Carried) -> bool:
        """True when a store that is up has a version in the sites that the link from one site to another
        leads to."""
        folder, number = version
        behind = self._behind(one, other)
        return any(
            number in state.knowledge.had
            for machine in self.running()
            if self.places[machine.database] in behind
            and (state := machine.record.folders.get(folder)) is not None
            and state.is_held
        )

    def _behind(self, one: str, other: str) -> frozenset[str]:
        """The sites that the link from one site to another leads to."""
        if (one, other) not in self._led_to:
            tree = site_tree(one, self.wires)
            is_child = other in tree.children(one)
            self._led_to[one, other] = frozenset(tree.below(other) if is_child else (other,))
        return self._led_to[one, other]

    def _count(self, message: Message) -> None:
        kind = type(message.body).__name__
        if isinstance(message.body, Changes):
            kind = "Broadcast" if message.body.answer is None else "Answer"
        self.messages[kind] += 1

    def _path(self, one: bytes, other: bytes) -> tuple[str, ...]:
        """The sites on the way of the wires between two stores."""
        sites = self.places[one], self.places[other]
        if sites not in self._paths:
            self._paths[sites] = site_tree(sites[0], self.wires).path(sites[1])
        return self._paths[sites]

    def _hop(self, one: bytes, other: bytes) -> tuple[str, ...]:
        """The way of a copy that is handed on, and of its receipt: the wire that joins the sites of both, if
        there is one, however dear it is; for that way the copy was given."""
        sites = self.places[one], self.places[other]
        if sites not in self._hops:
            is_joined = any({*wire.sites} == {*sites} for wire in self.wires)
            self._hops[sites] = sites if is_joined else self._path(one, other)
        return self._hops[sites]

    def _arrive(self, time_ms: int, to: bytes, call: Delivery, messages: tuple[Message, ...] = ()) -> None:
        """Let a store take something at a time, if it is there and not deaf then."""

        def deliver() -> None:
            machine = self.machines.get(to)
            if machine is None or to in self.down or machine.deaf_until_ms > self.now_ms:
                self.network.faults["not there"] += 1
                return
            now = machine.moment(self.now_ms)
            self.do(machine, machine.call(lambda replicator: call(replicator, now)))
            self.fired["replayed"] += self.replays.taken(machine, call, messages, self.now_ms)

        self.at(time_ms, deliver)

    def _pass(self, machine: Machine, label: Label, bundle: Bundle) -> None:
        """Carry a copy of a bundle one hop; its giver learns when the link has taken it."""
        for message in bundle.messages:
            self._count(message)
        hop = machine.database
        path = self._hop(hop, label.to)
        freight = self.weigh(bundle, path)
        journey = self.network.travel(freight, path, self.now_ms, self.is_had_behind)
        for time_ms in journey.arrives_ms:
            self._arrive(
                time_ms,
                label.to,
                lambda replicator, now: replicator.receive_copy(label, bundle, hop, now),
                bundle.messages,
            )
        if label.is_for_site:
            self.at(journey.sent_ms, lambda: self._sent(machine, label, bundle, freight))

    def _sent(self, machine: Machine, label: Label, bundle: Bundle, freight: Freight) -> None:
        if self._is_running(machine):
            now, packed_bytes = machine.moment(self.now_ms), freight.content_bytes
            effects = machine.call(
                lambda replicator: replicator.sent(bundle.key, label.to, packed_bytes, now)
            )
            self.do(machine, effects)

    def _give_receipt(self, machine: Machine, effect: GiveReceipt) -> None:
        self.messages["Receipt"] += 1
        path = self._hop(machine.database, effect.to)
        for time_ms in self.network.travel(FRAME, path, self.now_ms).arrives_ms:
            self._arrive(
                time_ms, effect.to, lambda replicator, now: replicator.receipt_came(effect.receipt, now)
            )

    def _plan(self, machine: Machine, time_ms: int, action: Callable[[], None]) -> None:
        """Do something for an answer of a machine a little later, unless that is down or began anew then."""
        replicator = machine.replicator

        def act() -> None:
            if machine.replicator is replicator and self._is_running(machine):
                action()

        self.at(time_ms + 5, act)

    def _page(self, machine: Machine, key: AnswerKey) -> None:
        """Send the page of an answer; the next one takes its turn when the link has taken it."""
        message = machine.page(key, self.now_ms)
        sent_ms = self.now_ms if message is None else self.send(message)
        self._plan(machine, sent_ms, partial(self._page_taken, machine, key))

    def _page_taken(self, machine: Machine, key: AnswerKey) -> None:
        now = machine.moment(self.now_ms)
        self.do(machine, machine.call(lambda replicator: replicator.page_taken(key, now)))
