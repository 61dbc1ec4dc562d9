"""The control socket of a serving process: operations for commands and programs beside it.

Each connection has a thread: it reads a call, does the operation on the open server, and answers, one call
after the other. A caller that hangs up ends its own operation, at the next step of its progress. Who may
connect is decided by the mode of the socket, and who asks by the user at its other end.
"""

from __future__ import annotations

import inspect
import logging
import socket
import stat
import struct
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path
from time import perf_counter
from types import NoneType, UnionType
from typing import Any, Final, NamedTuple, get_args, get_origin, get_type_hints

import pillarbox
from pillarbox.store.access import Actor
from pillarbox.store.clock import Clock
from pillarbox.store.disk.stream import disk_error
from pillarbox.store.errors import (
    InvalidArgument,
    InvalidContent,
    PeerUnreachable,
    PillarboxError,
    Refused,
    WriterBusy,
)
from pillarbox.store.events import Event
from pillarbox.tools.error_data import error_data
from pillarbox.tools.operations.call import operation_of
from pillarbox.tools.operations.replicating import Performs
from pillarbox.tools.options import account_name
from pillarbox.tools.serving.lending import LET_GO, TAKE_BACK, Lending
from pillarbox.tools.serving.log import ERROR, Log
from pillarbox.tools.serving.replicating import Replicating
from pillarbox.tools.serving.socket_place import bound_socket, remove_socket
from pillarbox.tools.serving.wire import Connection, Frame, Kind, packed, unpacked_stream

CONNECTIONS_MAX: Final = 64
_BACKLOG: Final = 64
_PROGRESS_EVERY_MS: Final = 100
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred of unix(7): process, user, group
_END_SECONDS: Final = 4  # for operations that run when the process ends; then their callers are hung up on
_current = threading.local()
Count = Callable[[str, float, str], None]
"""Takes the name of an operation that has ended, its seconds, and the class of its error, empty for none."""


class HungUp(Exception):
    """The caller of an operation has gone: the operation ends, and nobody is told."""


class RemoteCall:
    """A call whose caller is at the other end of a connection."""

    def __init__(
        self,
        server: pillarbox.Server,
        actor: Actor,
        connection: Connection,
        clock: Clock,
        wants_progress: bool,
        small: bytes | None,
        replicating: Replicating,
    ) -> None:
        """`small` are the items of a call that came with it; None: they are asked for."""
        self._small = small
        self._replicating = replicating
        self.server = server
        self.actor = actor
        self._connection = connection
        self._clock = clock
        self._wants_progress = wants_progress
        self._told_ms = 0

    def step(self, done: int, total: int, what: str) -> None:
        if self._connection.has_gone():
            raise HungUp
        now_ms = self._clock.monotonic_ms()
        if self._wants_progress and (now_ms >= self._told_ms + _PROGRESS_EVERY_MS or done == total):
            self._told_ms = now_ms
            self._send(Kind.PROGRESS, packed([done, total, what]))

    def confirm(self, question: str) -> None:
        self._send(Kind.QUESTION, packed(question))
        if self._answer(Kind.ANSWER).value() is not True:
            raise Refused("nothing was done", hint="answer y, or say --yes")

    def items(self) -> Iterator[Any]:
        return unpacked_stream(self._pieces() if self._small is None else [self._small])

    def replicator(self, *, is_running: bool = False) -> Performs:
        return self._replicating.replicator(is_running=is_running)

    def membership_changed(self) -> None:
        self._replicating.restart()

    def released(self, database: pillarbox.Database) -> AbstractContextManager[None]:
        return self._replicating.released(database)

    def tell(self, event: Event) -> None:
        """Pass on an event that the operation gave rise to."""
        with suppress(HungUp):
            self._send(Kind.EVENT, packed(list(event)))

    def _pieces(self) -> Iterator[bytes]:
        kind = Kind.DATA
        while kind is Kind.DATA:
            self._send(Kind.WANT)
            kind, piece = self._answer(Kind.DATA, Kind.END)
            yield piece

    def _send(self, kind: Kind, body: bytes = b"") -> None:
        try:
            self._connection.send(kind, body)
        except PeerUnreachable as error:
            raise HungUp from error

    def _answer(self, *kinds: Kind) -> Frame:
        try:
            frame = self._connection.read()
        except PeerUnreachable as error:
            raise HungUp from error
        if frame is None:
            raise HungUp
        if frame.kind not in kinds:
            raise InvalidContent(f"the caller said {frame.kind.name} where it was asked for something else")
        return frame


class ControlSocket:
    """Listens at the control socket of a server that is open, until it is closed."""

    def __init__(
        self,
        server: pillarbox.Server,
        lending: Lending,
        log: Log,
        clock: Clock,
        count: Count,
        replicating: Replicating,
    ) -> None:
        """`count` is told of each operation that has ended."""
        self._count = count
        self._replicating = replicating
        self._server = server
        self._lending = lending
        self._log = log
        self._clock = clock
        self._connections: dict[Connection, threading.Thread] = {}
        self._lock = threading.Lock()
        self._has_ended = False

    @contextmanager
    def open(self) -> Iterator[None]:
        """Answer calls while the `with` block runs; those that run at its end have a few seconds more."""
        listener = bound_socket(self._server.path, mode_for(self._server.path))
        listener.listen(_BACKLOG)
        threading.Thread(target=self._accept, args=(listener,), name="pillarbox-control", daemon=True).start()
        told = _ToCallers(logging.WARNING)
        logging.getLogger("pillarbox").addHandler(told)
        try:
            yield
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            remove_socket(self._server.path)
            self._end_all()
            logging.getLogger("pillarbox").removeHandler(told)

    def _end_all(self) -> None:
        self._lending.end()
        with self._lock:
            self._has_ended = True
            threads = dict(self._connections)
        deadline_ms = self._clock.monotonic_ms() + _END_SECONDS * 1000
        for connection, thread in threads.items():
            if not getattr(thread, "works", False):
                connection.close()  # it waits for its next call
        for connection, thread in threads.items():
            thread.join(max(deadline_ms - self._clock.monotonic_ms(), 0) / 1000)
            connection.close()

    # -- connections

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:
                if self._has_ended or listener.fileno() < 0:
                    return
                self._clock.sleep_ms(100)  # out of descriptors, say: the next one may be taken
                continue
            self._take(connected)

    def _take(self, connected: socket.socket) -> None:
        connection = Connection(connected)
        actor = Actor.administrator(account_name(_user_of(connected)))
        with self._lock:
            if self._has_ended:
                connection.close()
                return
            is_full = len(self._connections) >= CONNECTIONS_MAX
            if not is_full:
                thread = _Worker(target=self._serve, args=(connection, actor), daemon=True)
                try:
                    thread.start()  # before it is known: who ends the connections waits for its end
                except RuntimeError:  # no more threads can be had
                    is_full = True
                else:
                    self._connections[connection] = thread
        if is_full:
            busy = WriterBusy("the serving process has too many callers", hint="run the command again")
            with suppress(PillarboxError):
                connection.send(Kind.ERROR, packed(error_data(busy)))
            connection.close()

    def _serve(self, connection: Connection, actor: Actor) -> None:
        worker = threading.current_thread()
        assert isinstance(worker, _Worker)
        with self._lending.of_caller() as lent:
            own: dict[str, Callable[..., Any]] = {LET_GO: lent.let_go, TAKE_BACK: lent.take_back}
            try:
                while (frame := connection.read()) is not None and not self._has_ended:
                    worker.works = True
                    if frame.kind is not Kind.CALL:
                        raise InvalidContent(f"a caller began with {frame.kind.name}")
                    self._answer(connection, actor, _call_of(frame.value()), own)
                    worker.works = False
            except HungUp:
                pass
            except PillarboxError as error:
                with suppress(PillarboxError):
                    connection.send(Kind.ERROR, packed(error_data(error)))
            finally:
                connection.close()
                with self._lock:
                    self._connections.pop(connection, None)

    def _answer(
        self,
        connection: Connection,
        actor: Actor,
        asked: _Asked,
        own: Mapping[str, Callable[..., Any]],
    ) -> None:
        try:
            name, arguments, wants_progress, small = asked
            function = own.get(name) or operation_of(name).load()
            checked = checked_arguments(function, arguments)
            self._catch_up()
            call = RemoteCall(
                self._server, actor, connection, self._clock, wants_progress, small, self._replicating
            )
            result = self._done(name, function, call, checked)
            connection.send_result(result)
        except (HungUp, PeerUnreachable):
            if connection.has_gone():
                raise HungUp from None
            raise
        except PillarboxError as error:
            connection.send_result(error_data(error), Kind.ERROR)
        except OSError as error:
            told = disk_error(error, str(error.filename or "the system"))
            connection.send(Kind.ERROR, packed(error_data(told)))
        except Exception as error:  # a fault of the program; others go on
            self._log.say(ERROR, f"a call failed: {traceback.format_exc()}")
            connection.send(Kind.ERROR, packed(error_data(error)))

    def _catch_up(self) -> None:
        """Take over what commands beside this process have changed: they have ended, their wake may be on its
        way.
        """
        with suppress(PillarboxError):  # server.toml is broken: what was read before is in force
            self._server.reload()

    def _done(
        self, name: str, function: Callable[..., Any], call: RemoteCall, arguments: Mapping[str, Any]
    ) -> Any:
        _current.call, began, failed = call, perf_counter(), ""
        try:
            return function(call, **arguments)
        except Exception as error:
            failed = type(error).__name__
            raise
        finally:
            _current.call = None
            self._count(name, perf_counter() - began, failed)


class _Worker(threading.Thread):
    works = False
    """True while an operation runs, and not while the next call is waited for."""


class _ToCallers(logging.Handler):
    """Gives the events of an operation to its caller too, as its own process would have shown them."""

    def emit(self, record: logging.LogRecord) -> None:
        call = getattr(_current, "call", None)
        event = getattr(record, "event", None)
        if call is not None and isinstance(event, Event):
            call.tell(event)


class _Asked(NamedTuple):
    """A call as it came."""

    operation: str
    arguments: Mapping[str, Any]
    wants_progress: bool
    small: bytes | None


def _call_of(asked: Any) -> _Asked:
    if isinstance(asked, list) and len(asked) == 4:
        name, arguments, wants_progress, small = asked
        if isinstance(name, str) and isinstance(arguments, dict) and isinstance(small, bytes | None):
            return _Asked(name, arguments, bool(wants_progress), small)
    raise InvalidContent("a call is [operation, arguments, wants progress, items]")


def checked_arguments(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an operation as its function takes them. Raises InvalidArgument."""
    kinds = _kinds_of(getattr(function, "__func__", function))
    if arguments.keys() != kinds.keys():
        raise InvalidArgument(f"the arguments are {', '.join(kinds)}", hint="see docs/control-socket.md")
    for name, kind in kinds.items():
        if not _is_of(arguments[name], kind):
            raise InvalidArgument(f"{name} cannot be {type(arguments[name]).__name__}", argument=name)
    return dict(arguments)


@cache
def _kinds_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of an operation, with their types."""
    hints = get_type_hints(function)
    return {
        name: hints[name]
        for name, each in inspect.signature(function).parameters.items()
        if each.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _is_of(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_is_of(value, each) for each in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_of(each, get_args(kind)[0]) for each in value)
    if kind in (None, NoneType):
        return value is None
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def mode_for(server: Path) -> int:
    """The mode of the socket: its owner's, and the group's when the group may write to the server itself."""
    return 0o660 if server.stat().st_mode & stat.S_IWGRP else 0o600


def _user_of(connected: socket.socket) -> int:
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(raw)[1]
    return user
