"""The one place where commands get at a server to change it: its own process, or the one that serves it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def operation(server: Path, name: str, *, yes: bool = False, step: Step | None = None) -> Iterator[Perform]:
    """The function that does an operation, for a `with` block: in the process that serves, or else in this
    one.

    `yes` answers its questions, `step` is told of its progress. Raises as `Server.open` and `connect`.
    """
    if (connected := find_served(server)) is not None:
        with connected:

            def perform(*, items: Iterable[Any] = (), **arguments: Any) -> Any:
                return connected.call(
                    name,
                    items=items,
                    confirm=lambda question: confirm(question, yes),
                    progress=step,
                    **arguments,
                )

            yield perform
        return
    asked = operation_of(name)
    with pillarbox.Server.open(server, mount=asked.mounts, wait_ms=asked.wait_ms) as opened:
        if asked.mounts:
            notice_return(opened)

        def perform_here(*, items: Iterable[Any] = (), **arguments: Any) -> Any:
            call = LocalCall(opened, ACTOR, items=items, yes=yes, step=step)
            return asked.load()(call, **arguments)

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
