"""Wrote golden_server_1.zip: a server, a database that was killed and a repository, all of table layout 1.

It ran with the code of commit 9ff565d, the last one before layout 2, whose names it uses:

    python golden_server_1.py DIRECTORY golden_server_1.zip
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sys
from datetime import UTC
from pathlib import Path
from random import Random
from typing import Any
from zipfile import ZIP_LZMA, ZipFile

from pillarbox.backup.backend_directory import DirectoryBackend
from pillarbox.backup.capture import Capture
from pillarbox.backup.crypto import KeyFile
from pillarbox.backup.repository import Repository
from pillarbox.backup.repository_lock import Holder, LockContext
from pillarbox.backup.snapshot import GroupSnapshot, SnapshotSource
from pillarbox.store import change_feed, folder, mailbox, maintenance, message, public_folder
from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.clock import VirtualClock
from pillarbox.store.database import Database
from pillarbox.store.database_limits import Edition
from pillarbox.store.group_commit import Tuning
from pillarbox.store.server import Server
from pillarbox.store.tables import LEFT_OUT_KEY, DatabaseKind, Table

ACTOR = Actor.task("test")
KEY = KeyFile(bytes(range(32)))
TUNING = Tuning(6000, checkpoint_stream_bytes=4000, checkpoint_pages=16, checkpoint_beside=False)
TOLD = (Table.MAILBOX, Table.FOLDER, Table.ITEM, Table.TOMBSTONE, Table.SEEN)
WORDS = [
    "the",
    "mail",
    "of",
    "this",
    "server",
    "was",
    "written",
    "long",
    "before",
    "its",
    "fields",
    "had",
    "all",
    "the",
    "names",
    "that",
    "they",
    "have",
    "now",
]


def mail(number: int) -> bytes:
    """Short mail, some with bare line feeds, some with an attachment that others have too."""
    random = Random(number)
    text = " ".join(random.choice(WORDS) for _ in range(random.randrange(5, 40)))
    end = "\n" if number % 5 == 0 else "\r\n"
    lines = [
        f"Received: from mail{number % 3}.example.org by server.example.org; Tue, 1 Jan 2002 10:00:00 +0000",
        f"Message-ID: <{random.getrandbits(48):x}@example.org>",
        f"From: {random.choice(WORDS)} <{random.choice(WORDS)}@example.org>",
        "To: Anna <anna@example.org>",
        f"Subject: {'Re: ' * (number % 2)}{random.choice(WORDS)} {number // 4}",
        f"Date: Tue, 1 Jan 2002 10:{number % 60:02}:00 +0100",
        "Content-Transfer-Encoding: base64" if number % 20 == 7 else "Content-Type: text/plain",
        "",
        base64.encodebytes(bytes(range(256)) * 20).decode() if number % 20 == 7 else text,
    ]
    return end.join(lines).encode()


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def describe(database: Any) -> dict[str, Any]:
    """Every record that people know of, the bytes of every message, and what the change feed tells."""
    with database.read(ACTOR) as read:
        told: dict[str, Any] = {
            table.name.lower(): {
                key.hex(): {name: plain(value) for name, value in record._asdict().items()}
                for key, record in read.records(table, b"", None)
            }
            for table in TOLD
        }
        told["content"] = {
            key.hex(): hashlib.sha256(message.content(read, item)).hexdigest()
            for key, item in read.records(Table.ITEM, b"", None)
        }
        left_out = read.record(Table.META, LEFT_OUT_KEY)
        first = left_out.intervals[-1][1] if left_out else 0
        for since in (CNSet(), CNSet.full(database.guid, (first + 1 + read.state().counter) // 2)):
            changes = change_feed.changes(read, since)
            told[f"feed since {since.highest(database.guid)}"] = [
                [str(each.kind), *map(int, each[1:6])] for each in changes
            ]
        told["cnset"] = plain(changes.cnset.encode())
        return told


def digest(told: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def deliver(database: Database, names: list[str], numbers: range) -> None:
    for number in numbers:
        database.clock.advance_ms(1000)  # type: ignore[attr-defined]
        prepared = message.prepare(database.files, mail(number))
        with database.transaction(ACTOR) as txn:
            message.deliver(txn, [mailbox.find(txn, name).guid for name in names], prepared)


def inbox(database: Database, name: str) -> list[Any]:
    with database.read(ACTOR) as read:
        return list(folder.messages(read, mailbox.find(read, name).roles["inbox"]))


def work(database: Database, name: str, step: int) -> None:
    """Move, copy, flag and delete some of the Inbox, and change folders."""
    items = inbox(database, name)
    with database.transaction(ACTOR) as txn:
        box = mailbox.find(txn, name)
        lists = folder.create(txn, box.root_id, f"Lists {step}")
        inner = folder.create(txn, lists.folder_id, "Inner")
        gone = folder.create(txn, box.root_id, f"Gone {step}")
        for item in items[:3]:
            message.move(txn, item.message_id, lists.folder_id)
        message.move(txn, items[0].message_id, inner.folder_id)
        message.copy(txn, items[1].message_id, inner.folder_id)
        message.move(txn, items[3].message_id, gone.folder_id)
        message.set_flags(txn, items[4].message_id, add=["\\Seen", "\\Flagged", "work"])
        message.set_categories(txn, items[5].message_id, ["red", "blue"])
        message.set_property(txn, items[5].message_id, "note", {"text": "Grüße", "bytes": b"\x00\xff"})
        message.delete(txn, items[6].message_id)
        folder.delete(txn, gone.folder_id, with_contents=True)
        folder.rename(txn, inner.folder_id, "Inner folder")


def write_mail(store: Database) -> None:
    with store.transaction(ACTOR) as txn:
        for name in ("anna", "bert", "carl", "dora"):
            mailbox.create(txn, name, user=b"" if name == "anna" else name.encode())
    deliver(store, ["anna", "bert"], range(40))
    deliver(store, ["anna"], range(40, 90))
    deliver(store, ["dora"], range(90, 100))
    work(store, "anna", 1)
    assert maintenance.train_dictionary(store, ACTOR) == 1
    deliver(store, ["anna", "carl"], range(100, 120))
    with store.transaction(ACTOR) as txn:
        for item in inbox(store, "anna")[20:60]:
            message.delete(txn, item.message_id)
        mailbox.disconnect(txn, mailbox.find(txn, "carl").guid)
    assert maintenance.compact(store, ACTOR, live_ratio_max=0.9) > 0
    assert store.stream.segments()[0] > 1
    deliver(store, ["anna"], range(120, 124))


def write_public(store: Database) -> None:
    with store.transaction(Actor.user("anna")) as txn:
        public_folder.create_tree(txn)
        news = public_folder.create(txn, "News")
        public_folder.create(txn, "News/Old")
    for number in range(8):
        prepared = message.prepare(store.files, mail(number))
        with store.transaction(Actor.user("anna")) as txn:
            message.append(txn, news.folder_id, prepared)
    with store.transaction(Actor.user("anna")) as txn:
        public_folder.mark_read(txn, news.folder_id)
    with store.transaction(Actor.user("bert")) as txn:
        public_folder.mark_read(txn, news.folder_id, 2, 3)
        public_folder.mark_read(txn, news.folder_id, 6, 7)


def write(directory: Path) -> dict[str, Any]:
    clock, random = VirtualClock(), Random(42)
    maintenance.SKELETONS_MIN, maintenance.DICTIONARY_BYTES = 60, 1024  # type: ignore[misc]
    server = Server.create(directory / "server", Edition.ENTERPRISE, clock=clock, rng=random, zone=UTC)
    group = next(iter(server.groups))
    server.create_database(group, "Archive", DatabaseKind.MAILBOX_STORE)
    for each in server.databases():
        each.dismount()
        each.tuning = TUNING
        each.mount()
    stores = {each.name: each for each in server.databases()}
    (public,) = (each for each in stores.values() if each.kind is DatabaseKind.PUBLIC_FOLDER_STORE)
    (store,) = (each for each in stores.values() if each is not public and each.name != "Archive")
    write_mail(store)
    write_public(public)
    server.move_mailbox(ACTOR, "dora", "Archive")

    context = LockContext(clock, random.randbytes, Holder("host", "boot", 1), lambda pid: True)
    repository = Repository.create(
        DirectoryBackend(directory / "repository"),
        KEY,
        clock=clock,
        entropy=random.randbytes,
        context=context,
    )
    source = SnapshotSource("server", group, list(stores.values()))
    snapshots = {}
    for step in (2, 3, 4):
        clock.advance_ms(60_000)
        taken = GroupSnapshot(source, repository, clock=clock).run() if step == 2 else None
        taken = taken or Capture(source, repository, clock=clock).capture()
        assert taken is not None
        snapshots[taken.id] = {name: digest(describe(each)) for name, each in stores.items()}
        deliver(store, ["anna"], range(120 + step * 4, 124 + step * 4))
        work(store, "anna", step)

    archive = stores["Archive"]
    archive.dismount()
    archive.tuning = Tuning(6000)
    archive.mount()
    deliver(archive, ["dora"], range(200, 206))
    work(archive, "dora", 5)
    killed = shutil.copytree(archive.path, directory / "killed")
    told = {name: describe(each) for name, each in stores.items()}
    names = {name: [plain(each.guid), int(each.kind)] for name, each in stores.items()}
    server.close()
    for each in (directory, killed):
        for lock in each.rglob("lock.mdb"):
            lock.unlink()
    return {"databases": names, "server": told, "snapshots": snapshots}


if __name__ == "__main__":
    place = Path(sys.argv[1])
    expected = write(place)
    (place / "expected.json").write_text(json.dumps(expected, sort_keys=True))
    with ZipFile(sys.argv[2], "w", ZIP_LZMA) as archive:
        for file in sorted(place.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(place))
