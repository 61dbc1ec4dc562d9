"""The caller's end of the control socket: for commands, and for programs beside a served server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from types import TracebackType
from typing import Any

from pillarbox.store.arguments import PathLike
from pillarbox.store.errors import InvalidContent, NotFound, PeerUnreachable
from pillarbox.store.events import Event, PythonLoggingSink
from pillarbox.tools.error_data import error_of
from pillarbox.tools.serving.socket_place import connected_socket
from pillarbox.tools.serving.wire import (
    RESULT_BYTES_MAX,
    SMALL_BYTES_MAX,
    Connection,
    Kind,
    packed,
    packed_stream,
    unpacked,
)

Step = Callable[[int, int, str], None]


class Connected:
    """A connection to the process that serves a server. For one thread at a time; use it in a `with` block.

    `call` does an operation there (docs/control-socket.md lists them), `deliver` is one of them by name:

        with pillarbox.connect("/srv/mail") as connected:
            connected.deliver(["anna"], b"Subject: hello\\n\\nworld\\n")
            connected.call("folder.create", mailbox="anna", folder="Lists", parents=False)
    """

    def __init__(self, connection: Connection) -> None:
        """Use `connect`."""
        self._connection = connection

    def call(
        self,
        operation: str,
        *,
        items: Iterable[Any] = (),
        confirm: Callable[[str], None] | None = None,
        progress: Step | None = None,
        **arguments: Any,
    ) -> Any:
        """Do an operation, and return its result once it is durable.

        `items` are given as the operation asks for them. `confirm` is called with a question before something
        is gone for good, and raises to say no; without it the answer is yes. `progress` is told what is done,
        of how much, and with what. Raises what the operation raises, PeerUnreachable when the process ends
        meanwhile: then the operation was done or not. When this raises anything but the operation's error,
        the connection is closed, which ends the operation.
        """
        try:
            stream = packed_stream(items)
            kind, piece = next(stream)
            small = piece if kind is Kind.END and len(piece) <= SMALL_BYTES_MAX else None
            with suppress(PeerUnreachable):  # it may have said why before it hung up, which is read next
                self._connection.send(Kind.CALL, packed([operation, arguments, progress is not None, small]))
            return self._outcome(chain([(kind, piece)], stream), confirm, progress)
        except _Told as told:
            raise told.error from None
        except BaseException:
            self.close()
            raise

    def deliver(self, mailboxes: Iterable[str], raw: bytes) -> list[dict[str, str]]:
        """Deliver a message to the Inbox of each mailbox, to all or to none, durably; a row for each.

        Raises NotFound for a mailbox that is not there, and as `call`.
        """
        outcome = self.call("message.deliver", mailboxes=list(mailboxes), items=[raw])
        if missing := error_of(outcome["missing"]):
            raise missing
        delivered: list[dict[str, str]] = outcome["delivered"]
        return delivered

    def close(self) -> None:
        """Hang up. Closing twice is harmless."""
        self._connection.close()

    def __enter__(self) -> Connected:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _outcome(
        self,
        stream: Iterator[tuple[Kind, bytes]],
        confirm: Callable[[str], None] | None,
        progress: Step | None,
    ) -> Any:
        parts = bytearray()
        while True:
            frame = self._connection.read()
            if frame is None:
                raise PeerUnreachable(
                    "the serving process ended before it answered", hint="look at its log, and run this again"
                )
            if frame.kind in (Kind.PART, Kind.RESULT, Kind.ERROR):
                parts += frame.body
                if frame.kind is Kind.RESULT:
                    return unpacked(bytes(parts))
                if frame.kind is Kind.ERROR:
                    raise _told(unpacked(bytes(parts)))
                if len(parts) > RESULT_BYTES_MAX:
                    raise InvalidContent("the serving process sends a result without end")
            elif frame.kind is Kind.WANT:
                self._connection.send(*next(stream, (Kind.END, b"")))
            elif frame.kind is Kind.QUESTION:
                if confirm is not None:
                    confirm(str(frame.value()))
                self._connection.send(Kind.ANSWER, packed(True))
            elif frame.kind is Kind.PROGRESS:
                if progress is not None:
                    progress(*frame.value())
            elif frame.kind is Kind.EVENT:
                PythonLoggingSink().report(Event(*frame.value()))
            else:
                raise InvalidContent(f"the serving process answered {frame.kind.name}")


class _Told(Exception):
    """An error of the operation itself: the connection is as good as before."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _told(data: Any) -> _Told:
    error = error_of(data)
    if error is None:
        said = data.get("error") if isinstance(data, dict) else data
        return _Told(RuntimeError(f"a fault of the serving process, see its log: {said}"))
    return _Told(error)


def find_served(server: PathLike) -> Connected | None:
    """A connection to the process that serves a server; None when none does.

    Raises NoPermission when this user may not, PillarboxError.
    """
    found = connected_socket(server)
    return None if found is None else Connected(Connection(found))


def connect(server: PathLike) -> Connected:
    """Connect to the process that serves a server (`pillarbox serve`), for a program that runs beside it.

    Raises NotFound when no process serves it, NoPermission when this user may not.
    """
    connected = find_served(server)
    if connected is None:
        raise NotFound(f"{server} is not served", hint="start `pillarbox serve`, or open it by `Server.open`")
    return connected
