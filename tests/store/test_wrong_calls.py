"""Wrong calls, as a stranger makes them: each is answered by an error that says what to give instead."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from pillarbox import (
    AsyncDatabase,
    Server,
    change_feed,
    deliver,
    folders,
    mailboxes,
    messages,
    public_folders,
    views,
)
from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.errors import (
    InvalidArgument,
    InvalidName,
    InvalidSetting,
    NotFound,
    PillarboxError,
    Refused,
)
from pillarbox.store.files.exporting import export_mail
from pillarbox.store.files.importing import import_mail

ANNA = Actor.user("anna")
RAW = b"Subject: hello\n\nworld\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with a mailbox and a message, an open read and a closed one."""
    path = tmp_path_factory.mktemp("wrong") / "server"
    with Server.create(path, rng=random.Random(1)) as server:
        database = server.database("Mailbox Store")
        _, anna = server.mailboxes.create(ANNA, "anna")
        (item,) = deliver(database, ANNA, anna.guid, RAW)
        closed = database.read(ANNA)
        closed.close()
        with database.read(ANNA) as read:
            inbox = folders.get(read, item.folder_id)
            yield SimpleNamespace(
                server=server,
                database=database,
                public=server.database("Public Folder Store"),
                anna=anna,
                item=item,
                inbox=inbox,
                read=read,
                closed=closed,
                prepared=messages.prepare(database.files, RAW),
                path=path,
            )


Call = Any  # of the world, or of the world and a transaction


def asyncio_append(w: Any) -> None:
    import asyncio

    async def run() -> None:
        async with AsyncDatabase(w.database) as database:
            await database.append(ANNA, w.inbox, RAW)

    asyncio.run(run())


# The call, its error, the argument that the error names.
WRONG: dict[str, tuple[Call, type[PillarboxError], str]] = {
    "a record where a message's id is wanted": (
        lambda w: messages.get(w.read, w.item), InvalidArgument, "message_id"),
    "a record where a folder's id is wanted": (
        lambda w: folders.get(w.read, w.inbox), InvalidArgument, "folder_id"),
    "a name where a folder's id is wanted": (
        lambda w: folders.get(w.read, "Inbox"), InvalidArgument, "folder_id"),
    "nothing where an id is wanted": (lambda w: messages.get(w.read, None), InvalidArgument, "message_id"),
    "a record to delete": (lambda w, t: messages.delete(t, w.item), InvalidArgument, "message_id"),
    "a record to move to": (
        lambda w, t: messages.move(t, w.item.message_id, w.inbox), InvalidArgument, "folder_id"),
    "the folders in a record": (lambda w: folders.children(w.read, w.inbox), InvalidArgument, "folder_id"),
    "the messages of a record": (lambda w: folders.messages(w.read, w.inbox), InvalidArgument, "folder_id"),
    "an id where a record is wanted": (
        lambda w: messages.content(w.read, w.item.message_id), InvalidArgument, "item"),
    "bytes as a folder's name": (
        lambda w, t: folders.create(t, w.inbox.folder_id, b"x"), InvalidArgument, "name"),
    "nothing as a folder's name": (
        lambda w, t: folders.create(t, w.inbox.folder_id, None), InvalidArgument, "name"),
    "bytes to look for": (lambda w: folders.find(w.read, w.anna.root_id, b"Inbox"), InvalidArgument, "name"),
    "a tuple as a path": (
        lambda w: folders.by_path(w.read, w.anna.root_id, ("Inbox",)), InvalidArgument, "path"),
    "a text where several names are": (
        lambda w, t: folders.ensure(t, w.anna.root_id, "A/B"), InvalidArgument, "path"),
    "a name where a mailbox's GUID is wanted": (
        lambda w: mailboxes.get(w.read, "anna"), InvalidArgument, "guid"),
    "a GUID where a mailbox's name is wanted": (
        lambda w: mailboxes.find(w.read, w.anna.guid), InvalidArgument, "name"),
    "a GUID to a server's directory": (
        lambda w: w.server.mailboxes.find(w.anna.guid), InvalidArgument, "name"),
    "a GUID of three bytes": (lambda w, t: mailboxes.create(t, "bert", guid=b"123"), InvalidArgument, "guid"),
    "a mailbox by its record": (
        lambda w: deliver(w.database, ANNA, [w.anna], RAW), InvalidArgument, "mailboxes"),
    "no mailbox at all": (lambda w: deliver(w.database, ANNA, [], RAW), NotFound, ""),
    "a message as text": (lambda w: deliver(w.database, ANNA, "anna", "Subject: x"), InvalidArgument, "raw"),
    "a time that is no number": (
        lambda w, t: messages.deliver(t, "anna", w.prepared, received_ms=datetime(2026, 1, 1, tzinfo=UTC)),
        InvalidArgument, "received_ms"),
    "a server where a database is wanted": (
        lambda w: deliver(w.server, ANNA, "anna", RAW), InvalidArgument, "database"),
    "an account where an actor is wanted": (lambda w: w.database.read("anna"), InvalidArgument, "actor"),
    "a message that was not prepared": (
        lambda w, t: messages.append(t, w.inbox.folder_id, RAW), InvalidArgument, "prepared"),
    "a database to prepare for": (lambda w: messages.prepare(w.database, RAW), InvalidArgument, "files"),
    "a change on a read": (
        lambda w: messages.set_flags(w.read, w.item.message_id, add=["\\Seen"]), InvalidArgument, "txn"),
    "a database where a transaction is wanted": (
        lambda w: folders.get(w.database, w.inbox.folder_id), InvalidArgument, "reader"),
    "a flag alone where several are": (
        lambda w, t: messages.set_flags(t, w.item.message_id, add="\\Seen"), InvalidArgument, "flags"),
    "a flag without its backslash": (
        lambda w, t: messages.set_flags(t, w.item.message_id, add=["Seen"]), InvalidSetting, ""),
    "a flag as bytes": (
        lambda w, t: messages.set_flags(t, w.item.message_id, add=[b"\\Seen"]), InvalidArgument, "flags"),
    "a category alone": (
        lambda w, t: messages.set_categories(t, w.item.message_id, "work"), InvalidArgument, "categories"),
    "a number as the name of a property": (
        lambda w, t: messages.set_property(t, w.item.message_id, 5, "x"), InvalidArgument, "key"),
    "a read that was closed": (lambda w: folders.get(w.closed, w.inbox.folder_id), Refused, ""),
    "a negative limit of a page": (
        lambda w: views.page(w.read, w.inbox.folder_id, limit=-1), InvalidSetting, ""),
    "a limit as text": (
        lambda w: views.page(w.read, w.inbox.folder_id, limit="5"), InvalidArgument, "limit"),
    "an order as text": (
        lambda w: views.page(w.read, w.inbox.folder_id, sort="date"), InvalidArgument, "sort"),
    "rubbish as a place in a view": (
        lambda w: views.page(w.read, w.inbox.folder_id, after=b"rubbish"), InvalidSetting, ""),
    "a text to search for": (
        lambda w: views.search(w.read, w.inbox.folder_id, "x"), InvalidArgument, "query"),
    "bytes to search for": (
        lambda w: views.search(w.read, w.inbox.folder_id, views.Query(text=b"x")), InvalidArgument, "text"),
    "a flag alone to search for": (
        lambda w: views.search(w.read, w.inbox.folder_id, views.Query(flags="\\Seen")),
        InvalidArgument, "flags"),
    "a state that was not decoded": (lambda w: change_feed.changes(w.read, b""), InvalidArgument, "since"),
    "the changes of a record": (
        lambda w: change_feed.changes(w.read, CNSet(), w.inbox), InvalidArgument, "folder_id"),
    "a negative limit of changes": (
        lambda w: change_feed.changes(w.read, CNSet()).page(-1), InvalidSetting, ""),
    "a UID as text": (lambda w, t: public_folders.mark_read(t, 5, "1"), InvalidArgument, "first_uid"),
    "a public folder as a tuple": (lambda w, t: public_folders.create(t, ("A",)), InvalidArgument, "path"),
    "a number as a path": (lambda w: Server.open(5), InvalidArgument, "path"),
    "a number to import": (
        lambda w: import_mail(w.database, ANNA, w.anna.guid, 5), InvalidArgument, "paths"),
    "a number to export to": (
        lambda w: export_mail(w.database, ANNA, w.anna.guid, 5, "mbox"), InvalidArgument, "out"),
    "an edition that is none": (lambda w: Server.create(w.path / "x", "small"), InvalidSetting, ""),
    "bytes as a database's name": (lambda w: w.server.database(b"Mailbox Store"), InvalidArgument, "name"),
    "a folder that is called ..": (
        lambda w, t: folders.create(t, w.inbox.folder_id, ".."), InvalidName, ""),
    "a record to append to": (lambda w: asyncio_append(w), InvalidArgument, "folder_id"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "argument"), WRONG.values(), ids=WRONG)
def test_a_wrong_call_is_answered_by_what_to_give(
    world: Any, call: Call, error: type[PillarboxError], argument: str
) -> None:
    with pytest.raises(error) as refused:
        if call.__code__.co_argcount == 1:
            call(world)
        else:
            with world.database.transaction(ANNA) as txn:
                call(world, txn)
    assert type(refused.value) is error and getattr(refused.value, "argument", "") == argument
    assert refused.value.hint


def test_an_error_of_a_wrong_call_shows_no_mail(world: Any) -> None:
    with pytest.raises(InvalidArgument) as refused:
        deliver(world.database, ANNA, "anna", "Subject: secret\n\n" + 90 * "x")  # type: ignore[arg-type]
    assert "secret" not in str(refused.value) and "str" in str(refused.value)
    assert world.item.subject not in repr(world.item)
