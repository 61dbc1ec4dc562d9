"""Taking over what others changed in server.toml: settings, and which databases are to be mounted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress

import pillarbox
from pillarbox.store.errors import Dismounted, NotFound, PillarboxError, Retryable
from pillarbox.tools.serving.lending import Released

OnDatabase = Callable[["pillarbox.Database"], None]


class Following:
    """Follows the server.toml of an open server; for one thread at a time.

    It remembers what was wanted when it looked last: operations of this process, too, take over what others
    have written, and mount and dismount nothing by it.
    """

    def __init__(
        self,
        server: pillarbox.Server,
        mount: OnDatabase | None = None,
        released: Released = lambda database: nullcontext(),
    ) -> None:
        """`mount` mounts a database as when the server is opened; by default the server does. One is
        dismounted within `released`.
        """
        self._server = server
        self._mount = mount or (lambda database: _mount(server, database))
        self._released = released
        self._wanted = server.to_be_mounted()

    def follow(self) -> None:
        """Read server.toml again; mount and dismount what is wanted otherwise now, and mount what others let
        go of.

        A database that cannot be mounted is told by its event, and tried again when another process had it.
        Raises as `Server.reload`, and then nothing is taken over.
        """
        from pillarbox.store.engine.database import MountState

        self._let_go_of_deleted()
        self._server.reload()
        before, self._wanted = self._wanted, self._server.to_be_mounted()
        for database in self._server.databases():
            wanted = database.guid in self._wanted
            changed = wanted != (database.guid in before)
            reason = self._server.not_mounted.get(database.label)
            busy, above_limit = isinstance(reason, Retryable), isinstance(reason, Dismounted)
            with suppress(PillarboxError):  # the event says why, and a busy one is tried again
                if wanted and (changed or busy or above_limit):
                    self._mount(database)
                elif changed and (busy or database.state is not MountState.DISMOUNTED):
                    with self._released(database):
                        self._server.dismount(database.label)

    def has_busy(self) -> bool:
        """True when a database is to be mounted that another process has."""
        return any(isinstance(reason, Retryable) for reason in self._server.not_mounted.values())

    def _let_go_of_deleted(self) -> None:
        """Dismount what server.toml does not name any more, before the server lets it go with its files open
        to whoever works on it. It is mounted again should its entry come back."""
        config = self._server.config_on_disk()
        named = {entry.guid for group in config.groups for entry in group.databases}
        for database in self._server.databases():
            if database.guid not in named:
                self._wanted -= {database.guid}
                with suppress(NotFound), self._released(database):  # others may have taken it over meanwhile
                    self._server.dismount(database.label, "it was deleted")


def _mount(server: pillarbox.Server, database: pillarbox.Database) -> None:
    server.mount(database.label, starts_grace=False)
