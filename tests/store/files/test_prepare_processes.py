"""Messages made ready by other processes are the same as those made ready here, whatever becomes of these."""

from __future__ import annotations

import os
import random
import select
import signal
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.store.access import Actor
from pillarbox.store.content.blocks import PreparedBlock, PreparedContent
from pillarbox.store.disk.stream import FrameKind, parse_frame
from pillarbox.store.engine import content_store
from pillarbox.store.engine.database import Database
from pillarbox.store.files import prepare_processes
from pillarbox.store.files.mbox import read_mbox
from pillarbox.store.files.prepare_processes import prepare_all
from pillarbox.store.mail import mailboxes, messages
from pillarbox.store.mail.messages import PreparedMessage
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.maintenance import _add_dictionary

ACTOR = Actor.task("test")
DATA = Path(__file__).parents[2] / "data"
ATTACHMENT = random.Random(1).randbytes(9000).hex().encode()


class Process(prepare_processes._Process):
    """One whose work is waited for until it has begun."""

    def is_ready(self) -> bool:
        if not self._is_ready:
            select.select([self._answers], [], [])
        return super().is_ready()


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """The processes that a test has started, which are of use from the first messages on."""
    started: list[Process] = []

    def start(memory_file: int) -> Process:
        started.append(Process(memory_file))
        return started[-1]

    monkeypatch.setattr(prepare_processes, "START_AFTER_MESSAGES", 3)
    monkeypatch.setattr(prepare_processes, "_CHUNK_MESSAGES", 3)
    monkeypatch.setattr(prepare_processes, "_AHEAD_CHUNKS", 2)
    monkeypatch.setattr(prepare_processes, "_Process", start)
    return started


def mail() -> list[bytes]:
    raws = [item.raw for path in sorted(DATA.glob("*.mbox")) for item in read_mbox(path)]
    odd = [
        b"",
        b"\n",
        b"no header",
        bytes(range(256)) * 20,
        b"A: b\n\n" + ATTACHMENT,
        b"C: d\n\n" + ATTACHMENT,
    ]
    return raws + odd


def preparing(
    database: Database, raws: Iterable[bytes]
) -> Generator[tuple[bytes, PreparedMessage], None, None]:
    return prepare_all(database.files, raws, lambda raw: raw, 2)


def prepared_by_processes(database: Database, raws: list[bytes]) -> list[PreparedMessage]:
    items = list(enumerate(raws))
    found = list(prepare_all(database.files, items, lambda item: item[1], 2))
    assert [item for item, _ in found] == items
    return [ready for _, ready in found]


def store(database: Database, prepared: list[PreparedMessage]) -> list[bytes]:
    """What is read of messages once they are stored."""
    with database.transaction(ACTOR) as txn:
        inbox = mailboxes.create(txn, "anna").roles[mailboxes.INBOX]
        items = [messages.append(txn, inbox, each) for each in prepared]
    with database.read(ACTOR) as read:
        return [messages.content(read, item) for item in items]


def test_they_are_the_same_and_come_in_order(database: Database) -> None:
    raws = mail()
    prepared = prepared_by_processes(database, raws)
    here = [messages.prepare(database.files, raw) for raw in raws]
    assert [each.envelope for each in prepared] == [each.envelope for each in here]
    assert [each.content.digest for each in prepared] == [each.content.digest for each in here]
    assert store(database, prepared) == raws
    assert check_database(database, ACTOR).clean


def test_a_block_is_given_back_once_and_made_again_where_it_is_missing(database: Database) -> None:
    raws = [b"Number: %d\n\n" % number + ATTACHMENT for number in range(40)]
    prepared = prepared_by_processes(database, raws)
    without = [each for each in prepared if not each.content.parts[0].blocks[0].is_whole]
    assert len(without) >= 40 - 3 - 2, "one of each process, and those made ready here"
    assert store(database, without) == [each.raw for each in without]


@pytest.mark.parametrize(
    "how",
    [
        "killed",
        "stopped",
        "stopped before a dictionary",
        "killed as it begins",
        "never ready",
        "not started",
    ],
)
def test_without_the_processes_it_is_done_here(
    database: Database, processes: list[Process], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "not started":
        monkeypatch.setattr(sys, "executable", "/nonexistent")
    if how == "killed as it begins":
        monkeypatch.setattr(sys, "executable", "/bin/false")
    if how == "never ready":
        monkeypatch.setattr(Process, "is_ready", lambda process: False)
    raws = mail()
    coming = preparing(database, raws)
    prepared = [next(coming)[1] for _ in range(4)]
    if how == "stopped before a dictionary":  # which takes more than a pipe does
        _add_dictionary(database, ACTOR, random.Random(1).randbytes(110_000))
    if how.startswith("stopped") or how == "killed":
        monkeypatch.setattr(prepare_processes, "_PATIENCE_MS", 0)
        assert len(processes) == 2
        for each in processes:
            each._process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    prepared += [ready for _, ready in coming]
    assert store(database, prepared) == raws


def test_what_is_too_large_for_the_memory_is_made_ready_here(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_processes, "_MEMORY_BYTES", 10_000)
    raws = [b"A: %d\n\n" % number + ATTACHMENT[: 300 * (number % 40)] for number in range(120)]
    prepared = prepared_by_processes(database, raws)
    here = [each for each in prepared if each.content.skeleton.raw is not None]
    assert 3 < len(here) < len(prepared), "three to a chunk: some are larger than all of the memory"
    assert store(database, prepared) == raws


def test_an_answer_that_is_longer_than_its_room_is_made_here(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_processes, "_MORE_ROOM_BYTES", 0)
    raws = [b"Subject: %d\n\n" % number for number in range(30)]
    prepared = prepared_by_processes(database, raws)
    assert all(each.content.skeleton.raw is not None for each in prepared)
    assert store(database, prepared) == raws


@given(st.lists(st.one_of(st.integers(1, 120), st.none()), max_size=200))
def test_places_in_the_memory_never_overlap(steps: list[int | None]) -> None:
    memory = prepare_processes._Memory()
    with os.fdopen(os.memfd_create("test")) as file:
        memory.share(file.fileno(), 100)
    taken: deque[tuple[int, int]] = deque()
    for length in steps:
        if length is None:
            if taken:
                taken.popleft()
                memory.give_back()
            continue
        place = memory.find(length)
        if place is None:
            assert taken or length > 100, "an empty one has room for all that is not larger"
            continue
        memory.put(place, length, [])
        assert place >= 0 and place + length <= 100
        assert all(place + length <= begin or end <= place for begin, end in taken)
        taken.append((place, place + length))


def test_a_dictionary_that_is_trained_meanwhile_is_used(database: Database) -> None:
    raws = [b"Subject: the same words again and again %d\n\nshort" % number * 3 for number in range(60)]
    coming = preparing(database, raws)
    prepared = [next(coming)[1] for _ in range(20)]
    assert _add_dictionary(database, ACTOR, b"Subject: the same words again and again " * 30) == 1
    prepared += [ready for _, ready in coming]
    used = [dictionary_of(each) for each in prepared]
    assert used[0] == 0 and used[-1] == 1
    assert store(database, prepared) == raws


def dictionary_of(prepared: PreparedMessage) -> int:
    frame = prepared.content.skeleton.made_frame()
    assert frame is not None
    return parse_frame(frame, 0, "").dictionary


def test_the_processes_end_with_the_last_message_and_when_it_is_closed_before(
    database: Database, processes: list[Process]
) -> None:
    raws = [b"Subject: %d\n\n" % number for number in range(60)]
    prepared_by_processes(database, raws)
    with closing(preparing(database, raws)) as coming:
        assert [next(coming)[1].raw for _ in range(10)] == raws[:10]
        assert [each._process.poll() is None for each in processes] == [False, False, True, True]
    assert all(each._process.poll() is not None for each in processes)


def test_a_python_that_prints_as_it_begins_disturbs_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('welcome to this machine')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    raws = mail()
    prepared = prepared_by_processes(database, raws)
    assert any(each.content.skeleton.raw is None for each in prepared)
    assert store(database, prepared) == raws


def test_what_the_reader_raises_ends_it(database: Database, processes: list[Process]) -> None:
    def failing() -> Iterator[bytes]:
        yield from [b"one"] * 10
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(preparing(database, failing()))
    assert processes and all(each._process.poll() is not None for each in processes)


def test_content_without_its_bytes_is_never_stored_without_them(database: Database) -> None:
    raw = b"A: b\n\n" + ATTACHMENT
    whole = content_store.prepare(database.files, raw)
    skeleton = PreparedBlock(FrameKind.SKELETON, None, whole.digest)
    nothing = PreparedContent(whole.digest, whole.size, whole.size_crlf, skeleton, ())
    prepared = messages.prepare(database.files, raw)._replace(content=nothing)
    assert store(database, [prepared]) == [raw]
