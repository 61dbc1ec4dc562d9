"""Databases that a serving process has let go of for a caller, until that caller gives them back.

`repair`, `restore --server` and `database delete` need a database that nobody has mounted. They ask for it,
do their work in their own process, and have it taken back: who comes after them finds it mounted.
Killed, they give it back by ending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Final

import pillarbox
from pillarbox.store.errors import PillarboxError, WriterBusy
from pillarbox.tools.operations.call import Call

Released = Callable[["pillarbox.Database"], AbstractContextManager[None]]
"""Sees that nothing works on a database, for a `with` block that dismounts it."""

LET_GO: Final = "database.let_go"
TAKE_BACK: Final = "database.take_back"


class Lending:
    """The databases of a server that are lent now, by GUID."""

    def __init__(
        self,
        server: pillarbox.Server,
        released: Released = lambda database: nullcontext(),
        taken_back: Callable[[], None] = lambda: None,
    ) -> None:
        """A database is dismounted within `released`; `taken_back` is called once some are mounted again."""
        self._released = released
        self._taken_back = taken_back
        self._server = server
        self._lent: set[bytes] = set()
        self._lock = threading.Lock()
        self._has_ended = False

    def __contains__(self, guid: object) -> bool:
        return guid in self._lent

    def end(self) -> None:
        """Mount nothing any more: the server is about to be closed."""
        with self._lock:
            self._has_ended = True

    @contextmanager
    def of_caller(self) -> Iterator[_Lent]:
        """The databases of one caller, for a `with` block; at its end they are taken back."""
        lent = _Lent(self._server, self._lend, self._take_back)
        try:
            yield lent
        finally:
            self._take_back(lent.guids)

    def mount(self, database: pillarbox.Database) -> None:
        """Mount a database as when the server is opened, unless it is lent, or the server is being closed.

        Raises as `Server.mount`.
        """
        with self._lock:
            if database.guid not in self._lent and not self._has_ended:
                self._server.mount(database.label, starts_grace=False)

    def _lend(self, database: pillarbox.Database, reason: str, borrowed: set[bytes]) -> None:
        with self._lock:
            if database.guid in self._lent:
                raise WriterBusy(
                    f"database {database.label} is let go of for another command", hint="wait for its end"
                )
            self._lent.add(database.guid)
            borrowed.add(database.guid)  # before what may fail: it is taken back with the others
            with self._released(database):
                self._server.dismount(database.label, reason)

    def _take_back(self, guids: set[bytes]) -> None:
        with self._lock:
            self._lent -= guids
            if not guids or self._has_ended:
                return
        with suppress(PillarboxError):  # a server.toml that is broken: the settings stay as they were
            self._server.reload()
        for database in self._server.databases():
            if database.guid in guids and self._server.is_to_be_mounted(database.label):
                with suppress(PillarboxError):  # the event says why
                    self.mount(database)
        self._taken_back()


class _Lent:
    """The databases that one caller has borrowed."""

    def __init__(
        self,
        server: pillarbox.Server,
        lend: Callable[[pillarbox.Database, str, set[bytes]], None],
        take_back: Callable[[set[bytes]], None],
    ) -> None:
        self.guids: set[bytes] = set()
        self._take_back = take_back
        self._server = server
        self._lend = lend

    def let_go(self, call: Call, *, databases: list[str]) -> list[str]:
        """Dismount databases, all when none is named, until the caller hangs up; their labels."""
        named = [self._server.database(name) for name in databases] or list(self._server.databases())
        for database in named:
            self._lend(database, f"{call.actor.account} works on its files", self.guids)
        return [database.label for database in named]

    def take_back(self, call: Call) -> None:
        """Mount the databases of this caller again before it hangs up: who comes after it finds them."""
        guids, self.guids = self.guids, set()
        self._take_back(guids)
