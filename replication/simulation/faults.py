"""Faults: each function does one thing to one machine, at random."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pillarbox.replication.core import deletion, expiry
from pillarbox.replication.core.preset import HOUR_MS, MINUTE_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.simulation.machine import Copy, Machine
from pillarbox.replication.simulation.world import World

YEAR_2099_MS = 4_070_908_800_000
DOWN_MS = (1_000, MINUTE_MS, HOUR_MS)
DOWN_LONG_MS = (3 * MINUTE_MS, HOUR_MS)
WHOLE = 40  # so many faults of a run, and every kind is among them


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


def crash(faults: Faults, machine: Machine) -> None:
    """The machine loses what was not durable, and comes back some time later."""
    faults.say("crash", machine)
    lost = faults.world.invariants.crash(machine, machine.crash())
    if lost:
        faults.world.fired["crash_lost"] += lost
    _down(faults, machine)


def restart(faults: Faults, machine: Machine) -> None:
    """The machine stops cleanly and comes back some time later."""
    faults.say("restart", machine)
    machine.stop()
    _down(faults, machine)


def _down(faults: Faults, machine: Machine, durations_ms: tuple[int, ...] = DOWN_MS) -> None:
    world = faults.world
    world.down.add(machine.database)
    world.links_changed(world.now_ms)

    def start() -> None:
        if world.machines.get(machine.database) is machine and machine.database in world.down:
            world.start(machine)

    world.at(world.now_ms + faults.world.rng.choice(durations_ms), start)


def back_up(faults: Faults, machine: Machine) -> None:
    """Somebody copies the machine's disk."""
    faults.say("copy", machine)
    faults.copies[machine.database] = machine.copy()


def _copied(faults: Faults, machine: Machine) -> tuple[Machine, Copy | None]:
    """The machine, or if there is no copy of it another one, and its copy."""
    copied = [each for each in faults.world.running() if each.database in faults.copies]
    if copied and machine not in copied:
        machine = faults.world.rng.choice(copied)
    return machine, faults.copies.get(machine.database)


def restore(faults: Faults, machine: Machine) -> None:
    """The machine goes back to an old copy of its disk."""
    machine, copy = _copied(faults, machine)
    if copy is not None:
        faults.say("restore", machine)
        faults.world.invariants.die(machine)
        machine.restore(copy)
        faults.world.start(machine)


def put_back(faults: Faults, machine: Machine) -> None:
    """The whole machine goes back to an old copy, as a virtual one to its snapshot, and nobody says so.

    It stays away until what it had sent has arrived: else nobody could know of it yet.
    """
    machine, copy = _copied(faults, machine)
    if copy is not None:
        was_running = faults.world.rng.random() < 0.5
        faults.say("put back running" if was_running else "put back", machine)
        faults.world.invariants.die(machine)
        machine.put_back(copy, was_running=was_running)
        drained_ms = max(0, faults.world.network.drained_ms() - faults.world.now_ms)
        _down(faults, machine, tuple(duration_ms + drained_ms for duration_ms in DOWN_LONG_MS))


def begin_elsewhere(faults: Faults, machine: Machine) -> None:
    """The machine is lost; a copy of its disk goes on in another one."""
    machine, copy = _copied(faults, machine)
    if copy is not None:
        with_fence = faults.world.rng.random() < 0.5
        faults.say("begun elsewhere", machine)
        faults.world.invariants.die(machine)
        machine.begin_elsewhere(copy, with_fence=with_fence)
        _down(faults, machine)


def refuse(faults: Faults, machine: Machine) -> None:
    """The store begins to refuse some of what arrives, for a reason of its own, or ceases to."""
    machine.refuses_some = not machine.refuses_some
    faults.say("items refused" if machine.refuses_some else "items taken again", machine)


def cut(faults: Faults, machine: Machine) -> None:
    """All links of the machine's site are cut, in one direction or both."""
    is_one_way = faults.world.rng.random() < 0.3
    faults.say("cut one way" if is_one_way else "cut both ways", machine)
    _cut(faults, machine, faults.world.rng.choice((MINUTE_MS, 30 * MINUTE_MS, HOUR_MS)), is_one_way)


def cut_for_hours(faults: Faults, machine: Machine) -> None:
    """All links of the machine's site are cut for longer than most retry delays."""
    faults.say("cut for ten hours", machine)
    _cut(faults, machine, 10 * HOUR_MS, is_one_way=False)


def _cut(faults: Faults, machine: Machine, duration_ms: int, is_one_way: bool) -> None:
    world = faults.world
    site, until_ms = world.places[machine.database], world.now_ms + duration_ms
    for (one, other), link in world.network.links.items():
        if one != other and (one == site or (other == site and not is_one_way)):
            link.cut_until_ms = max(link.cut_until_ms, until_ms)
    world.links_changed(world.now_ms)
    world.links_changed(until_ms)


def hang(faults: Faults, machine: Machine) -> None:
    """The machine takes what comes and does nothing with it for a while: no receipt, no copy handed on."""
    faults.say("hangs", machine)
    machine.deaf_until_ms = faults.world.now_ms + faults.world.rng.choice((MINUTE_MS, 30 * MINUTE_MS))
    faults.world.links_changed(faults.world.now_ms)
    faults.world.links_changed(machine.deaf_until_ms)


def slow(faults: Faults, machine: Machine) -> None:
    """All links of the machine's site become slow, and stay so."""
    faults.say("slow", machine)
    site = faults.world.places[machine.database]
    for sites, link in faults.world.network.links.items():
        if site in sites and sites[0] != sites[1]:
            link.bytes_per_ms = faults.world.rng.choice((2.0, 20.0, 100.0))


def skew(faults: Faults, machine: Machine) -> None:
    """The machine's clock is wrong, by minutes or hours, until the end or the next time."""
    faults.say("clock skew", machine)
    machine.skew_ms = faults.world.rng.choice((-HOUR_MS, -MINUTE_MS, 5 * MINUTE_MS, 3 * HOUR_MS, 0))


def skew_far(faults: Faults, machine: Machine) -> None:
    """The machine believes to be in 2099."""
    faults.say("clock in 2099", machine)
    machine.skew_ms = YEAR_2099_MS - faults.world.now_ms


def lose(faults: Faults, machine: Machine) -> None:
    """The machine is lost for good, if others are left."""
    world = faults.world
    if len(world.running()) > 2:
        faults.say("lost for good", machine)
        world.invariants.die(machine)
        del world.machines[machine.database]
        world.links_changed(world.now_ms)
        if world.rng.random() < 0.5:
            world.remove_lost()


def add(faults: Faults, machine: Machine) -> None:
    """A new, empty store joins the tree."""
    world = faults.world
    if len(world.machines) < faults.stores_max:
        faults.say("store added", machine)
        world.add_store(world.rng.choice(world.sites), 7)


def expire(faults: Faults, machine: Machine) -> None:
    """A store with an age limit, this one or another, lets old messages go."""
    world = faults.world
    limited = [each for each in world.running() if each.age_limit_ms is not None]
    if not limited:
        return
    machine = machine if machine in limited else world.rng.choice(limited)
    limit_ms = machine.age_limit_ms or 0
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
    *[crash] * 4,
    *[restart] * 2,
    *[back_up] * 4,
    *[restore] * 4,
    *[put_back] * 2,
    *[begin_elsewhere] * 2,
    *[cut] * 2,
    *[hang] * 2,
    *[slow] * 2,
    *[skew] * 2,
    skew_far,
    lose,
    add,
    *[expire] * 4,
    *[purge] * 2,
)
EVERY_KIND: tuple[Fault, ...] = (
    back_up,
    back_up,
    crash,
    restart,
    cut,
    hang,
    cut_for_hours,
    slow,
    skew,
    skew_far,
    lose,
    add,
    expire,
    purge,
    put_back,
    begin_elsewhere,
    refuse,
    restore,
    restore,
)


def planned(rng: random.Random, faults: tuple[Fault, ...], count: int) -> list[Fault]:
    """The faults of a run: where there is room, one of every kind, copies before what goes back to them."""
    kinds = EVERY_KIND if count >= WHOLE else ()
    chosen = [*kinds[2:-2], *rng.choices(faults, k=count - len(kinds))]
    rng.shuffle(chosen)
    return [*kinds[:2], *chosen, *kinds[-2:]]
