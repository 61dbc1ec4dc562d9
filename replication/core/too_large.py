"""Objects that are too large for any message: set aside at the store that would send them; all others go.

How large a message is shows when it is sealed. What was too large then is left out from then on, until the
object is another. This is not kept: a store that starts finds it out once more.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pillarbox.replication.core.effects import Notice
from pillarbox.replication.core.packing import bytes_of
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import TooLarge
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.wire.frame import PACKED_BYTES_MAX
from pillarbox.replication.wire.messages import Changes, Message, ReconcileAnswer
from pillarbox.store.change_number import CNSet
from pillarbox.store.errors import OverLimit


def set_aside(replica: Replica, messages: Collection[Message], error: OverLimit) -> None:
    """Leave out the object for which messages could not be sealed. It is reported once.

    Raises `error` when none of their objects alone could be the reason.
    """
    carried = [
        (message.folder, object_id, versions)
        for message in messages
        if isinstance(message.body, Changes | ReconcileAnswer)
        for object_id, versions in message.body.objects
    ]
    folder, object_id, versions = max(carried, key=lambda each: bytes_of(each[2]), default=(None, None, None))
    if folder is None or object_id is None or versions is None or bytes_of(versions) <= PACKED_BYTES_MAX:
        raise error
    numbers = frozenset(versions.siblings)
    before = replica.too_large.get((folder, object_id))
    if before is not None and before.numbers == numbers:
        return
    replica.too_large[folder, object_id] = TooLarge(numbers, str(error), replica.wall_ms)
    replica.report(Notice.TOO_LARGE, folder, CNSet.of(numbers), object_id)


def sendable(replica: Replica, folder: ObjectId, found: list[ObjectId]) -> list[ObjectId]:
    """The objects, of those that were found, that are not left out."""
    left_out = among(replica, folder)
    return [object_id for object_id in found if object_id not in left_out] if left_out else found


def among(replica: Replica, folder: ObjectId) -> dict[ObjectId, TooLarge]:
    """The objects of a folder that are left out. One that is another by now is left out no more."""
    left_out: dict[ObjectId, TooLarge] = {}
    for (of, object_id), each in list(replica.too_large.items()):
        if of != folder:
            continue
        versions: Versions[Any] | None = replica.objects.get(folder, object_id)
        if versions is not None and each.numbers == frozenset(versions.siblings):
            left_out[object_id] = each
        else:
            del replica.too_large[of, object_id]
    return left_out
