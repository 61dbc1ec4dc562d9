"""The walk through backup and recovery of README.md: what was lost is there again, byte for byte."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `backup`) is not installed")

from pillarbox.store.access import Actor
from pillarbox.store.mail.delivery import deliver
from pillarbox.store.server import Server

if TYPE_CHECKING:
    from conftest import Pillarbox

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from pillarbox.tools.main import run; run()"]


def exported(pillarbox: Pillarbox, server: Path, name: str, out: Path) -> Counter[tuple[str, bytes]]:
    """Folder and bytes of each message of a mailbox."""
    pillarbox.answer("export", server, name, out, "--format", "eml")
    return Counter((str(path.parent.relative_to(out)), path.read_bytes()) for path in out.rglob("*.eml"))


def back_up_while_mail_comes(server: Path, repository: Path, key: Path) -> Counter[tuple[str, bytes]]:
    """Run `backup create` beside this process, which delivers to anna; what was delivered."""
    words = ["backup", "create", str(server), str(repository), "--key-file", str(key)]
    delivered: Counter[tuple[str, bytes]] = Counter()
    with Server.open(server) as opened:
        database, anna = opened.mailboxes.find("anna")
        with subprocess.Popen(
            [*COMMAND, *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as backup:
            while not delivered or backup.poll() is None:
                raw = b"Subject: during the backup\n\n%d\n" % len(delivered)
                deliver(database, Actor.transport(), [anna.guid], raw)
                delivered["Inbox", raw] += 1
                try:
                    backup.wait(timeout=0.02)
                except subprocess.TimeoutExpired:
                    continue
            assert backup.stderr is not None
            assert backup.returncode == 0, backup.stderr.read().decode()
    return delivered


def test_a_lost_folder_and_a_lost_mailbox_come_back_from_a_snapshot_of_a_running_server(
    pillarbox: Pillarbox, server: Path, tmp_path: Path
) -> None:
    repository, key = tmp_path / "repository", tmp_path / "key"
    pillarbox.answer("import", server, "bert", ROOT / "tests" / "data" / "lists.mbox")
    anna = exported(pillarbox, server, "anna", tmp_path / "anna-before")
    bert = exported(pillarbox, server, "bert", tmp_path / "bert-before")
    pillarbox.answer("backup", "init", repository, "--key-file", key)
    anna += back_up_while_mail_comes(server, repository, key)

    pillarbox.answer("folder", "delete", server, "anna", "lists", "--with-contents", "--yes")
    pillarbox.answer("mailbox", "disconnect", server, "bert")
    pillarbox.answer("mailbox", "purge", server, "bert", "--yes")

    pillarbox.answer("recovery", "mount", server, repository, "latest", "--key-file", key)
    (folder,) = pillarbox.answer("recovery", "merge", server, "anna", "--key-file", key)
    assert folder["merged"] == 24
    pillarbox.answer("recovery", "merge", server, "bert", "--to", "bert", "--key-file", key)
    pillarbox.answer("recovery", "dismount", server)

    assert exported(pillarbox, server, "anna", tmp_path / "anna-after") == anna
    assert exported(pillarbox, server, "bert", tmp_path / "bert-after") == bert
    assert pillarbox.run("check", server).exit_code == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_demo_brings_everything_back(pillarbox: Pillarbox, tmp_path: Path) -> None:
    command = tmp_path / "pillarbox"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        [ROOT / "tools" / "demo-recovery", tmp_path / "place"],
        env={**os.environ, "PILLARBOX": str(command)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("Both mailboxes are back, byte for byte.\n")
