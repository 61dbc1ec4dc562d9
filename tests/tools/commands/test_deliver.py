"""Delivery from a mail transport: to all recipients or to none, and what the transport is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

import pillarbox as pillarbox_face
from pillarbox.store import errors
from pillarbox.store.access import Actor
from pillarbox.store.events import EventId
from pillarbox.store.server import Server
from pillarbox.tools.commands.deliver import NoSuchMailbox, exit_code_for
from pillarbox.tools.operations.call import OPERATIONS, Operation
from pillarbox.tools.operations.delivery import deliver_to_all

if TYPE_CHECKING:
    from conftest import Pillarbox

RAW = "Subject: hello\n\nworld\n"
STORE = "Mailbox Store"


def inbox(pillarbox: Pillarbox, server: Path, mailbox: str) -> list[str]:
    return [each["subject"] for each in pillarbox.answer("list", server, mailbox, "Inbox")]


@pytest.fixture
def two_stores(pillarbox: Pillarbox, big_server: Path) -> Path:
    """anna in the one mailbox store, bert in the other."""
    pillarbox.answer("database", "create", big_server, "Second")
    pillarbox.answer("mailbox", "create", big_server, "anna", "--database", STORE)
    pillarbox.answer("mailbox", "create", big_server, "bert", "--database", "Second")
    return big_server


def test_a_message_is_delivered_to_all_recipients_byte_for_byte(pillarbox: Pillarbox, server: Path) -> None:
    result = pillarbox.run("deliver", server, "anna", "Bert", "BERT", "--json", input=RAW)
    assert (result.exit_code, result.stderr) == (0, "")
    delivered = json.loads(result.stdout)
    assert [(each["mailbox"], each["database"]) for each in delivered] == [("anna", STORE), ("bert", STORE)]
    for each in delivered:
        assert pillarbox.run("show", server, each["mailbox"], each["id"]).stdout == RAW
    assert inbox(pillarbox, server, "bert") == ["hello"], "once, however often it is named"


def test_recipients_in_several_databases_get_it(pillarbox: Pillarbox, two_stores: Path) -> None:
    assert pillarbox.run("deliver", two_stores, "anna", "bert", input=RAW).exit_code == 0
    assert inbox(pillarbox, two_stores, "anna") == inbox(pillarbox, two_stores, "bert") == ["hello"]


def test_who_delivers_is_told_the_first_error_whatever_comes_after_it(
    two_stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver, told = pillarbox_face.deliver, []

    def refused(database: Any, *words: Any) -> Any:
        if database.label == "Second":
            raise errors.OverLimit("it is full")
        return deliver(database, *words)

    def failing(*_: Any) -> None:
        raise errors.DiskFull("no space left")

    monkeypatch.setattr(pillarbox_face, "deliver", refused)
    monkeypatch.setattr(pillarbox_face.messages, "delete", failing)
    with Server.open(two_stores) as server:
        found = [server.mailboxes.find(name) for name in ("anna", "bert")]
        first = found[0][0]
        monkeypatch.setattr(first, "report", lambda event, **details: told.append((event, details)))
        with pytest.raises(errors.OverLimit):
            deliver_to_all({database: [box] for database, box in found}, RAW.encode())
    ((event, details),) = told[:1]
    assert event == EventId.REQUEST_FAILED and "anna" in details["request"]


@pytest.mark.parametrize("stdin", ["", "\n \n"])
def test_no_message_is_65(pillarbox: Pillarbox, server: Path, stdin: str) -> None:
    assert "no message" in pillarbox.refused(65, "deliver", server, "anna", input=stdin)


def test_a_recipient_that_is_not_there_is_67_and_nobody_gets_it(pillarbox: Pillarbox, server: Path) -> None:
    stderr = pillarbox.refused(67, "deliver", server, "anna", "nobody", input=RAW)
    assert "there is no mailbox 'nobody'" in stderr and "pillarbox mailbox list" in stderr
    pillarbox.refused(67, "deliver", server, "x" * 300, input=RAW)
    assert inbox(pillarbox, server, "anna") == []


def test_a_disconnected_mailbox_refuses_for_good(pillarbox: Pillarbox, server: Path) -> None:
    pillarbox.answer("mailbox", "disconnect", server, "bert")
    pillarbox.refused(69, "deliver", server, "anna", "bert", input=RAW)
    assert inbox(pillarbox, server, "anna") == []


def test_what_may_pass_is_75(
    pillarbox: Pillarbox, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillarbox.refused(75, "deliver", tmp_path / "not mounted yet", "anna", input=RAW)
    pillarbox.answer("dismount", server, STORE)
    pillarbox.refused(75, "deliver", server, "anna", input=RAW)
    pillarbox.answer("mount", server, STORE)
    monkeypatch.setitem(OPERATIONS, "message.deliver", Operation("delivery:deliver"))
    with Server.open(server):
        pillarbox.refused(75, "deliver", server, "anna", input=RAW)

    def fault(*_: Any) -> None:
        raise ValueError("a fault of the program")

    monkeypatch.setattr(Operation, "load", fault)
    pillarbox.refused(75, "deliver", server, "anna", input=RAW)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoSuchMailbox(errors.NotFound("anna")), 67),
        (errors.InvalidContent("no message"), 65),
        (errors.OverLimit("too large"), 69),
        (errors.Refused("no"), 69),
        (errors.InvalidSetting("no"), 69),
        (errors.AccessDenied("no"), 77),
        (errors.Dismounted("x"), 75),
        (errors.ReadOnly("x"), 75),
        (errors.RecoveryNeeded("x"), 75),
        (errors.UnsupportedVersion("x"), 75),
        (errors.DiskFull("x"), 75),
        (errors.WriterBusy("x"), 75),
        (errors.Corrupt("x"), 75),
        (errors.Conflict("x"), 75),
        (errors.NotFound("there is no server"), 75),
        (errors.PillarboxError("x"), 75),
        (OSError("x"), 75),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_a_transport_tries_again_unless_it_never_can_succeed(error: Exception, code: int) -> None:
    assert exit_code_for(error) == code


def test_when_one_database_refuses_nobody_in_the_others_keeps_it(
    pillarbox: Pillarbox, two_stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver = pillarbox_face.deliver

    def full(database: Any, actor: Actor, mailboxes: Any, raw: bytes) -> Any:
        if database.name == "Second":
            raise errors.DiskFull("no space left")
        return deliver(database, actor, mailboxes, raw)

    monkeypatch.setattr(pillarbox_face, "deliver", full)
    pillarbox.refused(75, "deliver", two_stores, "anna", "bert", input=RAW)
    monkeypatch.undo()
    assert inbox(pillarbox, two_stores, "anna") == inbox(pillarbox, two_stores, "bert") == []


def test_an_error_is_json_when_asked_for(pillarbox: Pillarbox, server: Path) -> None:
    result = pillarbox.run("deliver", server, "nobody", "--json", input=RAW)
    assert result.exit_code == 67 and result.stdout == ""
    told = json.loads(result.stderr)
    assert (told["code"], told["class"]) == (67, "NotFound") and "pillarbox mailbox list" in told["hint"]


@pytest.mark.parametrize("outputs", [">/dev/full 2>/dev/full", ">&- 2>&-", "| true"])
def test_what_is_delivered_is_0_whoever_reads_the_answer(
    pillarbox: Pillarbox, server: Path, outputs: str
) -> None:
    program = "from pillarbox.tools.main import run; run()"
    command = [sys.executable, "-c", program, "deliver", str(server), "bert"]
    ended = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {outputs}', "_", *command],
        input=RAW.encode(),
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert inbox(pillarbox, server, "bert") == ["hello"]


def test_a_close_that_fails_after_the_delivery_is_0(
    pillarbox: Pillarbox, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = Server.close

    def failing(self: Server) -> None:
        close(self)
        raise errors.DiskFull("no room for a checkpoint")

    with monkeypatch.context() as patched:
        patched.setattr(Server, "close", failing)
        result = pillarbox.run("deliver", server, "bert", input=RAW)
    assert result.exit_code == 0 and "is delivered" in result.stderr
    assert inbox(pillarbox, server, "bert") == ["hello"]
