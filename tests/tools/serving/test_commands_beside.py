"""Every command that takes a server does the same beside a process that serves it as without one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")
pytest.importorskip("cryptography", reason="cryptography (the extra `backup`) is not installed")

import click
from joined import join
from served import serving

from pillarbox.tools.cli import cli
from pillarbox.tools.lazy import LazyCommand

if TYPE_CHECKING:
    from conftest import Pillarbox

STORE = "Mailbox Store"
RAW = "Subject: hello\n\nworld\n"
LETTER = Path(__file__).parents[2] / "data" / "spam" / "00164.eml"


class Call(NamedTuple):
    """A command: its name, the words behind SERVER, and its standard input."""

    command: str
    words: tuple[str, ...] = ()
    stdin: str = ""


def call(command: str, *words: str, stdin: str = "") -> Call:
    return Call(command, words, stdin)


# {id} is the first message of anna's Inbox, {base} the directory that the server lies in.
CALLS = (
    call("edition", "enterprise"),
    call("group create", "Staff"),
    call("group create", "Staff"),
    call("group list"),
    call("group rename", "Staff", "Crew"),
    call("database create", "Second"),
    call("database create", "Second", "--group", "Crew"),
    call("database list"),
    call("database rename", "Second", "Third"),
    call("mailbox create", "carl"),
    call("mailbox create", "carl", "--database", "Third"),
    call("mailbox create", "x" * 300, "--database", "Third"),
    call("mailbox list"),
    call("mailbox show", "anna"),
    call("mailbox rename", "carl", "dora"),
    call("mailbox rename", "nobody", "dora"),
    call("deliver", "anna", "dora", stdin=RAW),
    call("deliver", "anna", "nobody", stdin=RAW),
    call("deliver", "anna", stdin=""),
    call("import", "anna", str(LETTER)),
    call("import", "eve", str(LETTER)),
    call("import", "eve", "-", "--database", "Third", stdin=RAW),
    call("import", "/", str(LETTER)),
    call("import", "/", str(LETTER.parent)),
    call("list", "anna"),
    call("folder create", "anna", "New/Deep", "--parents"),
    call("folder create", "anna", "New/Deep"),
    call("folder list", "anna"),
    call("folder show", "anna", "New"),
    call("folder rename", "anna", "New", "Newer"),
    call("folder copy", "anna", "Newer", "--to", "Inbox"),
    call("folder move", "anna", "Inbox/Newer", "--to", "/"),
    call("folder move", "anna", "Inbox/Newer", "--to", "/", "--to-mailbox", "dora"),
    call("folder delete", "anna", "Newer", "--with-contents", stdin="n\n"),
    call("folder delete", "anna", "Newer", "--with-contents", stdin="y\n"),
    call("message list", "anna", "Inbox"),
    call("message search", "anna", "--subject", "hello"),
    call("message show", "anna", "{id}"),
    call("show", "anna", "{id}"),
    call("message flag", "anna", "{id}", "--add", "seen"),
    call("message copy", "anna", "{id}", "--to", "Lists"),
    call("message copy", "anna", "{id}", "--to", "Drafts"),
    call("message move", "anna", "{id}", "--to", "Drafts"),
    call("message delete", "anna", "{id}", stdin="no\n"),
    call("message delete", "anna", "{id}", "--yes"),
    call("export", "anna", "{base}/out", "--format", "eml"),
    call("mailbox move", "dora", STORE),
    call("mailbox move", "dora", STORE),
    call("mailbox purge", "dora", "--yes"),
    call("mailbox disconnect", "dora"),
    call("mailbox reconnect", "dora"),
    call("mailbox disconnect", "dora"),
    call("mailbox purge", "dora", stdin="\n"),
    call("mailbox purge", "dora", stdin="yes\n"),
    call("limits show"),
    call("limits set", "--limit-gb", "30"),
    call("limits set", "--limit-gb", "0"),
    call("limits check"),
    call("limits watch", "--once"),
    call("events diagnostics set", "system.general", "medium"),
    call("events diagnostics show"),
    call("events list"),
    call("maintain"),
    call("maintain", "nowhere"),
    call("dismount", "Third"),
    call("mailbox create", "fay", "--database", "Third"),
    call("maintain", "Third"),
    call("mount", "Third"),
    call("repair", STORE, stdin="n\n"),
    call("repair", STORE, "--yes"),
    call("check"),
    call("status"),
    call("rebuild"),
    call("database delete", "Third", stdin="n\n"),
    call("database delete", "Third", "--yes"),
    call("group delete", "Crew"),
)
BACKUP_CALLS = (
    call("backup create", "{base}/repository"),
    call("backup capture", "{base}/repository", "--once"),
    call("backup run-due", "{base}/repository", "--every", "1d"),
    call("backup status"),
    call("mailbox disconnect", "bert"),
    call("mailbox purge", "bert", "--yes"),
    call("recovery create"),
    call("recovery override", "on"),
    call("recovery mount", "{base}/repository", "latest"),
    call("recovery list"),
    call("recovery mailboxes"),
    call("recovery look", "anna"),
    call("recovery show", "anna", "1-1"),
    call("recovery merge", "bert", "--to", "bert", "--dry-run"),
    call("recovery merge", "bert", "--to", "bert"),
    call("recovery merge", "--all"),
    call("recovery dismount"),
    call("backup restore", "{base}/repository", "latest", "--server", "{base}/server", "--all", "--yes"),
    call("backup discard-replaced", "--yes"),
    call("check"),
)
REPLICATION_CALLS = (
    call("folder create", "/", "Forum/2002", "--parents"),
    call("folder create", "/", "Lists"),
    call("import", "/", str(LETTER.parent)),
    call("message edit", "/", "1-1", stdin="Subject: nowhere\n\n"),
    call("replica list", "Forum"),
    call("replica list", "Nowhere"),
    call("replica add", "Forum", "paris"),
    call("replica add", "Forum", "paris"),
    call("replica add", "Forum", "rome"),
    call("replica add", "Forum", "paris", "lyon", "--recursive"),
    call("replica list", "Forum/2002"),
    call("replica remove", "Lists", "berlin"),
    call("replica remove", "Forum", "lyon"),
    call("replica replace", "Lists", "berlin", "paris"),
    call("replica move-all", "--from", "berlin", "--to", "lyon"),
    call("replica migrate", "--from", "berlin", "--to", "paris"),
    call("replica migrate", "--from", "paris", "--to", "lyon", "--add", "--public"),
    call("replica migrate", "--from", "paris", "--to", "lyon", "--remove"),
    call("replication status"),
    call("replication status", "Forum", "--wait", "0"),
    call("replication explain", "Forum"),
    call("replication explain"),
    call("replication resume", "--at", "2099-01-01T00:00"),
    call("replication stop"),
    call("replication status", "Forum"),
    call("replication resume", "--rate", "100K"),
    call("replication synchronize-hierarchy"),
    call("replication send-hierarchy", "--to", "paris", "--days", "2"),
    call("replication send-contents", "Forum", "--to", "paris", "--days", "2"),
    call("replication send-contents", "Forum", "--to", "paris", "berlin", "--days", "2"),
    call("replication prefer", "--from", "paris"),
    call("replication prefer", "--from", "lyon", "--for", "paris"),
    call("replication prefer", "--from", "rome"),
    call("replication prefer"),
    call("replication conflicts"),
    call("node adopt-as-truth", stdin="n\n"),
    call("node adopt-as-truth", "--yes"),
    call("replication resolve", "1-2", "--keep", "all"),
    call("folder find", "/", "--name", "o", "--replica", "paris"),
    call("folder find", "/", "--older-than", "1"),
    call("folder find", "/", "--rights", "nothing"),
    call("folder settings", "/", "Forum", "--schedule", "every 30 min", "--priority", "urgent"),
    call("folder settings", "/", "Forum", "--grant", "anna", "--rights", "read-items", "--recursive"),
    call("folder settings", "/", "Forum", "--overwrite", "permissions", "--overwrite", "schedule"),
    call("folder settings", "/", "Forum/2002"),
    call("folder settings", "anna", "Inbox"),
    call("folder referral", "/", "Forum", "--client", "anna"),
    call("check"),
)
# `serve` serves, and is refused beside another one.
# Those of membership need several servers, served and not: tests/tools/commands/test_membership.py.
_OF_MEMBERSHIP = (
    *("org init", "org apply", "org export", "org export-ca", "org move-ca"),
    *("node invite", "node join", "node request", "node approve", "node retire", "node list"),
)
NOT_WALKED = {
    "init": "makes a server",
    "serve": "is what the others run beside",
    **dict.fromkeys(_OF_MEMBERSHIP, "needs several servers"),
}
# What it prints differs, and has to: when databases were mounted, how large the old files were.
NOT_COMPARED = frozenset({"events list", "backup discard-replaced"})
UNLIKE = re.compile(r"\d{8}T\d{6}Z|\b\d+-[0-9a-f]+\b|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]+|[0-9a-f]{12,}")
# Files are as large as their history made them, and a served database is in use.
UNLIKE_FIELDS = re.compile(
    r"_ms$|^(guid|in_use|conversation|records|bytes_read|uid_validity)$|^(logical|physical|free|freed)_.*bytes$|^numbers$"
)


def leaves(group: click.Group = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name, listed in group.commands.items():
        command = listed.load() if isinstance(listed, LazyCommand) else listed
        if isinstance(command, click.Group):
            yield from leaves(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


def test_no_command_is_forgotten() -> None:
    taking = {name for name, command in leaves() if any(each.name == "server" for each in command.params)}
    walked = {each.command for each in (*CALLS, *BACKUP_CALLS, *REPLICATION_CALLS)}
    assert walked == taking - NOT_WALKED.keys()


def alike(value: Any) -> Any:
    """A result without what differs between two servers that were used in the same way."""
    if isinstance(value, dict):
        return {key: alike(each) for key, each in value.items() if not UNLIKE_FIELDS.search(key)}
    if isinstance(value, list):
        return [alike(each) for each in value]
    return alike_text(value) if isinstance(value, str) else value


def alike_text(text: str) -> str:
    # Who mounts for one command only never had the database mounted.
    return UNLIKE.sub("ID", text.replace("it was dismounted by an administrator", "nobody has mounted it"))


class Side:
    """One of the two servers, with what a command said of it."""

    def __init__(self, pillarbox: Pillarbox, base: Path) -> None:
        self.base = base
        self.server = base / "server"
        self._pillarbox = pillarbox

    def ends(self, asked: Call) -> tuple[int, Any, str]:
        """Exit code, result and errors of a command."""
        first = ""
        if "{id}" in asked.words:
            first = self._pillarbox.answer("list", self.server, "anna", "Inbox")[0]["id"]
        words = [word.format(id=first, base=self.base) for word in asked.words]
        server = [] if asked.command == "backup restore" else [str(self.server)]
        result = self._pillarbox.run(*asked.command.split(), *server, *words, "--json", input=asked.stdin)
        out = result.stdout.replace(str(self.base), "BASE")
        told = alike_text(result.stderr.replace(str(self.base), "BASE"))
        if asked.command in NOT_COMPARED:
            return result.exit_code, "", told
        return result.exit_code, alike(json.loads(out)) if out else "", told


@pytest.fixture
def sides(pillarbox: Pillarbox, server_with_mail: Path, tmp_path: Path) -> tuple[Side, Side]:
    """Two copies of one server."""
    for name in ("alone", "beside"):
        shutil.copytree(server_with_mail, tmp_path / name / "server")
    return Side(pillarbox, tmp_path / "alone"), Side(pillarbox, tmp_path / "beside")


def walk(sides: tuple[Side, Side], calls: tuple[Call, ...], tmp_path: Path) -> None:
    alone, beside = sides
    expected = [alone.ends(asked) for asked in calls]
    with serving(beside.server, tmp_path):
        found = [beside.ends(asked) for asked in calls]
    differ = [each for each in zip(calls, expected, found, strict=True) if each[1] != each[2]]
    assert not differ, "\n".join(
        f"{asked}\n  alone: {one}\n  beside: {other}" for asked, one, other in differ
    )


def test_commands_on_mail_do_the_same_beside_a_serving_process(
    sides: tuple[Side, Side], tmp_path: Path
) -> None:
    walk(sides, CALLS, tmp_path)


def test_commands_on_replication_do_the_same_beside_a_serving_process(
    server_with_mail: Path, pillarbox: Pillarbox, tmp_path: Path
) -> None:
    for name in ("alone", "beside"):
        join(shutil.copytree(server_with_mail, tmp_path / name / "server"))
    sides = Side(pillarbox, tmp_path / "alone"), Side(pillarbox, tmp_path / "beside")
    walk(sides, REPLICATION_CALLS, tmp_path)


@pytest.mark.slow
def test_commands_on_backups_do_the_same_beside_a_serving_process(
    pillarbox: Pillarbox, sides: tuple[Side, Side], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILLARBOX_PASSPHRASE", "horse")
    for side in sides:
        assert pillarbox.run("backup", "init", side.base / "repository").exit_code == 0
    walk(sides, BACKUP_CALLS, tmp_path)
