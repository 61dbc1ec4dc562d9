"""One seed: an organisation at work under faults, then left in peace until its stores are equal."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pillarbox.replication.core.preset import DAY_MS, HOUR_MS, MINUTE_MS, PROMPT, Preset
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.simulation import convergence, kinds, operators
from pillarbox.replication.simulation.administration import Administration
from pillarbox.replication.simulation.faults import (
    DOWN_LONG_MS,
    FAULTS,
    WHOLE,
    Fault,
    Faults,
    planned,
)
from pillarbox.replication.simulation.history import Violation
from pillarbox.replication.simulation.machine import Machine
from pillarbox.replication.simulation.operations import (
    OPERATIONS,
    Weighted,
    edit_message,
    flag_message,
    live_messages,
    make_tree,
    some_operation,
)
from pillarbox.replication.simulation.unfinished import unfinished
from pillarbox.replication.simulation.world import Trace, World
from pillarbox.store.change_number import CNSet

GAPS_MS = (50, 2_000, 30_000, 5 * MINUTE_MS)
CONVERGED_MS_MAX = 10 * DAY_MS
QUIET_MS = 1 * HOUR_MS
SETTLED_HOURS_MAX = 6
SHUT_HOURS_MAX = 24
SUMMARIES = {"Receipt", "RestPoll", "RestSums"}  # all that travels between stores that are equal
APART = 0.03  # of the changes are edits of one message in two places
STEPS_MORE_MAX = 1_000  # until all can be done that operators are to do
STORM = 200  # messages an hour from each store to each other, hours after the last fault
STORM_AFTER_MS = 2 * HOUR_MS


@dataclass(frozen=True)
class Settings:
    """The size of a seed and what happens in it: four in five steps are changes, the others faults.

    Of the changes `commands`, a share, are commands of operators. One that is `administered` has a number of
    them as well, and of changes of lists and places of folders (`administration`).
    """

    stores: int = 4
    sites: int = 2
    steps: int = 150
    preset: Preset = PROMPT
    operations: tuple[Weighted, ...] = OPERATIONS
    commands: float = 0.0
    administered: bool = False
    faults: tuple[Fault, ...] = FAULTS


class Figures(NamedTuple):
    """The figures of one seed. `violation` is "" when nothing was violated."""

    seed: int
    violation: str
    converged_ms: int
    messages: dict[str, int]
    faults: dict[str, int]
    rules: dict[str, int]
    link_bytes: dict[str, int]
    link_bytes_distinct: dict[str, int]
    link_bytes_lost: dict[str, int]
    writes: int


class Scenario:
    """Runs one seed."""

    collect_every = 100_000  # objects, of which hardly any are in circles: the usual 700 cost 5 % of the time

    def __init__(self, seed: int, settings: Settings, trace: Trace | None = None) -> None:
        self.seed, self.settings = seed, settings
        self.world = World(seed, settings.sites, settings.preset, trace)
        self.rng = self.world.rng
        self.faults = Faults(self.world, settings.stores + 2)
        self.converged_ms = 0
        self._is_commanded = settings.administered or settings.commands > 0
        self._administration = (
            Administration(self.world, seed, settings.steps) if settings.administered else None
        )

    def run(self) -> Figures:
        """Run the seed to its end, or to the first violation."""
        violation = ""
        before = gc.get_threshold()
        gc.set_threshold(self.collect_every, *before[1:])
        try:
            self._build()
            for number, fault in enumerate(self._all_steps()):
                self.world.run_until(self.world.now_ms + self.rng.randint(1, self.rng.choice(GAPS_MS)))
                if self._administration:
                    self._administration.step(number)
                self._step(fault)
            self._calm()
            if self._is_commanded:
                operators.calm(self.world)
            self._converge()
        except Violation as error:
            violation = str(error)
            self.world.say(f"VIOLATED: {violation}")
        finally:
            gc.set_threshold(*before)
        return self._figures(violation)

    def _figures(self, violation: str) -> Figures:
        world = self.world
        links = {
            f"{one}-{other}": link
            for (one, other), link in sorted(world.network.links.items())
            if one != other
        }
        return Figures(
            self.seed,
            violation,
            self.converged_ms,
            dict(sorted(world.messages.items())),
            dict(sorted((self.faults.counts + world.network.faults).items())),
            dict(sorted(world.fired.items())),
            {name: link.content_bytes for name, link in links.items()},
            {name: link.distinct_bytes for name, link in links.items()},
            {name: link.lost_bytes for name, link in links.items()},
            len(world.invariants.history.writes),
        )

    def _build(self) -> None:
        sites = self.world.sites
        for number in range(self.settings.stores):
            machine = self.world.add_store(sites[number % len(sites)], self.rng.choice((6, 6, 7)))
            if self.rng.random() < 0.25:
                machine.age_limit_ms = self.rng.choice((MINUTE_MS, 20 * MINUTE_MS))
        if self._is_commanded:
            self.world.make_data(self.world.running()[0])
        if self.settings.steps // 5 >= WHOLE:
            machines = self.world.running()
            self.rng.choice(machines).age_limit_ms = 20 * MINUTE_MS
            make_tree(self.world, self.rng)

    def _all_steps(self) -> Iterator[Fault | None]:
        """The steps of the run, and as many more as it takes until all is done that is planned."""
        yield from self._steps()
        for step in range(STEPS_MORE_MAX):
            if self._administration is None or self._administration.is_done():
                return
            if step == STEPS_MORE_MAX // 2:  # those that are left may not know each other
                self.world.remove_lost()
                self.world.let_in_again()
            yield None
        raise Violation("what operators were to do could not be done")

    def _steps(self) -> list[Fault | None]:
        """The faults of the run, and None for each change between them."""
        faults_count = self.settings.steps // 5
        steps: list[Fault | None] = [None] * self.settings.steps
        places = sorted(self.rng.sample(range(self.settings.steps), faults_count))
        for place, fault in zip(places, planned(self.rng, self.settings.faults, faults_count), strict=True):
            steps[place] = fault
        return steps

    def _step(self, fault: Fault | None) -> None:
        running = self.world.running()
        if not running:
            return
        machine = self.rng.choice(running)
        if fault is not None:
            fault(self.faults, machine)
        elif self.settings.commands and self.rng.random() < self.settings.commands:
            self._change(machine, lambda replica: operators.some_command(replica, self.rng))
        elif self.rng.random() >= APART or not self._edit_apart():
            self._change(machine)

    def _edit_apart(self) -> bool:
        """Edit a message at two stores that know nothing of each other's edit, if two hold one; of three
        times once by a property."""
        world, rng = self.world, self.rng
        holders: dict[tuple[ObjectId, ObjectId], list[Machine]] = {}
        for machine in world.running():
            for message in live_messages(machine.replicator.replica):
                holders.setdefault(message, []).append(machine)
        shared = sorted(message for message, machines in holders.items() if len(machines) > 1)
        if not shared:
            return False
        message = rng.choice(shared)
        edit = flag_message if world.fired["edited_apart"] % 3 == 2 else edit_message
        for machine in rng.sample(holders[message], 2):
            self._change(machine, lambda replica: edit(replica, rng, message))
        world.fired["edited_apart"] += 1
        return True

    def _change(self, machine: Machine, change: Callable[[Replica], str] | None = None) -> None:
        is_acknowledged = self.rng.random() < 0.7
        said = self.world.local(
            machine,
            change or (lambda replica: some_operation(replica, self.rng, self.settings.operations)),
            is_acknowledged,
        )
        if said:
            self.world.say(f"{self.world.name(machine.database)} {said}")
        self._count_kinds(machine)

    def _count_kinds(self, machine: Machine) -> None:
        self.world.fired.update(kinds.seen(machine.replicator.replica))

    # --- the end --------------------------------------------------------------------------------------------

    def _calm(self) -> None:
        """No more faults: the network works, clocks are right, who is down starts, who is lost is removed."""
        world = self.world
        world.run_until(max((world.now_ms, *(link.cut_until_ms for link in world.network.links.values()))))
        world.say("calm")
        world.network.calm()
        for machine in world.machines.values():
            machine.skew_ms = machine.deaf_until_ms = 0
            machine.refuses_some = False
        world.links_changed(world.now_ms)
        world.run_until(max(world.now_ms, world.network.drained_ms()) + DOWN_LONG_MS[0])
        for database in sorted(world.down):
            world.start(world.machines[database])
        world.remove_lost()
        self._look_at_whole()

    def _converge(self) -> None:
        """Run until all stores are equal and nothing is asked for, and see that it stays so."""
        world, began_ms = self.world, self.world.now_ms
        found: list[str] = []
        while world.now_ms - began_ms < CONVERGED_MS_MAX:
            sent = world.messages.total()
            world.run_until(world.now_ms + HOUR_MS)
            hours_ms = world.now_ms - began_ms
            if hours_ms > STORM_AFTER_MS and world.messages.total() - sent > STORM * len(world.machines) ** 2:
                raise Violation(f"a storm: {world.messages.total() - sent} messages in an hour of peace")
            found = self._differences()
            if not found:
                break
        else:
            raise Violation(f"not equal after {CONVERGED_MS_MAX // DAY_MS} days: {'; '.join(found[:4])}")
        self.converged_ms = world.now_ms - began_ms
        convergence.check_nothing_lost(world.invariants, self._replicas())
        self._settle()
        messages, counters = world.messages.copy(), self._counters()
        world.run_until(world.now_ms + QUIET_MS)
        self._look_at_whole()
        if left := self._unfinished():
            raise Violation(f"although nothing changes any more: {'; '.join(left[:4])}")
        if busy := sorted((world.messages - messages).keys() - SUMMARIES):
            raise Violation(f"{', '.join(busy)} although nothing changes any more")
        world.fired["tombstone_left"] += convergence.count_tombstones(self._replicas())
        if self._counters() != counters:
            raise Violation("numbers are given although nothing changes any more")
        if found := self._differences():
            raise Violation(f"equal and then no longer: {'; '.join(found[:4])}")

    def _look_at_whole(self) -> None:
        """Look once more at all that stores hold; after each step that is done for what it changed."""
        for machine in self.world.running():
            self.world.invariants.look_at_whole(machine)

    def _unfinished(self) -> list[str]:
        """All that the stores still wait for, or keep for others."""
        return [
            f"{self.world.name(replica.me.database)}: {what}"
            for replica in self._replicas()
            for what in unfinished(replica)
        ]

    def _settle(self) -> None:
        """Wait until no store has closed holes for an hour: those of an ended origin wait for two rounds, and
        what is known by them comes to all others. Then until the hours of connectors have come, over which
        some may wait."""
        had = self._had()
        for _ in range(SETTLED_HOURS_MAX):
            self.world.run_until(self.world.now_ms + HOUR_MS)
            before, had = had, self._had()
            if before == had:
                break
        for _ in range(SHUT_HOURS_MAX):
            if not (any(each.organisation.scheduled for each in self._replicas()) and self._unfinished()):
                break
            self.world.run_until(self.world.now_ms + HOUR_MS)

    def _had(self) -> list[CNSet]:
        """The numbers that are had of each folder at each store."""
        return [
            state.knowledge.had
            for replica in self._replicas()
            for _, state in sorted(replica.record.folders.items())
        ]

    def _counters(self) -> list[tuple[bytes, int]]:
        """The last number of each store, by its numbering: one that begins anew without end shows by that."""
        records = [machine.record for machine in self.world.running()]
        return [(record.sender.origin, record.counter) for record in records]

    def _replicas(self) -> list[Replica]:
        for machine in self.world.running():
            machine.replicator.replica.now_ms = machine.replicator.replica.wall_ms = self.world.now_ms
        return [machine.replicator.replica for machine in self.world.running()]

    def _differences(self) -> list[str]:
        return list(convergence.differences(self.world.invariants, self._replicas()))
