"""The control socket: operations are done for callers, one caller's end is its own, and nothing hostile
stays.
"""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

import pillarbox
from pillarbox.store.clock import SystemClock
from pillarbox.store.engine.database import MountState
from pillarbox.store.errors import (
    InvalidArgument,
    InvalidContent,
    NotFound,
    PeerUnreachable,
    Refused,
    UnsupportedVersion,
    WriterBusy,
)
from pillarbox.tools.error_data import error_of
from pillarbox.tools.operations import call as calls
from pillarbox.tools.operations.call import Call, LocalCall, Operation
from pillarbox.tools.serving import control
from pillarbox.tools.serving.client import Connected, connect
from pillarbox.tools.serving.control import ControlSocket, mode_for
from pillarbox.tools.serving.lending import Lending
from pillarbox.tools.serving.log import Log
from pillarbox.tools.serving.performing import let_go
from pillarbox.tools.serving.replicating import Replicating
from pillarbox.tools.serving.socket_place import CONTROL, bound_socket, connected_socket
from pillarbox.tools.serving.wire import HEADER, MAGIC, Connection

STORE = "Mailbox Store"


class Held(NamedTuple):
    """A server that this process holds and answers for, and the log of that."""

    server: pillarbox.Server
    lending: Lending
    log: io.StringIO

    def connect(self) -> Connected:
        return connect(self.server.path)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    """A server of one mailbox, anna."""
    with holding(tmp_path / "server") as held:
        yield held


@contextmanager
def holding(path: Path) -> Iterator[Held]:
    clock, out = SystemClock(), io.StringIO()
    with pillarbox.Server.create(path) as server:
        server.mailboxes.create(pillarbox.Actor.task("test"), "anna")
        lending, log = Lending(server), Log(clock, as_json=False, out=out)
        with ControlSocket(
            server, lending, log, clock, lambda *_: None, Replicating(server, log, no_node, clock)
        ).open():
            yield Held(server, lending, out)


def no_node(*_: object) -> NoReturn:
    raise Refused("no node runs in this test")


@pytest.fixture
def as_operation(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Makes a function the operation `test`."""

    def add(function: Callable[..., Any]) -> None:
        monkeypatch.setitem(calls.OPERATIONS, "test", Operation("test:test"))
        monkeypatch.setattr(Operation, "load", lambda _: function)

    return add


def test_a_program_delivers_and_calls_by_one_connection(held: Held) -> None:
    with held.connect() as connected:
        for raw in (b"Subject: a\n\nb\n", b"Subject: large\n\n" + b"x" * (3 << 20)):
            (row,) = connected.deliver(["anna"], raw)
            assert row["mailbox"] == "anna" and row["database"] == STORE
        with pytest.raises(NotFound, match="no mailbox 'bert'") as told:
            connected.deliver(["anna", "bert"], b"Subject: a\n\nb\n")
        assert "pillarbox mailbox list" in told.value.hint
        made = connected.call("folder.create", mailbox="anna", folder="Lists", parents=False)
        assert made["folder"] == "Lists", "an error of an operation leaves the connection as it was"
    _, box = held.server.mailboxes.find("anna")
    assert box.messages_count == 2


def test_a_server_whose_path_is_no_address_of_a_socket_is_reached(tmp_path: Path) -> None:
    (tmp_path / ("x" * 200)).mkdir()
    with holding(tmp_path / ("x" * 200) / "server") as held, held.connect() as connected:
        assert connected.deliver(["anna"], b"x\n")


def test_where_nobody_serves_there_is_nobody_to_connect_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFound, match="is not served"):
        connect(tmp_path)
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(CONTROL)
    assert connected_socket(tmp_path) is None, "a killed process leaves its socket"


def test_the_socket_is_for_the_owner_and_for_the_group_only_where_it_may_write(held: Held) -> None:
    assert (held.server.path / CONTROL).stat().st_mode & 0o777 == 0o600
    held.server.path.chmod(0o770)
    with bound_socket(held.server.path, mode_for(held.server.path)):
        assert (held.server.path / CONTROL).stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("folder.destroy", {}, NotFound),
        ("folder.create", {"mailbox": "anna"}, InvalidArgument),
        ("folder.create", {"mailbox": "anna", "folder": "A", "parents": 1}, InvalidArgument),
        ("folder.create", {"mailbox": "anna", "folder": b"A", "parents": True}, InvalidArgument),
        ("message.delete", {"mailbox": "anna", "messages": [1]}, InvalidArgument),
        ("mailbox.move", {"mailbox": "anna", "database": "B", "skip_damaged_max": True}, InvalidArgument),
    ],
)
def test_calls_that_are_none_are_refused(
    held: Held, name: str, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with held.connect() as connected:
        with pytest.raises(error):
            connected.call(name, **arguments)
        assert connected.deliver(["anna"], b"x\n"), "and the next call is done"


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", InvalidContent),
        (HEADER.pack(MAGIC, 9, 1, 0, 0), UnsupportedVersion),
        (HEADER.pack(MAGIC, 1, 1, 0, 1) + b"\xc1", InvalidContent),
        (HEADER.pack(MAGIC, 1, 1, 0, 1) + b"\x01", InvalidContent),
        (HEADER.pack(MAGIC, 1, 3, 0, 0), InvalidContent),
    ],
)
def test_what_is_no_call_ends_the_connection_and_no_other(
    held: Held, sent: bytes, error: type[Exception]
) -> None:
    connecting = connected_socket(held.server.path)
    assert connecting is not None
    connecting.sendall(sent)
    hostile = Connection(connecting)
    frame = hostile.read()
    assert frame is not None and isinstance(error_of(frame.value()), error)
    with suppress(PeerUnreachable):  # what it had sent more was not even read
        assert hostile.read() is None
    hostile.close()
    with held.connect() as connected:
        assert connected.deliver(["anna"], b"x\n")


def test_progress_questions_events_and_items_cross(
    held: Held, as_operation: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    def told(call: Call, *, name: str) -> list[Any]:
        call.step(1, 1, name)
        call.confirm("Really?")
        held.server.database(STORE).report(pillarbox_event(), reason="a test")
        return list(call.items())

    as_operation(told)
    steps: list[tuple[int, int, str]] = []
    asked: list[str] = []
    with held.connect() as connected:
        answer = connected.call(
            "test", name="n", items=[1, "b"], confirm=asked.append, progress=lambda *at: steps.append(at)
        )
    assert (answer, steps, asked) == ([1, "b"], [(1, 1, "n")], ["Really?"])
    assert sum("could not be mounted: a test" in each.getMessage() for each in caplog.records) == 2


def pillarbox_event() -> int:
    from pillarbox.store.events import EventId

    return EventId.DATABASE_NOT_MOUNTED


def test_who_says_no_ends_the_operation_before_anything_is_gone(
    held: Held, as_operation: Callable[..., None]
) -> None:
    ended = threading.Event()

    def purge(call: Call) -> None:
        try:
            call.confirm("Really?")
        finally:
            ended.set()
        pytest.fail("it went on")

    def no(_: str) -> None:
        raise Refused("nothing was done")

    as_operation(purge)
    with held.connect() as connected, pytest.raises(Refused, match="nothing was done"):
        connected.call("test", confirm=no)
    assert ended.wait(10)


def test_a_caller_that_hangs_up_ends_its_own_operation_and_no_other(
    held: Held, as_operation: Callable[..., None]
) -> None:
    begun, ended, goes_on = threading.Event(), threading.Event(), threading.Event()

    def long(call: Call, *, is_other: bool) -> str:
        if is_other:
            goes_on.wait(10)
            return "done"
        begun.set()
        try:
            while True:
                call.step(0, 0, "")
        finally:
            ended.set()

    as_operation(long)
    answers: list[str] = []
    with held.connect() as other, held.connect() as interrupted:
        waiting = threading.Thread(target=lambda: answers.append(other.call("test", is_other=True)))
        waiting.start()
        caller = threading.Thread(target=_call_until_gone, args=(interrupted,))
        caller.start()
        assert begun.wait(10)
        interrupted.close()
        assert ended.wait(10)
        goes_on.set()
        waiting.join(10)
        caller.join(10)
    assert answers == ["done"]


def _call_until_gone(connected: Connected) -> None:
    with pytest.raises(PeerUnreachable):
        connected.call("test", is_other=False)


def test_a_fault_is_logged_and_told_and_the_process_goes_on(
    held: Held, as_operation: Callable[..., None]
) -> None:
    def fault(call: Call) -> None:
        raise ZeroDivisionError("a fault")

    as_operation(fault)
    with held.connect() as connected, pytest.raises(RuntimeError, match="a fault of the serving process"):
        connected.call("test")
    assert "ZeroDivisionError" in held.log.getvalue()


def test_a_refusal_names_all_folders_however_many_there_are(
    held: Held, as_operation: Callable[..., None]
) -> None:
    folders = [f"Lists/List {number}" for number in range(100_000)]

    def refuse(call: Call) -> None:
        raise Refused("it holds replicas", hint="move them", folders=folders)

    as_operation(refuse)
    with held.connect() as connected:
        for _ in range(2):  # the connection is as good as before
            with pytest.raises(Refused, match="it holds replicas") as told:
                connected.call("test")
            assert told.value.folders == tuple(folders) and told.value.hint == "move them"


def test_a_database_is_let_go_of_until_its_caller_has_gone(held: Held) -> None:
    database = held.server.database(STORE)
    with held.connect() as connected:
        assert connected.call("database.let_go", databases=[STORE]) == [STORE]
        assert database.state is MountState.DISMOUNTED and database.guid in held.lending
        with held.connect() as other, pytest.raises(WriterBusy):
            other.call("database.let_go", databases=[])
        with pillarbox.Server.open(held.server.path) as mine:
            assert not any(STORE in label for label in mine.not_mounted)
        mounted = threading.Event()
        mount = held.server.mount
        held.server.mount = lambda *a, **k: (mount(*a, **k), mounted.set())[0]  # type: ignore[method-assign]
    assert mounted.wait(10)
    assert database.state is MountState.MOUNTED and database.guid not in held.lending


def test_nothing_is_mounted_any_more_once_the_server_is_about_to_be_closed(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller gives back what it has borrowed, and meanwhile the process is told to end."""
    database = held.server.database(STORE)
    reload = held.server.reload

    def told_to_end() -> None:
        held.lending.end()
        reload()

    with held.lending.of_caller() as lent:
        lent.let_go(LocalCall(held.server, pillarbox.Actor.task("test")), databases=[STORE])
        monkeypatch.setattr(held.server, "reload", told_to_end)
    assert database.state is MountState.DISMOUNTED


def test_a_caller_without_a_thread_is_refused_and_keeps_no_place(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(control, "CONNECTIONS_MAX", 1)
    with monkeypatch.context() as patch:
        patch.setattr(control._Worker, "start", failing)
        with held.connect() as refused, pytest.raises(WriterBusy, match="too many callers"):
            refused.deliver(["anna"], b"x\n")
    with held.connect() as connected:
        assert connected.deliver(["anna"], b"x\n")


def test_callers_are_bounded(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CONNECTIONS_MAX", 1)
    with held.connect() as first:
        first.deliver(["anna"], b"x\n")
        with held.connect() as second, pytest.raises(WriterBusy, match="too many callers"):
            second.deliver(["anna"], b"x\n")
        assert first.deliver(["anna"], b"x\n")


def test_an_operation_sees_what_a_command_beside_has_changed_before_any_wake(held: Held) -> None:
    with held.connect() as connected:
        with pillarbox.Server.open(held.server.path, mount=False) as other:
            other.rename_group("First Storage Group", "Crew")
            other.rename_database(STORE, "Mail")
        with pytest.raises(NotFound) as told:
            connected.call(
                "database.create", name="Second", group="First Storage Group", kind="MAILBOX_STORE"
            )
        assert told.value.hint == "the storage groups: Crew"
        (row,) = connected.deliver(["anna"], b"x\n")
        assert row["database"] == "Mail"
        (held.server.path / "server.toml").write_text("broken")
        assert connected.deliver(["anna"], b"x\n"), "what was read before is in force"


def test_who_ends_with_a_database_leaves_it_mounted_for_the_next(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, states, close = held.server.database(STORE), [], Connected.close

    def hang_up(connected: Connected) -> None:
        states.append(database.state)
        close(connected)

    with let_go(held.server.path, STORE):
        with held.connect() as other:
            other.call("database.take_back")
        assert database.state is MountState.DISMOUNTED, "it is another caller's"
        monkeypatch.setattr(Connected, "close", hang_up)
    assert states == [MountState.MOUNTED], "before it hangs up"
