"""Operators at random: their commands at any store, under all faults."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import permutations
from typing import Final

from pillarbox.replication.core import (
    commands,
    folder_settings,
    hierarchy,
    migration,
    organisation_folder,
    subtree,
)
from pillarbox.replication.core.folder_settings import Priority
from pillarbox.replication.core.preset import HOUR_MS, MINUTE_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.subtree import Action, Setting
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.organisation.schedules import NEVER, Interval, parse_schedule
from pillarbox.replication.simulation import shapes
from pillarbox.replication.simulation.kinds import BEING_REPLACED
from pillarbox.replication.simulation.operations import Operation
from pillarbox.replication.simulation.world import World
from pillarbox.store.access import AUTHOR, FolderRights

ACTOR: Final = "operator"
_SCHEDULES: Final = (
    None,
    NEVER,
    Interval(30),
    parse_schedule("weekly Europe/Berlin mon-sun 00:00-12:00"),
)
_ROUNDS_MAX: Final = 5

COMMANDS: Final = frozenset(
    {
        "command_migrate_add",
        "command_migrate_remove",
        "command_move_all",
        "command_prefer_sources",
        "command_resume",
        "command_send_contents",
        "command_send_hierarchy",
        "command_set_priority",
        "command_set_schedule",
        "command_stop",
        "command_subtree_overwrite",
        *(f"command_subtree_{what}_{action}" for what in ("replicas", "rights") for action in Action),
        "command_synchronize_hierarchy",
        *shapes.COUNTED,
    }
)
"""The counters of commands; a campaign in which one is missing proves little."""
EFFECTS: Final = frozenset(
    {"content_resumed", "content_stopped", BEING_REPLACED, "replica_replaced", "subtree_skipped"}
)
"""The counters of what commands cause."""

MigrationStep = Callable[[Replica, bytes, bytes, str], migration.Step]


def stop_or_resume(replica: Replica, rng: random.Random) -> str:
    """Stop content, or resume it where it is stopped, at once or some time later."""
    if not replica.organisation.content.is_stopped:
        commands.stop_content(replica, ACTOR)
        return "stops content"
    start_ms = replica.wall_ms + rng.choice((0, 10 * MINUTE_MS, HOUR_MS))
    commands.resume_content(replica, ACTOR, start_ms, rng.choice((0, 100_000)))
    return f"resumes content from {start_ms}"


def synchronize(replica: Replica, rng: random.Random) -> str:
    """Synchronize the hierarchy."""
    commands.synchronize_hierarchy(replica)
    return "synchronizes the hierarchy"


def send_hierarchy(replica: Replica, rng: random.Random) -> str:
    """Send the hierarchy to one of the others again."""
    others = replica.organisation.others(replica.me.database)
    if not others:
        return ""
    commands.send_hierarchy(replica, rng.choice((1, 30)), [rng.choice(others)])
    return "sends the hierarchy"


def send_contents(replica: Replica, rng: random.Random) -> str:
    """Send the contents of a folder to one of its replicas again."""
    folders = [folder for folder in _held(replica) if replica.peers(folder)]
    if not folders or not replica.content_flows():
        return ""
    folder = rng.choice(folders)
    target = rng.choice(sorted(replica.peers(folder)))
    sent = commands.send_contents(
        replica, folder, rng.choice((1, 30)), [target], with_subfolders=rng.random() < 0.5
    )
    return f"sends {sent.items_count} items of {folder.counter} and below"


def set_schedule(replica: Replica, rng: random.Random) -> str:
    """Give a folder another schedule."""
    if (folder := _any_folder(replica, rng)) is None:
        return ""
    schedule = rng.choice(_SCHEDULES)
    folder_settings.set_schedule(replica, folder, schedule, ACTOR)
    replica.fired["command_set_schedule"] += 1
    return f"sets the schedule of {folder.counter} to {schedule}"


def set_priority(replica: Replica, rng: random.Random) -> str:
    """Give a folder another priority."""
    if (folder := _any_folder(replica, rng)) is None:
        return ""
    folder_settings.set_priority(replica, folder, rng.choice(list(Priority)), ACTOR)
    replica.fired["command_set_priority"] += 1
    return f"sets the priority of {folder.counter}"


def prefer_sources(replica: Replica, rng: random.Random) -> str:
    """Have a store ask one that an operator chose before all others, or no longer."""
    known = organisation_folder.reading(replica).organisation
    servers = sorted(database for database in known.servers if not known.is_removed(database))
    if len(servers) < 2:
        return ""
    one, other = rng.sample(servers, 2)
    commands.prefer_sources(replica, one, () if known.preferred.get(one) else (other,), ACTOR)
    return "chooses sources"


def change_rights(replica: Replica, rng: random.Random, action: Action) -> str:
    """Change the permissions of a folder and all below it."""
    if (top := _any_folder(replica, rng)) is None:
        return ""
    subject, rights = rng.choice(("anna", "bert")), rng.choice((AUTHOR, FolderRights.READ_ITEMS))
    outcome = subtree.change_rights(replica, top, action, subject, rights, ACTOR)
    return f"changes the permissions of {outcome.changed_count} folders from {top.counter} on"


def change_replicas(replica: Replica, rng: random.Random, action: Action) -> str:
    """Change the replica lists of a folder and all below it."""
    if (top := _any_folder(replica, rng)) is None:
        return ""
    server, by = rng.sample(_stores(replica), 2)
    outcome = subtree.change_replicas(replica, top, action, server, ACTOR, by)
    return f"changes the lists of {outcome.changed_count} folders from {top.counter} on"


def overwrite(replica: Replica, rng: random.Random) -> str:
    """Give all folders below one its settings, or some of them."""
    if (top := _any_folder(replica, rng)) is None:
        return ""
    settings = rng.sample(list(Setting), rng.randint(1, len(Setting)))
    outcome = subtree.overwrite(replica, top, ACTOR, settings)
    return f"overwrites the settings of {outcome.changed_count} folders below {top.counter}"


def migrate(replica: Replica, rng: random.Random, step: MigrationStep) -> str:
    """Add or remove the replicas of a server for another of its site."""
    servers, pairs = replica.organisation.servers, permutations(_stores(replica), 2)
    neighbours = [(one, other) for one, other in pairs if servers[one].site == servers[other].site]
    if not neighbours:
        return ""
    return f"migrates {step(replica, *rng.choice(neighbours), ACTOR).changed_count} replicas"


def move_all(replica: Replica, rng: random.Random) -> str:
    """Move all replicas of a server to any other."""
    source, target = rng.sample(_stores(replica), 2)
    return f"moves {migration.move_all(replica, source, target, ACTOR)} replicas"


EACH_COMMAND: Final[tuple[Operation, ...]] = (
    synchronize,
    send_hierarchy,
    send_contents,
    set_schedule,
    set_priority,
    prefer_sources,
    *(partial(change_rights, action=action) for action in Action),
    *(partial(change_replicas, action=action) for action in Action),
    overwrite,
    *(partial(migrate, step=step) for step in (migration.add, migration.remove)),
    move_all,
    *shapes.CHANGES,
)
"""Each command but stop and resume, once, in an order in which none takes away what a later one needs."""
_ALL_COMMANDS: Final[tuple[Operation, ...]] = (*(stop_or_resume,) * 4, *EACH_COMMAND)


def some_command(replica: Replica, rng: random.Random) -> str:
    """Give a command at random; what it was, or "" when it could not be given here."""
    return give(replica, rng, rng.choice(_ALL_COMMANDS))


def give(replica: Replica, rng: random.Random, command: Operation) -> str:
    """Give a command; what it was, or "" when it could not be given here."""
    if len(_stores(replica)) < 2:
        return ""
    return command(replica, rng)


def _stores(replica: Replica) -> list[bytes]:
    """The stores of the tree, this one too."""
    return sorted((replica.me.database, *replica.organisation.others(replica.me.database)))


def _any_folder(replica: Replica, rng: random.Random) -> ObjectId | None:
    """One of the folders of the tree; None where there is none."""
    folders = list(hierarchy.places(replica))
    return rng.choice(folders) if folders else None


def _held(replica: Replica) -> list[ObjectId]:
    """The folders of which this store holds a replica, but for the hierarchy."""
    folders = replica.record.folders
    return [
        folder for folder in sorted(folders) if folders[folder].is_held and folder != replica.tree.hierarchy
    ]


def calm(world: World) -> None:
    """Resume content, let in who is not known and take out who is lost, as often as it takes until all have
    heard of every stop that was given, and of every store that came and went."""
    for _ in range(_ROUNDS_MAX):
        world.run_until(world.now_ms + HOUR_MS)
        replicas = [machine.replicator.replica for machine in world.running()]
        if not all(_knows_all(replica, world) for replica in replicas):
            world.let_in_again()
            world.remove_lost()
        if not all(replica.content_flows() for replica in replicas):
            machine = world.running()[0]
            world.local(machine, lambda replica: commands.resume_content(replica, ACTOR))
            world.say(f"{world.name(machine.database)} resumes content")


def _knows_all(replica: Replica, world: World) -> bool:
    """True when a store knows all that joined, and who of them is gone."""
    others = replica.organisation.others(replica.me.database)
    return {replica.me.database, *others} == world.machines.keys()
