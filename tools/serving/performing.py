"""The one place where commands get at a server to change it: its own process, or the one that serves it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pillarbox
from pillarbox.store.errors import PillarboxError
from pillarbox.tools.operations.call import LocalCall, operation_of
from pillarbox.tools.operations.replicating import notice_return
from pillarbox.tools.options import ACTOR
from pillarbox.tools.output import Step, confirm
from pillarbox.tools.serving.client import find_served
from pillarbox.tools.serving.lending import LET_GO, TAKE_BACK


class Perform(Protocol):
    """Does the operation that was asked for, and returns its result once it is durable."""

    def __call__(self, *, items: Iterable[Any] = (), **arguments: Any) -> Any: ...


class PerformNamed(Protocol):
    """Does an operation by its name, and returns its result once it is durable."""

    def __call__(self, name: str, /, *, items: Iterable[Any] = (), **arguments: Any) -> Any: ...


@contextmanager
def operation(server: Path, name: str, *, yes: bool = False, step: Step | None = None) -> Iterator[Perform]:
    """The function that does an operation, for a `with` block: in the process that serves, or else in this
    one.

    `yes` answers its questions, `step` is told of its progress. Raises as `Server.open` and `connect`.
    """
    asked = operation_of(name)
    with operations(server, mounts=asked.mounts, wait_ms=asked.wait_ms, yes=yes, step=step) as perform:
        yield partial(perform, name)


@contextmanager
def operations(
    server: Path, *, mounts: bool = True, wait_ms: int = 0, yes: bool = False, step: Step | None = None
) -> Iterator[PerformNamed]:
    """The function that does any operation, as `operation`; where this process does it the databases are
    mounted if `mounts`, waiting `wait_ms` for another process that has them."""
    if (connected := find_served(server)) is not None:
        with connected:

            def perform(name: str, /, *, items: Iterable[Any] = (), **arguments: Any) -> Any:
                return connected.call(
                    name,
                    items=items,
                    confirm=lambda question: confirm(question, yes),
                    progress=step,
                    **arguments,
                )

            yield perform
        return
    with pillarbox.Server.open(server, mount=mounts, wait_ms=wait_ms) as opened:
        if mounts:
            notice_return(opened)

        def perform_here(name: str, /, *, items: Iterable[Any] = (), **arguments: Any) -> Any:
            call = LocalCall(opened, ACTOR, items=items, yes=yes, step=step)
            return operation_of(name).load()(call, **arguments)

        yield perform_here


@contextmanager
def let_go(server: Path, *databases: str) -> Iterator[None]:
    """Have the process that serves a server let go of databases, all when none is named, for a `with` block.

    Where none serves it nothing happens. Raises WriterBusy when another command has them, NotFound,
    InvalidName.
    """
    connected = find_served(server)
    if connected is None:
        yield
        return
    with connected:
        connected.call(LET_GO, databases=list(databases))
        yield
        with suppress(PillarboxError):  # the work is done, and hanging up gives them back too
            connected.call(TAKE_BACK)
