"""Changes that the store made itself, by its own functions and under its own numbers, told to the core later.

The store gives numbers in the transactions of its users; the core learns of them at its next call, in the
transaction of that. It may know less than the store holds then, never more.

Some numbers become visible late: those of a folder that is copied in many transactions, hidden until it is
whole. They are *withheld*: known to nobody, and holes in what this store knows of its own. Once they are
visible they are claimed and sent like new ones, though higher ones were sent before.
"""

from __future__ import annotations

from collections.abc import Mapping

from pillarbox.replication.core import hierarchy
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import ObjectId
from pillarbox.store.change_number import CNSet


def note(replica: Replica, changes: Mapping[ObjectId, CNSet], withheld: CNSet) -> None:
    """Note the numbers of changes that are new to the core, by folder; `withheld` cannot be seen yet.

    The hierarchy comes first, since content belongs to folders that begin with it.
    """
    released = replica.withheld - withheld
    replica.withheld = withheld
    if released:
        _claim_gaps(replica, released)
    tree = replica.tree.hierarchy
    if tree in changes:
        _note(replica, tree, changes[tree])
        replica.written.update(replica.objects.found(tree, changes[tree]))
        hierarchy.even_out(replica, set(replica.written))
    for folder in sorted(changes.keys() - {tree}):
        if replica.held(folder) is not None:
            _note(replica, folder, changes[folder])
            replica.fired["local_change"] += 1


def _claim_gaps(replica: Replica, released: CNSet) -> None:
    """Take numbers that were withheld as had below the last own one: of other folders, or noted next."""
    for folder, state in replica.record.folders.items():
        late = released & CNSet.full(replica.me.origin, state.own_last)
        if late:
            state.knowledge.claim(late)
            replica.touched.add(folder)


def _note(replica: Replica, folder: ObjectId, numbers: CNSet) -> None:
    state, origin = replica.state(folder), replica.me.origin
    late = numbers & CNSet.full(origin, state.broadcast_to)
    if late:  # what was sent since goes once more: rare, and without harm
        state.broadcast_to = next(iter(late.ranges(origin)))[0] - 1
    state.knowledge.claim(numbers)
    replica.note_given(folder, max(numbers.highest(origin), state.own_last))
    replica.note_news(state)
