"""A store of an organisation, as layout 3 first wrote it, is read for ever: by the tables and the stream."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.clock import VirtualClock
from pillarbox.store.content.blocks import digest_of
from pillarbox.store.disk.tables import DatabaseKind, Table
from pillarbox.store.engine import numbering, replication_state
from pillarbox.store.engine.database import LOCK, PROPERTIES, Database
from pillarbox.store.engine.replication_state import Kept
from pillarbox.store.ids import COUNTER_BITS
from pillarbox.store.mail import apply_folders, apply_messages, folders, messages, public_folders, versions
from pillarbox.store.mail.apply_folders import FolderState, FolderVersion
from pillarbox.store.mail.apply_messages import MessageState, MessageVersion
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.joining import has_joined, join
from pillarbox.store.upkeep.repair import repair_database

GOLDEN = Path(__file__).with_name("golden_conflict_3.zip")
BEFORE_ROLES = Path(__file__).with_name("golden_organisation_3.zip")  # users met each version of a conflict
ACTOR = Actor.user("anna")
TREE, OTHER = b"t" * 16, b"o" * 16
THERE = 2 << COUNTER_BITS
RAWS = [b"Subject: one\r\n\r\n1\r\n", b"Subject: other\r\n\r\n2\r\n"]
STAMP = (1_000_000_000_500, 3)
CONFLICT = MessageState(
    {2: 10},
    (
        MessageVersion(THERE | 9, STAMP, "bert", digest_of(RAWS[0]), 4, ("work",), ("red",), {"p": 1}),
        MessageVersion(THERE | 10, STAMP, "carl", digest_of(RAWS[1]), stamps=(("keyword x", 1, 2, 2),)),
    ),
)
SHOWN = CONFLICT._replace(shown=CONFLICT.versions[1]._replace(number=0, digest=b""))
GONE = MessageState({2: 12}, (MessageVersion(THERE | 12, STAMP, "bert"),))


def folder_state(root_id: int) -> FolderState:
    version = FolderVersion(
        number=THERE | 5,
        changed=STAMP,
        actor="bert",
        gone=False,
        name="News",
        parent_id=root_id,
        properties={"p": "v"},
        stamps=(("name", 1, 2, 2),),
        replicas=((OTHER, 2, 3, 4, 2),),
        rights=(("Default", 7, 3, 4, 2),),
        cleared=CNSet.of([ChangeNumber(OTHER, 8)]).encode(),
    )
    return FolderState({2: 5}, (version,))


def database(directory: Path) -> Database:
    return Database(
        directory / "public",
        b"p" * 16,
        "public",
        DatabaseKind.PUBLIC_FOLDER_STORE,
        clock=VirtualClock(),
        rng=Random(42),
    )


def write(directory: Path) -> None:
    made = database(directory)
    made.create()
    made.mount()
    prepared = {digest_of(raw): messages.prepare(made.files, raw) for raw in RAWS}
    with made.transaction(ACTOR) as txn:
        public_folders.create_tree(txn)
        old = public_folders.create(txn, "Old")
        messages.append(txn, old.folder_id, prepared[digest_of(RAWS[0])])
    join(made, ACTOR, TREE)
    with made.transaction(ACTOR) as txn:
        assert numbering.replica_number(txn, OTHER, b"d" * 16, 1) == 2
        apply_folders.apply(txn, THERE | 5, folder_state(public_folders.root_id(txn)))
        apply_messages.apply(txn, THERE | 5, THERE | 9, SHOWN, prepared)
        apply_messages.apply(txn, THERE | 5, THERE | 12, GONE)
        public_folders.create(txn, "Gone")
        folders.delete(txn, public_folders.find(txn, "Gone").folder_id)
        replication_state.keep(txn, Kept.KNOWN, CNSet.full(OTHER, 12).encode(), THERE | 5)
    made.finish_removals()
    made.dismount()


@pytest.mark.parametrize("part", ["tables", "stream"])
@pytest.mark.parametrize(("golden", "shown_count"), [(BEFORE_ROLES, 2), (GOLDEN, 1)])
def test_a_store_of_an_organisation_of_layout_3_is_read(
    tmp_path: Path, golden: Path, shown_count: int, part: str
) -> None:
    with ZipFile(golden) as archive:
        archive.extractall(tmp_path)
    public = database(tmp_path)
    if part == "stream":
        shutil.rmtree(public.path / PROPERTIES)
        assert repair_database(public).from_stream
    public.mount()
    with public.read(ACTOR) as read:
        assert has_joined(read) and read.state().numbering == 1
        membership = numbering.membership(read)
        assert membership is not None and membership.tree == TREE
        assert [(record.database, record.incarnation) for _, record in numbering.replicas(read)] == [
            (b"p" * 16, 1),
            (b"d" * 16, 1),
        ]
        root_id = public_folders.root_id(read)
        assert apply_folders.state_of(read, THERE | 5) == folder_state(root_id)
        assert apply_messages.state_of(read, THERE | 5, THERE | 9) == CONFLICT
        assert apply_messages.state_of(read, THERE | 5, THERE | 12) == GONE
        (conflict,) = versions.conflicts(read, THERE | 5)
        assert [messages.content(read, item) for item in conflict.versions] == RAWS
        assert len(list(folders.messages(read, THERE | 5))) == shown_count
        assert conflict.message.message_id == THERE | 9
        (old,) = folders.messages(read, public_folders.find(read, "Old").folder_id)
        assert old.versions == (old.message_id,)
        (gone,) = [row for _, row in read.records(Table.TOMBSTONE, b"", None) if row.folder]
        state = apply_folders.state_of(read, gone.object_id)
        assert state is not None and [(each.name, each.gone) for each in state.versions] == [("Gone", True)]
        assert replication_state.known(read, THERE | 5) == CNSet.full(OTHER, 12)
    with public.transaction(ACTOR) as txn:
        kept = messages.keep_version(txn, conflict.versions[1].message_id)
        assert [item.message_id for item in folders.messages(txn, THERE | 5)] == [THERE | 9]
        assert messages.content(txn, kept) == RAWS[1]
    assert check_database(public, ACTOR).findings == ()
    public.dismount()


if __name__ == "__main__":  # writes the golden file of a new version
    import sys

    write(Path(sys.argv[1]))
    with ZipFile(GOLDEN, "w", ZIP_DEFLATED, compresslevel=9) as archive:
        for file in sorted(Path(sys.argv[1]).rglob("*")):
            if file.is_file() and file.name not in (LOCK, "lock.mdb"):
                archive.write(file, file.relative_to(sys.argv[1]))
