"""Operators at random: their commands at any store, under all faults."""

from __future__ import annotations

import random
from typing import Final

from pillarbox.replication.core import commands, folder_settings, hierarchy, migration, subtree
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

COUNTED: Final = frozenset(
    {
        "command_migrate",
        "command_move_all",
        "command_resume",
        "command_schedule",
        "command_send_contents",
        "command_send_hierarchy",
        "command_stop",
        "command_subtree",
        "command_synchronize_hierarchy",
        "content_resumed",
        "content_stopped",
        BEING_REPLACED,
        "replica_replaced",
        "subtree_skipped",
        *shapes.COUNTED,
    }
)
"""The counters of commands and of what they cause; a campaign in which one is missing proves little."""


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
    """Give a folder another schedule or priority."""
    folders = list(hierarchy.places(replica))
    if not folders:
        return ""
    folder = rng.choice(folders)
    replica.fired["command_schedule"] += 1
    if rng.random() < 0.3:
        folder_settings.set_priority(replica, folder, rng.choice(list(Priority)), ACTOR)
        return f"sets the priority of {folder.counter}"
    schedule = rng.choice(_SCHEDULES)
    folder_settings.set_schedule(replica, folder, schedule, ACTOR)
    return f"sets the schedule of {folder.counter} to {schedule}"


def change_subtree(replica: Replica, rng: random.Random) -> str:
    """Change permissions or replica lists of a folder and all below it, or overwrite what is below it."""
    folders = list(hierarchy.places(replica))
    if not folders:
        return ""
    top, action = rng.choice(folders), rng.choice(list(Action))
    what = rng.choice(("rights", "replicas", "overwrite"))
    if what == "rights":
        subject, rights = rng.choice(("anna", "bert")), rng.choice((AUTHOR, FolderRights.READ_ITEMS))
        outcome = subtree.change_rights(replica, top, action, subject, rights, ACTOR)
    elif what == "overwrite":
        settings = rng.sample(list(Setting), rng.randint(1, len(Setting)))
        outcome = subtree.overwrite(replica, top, ACTOR, settings)
    else:
        server, by = rng.sample(_stores(replica), 2)
        outcome = subtree.change_replicas(replica, top, action, server, ACTOR, by)
    return f"changes {what} of {outcome.changed_count} folders from {top.counter} on"


def migrate(replica: Replica, rng: random.Random) -> str:
    """Add or remove replicas of a server for another of its site, or move all between any two."""
    source, target = rng.sample(_stores(replica), 2)
    servers = replica.organisation.servers
    if servers[source].site != servers[target].site:
        return f"moves {migration.move_all(replica, source, target, ACTOR)} replicas"
    step = rng.choice((migration.add, migration.remove))(replica, source, target, ACTOR)
    return f"migrates {step.changed_count} replicas"


OTHER_COMMANDS: Final[tuple[Operation, ...]] = (
    synchronize,
    send_hierarchy,
    send_contents,
    set_schedule,
    change_subtree,
    migrate,
    shapes.some_shape,
    shapes.some_shape,
    shapes.some_shape,
)
COMMANDS: Final[tuple[Operation, ...]] = (stop_or_resume, stop_or_resume, *OTHER_COMMANDS)


def some_command(replica: Replica, rng: random.Random, among: tuple[Operation, ...] = COMMANDS) -> str:
    """Give a command at random; what it was, or "" when it could not be given here."""
    if len(_stores(replica)) < 2:
        return ""
    return rng.choice(among)(replica, rng)


def _stores(replica: Replica) -> list[bytes]:
    """The stores of the tree, this one too."""
    return sorted((replica.me.database, *replica.organisation.others(replica.me.database)))


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
