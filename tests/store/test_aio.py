"""The asyncio face: the same promises, and an event loop that never waits for the store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.aio import AsyncDatabase, _LoopBell
from pillarbox.store.clock import VirtualClock
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import Dismounted, NotFound, Refused
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.mail.delivery import deliver
from pillarbox.store.server import Server

ADMIN = Actor.administrator("root")
RAW = b"Subject: hello\r\n\r\nworld\r\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server.create(tmp_path / "server", clock=VirtualClock()) as server:
        yield server


def test_messages_delivered_at_the_same_time_are_all_there(server: Server) -> None:
    database, box = server.mailboxes.create(ADMIN, "anna")

    async def main() -> list[bytes]:
        async with AsyncDatabase(database) as store:
            await asyncio.gather(*(store.deliver(ADMIN, [box.guid], RAW) for _ in range(20)))
            return await store.read(
                ADMIN,
                lambda read: [
                    messages.content(read, item)
                    for item in folders.messages(read, box.roles[mailboxes.INBOX])
                ],
            )

    assert asyncio.run(main()) == [RAW] * 20


def test_an_exception_undoes_the_transaction_and_reaches_the_caller(server: Server) -> None:
    database, box = server.mailboxes.create(ADMIN, "anna")

    async def main() -> None:
        async with AsyncDatabase(database) as store:
            with pytest.raises(NotFound):
                await store.transaction(
                    ADMIN, lambda txn: (folders.create(txn, box.root_id, "new"), folders.get(txn, 0))
                )
            with pytest.raises(NotFound):
                await store.deliver(ADMIN, [b"\0" * 16], RAW)
            await store.read(ADMIN, lambda read: folders.by_path(read, box.root_id, "new"))

    with pytest.raises(NotFound):
        asyncio.run(main())


def test_the_event_loop_goes_on_while_a_call_waits(server: Server) -> None:
    database = server.mailboxes.create(ADMIN, "anna")[0]
    begun, may_end = threading.Event(), threading.Event()

    def wait() -> str:
        begun.set()
        assert may_end.wait(10)
        return "done"

    async def main() -> str:
        async with AsyncDatabase(database, threads_max=2) as store:
            waiting = asyncio.create_task(store.run(wait))
            await asyncio.to_thread(begun.wait, 10)
            assert await store.read(ADMIN, lambda read: len(list(mailboxes.all_of(read)))) == 1
            assert not waiting.done()
            may_end.set()
            return await waiting

    assert asyncio.run(main()) == "done"


def test_a_read_does_not_wait_for_those_that_write(server: Server) -> None:
    database, box = server.mailboxes.create(ADMIN, "anna")
    begun, may_end = threading.Event(), threading.Event()

    def wait(_: WriteTransaction) -> None:
        begun.set()
        assert may_end.wait(10)

    async def main() -> None:
        async with AsyncDatabase(database, threads_max=2) as store:
            writing = asyncio.create_task(store.transaction(ADMIN, wait))
            await asyncio.to_thread(begun.wait, 10)
            delivering = [asyncio.create_task(store.deliver(ADMIN, [box.guid], RAW)) for _ in range(3)]
            try:
                await asyncio.wait_for(store.read(ADMIN, lambda read: list(mailboxes.all_of(read))), 5)
            finally:
                may_end.set()
            await asyncio.gather(writing, *delivering)

    asyncio.run(main())


def test_closed_it_takes_no_more_calls_and_the_database_stays_mounted(server: Server) -> None:
    database = server.mailboxes.create(ADMIN, "anna")[0]

    async def main() -> None:
        store = AsyncDatabase(database)
        await store.close()
        await store.close()
        await store.read(ADMIN, lambda read: None)

    with pytest.raises(Refused, match="closed"):
        asyncio.run(main())
    assert server.mailboxes.find("anna")


def test_a_message_is_appended_to_a_folder_with_its_flags(server: Server) -> None:
    database, box = server.mailboxes.create(ADMIN, "anna")

    async def main() -> list[bytes]:
        async with AsyncDatabase(database) as store:
            sent = box.roles["sent"]
            item = await store.append(ADMIN, sent, RAW, flags=["\\Seen", "work"], received_ms=5)
            assert messages.flag_names(item) == ("\\Seen", "work") and item.received_ms == 5
            with pytest.raises(NotFound):
                await store.append(ADMIN, 1, RAW)
            return await store.read(
                ADMIN, lambda read: [messages.content(read, each) for each in folders.messages(read, sent)]
            )

    assert asyncio.run(main()) == [RAW]


def test_a_coroutine_waits_for_a_change_and_keeps_no_thread(server: Server) -> None:
    database, box = server.mailboxes.create(ADMIN, "anna")

    async def main() -> tuple[list[int], int]:
        async with AsyncDatabase(database, threads_max=1) as store:
            before = await store.wait_for_change(0)
            waiting = [asyncio.create_task(store.wait_for_change(before)) for _ in range(5)]
            await asyncio.sleep(0)  # each waits by now
            (item,) = await store.deliver(ADMIN, [box.guid], RAW)
            heard = await asyncio.gather(*waiting)
            return heard, item.modseq

    heard, cn = asyncio.run(asyncio.wait_for(main(), 20))
    assert heard == [cn] * 5


def test_a_wait_for_a_change_ends_by_its_time_a_cancel_a_dismount_and_the_close(server: Server) -> None:
    database, _box = server.mailboxes.create(ADMIN, "anna")

    async def main() -> None:
        store, closed = AsyncDatabase(database), AsyncDatabase(database)
        now = await store.wait_for_change(0)
        assert await store.wait_for_change(now, timeout_ms=1) == now
        waits = [asyncio.create_task(each.wait_for_change(now)) for each in (store, store, closed)]
        await asyncio.sleep(0)
        waits[0].cancel()
        await closed.close()
        with pytest.raises(Refused, match="closed"):
            await waits[2]
        await asyncio.to_thread(database.dismount, "it is enough")
        with pytest.raises(Dismounted, match="it is enough"):
            await waits[1]
        assert waits[0].cancelled()

    notification = database.notification
    asyncio.run(asyncio.wait_for(main(), 20))
    assert not notification._bells


def test_an_event_loop_that_is_gone_does_not_end_the_writer(server: Server) -> None:
    database, box = server.mailboxes.create(ADMIN, "anna")
    loop = asyncio.new_event_loop()
    bell = _LoopBell(loop)
    loop.close()
    database.notification.hang(bell)
    # The writer rings once it has told the caller: the second delivery is made after the first was rung for.
    for _ in range(2):
        assert len(deliver(database, ADMIN, [box.guid], RAW)) == 1
    assert not database.notification._bells


def test_a_folder_is_copied(server: Server) -> None:
    database, box = server.mailboxes.create(ADMIN, "anna")

    async def main() -> int:
        async with AsyncDatabase(database) as store:
            await store.append(ADMIN, box.roles["sent"], RAW)
            made = await store.copy_folder(ADMIN, box.roles["sent"], box.root_id, "Sent before")
            assert made.name == "Sent before"
            return made.messages_count

    assert asyncio.run(main()) == 1
