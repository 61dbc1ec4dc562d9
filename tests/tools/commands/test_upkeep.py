"""Check and repair from the command line, after a process that was killed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

if TYPE_CHECKING:
    from conftest import Pillarbox

KILLED = """
import os, signal, sys
from pillarbox import Actor, Server, deliver

server = Server.open(sys.argv[1])
deliver(server.database("Mailbox Store"), Actor.transport(), "bert", b"Subject: last\\r\\n\\r\\n")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_was_killed_is_no_damage(pillarbox: Pillarbox, server: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(server)], check=False)
    before = pillarbox.answer("check", server)
    assert before["clean"] and before["findings"] == []
    assert [each["subject"] for each in pillarbox.answer("list", server, "bert", "Inbox")] == ["last"]


def test_damage_is_found_after_a_kill_too(pillarbox: Pillarbox, server: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(server)], check=False)
    (segment,) = (server / "First Storage Group" / "Mailbox Store" / "stream").glob("*.stm")
    with segment.open("r+b") as file:
        file.seek(5_000)
        file.write(b"damage")
    result = pillarbox.run("check", server)
    assert result.exit_code == 1 and "Mailbox Store" in result.stdout


def test_a_database_whose_files_are_gone_keeps_no_other_from_being_checked(
    pillarbox: Pillarbox, server: Path
) -> None:
    path = server / "First Storage Group" / "Mailbox Store"
    shutil.rmtree(path)
    result = pillarbox.run("check", server, "--json")
    assert result.exit_code == 1
    mail, public = json.loads(result.stdout)["databases"]
    (finding,) = mail["findings"]
    assert str(path) in finding
    assert public["findings"] == [] and public["records"] > 0
    assert not path.exists()
