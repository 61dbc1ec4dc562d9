"""Deeds of operators that every seed which is administered has, so often each, at random times and on top of
all else: a seed without a stop or a moved folder proves nothing of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from pillarbox.replication.core import commands, hierarchy, writing
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.simulation import operators
from pillarbox.replication.simulation.operations import Operation, change_replicas
from pillarbox.replication.simulation.world import World

COUNTS: Final = {
    "administered_command": 3,
    "administered_list": 6,
    "administered_move": 2,
    "administered_resume": 1,
    "administered_stop": 1,
}
"""How often each is done in a seed, by the names under which a seed's figures count it."""
SEEDS_DEALT: Final = 10
"""The seeds in a row, from a multiple of it on, among which each command is given."""
_STOPPED_PART: Final = 5  # content is resumed within this part of the steps after its stop
_PATIENCE_STEPS: Final = 100  # with a command that cannot be given; any one takes its place then

Deed = Callable[[World, random.Random], str]


class Planned(NamedTuple):
    """A deed that is still to be done, the step from which on, and the name that counts it."""

    step: int
    name: str
    deed: Deed


class Administration:
    """The deeds that are still to be done in a run, each at its step, or at the first one after it at which
    it can be done.

    It has random numbers of its own, so that a seed's faults are planned as they are without it.
    """

    def __init__(self, world: World, seed: int, steps: int) -> None:
        self._world = world
        self._rng = random.Random(f"administration of {seed}")
        stop = self._rng.randrange(steps)
        resume = stop + self._rng.randint(1, max(1, steps // _STOPPED_PART))
        self._left = [_planned(stop, "administered_stop"), _planned(resume, "administered_resume")]
        for name in ("administered_list", "administered_move"):
            self._left += [_planned(self._rng.randrange(steps), name) for _ in range(COUNTS[name])]
        dealt = _dealt(seed)
        at_steps = sorted(self._rng.randrange(steps) for _ in dealt)
        self._left += [
            Planned(
                step,
                "administered_command",
                partial(_at_any, operation=partial(operators.give, command=command)),
            )
            for step, command in zip(at_steps, dealt, strict=True)
        ]
        self._left.sort(key=lambda planned: planned.step)

    def is_done(self) -> bool:
        """True when nothing is left to be done."""
        return not self._left

    def step(self, number: int) -> None:
        """Do what is planned for a step, and what could not be done before."""
        for planned in [each for each in self._left if each.step <= number]:
            is_late = number >= planned.step + _PATIENCE_STEPS
            deed = _DEEDS[planned.name] if is_late else planned.deed
            if said := deed(self._world, self._rng):
                self._left.remove(planned)
                self._world.fired[planned.name] += 1
                self._world.say(said)


def _planned(step: int, name: str) -> Planned:
    return Planned(step, name, _DEEDS[name])


def _dealt(seed: int) -> list[Operation]:
    """The commands of a seed: all are shuffled and dealt to the seeds of a row, some twice."""
    rng, each_count = random.Random(f"commands from {seed // SEEDS_DEALT} on"), COUNTS["administered_command"]
    places = list(range(len(operators.EACH_COMMAND)))
    rng.shuffle(places)
    places += rng.sample(places, SEEDS_DEALT * each_count - len(places))
    first = seed % SEEDS_DEALT * each_count
    return [operators.EACH_COMMAND[place] for place in sorted(places[first : first + each_count])]


def _at_any(world: World, rng: random.Random, operation: Operation) -> str:
    """Do something at a store that is up."""
    running = world.running()
    if not running:
        return ""
    machine = rng.choice(running)
    said: str = world.local(machine, lambda replica: operation(replica, rng))
    return said and f"{world.name(machine.database)} {said}"


def _command(replica: Replica, rng: random.Random) -> str:
    return operators.give(replica, rng, rng.choice(operators.EACH_COMMAND))


def _stop(replica: Replica, rng: random.Random) -> str:
    commands.stop_content(replica, operators.ACTOR)
    return "stops content"


def _resume(world: World, rng: random.Random) -> str:
    """Resume content at a store that knows of the stop; at any where none does: whoever did may be gone."""
    running = world.running()
    knowing = [each for each in running if each.replicator.replica.organisation.content.is_stopped]
    if not running:
        return ""
    machine = rng.choice(knowing or running)
    world.local(machine, lambda replica: commands.resume_content(replica, operators.ACTOR))
    return f"{world.name(machine.database)} resumes content"


def _move_apart(world: World, rng: random.Random) -> str:
    """Move folders at two stores that know nothing of each other's move: one folder to two places, or two
    below each other."""
    running = world.running()
    if len(running) < 2:
        return ""
    one, other = rng.sample(running, 2)
    known = [hierarchy.places(machine.replicator.replica).keys() for machine in (one, other)]
    folders = sorted(known[0] & known[1])
    if len(folders) < 2:
        return ""
    moved, below = rng.sample(folders, 2)
    world.local(one, partial(_move, folder=moved, parent=below))
    if rng.random() < 0.5:
        world.local(other, partial(_move, folder=below, parent=moved))
    else:
        world.local(other, partial(_move, folder=moved, parent=world.tree.root))
    return f"{world.name(one.database)} and {world.name(other.database)} move {moved.counter} apart"


def _move(replica: Replica, folder: ObjectId, parent: ObjectId) -> None:
    writing.change_folder(replica, folder, operators.ACTOR, parent=parent)


_DEEDS: Final[dict[str, Deed]] = {
    "administered_command": partial(_at_any, operation=_command),
    "administered_list": partial(_at_any, operation=change_replicas),
    "administered_move": _move_apart,
    "administered_resume": _resume,
    "administered_stop": partial(_at_any, operation=_stop),
}
