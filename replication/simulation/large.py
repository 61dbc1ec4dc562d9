"""Organisations of hundreds of stores and thousands of folders, looked at now and then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from pillarbox.replication.core import writing
from pillarbox.replication.core.preset import DAY_MS, MINUTE_MS, PROMPT, Preset
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import FolderState
from pillarbox.replication.ground.records import ObjectId, ReplicaState, Tree
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.simulation.faults import Fault, crash, cut, restart, slow
from pillarbox.replication.simulation.invariants import Invariants
from pillarbox.replication.simulation.machine import Machine
from pillarbox.replication.simulation.operations import ACTOR, content
from pillarbox.replication.simulation.scenario import Scenario, Settings
from pillarbox.replication.simulation.world import Trace

RARE: Final = replace(PROMPT, status_rest_ms=DAY_MS, purge_interval_ms=DAY_MS)
"""Rounds at rest once a day, so that they are not nearly all that happens."""
FEW_FOLDERS: Final = 100  # with more of them deliveries are replayed less often: each replay copies all
TREES_KEPT: Final = 8  # while a change of the hierarchy spreads, stores hold a few different ones
_FAULTS: Final = (crash, restart, cut, slow)
_FAULTY: Final = 0.02  # of the steps
_SETTLE_MS: Final = 10 * MINUTE_MS


@dataclass(frozen=True)
class LargeSettings(Settings):
    """The size of a large organisation: of each folder so many replicas; it is looked at so many times."""

    stores: int = 200
    sites: int = 20
    steps: int = 2_000
    folders: int = 10_000
    replicas: int = 5
    moments: int = 20
    preset: Preset = RARE
    faults: tuple[Fault, ...] = _FAULTS


class Moments(Invariants):
    """The invariants of every step, held at moments: what changed since the last one is looked at then."""

    def __init__(self, tree: Tree, machines: Mapping[bytes, Machine]) -> None:
        super().__init__(tree, machines)
        self._touched: dict[bytes, set[ObjectId]] = {}
        self._checked: list[dict[ObjectId, Versions[Any]]] = []  # the folders of trees that were checked last
        self._checked_whole: tuple[object, ...] = ()

    def look_at(self, machine: Machine) -> None:
        """Note what a call touched."""
        self._touched.setdefault(machine.database, set()).update(machine.replicator.replica.touched)

    def look_at_all(self, running: Iterable[Machine]) -> None:
        """Check all that changed at machines that are up. Raises Violation."""
        for machine in running:
            machine.replicator.replica.touched = self._touched.pop(machine.database, set())
            super().look_at(machine)

    def _check_whole(self, machine: Machine, folder: ObjectId, state: FolderState) -> None:
        """Check the hierarchy once for all stores that hold and know the same of it."""
        if folder == self.tree.hierarchy:
            held, knowledge = machine.objects.folder_objects(folder).objects, state.knowledge
            known = knowledge.known, knowledge.expired, knowledge.purged
            told = len(self.history.writes), self.history.given_up, self.aged, self.purged
            if (held, known, told) == self._checked_whole:
                return
            self._checked_whole = dict(held), known, told
        super()._check_whole(machine, folder, state)

    def _check_tree(self, machine: Machine) -> None:
        """Check a tree once for all stores that hold the same states of its folders: where no clock is wrong
        all read it alike."""
        folders = machine.objects.folder_objects(self.tree.hierarchy).objects
        if machine.skew_ms:
            super()._check_tree(machine)
        elif folders not in self._checked:
            super()._check_tree(machine)
            self._checked = [dict(folders), *self._checked[: TREES_KEPT - 1]]


class LargeScenario(Scenario):
    """Runs a seed of a large organisation."""

    collect_every = 2_000_000

    def __init__(self, seed: int, settings: LargeSettings, trace: Trace | None = None) -> None:
        super().__init__(seed, settings, trace)
        self._large = settings
        self._moments = Moments(self.world.tree, self.world.machines)
        self.world.invariants = self._moments
        self.world.replays.every *= max(1, settings.folders // FEW_FOLDERS)
        self._steps_count = 0

    def _build(self) -> None:
        world, large, sites = self.world, self._large, self.world.sites
        world.add_stores([(sites[number % len(sites)], 7) for number in range(large.stores)])
        world.run_until(world.now_ms + _SETTLE_MS)
        machines = world.running()
        for number, machine in enumerate(machines):
            share = large.folders // len(machines) + (number < large.folders % len(machines))
            world.local(machine, partial(self._make_folders, share))
        world.run_until(world.now_ms + _SETTLE_MS)
        self._moments.look_at_all(self.world.running())

    def _make_folders(self, count: int, replica: Replica) -> None:
        stores, parents = sorted(self.world.machines), [replica.tree.root]
        for number in range(count):
            chosen = self.rng.sample(stores, min(self._large.replicas, len(stores)))
            active = dict.fromkeys(chosen, ReplicaState.ACTIVE)
            parent = self.rng.choice(parents[-10:])
            parents.append(writing.create_folder(replica, parent, f"folder {number}", active, ACTOR))

    def _steps(self) -> list[Fault | None]:
        rng, faults = self.rng, self.settings.faults
        steps = range(self.settings.steps)
        return [rng.choice(faults) if rng.random() < _FAULTY else None for _ in steps]

    def _step(self, fault: Fault | None) -> None:
        self._steps_count += 1
        running = self.world.running()
        if running:
            machine = self.rng.choice(running)
            if fault is not None:
                fault(self.faults, machine)
            else:
                self._change(machine, self._some_change)
        if self._is_moment():
            self._moments.look_at_all(self.world.running())

    def _is_moment(self) -> bool:
        return self._steps_count % max(1, self.settings.steps // self._large.moments) == 0

    def _count_kinds(self, machine: Machine) -> None:
        """Count them at moments alone, since each time all folders of the tree are looked at."""
        if self._is_moment():
            super()._count_kinds(machine)

    def _converge(self) -> None:
        super()._converge()
        self._moments.look_at_all(self.world.running())

    def _some_change(self, replica: Replica) -> str:
        """Change something in a folder of which the store holds an active replica."""
        folders = [
            folder
            for folder, state in replica.record.folders.items()
            if state.is_held and folder != replica.tree.hierarchy
            if replica.my_state(folder) is ReplicaState.ACTIVE and replica.is_live(folder)
        ]
        if not folders:
            return ""
        folder, rng = self.rng.choice(folders), self.rng
        messages = [
            message
            for message in replica.objects.ids(folder)
            if (versions := replica.objects.get(folder, message)) and versions.live()
        ]
        chance = rng.random()
        if chance < 0.05:
            writing.change_folder(replica, folder, ACTOR, name=f"folder {rng.random()}")
            return f"renames {folder.counter}"
        if chance < 0.1:
            store = rng.choice(sorted(self.world.machines))
            writing.change_folder(replica, folder, ACTOR, replicas={store: ReplicaState.ACTIVE})
            return f"adds a replica of {folder.counter}"
        if not messages or chance < 0.7:
            posted = writing.post(replica, folder, *content(rng), ACTOR)
            return f"posts {posted.counter} to {folder.counter}"
        message = rng.choice(messages)
        if chance < 0.85:
            digest, size_bytes = content(rng)
            writing.edit(replica, folder, message, ACTOR, content=digest, size_bytes=size_bytes)
            return f"edits {message.counter} in {folder.counter}"
        writing.delete(replica, folder, message, ACTOR)
        return f"deletes {message.counter} in {folder.counter}"
