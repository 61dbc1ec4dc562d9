"""The store for asyncio programs: each call runs in one of a few threads, so the event loop never waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import FolderRecord, ItemRecord
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import ReadTransaction, WriteTransaction
from pillarbox.store.errors import Refused
from pillarbox.store.mail import copying, delivery
from pillarbox.store.mail.mailboxes import MailboxName

ResultT = TypeVar("ResultT")


class AsyncDatabase:
    """A mounted database as coroutines. Used as `async with`, or closed; the database stays mounted.

    Calls that are made at the same time run at the same time, up to `threads_max` reads and as many others,
    whose transactions share flushes: a read never waits for those that write. One that is cancelled after it
    began still takes effect: a transaction is never cut in two.
    """

    def __init__(self, database: Database, *, threads_max: int = 16) -> None:
        self.database = database
        name = f"pillarbox {database.name}"
        self._reading = ThreadPoolExecutor(threads_max, thread_name_prefix=f"{name} read")
        self._others = ThreadPoolExecutor(threads_max, thread_name_prefix=name)
        self._closed = False
        self._bells: set[_LoopBell] = set()

    async def run(self, function: Callable[[], ResultT]) -> ResultT:
        """Return or raise as `function` does, called in a thread, as one that may wait for others that write.

        Raises Refused when this is closed.
        """
        return await self._run(self._others, function)

    async def _run(self, threads: ThreadPoolExecutor, function: Callable[[], ResultT]) -> ResultT:
        self._refuse_closed()
        return await asyncio.get_running_loop().run_in_executor(threads, function)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Refused(f"the asyncio face of database {self.database.name} is closed")

    async def read(self, actor: Actor, function: Callable[[ReadTransaction], ResultT]) -> ResultT:
        """Return what `function` makes of a read of the database; iterators must be used up within it.

        Raises Dismounted, and what `function` raises.
        """

        def work() -> ResultT:
            with self.database.read(actor) as read:
                return function(read)

        return await self._run(self._reading, work)

    async def transaction(self, actor: Actor, function: Callable[[WriteTransaction], ResultT]) -> ResultT:
        """Return what `function` does, with all it changed durable; an exception in it undoes everything.

        Raises Dismounted, ReadOnly, DiskFull, and what `function` raises.
        """

        def work() -> ResultT:
            with self.database.transaction(actor) as txn:
                return function(txn)

        return await self.run(work)

    async def deliver(
        self,
        actor: Actor,
        mailboxes: MailboxName | Iterable[MailboxName],
        raw: bytes,
        *,
        received_ms: int = 0,
    ) -> list[ItemRecord]:
        """Put a message into the Inbox of one mailbox or many, durably, as `delivery.deliver`."""
        return await self.run(
            lambda: delivery.deliver(self.database, actor, mailboxes, raw, received_ms=received_ms)
        )

    async def append(
        self,
        actor: Actor,
        folder_id: int,
        raw: bytes,
        *,
        flags: Iterable[str] = (),
        received_ms: int = 0,
    ) -> ItemRecord:
        """Put a message into a folder, durably, as `delivery.append`."""
        return await self.run(
            lambda: delivery.append(
                self.database, actor, folder_id, raw, flags=flags, received_ms=received_ms
            )
        )

    async def wait_for_change(self, after: int, timeout_ms: int | None = None) -> int:
        """Wait for a change, as `Database.wait_for_change`; no thread is kept for it.

        Raises as that, and Refused when this is closed meanwhile. Cancelled, it leaves nothing behind.
        """
        notification = self.database.notification
        bell = _LoopBell(asyncio.get_running_loop())
        self._bells.add(bell)
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
                while True:
                    bell.rung.clear()
                    notification.hang(bell)
                    self._refuse_closed()
                    if notification.has_passed(after):
                        return notification.cn
                    await bell.rung.wait()
        except TimeoutError:
            return notification.cn
        finally:
            self._bells.discard(bell)
            notification.take_down(bell)

    async def copy_folder(self, actor: Actor, folder_id: int, parent_id: int, name: str = "") -> FolderRecord:
        """Copy a folder of any size into another, durably, as `copying.copy_folder`."""
        return await self.run(lambda: copying.copy_folder(self.database, actor, folder_id, parent_id, name))

    async def close(self) -> None:
        """Wait for the calls that are under way, and take no more. Closing twice is harmless."""
        self._closed = True
        for bell in list(self._bells):
            bell.put(None)
        for threads in (self._reading, self._others):
            await asyncio.to_thread(threads.shutdown)

    async def __aenter__(self) -> AsyncDatabase:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _LoopBell:
    """Wakes a coroutine of an event loop from another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.rung = asyncio.Event()
        self._loop = loop

    def put(self, _: None) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits in it
            self._loop.call_soon_threadsafe(self.rung.set)
