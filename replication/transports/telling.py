"""The thread that tells a node what its transport has to say, one call at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeAlias

from pillarbox.replication.transports.transport import Arrivals

Call: TypeAlias = Callable[[Arrivals], None]


class Teller:
    """Makes calls of `arrivals` in the order in which they are given, in a thread of its own."""

    def __init__(self, arrivals: Arrivals, name: str) -> None:
        self._arrivals = arrivals
        self._calls: SimpleQueue[tuple[Call, Callable[[], None]] | None] = SimpleQueue()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def tell(self, call: Call, then: Callable[[], None] = lambda: None) -> None:
        """Make a call, and `then` call that one, whether or not this was stopped meanwhile."""
        self._calls.put((call, then))

    async def told(self, call: Call) -> None:
        """Make a call, and wait in an event loop until it has returned."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def then() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(done.set)

        self.tell(call, then)
        await done.wait()

    def stop(self) -> None:
        """Make no further call but the one that is under way."""
        self._is_stopped = True
        self._calls.put(None)

    def join(self) -> None:
        """Wait for the call that is under way."""
        self._thread.join()

    def _run(self) -> None:
        while (told := self._calls.get()) is not None:
            call, then = told
            if not self._is_stopped:
                call(self._arrivals)
            then()
