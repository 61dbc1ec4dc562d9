"""A public folder store that takes states of folders, as from two other stores."""

from __future__ import annotations

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import FolderRecord
from pillarbox.store.engine import numbering
from pillarbox.store.engine.database import Database
from pillarbox.store.ids import COUNTER_BITS
from pillarbox.store.mail import apply_folders, folders, public_folders, versions
from pillarbox.store.mail.apply_folders import FolderState, FolderVersion
from pillarbox.store.upkeep.joining import join

ACTOR = Actor.task("replication")
B, C = 2 << COUNTER_BITS, 3 << COUNTER_BITS  # numbers of two other stores


class Tree:
    """The tree of a store that has joined an organisation."""

    def __init__(self, database: Database) -> None:
        self.database = database
        join(database, ACTOR, b"t" * 16)
        with database.transaction(ACTOR) as txn:
            for origin in (b"b" * 16, b"c" * 16):
                numbering.replica_number(txn, origin, origin, 1)
            self.root_id = public_folders.root_id(txn)

    def apply(self, folder_id: int, state: FolderState) -> bool:
        with self.database.transaction(ACTOR) as txn:
            return apply_folders.apply(txn, folder_id, state)

    def state(self, folder_id: int) -> FolderState | None:
        with self.database.read(ACTOR) as read:
            return apply_folders.state_of(read, folder_id)

    def folder(self, folder_id: int) -> FolderRecord:
        with self.database.read(ACTOR) as read:
            return folders.get(read, folder_id)

    def shown(self) -> dict[int, str]:
        """The path of each folder that is shown, from its root down."""
        with self.database.read(ACTOR) as read:
            found = {}
            for record in folders.all_of(read):
                if record.parent_id:
                    top = record
                    while top.parent_id:
                        top = folders.get(read, top.parent_id)
                    path = "/".join(folders.path_of(read, record.folder_id))
                    found[record.folder_id] = f"{top.name}: {path}"
            return found

    def version(self, number: int, name: str = "News", parent_id: int = 0, **fields: object) -> FolderVersion:
        made = FolderVersion(
            number=number,
            changed=(1_000_000_000_000 + (number & 0xFFFF), 0),
            actor="bert",
            gone=False,
            name=name,
            parent_id=parent_id or self.root_id,
            properties={},
            stamps=(),
            replicas=tuple(sorted((guid, 2, 5, 6, 2) for guid in (b"d" * 16, self.database.guid))),
            rights=(("Default", 3, 5, 6, 2),),
            cleared=None,
        )
        return made._replace(**fields)  # type: ignore[arg-type]


def state(*held: FolderVersion, context: dict[int, int] | None = None) -> FolderState:
    """A state of these versions; of several the one that was changed last is shown."""
    found = context or numbering.context_of(tuple(each.number for each in held))
    live = [each for each in held if not each.gone]
    shown = max(live, key=lambda each: (each.changed, each.number)) if live and len(held) > 1 else None
    if shown is not None:
        moved = (versions.PARENT, *shown.changed, shown.number >> COUNTER_BITS)
        shown = shown._replace(number=0, stamps=(moved,))
    return FolderState(found, tuple(sorted(held)), shown)
