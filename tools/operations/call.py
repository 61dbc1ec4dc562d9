"""A call of an operation: what the operation has of its caller, whichever process that is in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, Final, NamedTuple, Protocol

import pillarbox
from pillarbox.store.errors import NotFound
from pillarbox.tools.operations.replicating import Performs, not_running, replicator_at_rest
from pillarbox.tools.output import Step, confirm


class Call(Protocol):
    """The caller of an operation, and the server that it is called on."""

    server: pillarbox.Server
    actor: pillarbox.Actor

    def step(self, done: int, total: int, what: str) -> None:
        """Tell of progress between two transactions; raises when the caller has gone."""
        ...

    def confirm(self, question: str) -> None:
        """Ask before something is gone for good. Raises Refused on any answer but yes."""
        ...

    def items(self) -> Iterator[Any]:
        """Plain values that the caller gives beside the arguments, read as they are asked for."""
        ...

    def replicator(self, *, is_running: bool = False) -> Performs:
        """The replicator of the server's public folder store; `is_running` asks for one that sends.

        Raises Refused where that store belongs to no organisation, or replication does not run.
        """
        ...

    def membership_changed(self) -> None:
        """Have replication go by the server's keys, certificate and settings of now."""
        ...

    def released(self, database: pillarbox.Database) -> AbstractContextManager[None]:
        """Have replication of a database end properly, for a `with` block that dismounts it."""
        ...


class Operation(NamedTuple):
    """An operation: its place (`module:function` below `pillarbox.tools.operations`), whether the databases
    are mounted for it, and how long to wait for another process that has them.
    """

    place: str
    mounts: bool = True
    wait_ms: int = 0

    def load(self) -> Callable[..., Any]:
        """The function, from its module."""
        module, _, attribute = self.place.partition(":")
        function: Callable[..., Any] = getattr(
            import_module(f"pillarbox.tools.operations.{module}"), attribute
        )
        return function


# A transport delivers several messages at once, each by a process of its own.
_DELIVERY_WAIT_MS: Final = 30_000

OPERATIONS: Final = {
    "database.create": Operation("databases:create", mounts=False),
    "database.mount": Operation("databases:mount", mounts=False),
    "database.dismount": Operation("databases:dismount", mounts=False),
    "database.maintain": Operation("databases:maintain"),
    "database.check_sizes": Operation("databases:check_sizes"),
    "mailbox.create": Operation("mailboxes:create"),
    "mailbox.rename": Operation("mailboxes:rename"),
    "mailbox.move": Operation("mailboxes:move"),
    "mailbox.disconnect": Operation("mailboxes:disconnect"),
    "mailbox.reconnect": Operation("mailboxes:reconnect"),
    "mailbox.purge": Operation("mailboxes:purge"),
    "folder.create": Operation("folders:create"),
    "folder.rename": Operation("folders:rename"),
    "folder.move": Operation("folders:move"),
    "folder.copy": Operation("folders:copy"),
    "folder.delete": Operation("folders:delete"),
    "message.deliver": Operation("delivery:deliver", wait_ms=_DELIVERY_WAIT_MS),
    "message.import": Operation("messages:import_items"),
    "message.edit": Operation("messages:edit"),
    "message.flag": Operation("messages:flag"),
    "message.move": Operation("messages:move"),
    "message.copy": Operation("messages:copy"),
    "message.delete": Operation("messages:delete"),
    "org.init": Operation("membership:init"),
    "org.apply": Operation("membership:apply"),
    "org.export_authority": Operation("membership:export_authority"),
    "org.move_authority": Operation("membership:move_authority"),
    "node.invite": Operation("membership:invite"),
    "node.join": Operation("membership:join"),
    "node.request": Operation("membership:request"),
    "node.approve": Operation("membership:approve"),
    "node.take": Operation("membership:take"),
    "node.retire": Operation("membership:retire"),
    "node.adopt_as_truth": Operation("replication:adopt_as_truth"),
    "replica.add": Operation("replicas:add"),
    "replica.begin_seeding": Operation("seeding:begin"),
    "replica.seed": Operation("seeding:seed"),
    "replica.remove": Operation("replicas:remove"),
    "replica.replace": Operation("replicas:replace"),
    "replica.list": Operation("replicas:list_replicas"),
    "replica.move_all": Operation("replicas:move_all"),
    "replica.migrate": Operation("replicas:migrate"),
    "replication.status": Operation("replication:status"),
    "replication.explain": Operation("replication:explain"),
    "replication.stop": Operation("replication:stop"),
    "replication.resume": Operation("replication:resume"),
    "replication.synchronize_hierarchy": Operation("replication:synchronize_hierarchy"),
    "replication.send_hierarchy": Operation("replication:send_hierarchy"),
    "replication.send_contents": Operation("replication:send_contents"),
    "replication.prefer": Operation("replication:prefer"),
    "replication.resolve": Operation("replication:resolve"),
    "folder.find": Operation("public_folders:find"),
    "folder.settings": Operation("public_folders:settings"),
    "folder.change_settings": Operation("public_folders:change_settings"),
    "folder.referral": Operation("public_folders:referral"),
}


def operation_of(name: str) -> Operation:
    """The operation of that name. Raises NotFound."""
    if name not in OPERATIONS:
        raise NotFound(f"there is no operation {name!r}", hint=f"the operations: {', '.join(OPERATIONS)}")
    return OPERATIONS[name]


class LocalCall:
    """A call of a command on the server that its own process has opened."""

    def __init__(
        self,
        server: pillarbox.Server,
        actor: pillarbox.Actor,
        *,
        items: Iterable[Any] = (),
        yes: bool = False,
        step: Step | None = None,
    ) -> None:
        """`yes` answers every question, `step` is told of progress."""
        self.server = server
        self.actor = actor
        self._items = items
        self._yes = yes
        self._step = step

    def step(self, done: int, total: int, what: str) -> None:
        if self._step is not None:
            self._step(done, total, what)

    def confirm(self, question: str) -> None:
        confirm(question, self._yes)

    def items(self) -> Iterator[Any]:
        return iter(self._items)

    def replicator(self, *, is_running: bool = False) -> Performs:
        if is_running:
            raise not_running()
        return replicator_at_rest(self.server)

    def membership_changed(self) -> None:
        pass  # it does not run

    def released(self, database: pillarbox.Database) -> AbstractContextManager[None]:
        return nullcontext()  # it does not run
