"""A repair, and the undoing of one, may be killed at any step: the next repair loses nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from mailbox_stores import mailbox_store

from pillarbox.store.access import Actor
from pillarbox.store.disk.frame_scan import scan_frames
from pillarbox.store.disk.redo import read_rows
from pillarbox.store.disk.stream import FrameKind
from pillarbox.store.disk.tables import Table
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import PillarboxError
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.upkeep.repair import repair_database

ACTOR: Final = Actor.task("test")
# All that a repair changes directories with.
STEPS: Final = ("mkdir", "rename", "replace", "rmdir", "symlink", "unlink")
KILLED: Final = 9


def opened(path: Path) -> Database:
    return mailbox_store(path, Tuning(segment_bytes=4096))


def deliver(database: Database, text: str) -> bytes:
    raw = f"Subject: {text}\r\n\r\n".encode() + os.urandom(700).hex().encode()
    prepared = messages.prepare(database.files, raw)
    with database.transaction(ACTOR) as txn:
        messages.deliver(txn, [next(mailboxes.all_of(txn)).guid], prepared)
    return raw


def damaged_database(path: Path) -> set[bytes]:
    """One that a repair must write segments for: its tables tell what the stream does not any more."""
    database = opened(path)
    database.create()
    database.mount()
    with database.transaction(ACTOR) as txn:
        mailboxes.create(txn, "anna")
    raws = {deliver(database, str(number)) for number in range(8)}
    database.dismount()
    segment = database.stream.segments()[2]
    for at, _, frame in list(scan_frames(database.stream, segment)):
        rows = read_rows(frame, "") if frame and frame.kind == FrameKind.REDO else ()
        if any(table == Table.ITEM for table, _, _ in rows):
            flip(database.stream.path(segment), at + 60)
    return raws


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x40]))


def mail(path: Path) -> set[bytes]:
    database = opened(path)
    database.mount()
    try:
        with database.read(ACTOR) as reader:
            return {
                messages.content(reader, item)
                for box in mailboxes.all_of(reader)
                for _, folder in folders.walk(reader, box.root_id)
                for item in folders.messages(reader, folder.folder_id)
            }
    finally:
        database.dismount()


def repair_killed(path: Path, is_last: Callable[[int, str, tuple[Any, ...]], bool]) -> bool:
    """Repair in a process that ends in place of a step; False when it was complete before."""
    child = os.fork()
    if child == 0:
        numbers = count()
        real = {name: getattr(os, name) for name in STEPS}
        for name in STEPS:

            def step(*args: Any, _name: str = name, **kwargs: Any) -> Any:
                if is_last(next(numbers), _name, args):
                    os._exit(KILLED)
                return real[_name](*args, **kwargs)

            setattr(os, name, step)
        try:
            repair_database(opened(path))
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED)
    return code == KILLED


def deliver_where_it_mounts(path: Path) -> set[bytes]:
    """Acknowledge a message and lose the checkpoint: the segments left by a repair may not be told by it."""
    database = opened(path)
    try:
        database.mount()
    except PillarboxError:
        return set()
    raw = deliver(database, "acknowledged between")
    database.dismount()
    (path / "checkpoint").unlink()
    return {raw}


def kill_at_every_step(base: Path, raws: set[bytes], *, write_between: bool, stride: int = 1) -> int:
    """Tries each step alone, or every `stride`th; the number of them."""
    for number in count(0, stride):
        path = base.with_name("killed")
        shutil.copytree(base, path, symlinks=True)
        if not repair_killed(path, lambda at, *_, last=number: at == last):
            shutil.rmtree(path)
            return number
        expected = raws | (deliver_where_it_mounts(path) if write_between else set())
        segments = set(opened(path).stream.segments()) & set(opened(base).stream.segments())
        assert repair_database(opened(path)).lost == (), number
        assert mail(path) == expected, number
        assert segments <= set(opened(path).stream.segments()), number
        assert not list(path.glob("*repair*")), number
        shutil.rmtree(path)
    raise AssertionError


@pytest.mark.parametrize(
    ("has_checkpoint", "write_between", "stride"),
    [
        (False, True, 5),
        *(
            pytest.param(*each, 1, marks=pytest.mark.slow)
            for each in ((False, True), (True, True), (True, False), (False, False))
        ),
    ],
)
def test_a_repair_killed_at_any_step_loses_nothing(
    tmp_path: Path, has_checkpoint: bool, write_between: bool, stride: int
) -> None:
    raws = damaged_database(tmp_path / "db")
    if not has_checkpoint:
        (tmp_path / "db" / "checkpoint").unlink()
    assert kill_at_every_step(tmp_path / "db", raws, write_between=write_between, stride=stride) > 20


@pytest.mark.slow
@pytest.mark.parametrize("killed_before", ["the new segments", "the new tables", "the new checkpoint"])
@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_an_undoing_killed_at_any_step_loses_nothing(
    tmp_path: Path, has_checkpoint: bool, killed_before: str
) -> None:
    path = tmp_path / "db"
    raws = damaged_database(path)
    if not has_checkpoint:
        (path / "checkpoint").unlink()
    target = {
        "the new segments": path / "stream",
        "the new tables": path / "properties",
        "the new checkpoint": path / "checkpoint",
    }[killed_before]

    def is_last(_: int, name: str, args: tuple[Any, ...]) -> bool:
        return name == "rename" and target in (Path(args[1]), Path(args[1]).parent)

    before = set(opened(path).stream.segments())
    assert repair_killed(path, is_last)
    assert not (path / "checkpoint").exists()
    assert (set(opened(path).stream.segments()) > before) == (killed_before != "the new segments")
    assert kill_at_every_step(path, raws, write_between=True) > 20
