"""The format does not move: what was written once is read for ever, by the tables and by the stream alone."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from random import Random
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import LOCK, PROPERTIES, Database
from pillarbox.store.mail import folders, mailboxes, messages, public_folders
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.repair import repair_database

GOLDEN = {
    "1": Path(__file__).with_name("golden_store_1.zip"),  # layout 1, checkpoints of version 1
    "2": Path(__file__).with_name("golden_store_2.zip"),  # layout 3, checkpoints of version 2
    "3": Path(__file__).with_name("golden_store_3.zip"),  # layout 3, checkpoints of version 3
    "4": Path(__file__).with_name("golden_store_4.zip"),  # layout 3, checkpoints of version 4
}
ACTOR = Actor.task("test")
ATTACHMENT = base64.encodebytes(bytes(range(256)) * 20)
MAIL = [
    b"",
    b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nFrom: Anna <anna@example.org>\r\n"
    b"Date: Tue, 1 Jan 2002 10:00:00 +0100\r\n\r\nHello.\r\n",
    bytes(range(256)) * 9,
    b"Content-Type: application/x; name=a\nContent-Transfer-Encoding: base64\n\n" + ATTACHMENT,
    b"Subject: the same attachment\nContent-Transfer-Encoding: base64\n\n" + ATTACHMENT + b"\n\0",
]
KINDS = {"mail": DatabaseKind.MAILBOX_STORE, "public": DatabaseKind.PUBLIC_FOLDER_STORE}


def database(directory: Path, name: str) -> Database:
    return Database(
        directory / name, name.ljust(16).encode(), name, KINDS[name], clock=VirtualClock(), rng=Random(42)
    )


def write(directory: Path) -> None:
    mail, public = database(directory, "mail"), database(directory, "public")
    for made in (mail, public):
        made.create()
        made.mount()
    with mail.transaction(ACTOR) as txn:
        anna, bert = mailboxes.create(txn, "anna"), mailboxes.create(txn, "bert")
        lists = folders.create(txn, anna.root_id, "Lists")
    for raw in MAIL:
        prepared = messages.prepare(mail.files, raw)
        with mail.transaction(ACTOR) as txn:
            item, _ = messages.deliver(txn, [anna.guid, bert.guid], prepared)
            messages.set_flags(txn, item.message_id, add=["\\Seen", "work"])
            messages.set_categories(txn, item.message_id, ["red"])
            messages.move(txn, item.message_id, lists.folder_id)
    with mail.transaction(ACTOR) as txn:
        messages.delete(txn, next(folders.messages(txn, bert.roles["inbox"])).message_id)
        mailboxes.disconnect(txn, bert.guid)
    with public.transaction(Actor.user("anna")) as txn:
        public_folders.create_tree(txn)
        news = folders.create(txn, public_folders.root_id(txn), "News")
        messages.append(txn, news.folder_id, messages.prepare(public.files, MAIL[1]))
        public_folders.mark_read(txn, news.folder_id)
    for made in (mail, public):
        made.dismount()


@pytest.fixture(params=[(version, what) for version in GOLDEN for what in ("tables", "stream")], ids="-".join)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The golden databases, and once more with nothing left of their tables."""
    version, what = request.param
    with ZipFile(GOLDEN[version]) as archive:
        archive.extractall(tmp_path)
    if what == "stream":
        for name in KINDS:
            shutil.rmtree(tmp_path / name / PROPERTIES)
            assert repair_database(database(tmp_path, name)).from_stream
    return tmp_path


def test_a_mailbox_store_of_every_version_is_read(golden: Path) -> None:
    mail = database(golden, "mail")
    mail.mount()
    with mail.read(ACTOR) as read:
        anna, bert = mailboxes.find(read, "anna"), mailboxes.find(read, "bert")
        assert (bert.state, bert.disconnected_ms) == (mailboxes.DISCONNECTED, 1_000_000_000_000)
        items = list(folders.messages(read, folders.by_path(read, anna.root_id, "Lists").folder_id))
        assert [messages.content(read, item) for item in items] == MAIL
        assert {(messages.flag_names(item), item.categories) for item in items} == {
            (("\\Seen", "work"), ("red",))
        }
        assert (items[1].subject, items[1].sender) == ("Grüße", "Anna <anna@example.org>")
        assert items[1].date_ms == 1_009_875_600_000
        kept = list(folders.messages(read, bert.roles["inbox"]))
        assert [messages.content(read, item) for item in kept] == MAIL[1:]
    assert check_database(mail, ACTOR).findings == ()
    mail.dismount()


def test_a_public_folder_store_of_every_version_is_read(golden: Path) -> None:
    public = database(golden, "public")
    public.mount()
    for account in ("anna", "bert"):
        with public.read(Actor.user(account)) as read:
            news = folders.by_path(read, public_folders.root_id(read), "News")
            (item,) = folders.messages(read, news.folder_id)
            assert messages.content(read, item) == MAIL[1]
            assert public_folders.is_read(read, item) == (account == "anna")
    assert check_database(public, ACTOR).findings == ()
    public.dismount()


if __name__ == "__main__":  # writes the golden file of a new version
    import sys

    write(Path(sys.argv[1]))
    with ZipFile(GOLDEN[sys.argv[2]], "w", ZIP_DEFLATED, compresslevel=9) as archive:
        for file in sorted(Path(sys.argv[1]).rglob("*")):
            if file.is_file() and file.name not in (LOCK, "lock.mdb"):
                archive.write(file, file.relative_to(sys.argv[1]))
