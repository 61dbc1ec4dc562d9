"""Operators at random: their commands at any store, under all faults."""

from __future__ import annotations

import random
from typing import Final

from pillarbox.replication.core import commands, folder_settings, hierarchy
from pillarbox.replication.core.folder_settings import Priority
from pillarbox.replication.core.preset import HOUR_MS, MINUTE_MS
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.organisation.schedules import NEVER, Interval, parse_schedule
from pillarbox.replication.simulation.operations import Operation
from pillarbox.replication.simulation.world import World

ACTOR: Final = "operator"
_SCHEDULES: Final = (
    None,
    NEVER,
    Interval(30),
    parse_schedule("weekly Europe/Berlin mon-sun 00:00-12:00"),
)
_RESUMES_MAX: Final = 5

COUNTED: Final = frozenset(
    {
        "command_resume",
        "command_schedule",
        "command_send_contents",
        "command_send_hierarchy",
        "command_stop",
        "command_synchronize_hierarchy",
        "content_resumed",
        "content_stopped",
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


COMMANDS: Final[tuple[Operation, ...]] = (
    stop_or_resume,
    stop_or_resume,
    synchronize,
    send_hierarchy,
    send_contents,
    set_schedule,
)


def some_command(replica: Replica, rng: random.Random) -> str:
    """Give a command at random; what it was, or "" when it could not be given here."""
    return rng.choice(COMMANDS)(replica, rng)


def _held(replica: Replica) -> list[ObjectId]:
    """The folders of which this store holds a replica, but for the hierarchy."""
    folders = replica.record.folders
    return [
        folder for folder in sorted(folders) if folders[folder].is_held and folder != replica.tree.hierarchy
    ]


def calm(world: World) -> None:
    """Resume content, as often as it takes until all have heard of every stop that was given."""
    for _ in range(_RESUMES_MAX):
        world.run_until(world.now_ms + HOUR_MS)
        running = world.running()
        if all(machine.replicator.replica.content_flows() for machine in running):
            return
        machine = running[0]
        world.local(machine, lambda replica: commands.resume_content(replica, ACTOR))
        world.say(f"{world.name(machine.database)} resumes content")
