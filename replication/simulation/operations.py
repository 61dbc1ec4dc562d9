"""Operations of users and administrators at a store, at random."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from pillarbox.replication.core import hierarchy, writing
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.simulation.world import World

ACTOR = "user"
SIZES_BYTES = (500, 3_000, 16_000, 90_000, 400_000)

Operation = Callable[[Replica, random.Random], str]


class Weighted(NamedTuple):
    """An operation and how often it is done."""

    weight: float
    operation: Operation


def active_folders(replica: Replica) -> list[ObjectId]:
    """The folders of which this store holds an active replica."""
    return [folder for folder in hierarchy.places(replica) if hierarchy.may_delete(replica, folder)]


def live_messages(replica: Replica) -> list[tuple[ObjectId, ObjectId]]:
    """The live messages of all active folders, as (folder, id)."""
    return [
        (folder, message)
        for folder in active_folders(replica)
        for message in replica.objects.ids(folder)
        if (versions := replica.objects.get(folder, message)) and versions.live()
    ]


def some_message(replica: Replica, rng: random.Random) -> tuple[ObjectId, ObjectId] | None:
    """A live message in an active folder, as (folder, id)."""
    folders = active_folders(replica)
    if not folders:
        return None
    folder = rng.choice(folders)
    live = [message for held, message in live_messages(replica) if held == folder]
    return (folder, rng.choice(live)) if live else None


def content(rng: random.Random) -> tuple[bytes, int]:
    """The digest and the size of some new content."""
    return rng.randbytes(24), rng.choice(SIZES_BYTES)


def post(replica: Replica, rng: random.Random) -> str:
    """Post a message to an active folder."""
    folders = active_folders(replica)
    if not folders:
        return ""
    folder = rng.choice(folders)
    message = writing.post(replica, folder, *content(rng), ACTOR)
    return f"posts {message.counter} to {folder.counter}"


def edit(replica: Replica, rng: random.Random) -> str:
    """Change the content of a message."""
    found = some_message(replica, rng)
    return edit_message(replica, rng, found) if found else ""


def edit_message(replica: Replica, rng: random.Random, found: tuple[ObjectId, ObjectId]) -> str:
    """Change the content of this message."""
    digest, size_bytes = content(rng)
    writing.edit(replica, *found, ACTOR, content=digest, size_bytes=size_bytes)
    return f"edits {found[1].counter} in {found[0].counter}"


def flag_message(replica: Replica, rng: random.Random, found: tuple[ObjectId, ObjectId]) -> str:
    """Set a property of this message, with the random numbers of an edit."""
    digest, _ = content(rng)
    writing.edit(replica, *found, ACTOR, properties={"apart": digest.hex()})
    return f"flags {found[1].counter} in {found[0].counter}"


def flag(replica: Replica, rng: random.Random) -> str:
    """Set a property of a message."""
    found = some_message(replica, rng)
    if not found:
        return ""
    writing.edit(replica, *found, ACTOR, properties={rng.choice("abc"): str(rng.random())})
    return f"flags {found[1].counter} in {found[0].counter}"


def delete(replica: Replica, rng: random.Random) -> str:
    """Delete a message."""
    found = some_message(replica, rng)
    if not found:
        return ""
    writing.delete(replica, *found, ACTOR)
    return f"deletes {found[1].counter} in {found[0].counter}"


def move(replica: Replica, rng: random.Random) -> str:
    """Move a message to another folder."""
    found, folders = some_message(replica, rng), active_folders(replica)
    target = rng.choice(folders) if folders else None
    if not found or target is None or target == found[0]:
        return ""
    writing.move(replica, *found, target, ACTOR)
    return f"moves {found[1].counter} from {found[0].counter} to {target.counter}"


def create_folder(replica: Replica, rng: random.Random) -> str:
    """Make a folder with one to three replicas somewhere in the tree."""
    stores = sorted((replica.me.database, *replica.organisation.others(replica.me.database)))
    chosen = rng.sample(stores, min(len(stores), rng.choice((1, 2, 2, 3))))
    parent = rng.choice([replica.tree.root, replica.tree.system_root, *hierarchy.places(replica)])
    active = dict.fromkeys(chosen, ReplicaState.ACTIVE)
    folder = writing.create_folder(replica, parent, f"folder {rng.randrange(5)}", active, ACTOR)
    return f"makes folder {folder.counter}"


def make_tree(world: World, rng: random.Random) -> None:
    """Make eight folders in three levels, two or three replicas each, at the first store."""
    machine = world.running()[0]
    stores = sorted(world.machines)
    made: list[ObjectId] = [world.tree.root]
    for above in (0, 0, 1, 1, 2, 3, 3, 4):
        active = dict.fromkeys(rng.sample(stores, min(len(stores), rng.choice((2, 3)))), ReplicaState.ACTIVE)
        name = f"folder {len(made)}"

        def make(
            replica: Replica,
            parent: ObjectId = made[above],
            name: str = name,
            replicas: dict[bytes, ReplicaState] = active,
        ) -> ObjectId:
            return writing.create_folder(replica, parent, name, replicas, ACTOR)

        made.append(world.local(machine, make))


def move_folder(replica: Replica, rng: random.Random) -> str:
    """Move a folder, or rename it."""
    folders = list(hierarchy.places(replica))
    if not folders:
        return ""
    folder = rng.choice(folders)
    if rng.random() < 0.3:
        writing.change_folder(replica, folder, ACTOR, name=f"folder {rng.randrange(5)}")
        return f"renames folder {folder.counter}"
    parent = rng.choice([replica.tree.root, *folders])
    writing.change_folder(replica, folder, ACTOR, parent=parent)
    return f"moves folder {folder.counter} below {parent.counter}"


def delete_folder(replica: Replica, rng: random.Random) -> str:
    """Delete a folder that this store holds."""
    folders = active_folders(replica)
    if not folders:
        return ""
    folder = rng.choice(folders)
    hierarchy.delete_folder(replica, folder, ACTOR)
    return f"deletes folder {folder.counter}"


def change_replicas(replica: Replica, rng: random.Random) -> str:
    """Add a replica to a folder, or begin to remove one that is not the last."""
    folders = list(hierarchy.places(replica))
    stores = sorted((replica.me.database, *replica.organisation.others(replica.me.database)))
    if not folders:
        return ""
    folder, store = rng.choice(folders), rng.choice(stores)
    states = replica.replica_states(folder)
    is_active = states.get(store) is ReplicaState.ACTIVE
    if is_active and list(states.values()).count(ReplicaState.ACTIVE) < 2:
        return ""
    state = ReplicaState.DELETE_PENDING if is_active else ReplicaState.ACTIVE
    writing.change_folder(replica, folder, ACTOR, replicas={store: state})
    replica.fired["replica_removed" if is_active else "replica_added"] += 1
    return f"{'removes' if is_active else 'adds'} a replica of folder {folder.counter}"


OPERATIONS = (
    Weighted(8, create_folder),
    Weighted(6, move_folder),
    Weighted(3, delete_folder),
    Weighted(10, change_replicas),
    Weighted(36, post),
    Weighted(13, edit),
    Weighted(8, flag),
    Weighted(12, delete),
    Weighted(4, move),
)
FOLDERS_MAX = 8


def some_operation(
    replica: Replica, rng: random.Random, operations: tuple[Weighted, ...] = OPERATIONS
) -> str:
    """Do something at random; what it was, or "" when it could not be done here."""
    operation = rng.choices(operations, [each.weight for each in operations])[0].operation
    folders_count = len(hierarchy.places(replica))
    if folders_count == 0:
        operation = create_folder
    elif operation is create_folder and folders_count >= FOLDERS_MAX:
        operation = post
    return operation(replica, rng)
