"""Two servers of one name, and three processes on their one repository: nothing is lost, nothing is mixed.

Each server has a process that delivers, deletes, backs up, merges, verifies and prunes; a third one prunes,
forgets, checks and restores. Each message says whose it is, and every one is accounted for in the end. Ten
minutes with PILLARBOX_CAMPAIGN=long.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `backup`) is not installed")

from pillarbox.store.access import Actor
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.mail import folders, mailboxes, messages, public_folders
from pillarbox.store.server import Server

if TYPE_CHECKING:
    from conftest import Pillarbox

ADMIN = Actor.administrator("test")
SECONDS = {"short": 5, "long": 600}.get(os.environ.get("PILLARBOX_CAMPAIGN", ""), 45)
LOCKED = 62
Held = dict[str, list[str]]  # of the mailbox store and of the public folder store, each message's subject


def raw_of(subject: str) -> bytes:
    rng = Random(subject)
    return b"Subject: %s\n\n" % subject.encode() + rng.randbytes(rng.choice((50, 500, 5000, 30_000)))


def folder_of(read: Reader, store: str) -> int:
    if store == "mail":
        return mailboxes.find(read, "anna").roles["inbox"]
    return public_folders.find(read, "Forum").folder_id


STORES = {"mail": "Mailbox Store", "posts": "Public Folder Store"}


def held_by(server: Path) -> Held:
    """What a server holds, each byte of it proven."""
    found: Held = {}
    with Server.open(server) as opened:
        assert not opened.not_mounted
        for store, name in STORES.items():
            with opened.database(name).read(ADMIN) as read:
                items = list(folders.messages(read, folder_of(read, store)))
                for item in items:
                    assert messages.content(read, item) == raw_of(item.subject)
                found[store] = sorted(item.subject for item in items)
    return found


class Process:
    """What one of the processes does, and what it keeps of that for the account."""

    def __init__(self, pillarbox: Pillarbox, place: Path, name: str) -> None:
        self.pillarbox = pillarbox
        self.place = place
        self.name = name
        self.repo = place / "repo"
        self.rng = Random(name)
        self.done: Counter[str] = Counter()
        self.snapshots: dict[str, Held] = {}

    def deeds(self) -> list[Callable[[], None]]:
        raise NotImplementedError

    def work(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.rng.choice(self.deeds())()
        account = {"snapshots": self.snapshots, "done": self.done, "live": self.live()}
        (self.place / f"{self.name}.json").write_text(json.dumps(account))

    def live(self) -> Held:
        return {}

    def run(self, *words: object) -> Any:
        """The answer of a command that may find the repository locked: None then."""
        result = self.pillarbox.run(*words, "--json")
        assert result.exit_code in (0, LOCKED), (words, result.output)
        if result.exit_code == LOCKED:
            return None
        self.done[f"{words[0]} {words[1]}"] += 1
        return json.loads(result.stdout)

    def prune(self) -> None:
        self.run("backup", "prune", self.repo, "--keep-last", "2")

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.pillarbox.answer("backup", "list", self.repo)
        return found


class Owner(Process):
    """Has a server, whose newest snapshot nobody forgets."""

    def __init__(self, pillarbox: Pillarbox, place: Path, name: str) -> None:
        super().__init__(pillarbox, place, name)
        self.server = place / name / "mail"
        self.count = 0
        self.holds: dict[str, set[str]] = {store: set() for store in STORES}
        self.newest = ""

    def deeds(self) -> list[Callable[[], None]]:
        return [self.deliver, self.delete, self.back_up, self.back_up, self.merge, self.verify, self.prune]

    def live(self) -> Held:
        return {store: sorted(subjects) for store, subjects in self.holds.items()}

    def deliver(self) -> None:
        with Server.open(self.server) as opened:
            for store, name in STORES.items():
                for _ in range(self.rng.randint(1, 12)):
                    subject = f"{self.name} {store} {self.count}"
                    self.count += 1
                    with opened.database(name).transaction(ADMIN) as txn:
                        prepared = messages.prepare(txn.files, raw_of(subject))
                        messages.append(txn, folder_of(txn, store), prepared)
                    self.holds[store].add(subject)

    def delete(self) -> None:
        with Server.open(self.server) as opened:
            for store, name in STORES.items():
                doomed = {subject for subject in self.holds[store] if self.rng.random() < 0.3}
                with opened.database(name).transaction(ADMIN) as txn:
                    for item in list(folders.messages(txn, folder_of(txn, store))):
                        if item.subject in doomed:
                            messages.delete(txn, item.message_id)
                self.holds[store] -= doomed

    def back_up(self) -> None:
        made = self.run("backup", "create", self.server, self.repo)
        if made:
            self.newest = made["snapshot"]
            self.snapshots[self.newest] = self.live()

    def merge(self) -> None:
        if not self.newest:
            return
        for entry in self.pillarbox.answer("recovery", "mount", self.server, self.repo, "latest"):
            assert entry["snapshot"] == self.newest, "the newest of this server, and of no other"
        self.run("recovery", "merge", self.server, "anna", "/")
        self.pillarbox.answer("recovery", "dismount", self.server)
        for store, subjects in self.snapshots[self.newest].items():
            self.holds[store].update(subjects)
        assert held_by(self.server) == self.live()

    def verify(self) -> None:
        if self.newest:
            self.run("backup", "verify", self.repo, self.newest)


class Keeper(Process):
    """Has no server: it looks after the repository."""

    def deeds(self) -> list[Callable[[], None]]:
        return [self.prune, self.forget, self.check, self.restore]

    def forget(self) -> None:
        """One that is not the newest of its server; a prune of another process may be quicker."""
        found = self.listed()
        newest = {each["server_id"]: each["snapshot"] for each in found}
        old = [each["snapshot"] for each in found if each["snapshot"] not in newest.values()]
        if old and self.rng.random() < 0.5:
            chosen = self.rng.choice(old)
            result = self.pillarbox.run("backup", "forget", self.repo, chosen, "--yes")
            assert result.exit_code == 0 or chosen not in {each["snapshot"] for each in self.listed()}
            self.done["backup forget"] += result.exit_code == 0

    def check(self) -> None:
        found = self.run("backup", "check", self.repo)
        assert found is None or found["clean"], found

    def restore(self) -> None:
        """One whose messages are all of one server; it may be forgotten on the way, and is excused then."""
        if not (found := self.listed()):
            return
        chosen, out = self.rng.choice(found)["snapshot"], self.place / "out"
        call = ("backup", "restore", self.repo, chosen, "--new-server", out, "--as-copy")
        result = self.pillarbox.run(*call)
        if result.exit_code == 0:
            self.done["backup restore"] += 1
            assert len({subject[0] for held in held_by(out).values() for subject in held}) <= 1
        else:
            gone = chosen not in {each["snapshot"] for each in self.listed()}
            assert gone or result.exit_code == LOCKED, result.output
        self.remove(out)

    def remove(self, place: Path) -> None:
        for path in sorted(place.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        if place.exists():
            place.rmdir()


def fork(process: Process, seconds: float) -> int:
    """Let a process do its work by itself; its pid."""
    child = os.fork()
    if not child:
        code = 1
        try:
            process.work(seconds)
            code = 0
        except BaseException:
            (process.place / f"{process.name}.failed").write_text(traceback.format_exc())
        os._exit(code)
    return child


@pytest.mark.slow
def test_two_servers_and_three_processes_on_one_repository_lose_and_mix_nothing(
    pillarbox: Pillarbox, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    pillarbox.answer("backup", "init", repo, "--no-encryption")
    for name in "AB":
        (tmp_path / name).mkdir()
        pillarbox.answer("init", tmp_path / name / "mail")
        pillarbox.answer("mailbox", "create", tmp_path / name / "mail", "anna")
        pillarbox.answer("folder", "create", tmp_path / name / "mail", "/", "Forum")
    processes = [Owner(pillarbox, tmp_path, name) for name in "AB"]
    children = {fork(each, SECONDS): each.name for each in (*processes, Keeper(pillarbox, tmp_path, "C"))}
    for child, name in children.items():
        _, status = os.waitpid(child, 0)
        failed = tmp_path / f"{name}.failed"
        assert status == 0, failed.read_text() if failed.exists() else status

    accounts = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in "ABC"}
    for name in "AB":
        assert held_by(tmp_path / name / "mail") == accounts[name]["live"]
        assert pillarbox.answer("check", tmp_path / name / "mail")["clean"]
    assert pillarbox.answer("backup", "check", repo, "--read-data")["clean"]
    made = accounts["A"]["snapshots"] | accounts["B"]["snapshots"]
    left = [each["snapshot"] for each in pillarbox.answer("backup", "list", repo)]
    for number, snapshot in enumerate(left):
        place = tmp_path / f"restored {number}"
        pillarbox.answer("backup", "restore", repo, snapshot, "--new-server", place, "--as-copy")
        assert held_by(place) == made[snapshot]
    for name in "AB":
        assert not accounts[name]["snapshots"] or list(accounts[name]["snapshots"])[-1] in left
    if SECONDS > 30:
        done = sum((Counter(account["done"]) for account in accounts.values()), Counter())
        deeds = ["create", "prune", "forget", "check", "verify", "restore"]
        assert all(done[f"backup {deed}"] for deed in deeds) and done["recovery merge"], done
