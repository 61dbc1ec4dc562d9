"""Servers of an organisation, each served by a process of its own: what is posted at one is seen at all."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")
pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

from nats_server import NatsServer, require_nats
from served_organisations import Organisation, eventually

import pillarbox as pillarbox_of
from pillarbox.replication.transports.nats_settings import NatsSettings
from pillarbox.store.engine import numbering
from pillarbox.tools.operations.replicating import joined_store
from pillarbox.tools.options import ACTOR

if TYPE_CHECKING:
    from conftest import Pillarbox


@pytest.fixture
def two(pillarbox: Pillarbox, tmp_path: Path) -> Iterator[Organisation]:
    """Two servers of a site, served, with a folder at both and a post in it."""
    organisation = Organisation(pillarbox, tmp_path, {"b1": "berlin", "b2": "berlin"})
    try:
        for name in organisation.paths:
            organisation.serve(name)
        organisation.share("b1", "Forum", "b2")
        organisation.post("b1", "Forum", "first")
        eventually(lambda: organisation.subjects("b2", "Forum") == ["first"])
        yield organisation
    finally:
        organisation.close()


def numberings(path: Path) -> int:
    """How often a server's store has begun to number its changes anew."""
    with pillarbox_of.Server.open(path, read_only=True) as server, joined_store(server).read(ACTOR) as read:
        return len(list(numbering.own_replicas(read)))


def test_a_post_is_seen_at_the_other_servers(pillarbox: Pillarbox, tmp_path: Path) -> None:
    organisation = Organisation(pillarbox, tmp_path, {"b1": "berlin", "b2": "berlin", "p1": "paris"})
    try:
        for name in organisation.paths:
            organisation.serve(name)
        organisation.share("b1", "Forum", "b2", "p1")
        organisation.post("b1", "Forum", "hello")
        for name in organisation.paths:
            eventually(lambda of=name: organisation.subjects(of, "Forum") == ["hello"])
        listings = []
        for name in organisation.paths:
            organisation.in_sync(name, "Forum")
            listings.append(organisation.answer(name, "replica list", "Forum"))
        told = [(each["server"], each["items"], each["size_bytes"]) for each in listings[0]]
        assert [each[:2] for each in told] == [("b1", 1), ("b2", 1), ("p1", 1)] and told[0][2] > 0
        for listing in listings:
            assert sorted((each["server"], each["items"], each["size_bytes"]) for each in listing) == told
            assert [each["received_ms"] is None for each in listing] == [False, True, True]
        _, line, _ = organisation.run(
            "replica", "list", organisation.paths["b1"], "Forum"
        ).stdout.splitlines()
        assert re.search(r"^b2 +berlin +in sync +1 items, \d+ B, as of \d{4}-", line)
        for name in list(organisation.served):
            assert organisation.end(name) == 0
    finally:
        organisation.close()


@pytest.mark.slow
def test_posts_cross_nats_and_wait_while_it_is_away(pillarbox: Pillarbox, tmp_path: Path) -> None:
    require_nats()
    nats = NatsServer(tmp_path / "nats").start()
    sites = {"b1": "berlin", "b2": "berlin", "p1": "paris"}
    organisation = Organisation(pillarbox, tmp_path, sites, NatsSettings((nats.address,)))
    try:
        for name in organisation.paths:
            organisation.serve(name)
        organisation.share("b1", "Forum", "b2", "p1")
        organisation.post("b1", "Forum", "before")
        eventually(lambda: organisation.subjects("p1", "Forum") == ["before"])
        nats.kill()
        organisation.post("b1", "Forum", "of berlin")
        organisation.post("p1", "Forum", "of paris")
        eventually(lambda: organisation.subjects("b2", "Forum") == ["before", "of berlin"])  # direct
        assert organisation.subjects("p1", "Forum") == ["before", "of paris"]
        assert organisation.end("p1", signal.SIGKILL) != 0
        organisation.serve("p1")  # with nothing to connect to
        nats.start()
        everything = ["before", "of berlin", "of paris"]
        for name in organisation.paths:
            eventually(lambda of=name: organisation.subjects(of, "Forum") == everything)
        organisation.in_sync("b1", "Forum")
    finally:
        organisation.close()
        nats.kill()


@pytest.mark.slow
def test_a_server_that_was_copied_while_it_was_served_numbers_anew(two: Organisation) -> None:
    copy = two.place / "copy"
    subprocess.run(["cp", "-a", str(two.paths["b1"]), str(copy)], check=True)
    two.paths["copy"] = copy
    two.serve("copy")  # beside the other one, whose address it has: nothing of it leaves
    two.post("copy", "Forum", "of the copy")
    two.end("b1", signal.SIGKILL)
    eventually(lambda: two.subjects("b2", "Forum") == ["first", "of the copy"])
    two.end("copy")
    assert (numberings(two.paths["b1"]), numberings(copy) > 1) == (1, True)


@pytest.mark.slow
def test_a_machine_that_was_put_back_is_noticed_by_what_others_know(two: Organisation) -> None:
    path, aside = two.paths["b1"], two.place / "aside"
    assert two.end("b1") == 0
    shutil.copytree(path, aside, ignore=shutil.ignore_patterns("control"))
    two.serve("b1")
    two.post("b1", "Forum", "later")
    eventually(lambda: two.subjects("b2", "Forum") == ["first", "later"])
    assert two.end("b1") == 0
    fence = Path("replication-fence")
    put_back(aside, path, but=fence)
    with (path / fence).open("r+b") as file:  # in its place: its inode stays, as on a disk that is put back
        file.write((aside / fence).read_bytes())
    two.serve("b1")
    two.post("b1", "Forum", "after")
    both = ["after", "first", "later"]
    eventually(lambda: two.subjects("b2", "Forum") == both)
    eventually(lambda: two.subjects("b1", "Forum") == both)
    assert two.end("b1") == 0
    assert numberings(path) > 1


def put_back(aside: Path, path: Path, but: Path) -> None:
    """Put all files back as they were, but one."""
    kept = (path / but).with_suffix(".kept")
    for child in path.iterdir():
        if child.name != but.parts[0]:
            shutil.rmtree(child) if child.is_dir() else child.unlink()
    assert not kept.exists()
    for child in aside.iterdir():
        if child.name != but.parts[0]:
            (shutil.copytree if child.is_dir() else shutil.copy2)(child, path / child.name)


@pytest.mark.slow
def test_a_database_that_was_restored_beside_its_process_numbers_anew(
    two: Organisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILLARBOX_PASSPHRASE", "horse")
    repository, path = two.place / "repository", two.paths["b1"]
    assert two.run("backup", "init", repository).exit_code == 0
    assert two.run("backup", "create", path, repository).exit_code == 0
    two.post("b1", "Forum", "later")
    eventually(lambda: two.subjects("b2", "Forum") == ["first", "later"])
    restored = two.run("backup", "restore", repository, "latest", "--server", path, "--all", "--yes")
    assert restored.exit_code == 0, restored.output
    two.post("b1", "Forum", "after")
    both = ["after", "first", "later"]
    eventually(lambda: two.subjects("b2", "Forum") == both)
    eventually(lambda: two.subjects("b1", "Forum") == both)
    assert two.end("b1") == 0
    assert numberings(path) > 1
