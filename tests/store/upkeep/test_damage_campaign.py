"""Damage of every live byte range: what a check calls whole is read right, a repair keeps what is told.

Each round damages one file of a copy of a small database, at a place that its seed decides. Two rounds in
three take it as a clean dismount has left it, with sums of its tables; of the others one as a kill of the
process that wrote has left it, one as a power cut has. Children look at it; one that dies tells of itself by
its death, and another goes on.

- A check ends without an error, and says clean only when every answer to a reader is what it was.
- A reader gets what was there or an error, whatever was damaged, and no process dies of it.
- A repair loses nothing that the stream tells, and names what it loses.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import random
import shutil
import signal
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mailbox_stores import held, mailbox_store, real_mail
from told_whole import told_whole

from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.disk.checkpoint import read_checkpoint, write_checkpoint
from pillarbox.store.disk.stream import FrameKind
from pillarbox.store.disk.tables import ItemRecord
from pillarbox.store.engine import change_feed
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import ReadTransaction
from pillarbox.store.errors import Corrupt, PillarboxError, RecoveryNeeded
from pillarbox.store.mail import folders, mailboxes, messages, views
from pillarbox.store.upkeep.check import check_dismounted
from pillarbox.store.upkeep.repair import repair_database

ACTOR = Actor.task("test")
PAGE = 4096
ROUNDS = {"short": 24, "long": 2000}.get(os.environ.get("PILLARBOX_CAMPAIGN", ""), 200)
TABLES, CHECKPOINT = Path("properties/data.mdb"), Path("checkpoint")

# LMDB's file: the header of a page; in a meta page the roots of its two trees, its number, and its end.
PAGE_HEADER, ROOTS_AT, TRANSACTION_AT, META_END = 16, (80, 128), 144, 152
BRANCH, OVERFLOW, SUBTREE = 1, 1, 2  # flags of a page, and of a row

Question = Callable[[ReadTransaction], Any]


def opened(path: Path) -> Database:
    return mailbox_store(path, Tuning(segment_bytes=60_000, checkpoint_pages=64, checkpoint_beside=False))


# -- what a reader can see


def listing(folder_id: int, sort: views.Sort, descending: bool) -> Question:
    def asked(reader: ReadTransaction) -> list[ItemRecord]:
        items: list[ItemRecord] = []
        after = None
        while True:
            page = views.page(reader, folder_id, sort=sort, descending=descending, after=after, limit=7)
            items += page.items
            after = page.next
            if after is None:
                return items

    return asked


def questions(reader: ReadTransaction) -> Iterator[Question]:
    """All that can be asked about what is there: mailboxes, folders and their counts, messages, changes."""
    yield lambda reader: list(mailboxes.all_of(reader))
    yield lambda reader: list(change_feed.changes(reader, CNSet()))
    for box in mailboxes.all_of(reader):
        yield lambda reader, name=box.name: mailboxes.find(reader, name)
        yield lambda reader, root_id=box.root_id: list(folders.walk(reader, root_id))
        for path, folder in folders.walk(reader, box.root_id):
            name = "/".join(path)
            yield lambda reader, root_id=box.root_id, name=name: folders.by_path(reader, root_id, name)
            yield from questions_of(folder.folder_id)
            for item in folders.messages(reader, folder.folder_id):
                message_id = item.message_id
                yield lambda reader, message_id=message_id: messages.get(reader, message_id)
                yield lambda reader, message_id=message_id: messages.content(
                    reader, messages.get(reader, message_id)
                )


def questions_of(folder_id: int) -> Iterator[Question]:
    yield lambda reader: folders.get(reader, folder_id)
    yield lambda reader: folders.find(reader, folder_id, "not there")
    yield lambda reader: list(folders.messages(reader, folder_id))
    yield lambda reader: list(views.search(reader, folder_id, views.Query(text="re")))
    yield lambda reader: list(change_feed.changes(reader, CNSet(), folder_id))
    yield lambda reader: list(change_feed.vanished(reader, folder_id, 0))
    for sort in views.Sort:
        yield listing(folder_id, sort, descending=False)
        yield listing(folder_id, sort, descending=True)


class Truth(NamedTuple):
    """A database, all questions about it with their answers, its messages, and its files of another time.

    `left` are its files as they are damaged, in each of the ways in which it may have been left; `used` is
    where the bytes of each count. `last` is where in its stream the last transaction of the one that a power
    cut left begins. Nothing else tells of that one: damaged, it is one whose writing was cut off.
    """

    path: Path
    asked: list[tuple[Question, Any]]
    held: list[tuple[ItemRecord, bytes]]
    older: Path
    left: list[Path]
    used: dict[Path, dict[Path, list[range]]]
    last: tuple[Path, int]

    def base(self, seed: int) -> Path:
        """The files that a round damages."""
        return self.left[0] if seed % 3 else self.left[1 + seed // 3 % 2]


def deliver(database: Database, numbers: range) -> None:
    mail = real_mail()
    with database.read(ACTOR) as reader:
        anna, bert = mailboxes.find(reader, "anna"), mailboxes.find(reader, "bert")
        lists = folders.by_path(reader, anna.root_id, "Lists")
    for number in numbers:
        prepared = messages.prepare(database.files, b"X-Number: %d\r\n" % number + mail[number % len(mail)])
        with database.transaction(ACTOR) as txn:
            item, _ = messages.deliver(txn, [anna.guid, bert.guid], prepared)
        with database.transaction(ACTOR) as txn:
            if number % 3 == 0:
                messages.move(txn, item.message_id, lists.folder_id)
            elif number % 5 == 0:
                messages.delete(txn, item.message_id)
            elif number % 7 == 0:
                messages.set_flags(txn, item.message_id, add=["\\Seen", "work"])


def deliver_and_be_killed(path: Path, numbers: range) -> None:
    child = os.fork()
    if not child:
        faulthandler.disable()
        database = opened(path)
        database.mount()
        deliver(database, numbers)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    directory = tmp_path_factory.mktemp("truth")
    database, older = opened(directory / "db"), directory / "older"
    database.create()
    database.mount()
    with database.transaction(ACTOR) as txn:
        anna, _ = mailboxes.create(txn, "anna"), mailboxes.create(txn, "bert")
        folders.create(txn, anna.root_id, "Lists")
    deliver(database, range(41))
    database.dismount()
    shutil.copytree(database.path, older)
    deliver_and_be_killed(database.path, range(41, 64))
    killed, cut = directory / "killed", directory / "cut"
    for each in (killed, cut):
        shutil.copytree(database.path, each)
    write_checkpoint(cut, read_checkpoint(cut)._replace(boot=b"the boot before!"))
    database.mount()
    database.dismount()
    database.mount(read_only=True)
    with database.read(ACTOR) as reader:
        asked = [(question, question(reader)) for question in questions(reader)]
    before = held(database)
    database.dismount()
    left = [database.path, killed, cut]
    used = {path: used_bytes(path) for path in left}
    return Truth(database.path, asked, before, older, left, used, last_transaction(cut))


# -- the bytes that count


def used_tables(data: bytes) -> list[range]:
    """The bytes of LMDB's file that lead to a row or to a free page, from its newer meta page on."""
    meta = max((0, PAGE), key=lambda at: struct.unpack_from("<Q", data, at + TRANSACTION_AT)[0])
    used = [range(meta + PAGE_HEADER, meta + META_END)]
    waiting = [struct.unpack_from("<Q", data, meta + at)[0] for at in ROOTS_AT]
    while waiting:
        start = PAGE * waiting.pop()
        if start >= len(data):
            continue  # the root of an empty tree
        _, _, flags, lower, upper = struct.unpack_from("<QHHHH", data, start)
        used += [range(start, start + lower), range(start + upper, start + PAGE)]
        for slot in range(start + PAGE_HEADER, start + lower, 2):
            node = start + struct.unpack_from("<H", data, slot)[0]
            low, high, node_flags, key_bytes = struct.unpack_from("<HHHH", data, node)
            value = node + 8 + key_bytes
            if flags & BRANCH:
                waiting.append(low | high << 16 | node_flags << 32)
            elif node_flags & SUBTREE:
                waiting.append(struct.unpack_from("<Q", data, value + 40)[0])
            elif node_flags & OVERFLOW:
                first = PAGE * struct.unpack_from("<Q", data, value)[0]
                used.append(range(first, first + PAGE_HEADER + (low | high << 16)))
    return used


def used_bytes(path: Path) -> dict[Path, list[range]]:
    """The live byte ranges of each file of a database, by the name below its directory, in pages or less."""
    found = {TABLES: used_tables((path / TABLES).read_bytes())}
    for file in (path / CHECKPOINT, *sorted(path.glob("stream/*.stm"))):
        end = len(file.read_bytes().rstrip(b"\0"))
        found[file.relative_to(path)] = [range(at, min(at + PAGE, end)) for at in range(0, end, PAGE)]
    return found


def last_transaction(path: Path) -> tuple[Path, int]:
    """The last segment, and where its last transaction begins."""
    stream = opened(path).stream
    segment = stream.segments()[-1]
    ends = [at + frame.length for at, frame in stream.frames(segment) if frame.kind == FrameKind.REDO]
    return stream.path(segment).relative_to(path), ends[-2]


# -- damage, of the live bytes `at` of a file


def flip_a_bit(data: bytearray, at: range, rng: random.Random, _: bytes) -> None:
    data[rng.choice(at)] ^= 1 << rng.randrange(8)


def zero_a_stretch(data: bytearray, at: range, rng: random.Random, _: bytes) -> None:
    start = rng.choice(at)
    length = min(rng.choice((16, 512, PAGE)), len(data) - start)
    data[start : start + length] = bytes(length)


def zero_a_page(data: bytearray, at: range, rng: random.Random, _: bytes) -> None:
    start = at.start // PAGE * PAGE
    data[start : start + PAGE] = bytes(len(data[start : start + PAGE]))


def swap_pages(data: bytearray, at: range, rng: random.Random, _: bytes) -> None:
    one, other = at.start // PAGE * PAGE, PAGE * rng.randrange(len(data) // PAGE)
    data[one : one + PAGE], data[other : other + PAGE] = data[other : other + PAGE], data[one : one + PAGE]


def an_older_page(data: bytearray, at: range, _: random.Random, old: bytes) -> None:
    start = at.start // PAGE * PAGE
    page = old[start : start + PAGE]
    data[start : start + len(page)] = page


KINDS = (flip_a_bit, flip_a_bit, zero_a_stretch, zero_a_page, swap_pages, an_older_page)


class Damage(NamedTuple):
    """The file below the database's directory, the first of the live bytes that were hit, and how."""

    file: Path
    offset: int
    kind: str


def damage(truth: Truth, path: Path, seed: int) -> Damage:
    """Change one page: one round in ten of the checkpoint, three of the stream, else of the tables."""
    rng = random.Random(seed)
    used = truth.used[truth.base(seed)]
    name = TABLES
    if seed % 10 == 0:
        name = CHECKPOINT
    elif seed % 10 in (1, 4, 7):
        name = rng.choice([file for file in used if file.suffix == ".stm"])
    older = truth.older / name
    old = older.read_bytes() if older.exists() else b""
    data = before = (path / name).read_bytes()
    while data == before:
        at, kind, changed = rng.choice(used[name]), rng.choice(KINDS), bytearray(before)
        kind(changed, at, rng, old)
        if name == truth.last[0] and truth.base(seed).name == "cut":
            changed[truth.last[1] :] = before[truth.last[1] :]
        data = bytes(changed)
    (path / name).write_bytes(data)
    return Damage(name, at.start, kind.__name__)


# -- children, one after the other


class Step(NamedTuple):
    """What a child does, and in which round."""

    seed: int
    name: str


def answers(steps: list[Step], do: Callable[[Step], Any]) -> Iterator[tuple[Step, Any]]:
    """What children answer, step by step; how a child ended is the answer to the step that it died of."""
    done = 0
    while done < len(steps):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            faulthandler.disable()  # pytest's own: a database's mark needs it
            with suppress(BaseException), os.fdopen(writing, "wb") as pipe:
                for step in steps[done:]:
                    pickle.dump(do(step), pipe)
                    pipe.flush()
                os._exit(0)
            os._exit(1)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe, suppress(EOFError):
            while True:
                answer = pickle.load(pipe)
                yield steps[done], answer
                done += 1
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if done < len(steps):
            yield steps[done], f"ended with {code}"
            done += 1


def checked(path: Path) -> str:
    """`clean`, or the first finding; what is not mounted for its damage has one."""
    try:
        findings: Sequence[Any] = check_dismounted(opened(path), ACTOR).findings
    except RecoveryNeeded:
        try:
            opened(path).recover()
            findings = check_dismounted(opened(path), ACTOR).findings
        except Corrupt as error:
            findings = [error]
    return f"found: {findings[0]}" if findings else "clean"


def seen(truth: Truth, path: Path) -> str:
    """How a reader fares who asks everything: `right`, `refused` (an error somewhere), or `wrong`."""
    database = opened(path)
    try:
        database.mount()
    except PillarboxError:
        return "refused"
    found = {answered(database, question, wanted) for question, wanted in truth.asked}
    with suppress(PillarboxError):
        database.dismount()
    return next(answer for answer in ("wrong", "refused", "right") if answer in found)


def answered(database: Database, question: Question, wanted: Any) -> str:
    try:
        with database.read(ACTOR) as reader:
            return "right" if question(reader) == wanted else "wrong"
    except PillarboxError:
        return "refused"


def repaired(truth: Truth, path: Path, *, is_cut: bool) -> str:
    """`kept` when a repair lost nothing that the stream tells and named all else; else what was wrong."""
    told = told_whole(opened(path), opened(truth.path), truth.held)
    is_stream_whole = stream_bytes(path) == stream_bytes(truth.path)
    database = opened(path)
    database.rng = random.Random(2)  # not the one that the store was made with: GUIDs would come again
    report = repair_database(database)
    findings = check_dismounted(opened(path), ACTOR).findings
    database.mount()
    after = held(database)
    database.dismount()
    before, now = Counter(raw for _, raw in truth.held), Counter(raw for _, raw in after)
    if findings:
        return f"damaged after it: {findings[0]}"
    if is_stream_whole and (report.lost or report.recovered or after != truth.held):
        return f"lost from a whole stream: {report.lost}, {report.recovered} recovered"
    if told - now:
        return f"lost {sum((told - now).values())} messages that the stream tells"
    if now - before:
        return "made messages that never were"
    # A power cut leaves what was written since the checkpoint to the stream alone.
    words = len(truth.held) if report.damaged_stream and is_cut else len(report.lost)
    if sum((before - now).values()) > words:
        return "lost messages without a word"
    return "kept"


def stream_bytes(path: Path) -> dict[str, bytes]:
    """The segments, without the room behind their ends."""
    return {segment.name: segment.read_bytes().rstrip(b"\0") for segment in path.glob("stream/*.stm")}


@pytest.mark.slow
def test_no_damage_is_served_as_whole_or_costs_what_the_stream_tells(truth: Truth, tmp_path: Path) -> None:
    def do(step: Step) -> Any:
        path, read = tmp_path / f"{step.seed}", tmp_path / f"{step.seed}-read"
        if step.name == "damage":
            shutil.copytree(truth.base(step.seed), path)
            made = damage(truth, path, step.seed)
            shutil.copytree(path, read)
            return made
        if step.name == "check":
            return checked(path)
        if step.name == "repair":
            answer = repaired(truth, path, is_cut=truth.base(step.seed).name == "cut")
            shutil.rmtree(path)
            shutil.rmtree(read)
            return answer
        return seen(truth, read)

    names = ("damage", "check", "read", "again", "repair")
    rounds: dict[int, dict[str, Any]] = {}
    for step, answer in answers([Step(seed, name) for seed in range(ROUNDS) for name in names], do):
        rounds.setdefault(step.seed, {})[step.name] = answer
    failed = {seed: told for seed, told in rounds.items() if is_broken(**told)}
    assert not failed, "\n".join(f"{seed}: {told}" for seed, told in failed.items())
    kinds = Counter(
        (truth.base(seed).name, told["damage"].file.suffix, told["check"][:5], told["read"])
        for seed, told in rounds.items()
    )
    assert all(kinds["db", suffix, "found", "refused"] for suffix in (".mdb", ".stm", "")), kinds
    print(*(f"{count} {kind}" for kind, count in kinds.most_common()), sep="\n")


def is_broken(damage: Damage, check: str, read: str, again: str, repair: str) -> bool:
    """True when a round broke a promise (see above)."""
    if check == "clean":
        is_right = read == again == "right"
    else:
        is_right = check.startswith("found") and {read, again} <= {"right", "refused"}
    return not is_right or repair != "kept"
