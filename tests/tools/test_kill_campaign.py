"""kill -9 over restore, prune, forget, merge and the making of a server: run again, each ends its work.

What was whole before is whole after, at whatever moment the command died. 300 rounds with
PILLARBOX_CAMPAIGN=long.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `backup`) is not installed")

from pillarbox.store.access import Actor
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.engine.database import MountState
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.errors import PillarboxError
from pillarbox.store.mail import folders, mailboxes, messages, public_folders
from pillarbox.store.server import Server

if TYPE_CHECKING:
    from conftest import Pillarbox

ADMIN = Actor.administrator("test")
ROUNDS = {"short": 1, "long": 50}.get(os.environ.get("PILLARBOX_CAMPAIGN", ""), 5)
PER_SNAPSHOT = 40
Picture = dict[str, list[tuple[str, bytes]]]


class Base(NamedTuple):
    """A directory with a server `mail` and a repository of three snapshots; what each of them holds."""

    place: Path
    snapshots: tuple[str, ...]
    pictures: tuple[Picture, ...]


def add(server: Path, first: int) -> None:
    """Messages for anna and for the public folder Forum, of a size that takes a while."""
    seeds = range(first, first + PER_SNAPSHOT)
    raws = [b"Subject: %d\n\n" % seed + Random(seed).randbytes(4000) for seed in seeds]
    with Server.open(server) as opened:
        mail, public = opened.database("Mailbox Store"), opened.database("Public Folder Store")
        with mail.transaction(ADMIN) as txn:
            inbox = mailboxes.find(txn, "anna").roles["inbox"]
            for raw in raws:
                messages.append(txn, inbox, messages.prepare(txn.files, raw))
        with public.transaction(ADMIN) as txn:
            forum = public_folders.find(txn, "Forum")
            for raw in raws:
                messages.append(txn, forum.folder_id, messages.prepare(txn.files, b"X: p\n" + raw))


def picture(server: Path) -> Picture:
    """Every message of each database that can be mounted, with its folder; of an order that means nothing."""
    found: Picture = {}
    with Server.open(server) as opened:
        for database in opened.databases():
            if database.state is MountState.MOUNTED:
                with database.read(ADMIN) as read:
                    found[database.name] = sorted(contents(read, database.kind))
    return found


def contents(read: Reader, kind: DatabaseKind) -> Iterator[tuple[str, bytes]]:
    if kind is DatabaseKind.PUBLIC_FOLDER_STORE:
        roots = [public_folders.root_id(read)]
    else:
        roots = [box.root_id for box in mailboxes.all_of(read)]
    for root_id in roots:
        for path, record in folders.walk(read, root_id):
            for item in folders.messages(read, record.folder_id):
                yield "/".join(path), messages.content(read, item)


@pytest.fixture
def base(pillarbox: Pillarbox, tmp_path: Path) -> Base:
    place = tmp_path / "base"
    server, repo = place / "mail", place / "repo"
    place.mkdir()
    pillarbox.answer("init", server)
    pillarbox.answer("mailbox", "create", server, "anna")
    pillarbox.answer("folder", "create", server, "/", "Forum")
    pillarbox.answer("backup", "init", repo, "--no-encryption")
    snapshots, pictures = [], []
    for number in range(3):
        add(server, number * PER_SNAPSHOT)
        snapshots.append(pillarbox.answer("backup", "create", server, repo)["snapshot"])
        pictures.append(picture(server))
    return Base(place, tuple(snapshots), tuple(pictures))


# -- the commands, each with what prepares it and what is to be true after it was ended


class Case:
    """A command on a copy of the base."""

    def __init__(self, pillarbox: Pillarbox, base: Base, place: Path) -> None:
        shutil.copytree(base.place, place)
        self.pillarbox = pillarbox
        self.base = base
        self.server, self.repo, self.out = place / "mail", place / "repo", place / "out"

    def prepare(self) -> None:
        """What is done before the command runs."""

    def words(self) -> tuple[object, ...]:
        """The command."""
        raise NotImplementedError

    def survived(self) -> None:
        """What holds after it was killed."""

    def ended(self) -> None:
        """What holds after it was run again."""
        raise NotImplementedError

    def restores(self, number: int) -> None:
        """A snapshot is whole still, each byte of it."""
        place, snapshot = self.out.with_name(f"restored {number}"), self.base.snapshots[number]
        call = ("backup", "restore", self.repo, snapshot, "--new-server", place, "--as-copy")
        self.pillarbox.answer(*call)
        assert picture(place) == self.base.pictures[number]
        shutil.rmtree(place)

    def repository_is_whole(self) -> None:
        assert self.pillarbox.answer("backup", "check", self.repo, "--read-data")["clean"]


class RestoreToDirectory(Case):
    def words(self) -> tuple[object, ...]:
        return ("backup", "restore", self.repo, self.base.snapshots[1], "--to", self.out)

    def ended(self) -> None:
        names = {path.name for path in self.out.glob("*/*")}
        assert names == {"Mailbox Store", "Public Folder Store"}

    def survived(self) -> None:
        """What stands there under its name is whole: the command would refuse to go over it."""
        for path in self.out.glob("*/*"):
            if not path.name.endswith(".restoring"):
                assert (path / "properties").is_dir() and (path / "stream").is_dir()
                shutil.rmtree(path)


class RestoreInPlace(Case):
    def words(self) -> tuple[object, ...]:
        call = ("backup", "restore", self.repo, self.base.snapshots[0], "--server", self.server)
        return (*call, "--all", "--yes")

    def survived(self) -> None:
        """Each database is as it was, or restored, or stands beside its place as what is replaced."""
        shutil.copytree(self.server, self.out)
        found = picture(self.out)
        for name, before in self.base.pictures[2].items():
            if name in found:
                assert found[name] in (before, self.base.pictures[0][name])
            else:
                assert (self.out / "First Storage Group" / f"{name}.replaced" / "stream").is_dir()
        shutil.rmtree(self.out)

    def ended(self) -> None:
        assert picture(self.server) == self.base.pictures[0]


class NewServer(Case):
    """It is made once its server.toml is there; to make it again is refused then."""

    def words(self) -> tuple[object, ...]:
        if (self.out / "server.toml").exists():
            return ("check", self.out)
        return ("backup", "restore", self.repo, "latest", "--new-server", self.out)

    def ended(self) -> None:
        assert picture(self.out) == self.base.pictures[2]


class Prune(Case):
    def words(self) -> tuple[object, ...]:
        return ("backup", "prune", self.repo, "--keep-last", "1")

    def survived(self) -> None:
        self.restores(2)

    def ended(self) -> None:
        assert self.left() == {self.base.snapshots[2]}
        self.repository_is_whole()
        self.restores(2)

    def left(self) -> set[str]:
        return {each["snapshot"] for each in self.pillarbox.answer("backup", "list", self.repo)}


class Forget(Prune):
    """Of several that are named some may be gone when it is killed: those that are left are named again."""

    def words(self) -> tuple[object, ...]:
        named = [each for each in self.base.snapshots[:2] if each in self.left()]
        return ("backup", "forget", self.repo, *named, "--yes") if named else ("backup", "list", self.repo)

    def survived(self) -> None:
        for number, snapshot in enumerate(self.base.snapshots):
            if snapshot in self.left():
                self.restores(number)
        self.repository_is_whole()


class Merge(Case):
    def prepare(self) -> None:
        self.pillarbox.answer("recovery", "mount", self.server, self.repo, "latest")
        self.pillarbox.answer("folder", "delete", self.server, "/", "Forum", "--with-contents", "--yes")
        with Server.open(self.server) as opened:
            database = opened.database("Mailbox Store")
            with database.transaction(ADMIN) as txn:
                inbox = mailboxes.find(txn, "anna").roles["inbox"]
                for item in list(folders.messages(txn, inbox))[::2]:
                    messages.delete(txn, item.message_id)

    def words(self) -> tuple[object, ...]:
        return ("recovery", "merge", self.server, "anna", "/")

    def ended(self) -> None:
        assert picture(self.server) == self.base.pictures[2]


CASES = (RestoreToDirectory, RestoreInPlace, NewServer, Prune, Forget, Merge)


# -- killing


def run_forked(pillarbox: Pillarbox, words: tuple[object, ...], delay_s: float | None = None) -> bool:
    """Run a command in a process of its own, and kill it after a delay; whether it was killed."""
    child = os.fork()
    if not child:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            try:
                code = pillarbox.run(*words).exit_code
            except BaseException:
                code = 99
        os._exit(code)
    if delay_s is not None:
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"{words} ended with {code}"
    return code != 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_killed_at_any_moment_each_command_ends_when_it_is_run_again(
    pillarbox: Pillarbox, base: Base, tmp_path: Path, seed: int
) -> None:
    rng = Random(seed)
    killed = 0
    for kind in CASES:
        whole = kind(pillarbox, base, tmp_path / "whole")
        whole.prepare()
        began = time.monotonic()
        run_forked(pillarbox, whole.words())
        took_s = time.monotonic() - began
        whole.ended()
        shutil.rmtree(tmp_path / "whole")
        for number in range(ROUNDS):
            case = kind(pillarbox, base, tmp_path / "round")
            case.prepare()
            delay_s = rng.uniform(0, took_s)
            try:
                killed += run_forked(pillarbox, case.words(), delay_s)
                case.survived()
                pillarbox.answer(*case.words())
                case.ended()
            except (AssertionError, PillarboxError) as error:
                kept = shutil.copytree(tmp_path / "round", tmp_path / f"{kind.__name__} {number}")
                what = f"{kind.__name__}, round {number}, after {delay_s:.3f} s"
                raise AssertionError(f"{what}; see {kept}") from error
            shutil.rmtree(tmp_path / "round")
    assert killed
