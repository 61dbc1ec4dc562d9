"""Where recovered folders and messages belong in a tree, and the marks by which they are known again.

What a merge adds carries the identity of what it was made from: the source database's GUID, the id there, and
for copies the state that was copied. A later merge finds it by that, wherever it was moved since. The mark
says nothing of the target: the same merge leaves the same marks at every replica of a public folder
(docs/replication.md, "Recovered objects").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from pillarbox.backup.merge.source import FolderPath, MergeTree, SourceFolder, tree_of
from pillarbox.store.disk.tables import FolderRecord
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.mail import folders
from pillarbox.store.names import NAME_CHARS_MAX, folder_name

RECOVERED_FROM: Final = "recovered_from"
RECOVERED_COPY: Final = "recovered_copy"
COPY_NAME: Final = "Recovered Data"


class Origin(NamedTuple):
    """Where recovered things come from: `copy` is the state's sequence number in copy mode, else 0."""

    database: bytes
    tree: MergeTree
    copy: int

    def mark(self, object_id: int) -> tuple[bytes, int, int]:
        """The mark kept with the thing made of a folder or message of that id, which `database` gave out."""
        return self.database, object_id, self.copy

    def marked_id(self, properties: dict[str, Any]) -> int:
        """The id of what a thing with these properties was made of, 0 when it was not of this origin."""
        found = properties.get(RECOVERED_FROM)
        if not isinstance(found, tuple) or len(found) != 3 or found[::2] != (self.database, self.copy):
            return 0
        return found[1] if isinstance(found[1], int) else 0


def target_folders(
    reader: Reader, record: FolderRecord, is_copy: bool = False
) -> Iterator[tuple[FolderRecord, bool]]:
    """(folder, whether it is a copy of recovered data or in one) of a folder and all below it."""
    is_copy = is_copy or RECOVERED_COPY in record.properties
    yield record, is_copy
    for child in folders.children(reader, record.folder_id):
        yield from target_folders(reader, child, is_copy)


class FolderMap:
    """The folders of a target tree that those of the source tree stand for.

    A folder of the same database is found by its id, standard folders by their role, what an earlier merge
    made by its mark; every other by its name in the folder that its parent stands for. In a copy the root is
    a new folder, and below it are only folders that the copy made.
    """

    def __init__(
        self, origin: Origin, source_folders: Sequence[SourceFolder], target_guid: bytes, is_lineage: bool
    ) -> None:
        """`is_lineage`: source and target are states of one database."""
        self.made: list[FolderPath] = []
        self._origin = origin
        self._target_guid = target_guid
        self._is_lineage = is_lineage
        self._source = {each.record.folder_id: each for each in source_folders}
        self._roles = {folder_id: role for role, folder_id in origin.tree.roles.items()}
        self._marked: dict[int, int] = {}

    def learn(self, target: Reader) -> None:
        """Look for what earlier merges made."""
        root = folders.get(target, tree_of(target, self._target_guid).root_id)
        for record, _ in target_folders(target, root):
            marked = self._origin.marked_id(record.properties)
            if marked in self._source:
                self._marked.setdefault(marked, record.folder_id)

    def find(self, target: Reader, source_id: int) -> FolderRecord | None:
        """The folder that a source folder stands for, when it is there."""
        found = self._known(target, source_id)
        if found is not None or source_id == self._origin.tree.root_id:
            return found
        source = self._source[source_id].record
        parent = self.find(target, source.parent_id)
        return None if parent is None else folders.find(target, parent.folder_id, source.name)

    def _known(self, target: Reader, source_id: int) -> FolderRecord | None:
        """The folder that a source folder stands for, if it will be found again under any name."""
        found = self._present(target, self._marked.get(source_id, 0))
        if found is None and not self._origin.copy:
            source = self._source[source_id].record
            found = self._same(target, source) or self._standard(target, source_id)
        return found

    def is_settled(self, target: Reader, source_id: int) -> bool:
        """True when `ensure` has nothing to do."""
        found = self._known(target, source_id) or self.find(target, source_id)
        return found is not None and not self._lacks_mark(target, source_id, found)

    def _lacks_mark(self, target: Reader, source_id: int, found: FolderRecord) -> bool:
        """Found by its name alone, it would be missed when it is renamed: then it is marked."""
        return RECOVERED_FROM not in found.properties and self._known(target, source_id) is None

    def _present(self, target: Reader, folder_id: int) -> FolderRecord | None:
        if not folder_id or not folders.is_there(target, folder_id):
            return None
        record = folders.get(target, folder_id)
        return record if record.mailbox == self._target_guid else None

    def _same(self, target: Reader, source: FolderRecord) -> FolderRecord | None:
        if not self._is_lineage:
            return None
        found = self._present(target, source.folder_id)
        # A database that was restored gave ids out again: the folder must be as old as the one it was.
        return found if found is not None and found.created_ms == source.created_ms else None

    def _standard(self, target: Reader, source_id: int) -> FolderRecord | None:
        tree = tree_of(target, self._target_guid)
        if source_id == self._origin.tree.root_id:
            return folders.get(target, tree.root_id)
        role = self._roles.get(source_id)
        return folders.get(target, tree.roles[role]) if role in tree.roles else None

    def ensure(self, txn: WriteTransaction, source_id: int) -> FolderRecord:
        """The folder that a source folder stands for; made where it is missing.

        A public folder is made with its properties and its time of creation. A mailbox's is made without:
        permissions and rules are among them, which are not recovered (DOMAIN.md "Recovery storage group").
        """
        found = self.find(txn, source_id)
        if found is not None:
            return self._mark(txn, source_id, found) if self._lacks_mark(txn, source_id, found) else found
        if source_id == self._origin.tree.root_id:
            made = self._make_copy(txn)
        else:
            source = self._source[source_id].record
            parent = self.ensure(txn, source.parent_id)
            if len(folders.path_of(txn, parent.folder_id)) >= folders.DEPTH_MAX:
                return parent
            made = self._make(txn, parent, source)
        self.made.append(folders.path_of(txn, made.folder_id))
        return self._mark(txn, source_id, made)

    def _make(self, txn: WriteTransaction, parent: FolderRecord, source: FolderRecord) -> FolderRecord:
        name = folder_name(source.name)
        if self._origin.tree.is_public:
            return folders.create_as_new(txn, parent.folder_id, name, source)
        return folders.create(txn, parent.folder_id, name)

    def _mark(self, txn: WriteTransaction, source_id: int, record: FolderRecord) -> FolderRecord:
        self._marked[source_id] = record.folder_id
        return folders.set_property(txn, record.folder_id, RECOVERED_FROM, self._origin.mark(source_id))

    def _make_copy(self, txn: WriteTransaction) -> FolderRecord:
        root_id = tree_of(txn, self._target_guid).root_id
        made = folders.create(txn, root_id, self._copy_name(txn, txn.now_ms))
        return folders.set_property(txn, made.folder_id, RECOVERED_COPY, True)

    def _copy_name(self, target: Reader, now_ms: int) -> str:
        tree = tree_of(target, self._target_guid)
        name = f"{COPY_NAME} {datetime.fromtimestamp(now_ms / 1000, UTC):%Y-%m-%d}"
        if tree.guid != self._origin.tree.guid:
            name = f"{name} - {self._origin.tree.name}"[: NAME_CHARS_MAX - 10].strip()
        tried, free = 1, name
        while folders.find(target, tree.root_id, free) is not None:
            tried += 1
            free = f"{name} ({tried})"
        return free

    def path(self, target: Reader, source_id: int, now_ms: int) -> FolderPath:
        """Where a source folder stands or would be made at `now_ms` (ms UTC)."""
        found = self.find(target, source_id)
        if found is not None:
            return folders.path_of(target, found.folder_id)
        if source_id == self._origin.tree.root_id:
            return (self._copy_name(target, now_ms),)
        source = self._source[source_id].record
        return (*self.path(target, source.parent_id, now_ms), source.name)
