"""Notices of conflicts come into the mailboxes of those who have one at this server."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")
pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

import pillarbox
from pillarbox.replication.core.effects import Notice
from pillarbox.replication.node.conflict_notice import ConflictNotice
from pillarbox.store.clock import SystemClock
from pillarbox.tools.serving.log import Log
from pillarbox.tools.serving.replicating import deliver_notice


def deliver(server: pillarbox.Server, account: str) -> str:
    """Deliver a notice to an account; what the log says of it."""
    notice = ConflictNotice(
        account, Notice.CONFLICT, "Forum/News", "Lunch", "1-2", ("anna", "bert"), key="k" * 8
    )
    out = io.StringIO()
    deliver_notice(server, notice, Log(SystemClock(), as_json=False, out=out))
    return out.getvalue()


def subjects(server: pillarbox.Server, account: str) -> list[str]:
    database, mailbox = server.mailboxes.find(account)
    with database.read(pillarbox.Actor.transport()) as read:
        root = pillarbox.mailboxes.root(read, pillarbox.mailboxes.get(read, mailbox.guid))
        inbox = pillarbox.folders.by_path(read, root.folder_id, "Inbox")
        return [item.subject for item in pillarbox.folders.messages(read, inbox.folder_id)]


def test_a_notice_comes_into_the_mailbox_of_its_account(server: Path) -> None:
    with pillarbox.Server.open(server) as opened:
        assert deliver(opened, "bert") == ""
        assert subjects(opened, "bert") == ["Conflict in folder Forum/News: Lunch"]


@pytest.mark.parametrize("account", ["nobody", "Public Folder contact?", ""])
def test_an_account_that_has_no_mailbox_here_is_left_to_the_other_servers(server: Path, account: str) -> None:
    with pillarbox.Server.open(server) as opened:
        assert deliver(opened, account) == ""


def test_a_mailbox_that_cannot_be_written_is_named_in_the_log(server: Path) -> None:
    with pillarbox.Server.open(server) as opened:
        database, _ = opened.mailboxes.find("bert")
        database.dismount()
        assert "bert was not told of a conflict in folder Forum/News" in deliver(opened, "bert")
