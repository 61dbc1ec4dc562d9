"""The public folder store of a snapshot, opened to answer for the replicas that it held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pillarbox.store.errors import NotFound, Refused
from pillarbox.tools.options import ACTOR

if TYPE_CHECKING:
    from pillarbox.backup.repository.repository import Repository, Snapshot
    from pillarbox.replication.node.snapshot_source import SnapshotSource


@contextmanager
def snapshot_source(repository: Repository, snapshot: Snapshot) -> Iterator[SnapshotSource]:
    """The store in a snapshot that was in an organisation, for a `with` block.

    Its records are brought to a scratch directory, its content is fetched as it is read. Raises NotFound
    where the snapshot holds no public folders, Refused where they belonged to no organisation; as the reads
    of a snapshot do.
    """
    from pillarbox.backup.restore import restorable_databases, restore_records
    from pillarbox.backup.snapshot_mount import open_snapshot_mount
    from pillarbox.replication.node.snapshot_source import SnapshotSource
    from pillarbox.store.disk.tables import DatabaseKind

    found = [each for each in restorable_databases(snapshot) if each.kind is DatabaseKind.PUBLIC_FOLDER_STORE]
    if not found:
        raise NotFound(
            "the snapshot holds no public folders", hint="see what it holds with `pillarbox backup show`"
        )
    refused: Refused | None = None
    for database in found:
        with ExitStack() as stack:
            scratch = stack.enter_context(TemporaryDirectory(prefix="pillarbox-seed-"))
            place = Path(scratch) / "database"
            restore_records(repository, database, place)
            opened = stack.enter_context(open_snapshot_mount(repository, database, place))
            reader = stack.enter_context(opened.read(ACTOR))
            try:
                source = SnapshotSource(reader)
            except Refused as error:  # another of its stores may have been in one: a server has one such
                refused = error
                continue
            yield source
            return
    assert refused is not None
    raise refused
