"""The spool transport: files that are carried, cut off, damaged, too many, or somebody else's."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import Queue

import pytest
from arrivals import WAIT_S, RecordedArrivals

from pillarbox.replication.transports.spool import LEFTOVER_MS, SpoolTransport
from pillarbox.replication.transports.transport import Member
from pillarbox.store.clock import SystemClock
from pillarbox.store.errors import Refused
from pillarbox.store.ids import guid_text

A, B, C = (bytes([n]) * 16 for n in (1, 2, 3))
SPOOL_BYTES = 1000


class Spooled:
    """A store's transport over a directory."""

    def __init__(self, database: bytes, root: Path) -> None:
        self.told = RecordedArrivals()
        self.refused: Queue[str] = Queue()
        self.root = root
        self.transport = SpoolTransport(
            database,
            str(root),
            SystemClock(),
            refused=self.refused.put,
            spool_bytes_max=SPOOL_BYTES,
            scan_every_s=0.02,
        )
        self.database = database

    def start(self, *members: bytes) -> None:
        self.transport.start(self.told)
        self.transport.members_changed({each: Member(each, f"store-{each[0]}") for each in members})

    def box(self, receiver: bytes, sender: bytes) -> Path:
        return self.root / guid_text(receiver) / guid_text(sender)

    def files(self, receiver: bytes, sender: bytes) -> list[Path]:
        return sorted(self.box(receiver, sender).glob("*.frame"))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def spooled(stack: ExitStack, database: bytes, root: Path, *members: bytes) -> Spooled:
    made = Spooled(database, root)
    made.start(*members)
    stack.callback(made.transport.close)
    for _ in members:
        assert made.told.next_link()[1]
    return made


def written(a: Spooled, *frames: bytes) -> list[Path]:
    """The files of frames that were given, once all are there."""
    wanted = len(a.files(B, A)) + len(frames)
    for frame in frames:
        assert a.transport.give(B, frame)
    clock, until_ms = SystemClock(), SystemClock().monotonic_ms() + WAIT_S * 1000
    while len(found := a.files(B, A)) < wanted:
        assert clock.monotonic_ms() < until_ms
        os.sched_yield()
    return found


def test_frames_are_carried_from_one_directory_to_another(tmp_path: Path, stack: ExitStack) -> None:
    a, b = spooled(stack, A, tmp_path / "a", B), spooled(stack, B, tmp_path / "b", A)
    for path in written(a, b"one", b"two"):
        shutil.move(path, b.box(B, A).parent)  # beside its place first, as what copies does
        (b.box(B, A)).mkdir(exist_ok=True)
        (b.box(B, A).parent / path.name).rename(b.box(B, A) / path.name)
    assert {b.told.next_frame(), b.told.next_frame()} == {(A, b"one"), (A, b"two")}


def test_a_frame_is_removed_once_it_was_taken(tmp_path: Path, stack: ExitStack) -> None:
    a, b = spooled(stack, A, tmp_path, B), spooled(stack, B, tmp_path, A)
    assert a.transport.give(B, b"one") and a.transport.give(B, b"two")
    b.told.next_frame()
    b.told.next_frame()
    b.transport.close()
    assert a.files(B, A) == []


def test_a_frame_that_is_not_settled_stays(tmp_path: Path, stack: ExitStack) -> None:
    a, b = spooled(stack, A, tmp_path, B), spooled(stack, B, tmp_path, A)
    b.told.settles = False
    assert a.transport.give(B, b"one") and a.transport.give(B, b"two")
    b.told.next_frame()
    b.told.next_frame()
    one, two = b.told.unsettled
    two()
    b.transport.close()
    [left] = a.files(B, A)
    assert left.read_bytes() == b"one"
    one()


def test_what_waits_outlives_both_ends(tmp_path: Path, stack: ExitStack) -> None:
    a = spooled(stack, A, tmp_path, B)
    written(a, b"one", b"two")
    a.transport.close()
    b = spooled(stack, B, tmp_path, A)
    assert [b.told.next_frame(), b.told.next_frame()] == [(A, b"one"), (A, b"two")]


def test_a_file_that_is_not_whole_waits_for_the_rest(tmp_path: Path, stack: ExitStack) -> None:
    a = spooled(stack, A, tmp_path / "a", B)
    [path] = written(a, b"a frame that is copied slowly")
    b = spooled(stack, B, tmp_path / "b", A)
    copy = b.box(B, A) / path.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(b"a frame that")
    (copy.parent / f"{1:020}-{0:032x}.frame").write_bytes(b"")
    assert b.transport.give(A, b"x")
    copy.write_bytes(path.read_bytes())
    assert b.told.next_frame() == (A, b"a frame that is copied slowly")


def test_what_is_no_frame_is_cleared_after_a_day(tmp_path: Path, stack: ExitStack) -> None:
    b = Spooled(B, tmp_path)
    box = b.box(B, A)
    box.mkdir(parents=True)
    old_ms = SystemClock().now_ms() - LEFTOVER_MS - 1000
    for name in ("junk", f"{1:020}-{0:032x}.frame", ".cut.frame.new"):
        (box / name).write_bytes(b"x")
        os.utime(box / name, (old_ms / 1000, old_ms / 1000))
    (box / "young").write_bytes(b"x")
    b.start(A)
    stack.callback(b.transport.close)
    for _ in range(3):
        assert "is no frame, and is removed" in b.refused.get(timeout=WAIT_S)
    assert [path.name for path in box.iterdir()] == ["young"]


def test_what_was_begun_and_cut_off_is_cleared_at_the_next_start(tmp_path: Path, stack: ExitStack) -> None:
    a = Spooled(A, tmp_path)
    a.box(B, A).mkdir(parents=True)
    (a.box(B, A) / ".1-2.frame.new").write_bytes(b"half")
    (others := a.box(B, C)).mkdir(parents=True)
    (others / ".1-2.frame.new").write_bytes(b"half")
    a.start(B)
    stack.callback(a.transport.close)
    # At any time there may be the file by which it is tried whether the directory can be written.
    assert {each.name for each in a.box(B, A).iterdir()} <= {".tried.new"} and list(others.iterdir())


def test_the_directory_is_bounded_and_goes_on_when_files_are_gone(tmp_path: Path, stack: ExitStack) -> None:
    a = spooled(stack, A, tmp_path, B)
    written(a, bytes(600))
    assert a.transport.give(B, bytes(500))  # into the outbox
    b = spooled(stack, B, tmp_path, A)
    assert len(a.files(B, A)) <= 1
    assert [len(b.told.next_frame()[1]) for _ in range(2)] == [600, 500]


def test_files_of_who_is_no_member_are_left_alone(tmp_path: Path, stack: ExitStack) -> None:
    c = spooled(stack, C, tmp_path, B)
    a = spooled(stack, A, tmp_path, B)
    assert c.transport.give(B, b"from c")
    written(a, b"from a")
    b = spooled(stack, B, tmp_path, A)
    assert b.told.next_frame() == (A, b"from a")
    b.transport.close()
    assert b.told.frames.empty()
    assert len(b.files(B, C)) == 1


def test_a_directory_that_is_gone_takes_the_link_down_until_it_is_back(
    tmp_path: Path, stack: ExitStack
) -> None:
    root = tmp_path / "disk"
    a = spooled(stack, A, root, B)
    shutil.rmtree(root)
    root.write_text("in its place")
    assert a.transport.give(B, b"lost")
    assert a.told.next_link() == (B, False)
    assert not a.transport.give(B, b"x")
    root.unlink()
    assert a.told.next_link() == (B, True)
    written(a, b"x")


def test_a_directory_that_can_be_read_alone_takes_the_link_down_until_it_can_be_written(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, opened, tries = spooled(stack, A, tmp_path, B), os.open, Queue[str]()

    def read_alone(path: str, flags: int, mode: int = 0o777, **where: int) -> int:
        if flags & os.O_CREAT:
            tries.put(str(path))
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, mode, **where)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", read_alone)
        patched.setattr(io, "open", lambda path, *how, **what: read_alone(path, os.O_CREAT))
        assert a.transport.give(B, b"lost")
        assert a.told.next_link() == (B, False)
        for _ in range(5):
            tries.get(timeout=WAIT_S)
        assert "Read-only" in a.refused.get(timeout=WAIT_S)
        assert a.refused.empty(), "told once"
        assert a.told.links.empty(), "it goes up and down without end"
    assert a.told.next_link() == (B, True)
    written(a, b"x")


def test_a_disk_that_is_full_makes_frames_wait_and_leaves_nothing_half_written(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, fsync, tries = spooled(stack, A, tmp_path, B), os.fsync, Queue[int]()

    def full(file: int) -> None:
        tries.put(file)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert a.transport.give(B, b"one") and a.transport.give(B, b"two")
        for _ in range(5):
            tries.get(timeout=WAIT_S)
        assert "No space left" in a.refused.get(timeout=WAIT_S)
        assert a.refused.empty(), "told once"
        assert a.told.links.empty()
        patched.setattr(os, "fsync", fsync)
    b = spooled(stack, B, tmp_path, A)
    assert [b.told.next_frame(), b.told.next_frame()] == [(A, b"one"), (A, b"two")]
    a.transport.close()
    assert not [path for path in a.box(B, A).iterdir() if path.name.endswith(".new")]


def test_a_spool_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="cannot be used as a spool"):
        Spooled(A, tmp_path / "file").start(B)
