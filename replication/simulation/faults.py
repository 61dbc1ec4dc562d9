"""Faults: each function does one thing to one machine, at random."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pillarbox.replication.core import deletion, expiry
from pillarbox.replication.core.preset import HOUR_MS, MINUTE_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.simulation.machine import Copy, Machine
from pillarbox.replication.simulation.world import World

YEAR_2099_MS = 4_070_908_800_000
DOWN_MS = (1_000, MINUTE_MS, HOUR_MS)
DOWN_LONG_MS = (3 * MINUTE_MS, HOUR_MS)


@dataclass
class Faults:
    """The faults of a run: how often each happened, and the copies of disks that may come back."""

    world: World
    stores_max: int
    counts: Counter[str] = field(default_factory=Counter)
    copies: dict[bytes, Copy] = field(default_factory=dict)

    def say(self, fault: str, machine: Machine) -> None:
        """Count a fault and write it down."""
        self.counts[fault] += 1
        self.world.say(f"{self.world.name(machine.database)}: {fault}")


def remove_lost(world: World) -> None:
    """Take the stores that are lost for good out of the tree."""
    servers = {
        database: server if database in world.machines else server._replace(is_removed=True)
        for database, server in world.organisation.servers.items()
    }
    world.set_organisation(replace(world.organisation, servers=servers))


def crash(faults: Faults, machine: Machine) -> None:
    """The machine loses what was not durable, and comes back some time later."""
    faults.say("crash", machine)
    faults.world.invariants.lost(machine.crash())
    _down(faults, machine)


def restart(faults: Faults, machine: Machine) -> None:
    """The machine stops cleanly and comes back some time later."""
    faults.say("restart", machine)
    machine.stop()
    _down(faults, machine)


def _down(faults: Faults, machine: Machine, durations_ms: tuple[int, ...] = DOWN_MS) -> None:
    world = faults.world
    world.down.add(machine.database)
    machine.answers.clear()

    def start() -> None:
        if world.machines.get(machine.database) is machine and machine.database in world.down:
            world.start(machine)

    world.at(world.now_ms + faults.world.rng.choice(durations_ms), start)


def back_up(faults: Faults, machine: Machine) -> None:
    """Somebody copies the machine's disk."""
    faults.say("copy", machine)
    faults.copies[machine.database] = machine.copy()


def restore(faults: Faults, machine: Machine) -> None:
    """The machine goes back to an old copy of its disk."""
    copy = faults.copies.get(machine.database)
    if copy is not None:
        faults.say("restore", machine)
        machine.restore(copy)
        faults.world.start(machine)


def put_back(faults: Faults, machine: Machine) -> None:
    """The whole machine goes back to an old copy, as a virtual one to its snapshot, and nobody says so.

    It stays away until what it had sent has arrived: else nobody could know of it yet.
    """
    copy = faults.copies.get(machine.database)
    if copy is not None:
        was_running = faults.world.rng.random() < 0.5
        faults.say("put back running" if was_running else "put back", machine)
        machine.put_back(copy, was_running=was_running)
        _down(faults, machine, DOWN_LONG_MS)


def begin_elsewhere(faults: Faults, machine: Machine) -> None:
    """The machine is lost; a copy of its disk goes on in another one."""
    copy = faults.copies.get(machine.database)
    if copy is not None:
        with_fence = faults.world.rng.random() < 0.5
        faults.say("begun elsewhere", machine)
        machine.begin_elsewhere(copy, with_fence=with_fence)
        _down(faults, machine)


def cut(faults: Faults, machine: Machine) -> None:
    """All links of the machine's site are cut, in one direction or both, for up to ten hours."""
    world, rng = faults.world, faults.world.rng
    site = world.organisation.servers[machine.database].site
    until_ms = world.now_ms + rng.choice((MINUTE_MS, 30 * MINUTE_MS, 10 * HOUR_MS))
    is_one_way = rng.random() < 0.3
    faults.say("cut one way" if is_one_way else "cut both ways", machine)
    for (one, other), link in world.network.links.items():
        if one != other and (one == site or (other == site and not is_one_way)):
            link.cut_until_ms = until_ms


def hang(faults: Faults, machine: Machine) -> None:
    """The machine takes what comes and does nothing with it for a while: no receipt, no copy handed on."""
    faults.say("hangs", machine)
    machine.deaf_until_ms = faults.world.now_ms + faults.world.rng.choice((MINUTE_MS, 30 * MINUTE_MS))


def slow(faults: Faults, machine: Machine) -> None:
    """All links of the machine's site become slow."""
    faults.say("slow", machine)
    site = faults.world.organisation.servers[machine.database].site
    for sites, link in faults.world.network.links.items():
        if site in sites and sites[0] != sites[1]:
            link.bytes_per_ms = faults.world.rng.choice((2.0, 20.0, 100.0))


def skew(faults: Faults, machine: Machine) -> None:
    """The machine's clock is wrong, by minutes, or by decades, until the end or the next time."""
    offset_ms = faults.world.rng.choice((-HOUR_MS, -MINUTE_MS, 5 * MINUTE_MS, 3 * HOUR_MS, 0))
    if faults.world.rng.random() < 0.15:
        offset_ms = YEAR_2099_MS - faults.world.now_ms
        faults.say("clock in 2099", machine)
    else:
        faults.say("clock skew", machine)
    machine.skew_ms = offset_ms


def lose(faults: Faults, machine: Machine) -> None:
    """The machine is lost for good, if others are left."""
    world = faults.world
    if len(world.running()) > 2 and faults.world.rng.random() < 0.4:
        faults.say("lost for good", machine)
        del world.machines[machine.database]
        if faults.world.rng.random() < 0.5:
            remove_lost(world)


def add(faults: Faults, machine: Machine) -> None:
    """A new, empty store joins the tree."""
    world = faults.world
    if len(world.machines) < faults.stores_max and faults.world.rng.random() < 0.5:
        faults.say("store added", machine)
        world.add_store(faults.world.rng.choice(world.sites), 7)


def expire(faults: Faults, machine: Machine) -> None:
    """A store with an age limit lets old messages go."""
    limit_ms, world = machine.age_limit_ms, faults.world
    if limit_ms is None:
        return
    faults.say("expiry", machine)
    before_ms = world.now_ms + machine.skew_ms - limit_ms

    def work(replica: Replica) -> int:
        folders = [folder for folder, state in replica.record.folders.items() if state.is_held]
        messages = [folder for folder in folders if folder != replica.tree.hierarchy]
        return sum(expiry.expire(replica, folder, before_ms) for folder in messages)

    world.local(machine, work)


def purge(faults: Faults, machine: Machine) -> None:
    """Maintenance purges tombstones early."""
    faults.say("maintenance", machine)

    def work(replica: Replica) -> int:
        folders = [folder for folder, state in replica.record.folders.items() if state.is_held]
        return sum(deletion.purge(replica, folder) for folder in folders)

    faults.world.local(machine, work)


Fault = Callable[[Faults, Machine], None]
FAULTS: tuple[Fault, ...] = (
    crash,
    crash,
    restart,
    back_up,
    back_up,
    restore,
    restore,
    put_back,
    begin_elsewhere,
    cut,
    hang,
    slow,
    skew,
    lose,
    add,
    expire,
    expire,
    expire,
    purge,
)
