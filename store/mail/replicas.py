"""Refusal of what needs a replica of a public folder, at a store that holds none, or not all of its content.

Every store of a tree knows every folder, and the content of those alone of which it holds a replica. A folder
of a store that has joined no organisation has no replica list, and all of this passes it by.
"""

from __future__ import annotations

from pillarbox.store.disk.tables import FolderRecord
from pillarbox.store.engine import replication_state
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.errors import NoReplica
from pillarbox.store.ids import guid_text
from pillarbox.store.mail.versions import ACTIVE, DELETE_PENDING


def refuse_posts(reader: Reader, folder: FolderRecord) -> None:
    """Raise NoReplica for a folder of which this store holds no replica, or one that leaves.

    Of a post there nobody else would ever learn, or only while it is leaving.
    """
    others = _elsewhere(reader, folder)
    if others is not None:
        raise _refused(f"this store holds no replica of {folder.name!r} that serves clients", "post", others)


def refuse_deletion(reader: Reader, folder: FolderRecord) -> None:
    """Raise NoReplica for a folder of which this store does not hold all, as far as its replicator knows.

    What a deletion has not seen brings the folder back elsewhere (REPLICATION.md, section 1).
    """
    others = _elsewhere(reader, folder)
    if others is not None:
        raise _refused(f"this store holds no replica of {folder.name!r} that is active", "delete it", others)
    if folder.versions and replication_state.is_lacking(reader, folder.folder_id):
        others = tuple(sorted(_active(folder) - {reader.files.guid}))
        raise _refused(
            f"the replica of {folder.name!r} here lacks some of its content", "wait, or delete it", others
        )


def _active(folder: FolderRecord) -> frozenset[bytes]:
    """The databases whose replicas serve clients: where all are leaving, the highest GUID (rule K10)."""
    active = frozenset(row[0] for row in folder.replicas if row[1] == ACTIVE)
    leaving = [row[0] for row in folder.replicas if row[1] == DELETE_PENDING]
    return active or frozenset(leaving and [max(leaving)])


def _elsewhere(reader: Reader, folder: FolderRecord) -> tuple[bytes, ...] | None:
    """The databases with a replica that serves clients, where this one has none; else None."""
    active = _active(folder)
    if not folder.versions or reader.files.guid in active:
        return None
    return tuple(sorted(active))


def _refused(message: str, what: str, databases: tuple[bytes, ...]) -> NoReplica:
    where = ", ".join(map(guid_text, databases)) or "none yet: add a replica first"
    hint = f"{what} at a store that has one ({where}); `pillarbox folder referral` names the nearest"
    return NoReplica(message, databases=databases, hint=hint)
