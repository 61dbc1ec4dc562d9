"""The node of a serving process: the replicator of the server's public folder store, for as long as that is
mounted."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pillarbox
from pillarbox.store.clock import Clock
from pillarbox.store.errors import InvalidName, NotFound, PillarboxError
from pillarbox.tools.operations.replicating import (
    Performs,
    fence_of,
    joined_store,
    not_running,
    notice_return,
    replicator_at_rest,
)
from pillarbox.tools.options import ACTOR
from pillarbox.tools.serving.log import ERROR, INFORMATION, WARNING, Log
from pillarbox.tools.serving.refusals import Refusals

if TYPE_CHECKING:
    from pillarbox.replication.ground.records import Tree
    from pillarbox.replication.node.conflict_notice import ConflictNotice
    from pillarbox.replication.node.member_files import NodeSettings
    from pillarbox.replication.node.node import Node
    from pillarbox.replication.transports.nats_settings import NatsSettings
    from pillarbox.replication.transports.transport import Transport

MakeNode = Callable[[pillarbox.Server, "pillarbox.Database", Log], "Node"]
"""Makes the node of a server's public folder store. Raises PillarboxError where it cannot be: it has no
certificate yet, say."""


_LOOK_AGAIN_MS: Final = 60_000


class Replicating:
    """Starts a node once the server's public folder store has joined an organisation, and stops it before
    that store is dismounted. From any thread.
    """

    def __init__(self, server: pillarbox.Server, log: Log, make_node: MakeNode, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        self._log = log
        self._make_node = make_node
        self._changing = threading.Lock()
        self._node: Node | None = None
        self._database: pillarbox.Database | None = None
        self._settings: NodeSettings | None = None  # those that the node was made with
        self._refused = ""
        self._has_ended = False

    @property
    def node(self) -> Node | None:
        """The node, None where there is none."""
        return self._node

    @property
    def refused(self) -> str:
        """The reason why a store that has joined an organisation has no node; empty where there is none."""
        return self._refused

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
        """Start the node, if there is to be one and there is none: after a mount, or a join. Stop one whose
        store is none of the server's any more."""
        with self._changing:
            if self._node is not None and self._database not in list(self._server.databases()):
                self._stop()
            if self._node is None and not self._has_ended:
                self._start()

    @contextmanager
    def released(self, database: pillarbox.Database) -> Iterator[None]:
        """Have no node on a database while the `with` block dismounts it; `look` starts one again."""
        with self._changing:
            if database is self._database:
                self._stop()
            yield

    def restart(self) -> None:
        """Stop the node, and start it with what counts now: keys or addresses of this server changed."""
        with self._changing:
            self._stop()
            if not self._has_ended:
                self._start()

    def follow_settings(self) -> None:
        """Start the node anew where node.toml says something else than when it was made.

        Raises InvalidSetting, UnsupportedVersion for one that is broken: the node goes on as it was.
        """
        if self._node is None:
            return
        settings = _settings_of(self._server)
        if settings != self._settings:
            self._log.say(INFORMATION, "node.toml has changed: replication starts anew")
            self.restart()

    def renew(self) -> int:
        """Make certificates anew that are due, and show this server's own new one; when to call again (ms
        UTC). Raises PillarboxError."""
        node, database = self._node, self._database
        now_ms = self._clock.now_ms()
        if node is None or database is None:
            return now_ms + _LOOK_AGAIN_MS
        from pillarbox.replication.membership.renewal import LOOK_EVERY_MS
        from pillarbox.replication.node.letting_in import keep_new
        from pillarbox.replication.node.member_files import MemberFiles

        if keep_new(node, database.guid, MemberFiles(self._server.path), now_ms):
            self.restart()
        return now_ms + LOOK_EVERY_MS

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
            notice_return(self._server)  # users may change something before the node's thread looks
            settings = _settings_of(self._server)
            node = self._make_node(self._server, database, self._log)
        except PillarboxError as error:
            self._refuse(str(error))
            return
        except ModuleNotFoundError as error:
            extra = "nats" if error.name in ("nats", "nkeys") else "replication"
            self._refuse(f"it needs {error.name}: install pillarbox with its extra `{extra}`")
            return
        self._refused = ""
        node.start()
        self._node, self._database, self._settings = node, database, settings
        self._log.say(INFORMATION, f"replication of {database.label} runs")

    def _refuse(self, reason: str) -> None:
        if reason == self._refused:
            return
        self._refused = reason if self._is_joined() else ""
        if self._refused:
            self._log.say(WARNING, f"replication does not run: {reason}")

    def _is_joined(self) -> bool:
        try:
            joined_store(self._server)
        except PillarboxError:  # it belongs to no organisation, or cannot be told now
            return False
        return True

    def _stop(self) -> None:
        node, self._node, self._database = self._node, None, None
        if node is not None and not node.stop():
            self._log.say(WARNING, "replication did not end in time: the next start sees to what it left")


def _settings_of(server: pillarbox.Server) -> NodeSettings:
    from pillarbox.replication.node.member_files import MemberFiles

    return MemberFiles(server.path).settings()


def make_node(server: pillarbox.Server, database: pillarbox.Database, log: Log) -> Node:
    """The node of a store that has joined an organisation. Raises Refused where the server has no key or no
    certificate that holds."""
    from pillarbox.replication.core.preset import PRESETS
    from pillarbox.replication.membership.renewal import readable
    from pillarbox.replication.node.letting_in import EnrolmentDoor
    from pillarbox.replication.node.member_files import MemberFiles
    from pillarbox.replication.node.membership import membership_of
    from pillarbox.replication.node.node import Belonging, Node
    from pillarbox.replication.node.refused_connections import RefusedConnections
    from pillarbox.replication.node.stored_organisation import known_organisation
    from pillarbox.replication.organisation.topology import TransportName
    from pillarbox.replication.transports.direct import DirectTransport
    from pillarbox.replication.transports.joined import JoinedTransports
    from pillarbox.replication.transports.spool import SpoolTransport

    files, clock = MemberFiles(server.path), database.clock
    with database.read(ACTOR) as reader:
        tree, organisation = known_organisation(reader, files.first_entries())
    membership, credentials = membership_of(database.guid, files, organisation, clock)
    settings = files.settings()
    make_nats = settings.nats and _nats_maker(settings.nats, server, database, tree, log)
    door = EnrolmentDoor(files, lambda: node, clock)
    connections = RefusedConnections(database)

    refused = Refusals(log, clock, "replication refused something").say

    def connection_refused(reason: str) -> None:
        refused(reason)
        connections.add(reason)

    def make_transport() -> Transport:
        direct = DirectTransport(
            database.guid,
            settings.listen or (),
            credentials,
            random.Random(),
            door=door,
            authorities=lambda: [each.der for each in readable(node.organisation.authorities)],
            refused=connection_refused,
        )
        transports: dict[TransportName, Transport] = {TransportName.DIRECT: direct}
        if settings.spool:
            transports[TransportName.SPOOL] = SpoolTransport(
                database.guid,
                server.path / settings.spool,
                clock,
                refused=refused,
                spool_bytes_max=settings.spool_bytes_max,
            )
        if make_nats:
            transports[TransportName.NATS] = make_nats()
        return JoinedTransports(transports, Refusals(log, clock, "a setting is missing").say)

    belonging = Belonging(tree, organisation, PRESETS[organisation.preset], fence_of(server), membership)
    node = Node(
        database,
        belonging,
        make_transport,
        lambda text: log.say(ERROR, text),
        lambda notice: deliver_notice(server, notice, log),
    )
    return node


def _nats_maker(
    settings: NatsSettings, server: pillarbox.Server, database: pillarbox.Database, tree: Tree, log: Log
) -> Callable[[], Transport]:
    """Makes the NATS transport. Raises ModuleNotFoundError where its client is not installed."""
    from pillarbox.replication.transports.nats import NatsTransport

    return lambda: NatsTransport(
        database.guid,
        tree.guid,
        settings,
        random.Random(),
        directory=server.path,
        refused=Refusals(log, database.clock, "replication").say,
    )


def deliver_notice(server: pillarbox.Server, notice: ConflictNotice, log: Log) -> None:
    """Put the notice of a conflict into the mailbox of its account, if that is here; another server may have
    it, and none where the account is no user's."""
    try:
        database, mailbox = server.mailboxes.find(notice.account)
        pillarbox.deliver(database, pillarbox.Actor.transport(), [mailbox.guid], notice.render())
    except (NotFound, InvalidName):
        return
    except Exception as error:  # it is told once; a fault here must not stop replication at each start
        log.say(WARNING, f"{notice.account} was not told of a conflict in folder {notice.folder}: {error}")
