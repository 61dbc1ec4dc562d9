"""The node of a serving process: the replicator of the server's public folder store, for as long as that is
mounted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pillarbox
from pillarbox.store.errors import PillarboxError, Refused
from pillarbox.tools.operations.replicating import Performs, joined_store, not_running, replicator_at_rest
from pillarbox.tools.serving.log import INFORMATION, WARNING, Log

if TYPE_CHECKING:
    from pillarbox.replication.node.node import Node

MakeNode = Callable[[pillarbox.Server, "pillarbox.Database", Log], "Node"]
"""Makes the node of a server's public folder store. Raises PillarboxError where it cannot be: it has no
certificate yet, say."""


class Replicating:
    """Starts a node once the server's public folder store has joined an organisation, and stops it before
    that store is dismounted. From any thread.
    """

    def __init__(self, server: pillarbox.Server, log: Log, make_node: MakeNode) -> None:
        self._server = server
        self._log = log
        self._make_node = make_node
        self._changing = threading.Lock()
        self._node: Node | None = None
        self._database: pillarbox.Database | None = None
        self._refused = ""
        self._has_ended = False

    @property
    def node(self) -> Node | None:
        """The node, None where there is none."""
        return self._node

    @contextmanager
    def running(self) -> Iterator[None]:
        """Replicate while the `with` block runs."""
        self.look()
        try:
            yield
        finally:
            with self._changing:
                self._has_ended = True
                self._stop()

    def look(self) -> None:
        """Start the node, if there is to be one and there is none: after a mount, or a join."""
        with self._changing:
            if self._node is None and not self._has_ended:
                self._start()

    def release(self, database: pillarbox.Database) -> None:
        """Stop the node of a database that is about to be dismounted; `look` starts it again."""
        with self._changing:
            if database is self._database:
                self._stop()

    def restart(self) -> None:
        """Stop the node, and start it with what counts now: keys or addresses of this server changed."""
        with self._changing:
            self._stop()
            if not self._has_ended:
                self._start()

    def replicator(self, *, is_running: bool = False) -> Performs:
        """The node; where there is none, and `is_running` does not ask for one, the replicator at rest.

        Raises Refused where no node runs, or as `replicator_at_rest`.
        """
        node = self._node
        if node is not None:
            return node
        if is_running:
            raise not_running()
        return replicator_at_rest(self._server)

    def _start(self) -> None:
        try:
            database = joined_store(self._server)
            node = self._make_node(self._server, database, self._log)
        except PillarboxError as error:
            self._refused = str(error)
            return
        self._refused = ""
        node.start()
        self._node, self._database = node, database
        self._log.say(INFORMATION, f"replication of {database.label} runs")

    def _stop(self) -> None:
        node, self._node, self._database = self._node, None, None
        if node is not None and not node.stop():
            self._log.say(WARNING, "replication did not end in time: the next start sees to what it left")


def make_node(server: pillarbox.Server, database: pillarbox.Database, log: Log) -> Node:
    """The node of a store that has joined an organisation. Raises Refused: no server has a key yet."""
    raise Refused(
        f"{server.path.name} has no key by which others know it", hint="join: `pillarbox node join`"
    )
