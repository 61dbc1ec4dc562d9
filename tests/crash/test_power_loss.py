"""Power loss at any moment: every state the disk can be in opens, whole, with all that was acknowledged.

A recorder stands between the engine and the system. It keeps, for every file, what has been flushed and every
write, change of length, rename and deletion since. A crash state is what was flushed and any subset of the
rest: each write there, absent, or torn at 512 or 4096 bytes. LMDB writes past the recorder, so its file is
compared between flushes instead, and each page that differs may be old, new or torn in a crash state.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk import env as env_module
from pillarbox.store.disk.tables import IDENTITY_KEY, LAYOUT_VERSION, DatabaseKind, Table
from pillarbox.store.engine import checkpointer as checkpointer_module
from pillarbox.store.engine import database as database_module
from pillarbox.store.engine import replay as replay_module
from pillarbox.store.engine import upgrade
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.mail import folders, mailboxes, messages
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.maintenance import compact
from pillarbox.store.upkeep.repair import repair_database

ACTOR = Actor.task("test")
GUID = b"power-loss-store"
SHORT = os.environ.get("PILLARBOX_CAMPAIGN") == "short"
PAGE = 4096
TABLES = "properties/data.mdb"
# The recorder follows one thread.
TUNING = Tuning(24 << 10, checkpoint_stream_bytes=40 << 10, checkpoint_pages=40, checkpoint_beside=False)


class TracedFile:
    """One file: its flushed bytes and what was done to it since, in order."""

    def __init__(self, data: bytes = b"") -> None:
        self.flushed = data
        self.waiting: list[tuple[int, bytes] | int] = []  # (offset, bytes), or a new length

    def now(self) -> bytes:
        data = bytearray(self.flushed)
        for change in self.waiting:
            put(data, change)
        return bytes(data)

    def flush(self) -> None:
        self.flushed, self.waiting = self.now(), []


def put(data: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        del data[change:]
        data.extend(bytes(change - len(data)))
        return
    offset, written = change
    data.extend(bytes(max(0, offset - len(data))))
    data[offset : offset + len(written)] = written


class Recorder:
    """What happened to the files below `root`. Names: directory entries that are flushed, and those now."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.files: dict[str, TracedFile] = {}
        self.names_flushed: dict[str, TracedFile] = {}
        self.table_versions: list[bytes] = []
        for path in root.rglob("*"):
            if path.is_file() and path.name != "lock.mdb":
                self.files[self.name(path)] = TracedFile(path.read_bytes())
        self.names_flushed = dict(self.files)
        self._patch(patch)

    def is_below(self, path: Path | str) -> bool:
        return Path(path).is_relative_to(self.root)

    def name(self, path: Path | str) -> str:
        return str(Path(path).relative_to(self.root))

    def of(self, descriptor: int) -> TracedFile | None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not self.is_below(path) or path.is_dir():
            return None
        return self.files.setdefault(self.name(path), TracedFile())

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        pwrite, ftruncate, fallocate = os.pwrite, os.ftruncate, os.posix_fallocate
        fdatasync, fsync = os.fdatasync, os.fsync
        replace, unlink, sync = Path.replace, Path.unlink, env_module.Env.sync

        def traced_pwrite(file: int, data: Any, offset: int) -> int:
            written = pwrite(file, data, offset)
            if (traced := self.of(file)) is not None:
                traced.waiting.append((offset, bytes(data[:written])))
            return written

        def traced_ftruncate(file: int, length: int) -> None:
            ftruncate(file, length)
            if (traced := self.of(file)) is not None:
                traced.waiting.append(length)

        def traced_fallocate(file: int, offset: int, length: int) -> None:
            fallocate(file, offset, length)
            traced = self.of(file)
            if traced is not None and offset + length > len(traced.now()):
                traced.waiting.append(offset + length)

        def traced_flush(file: int, flush: Any) -> None:
            path = Path(f"/proc/self/fd/{file}").readlink()
            traced = self.of(file)
            if traced is not None:
                self.see_plain_writes(path, traced)
                flush(file)
                traced.flush()
                return
            flush(file)
            if self.is_below(path):
                self.flush_names(self.name(path))

        def traced_replace(path: Path, target: Path) -> Path:
            result = replace(path, target)
            if self.is_below(path):
                self.files[self.name(target)] = self.files.pop(self.name(path))
            return result

        def traced_unlink(path: Path, missing_ok: bool = False) -> None:
            unlink(path, missing_ok)
            if self.is_below(path):
                self.files.pop(self.name(path), None)

        def traced_sync(env: env_module.Env) -> None:
            # Whatever LMDB wrote before this call is on disk when it returns.
            data = (env.path / "data.mdb").read_bytes()
            sync(env)
            if self.is_below(env.path):
                self.files[TABLES].flushed = data
                self.table_versions = []

        patch.setattr(os, "pwrite", traced_pwrite)
        patch.setattr(os, "ftruncate", traced_ftruncate)
        patch.setattr(os, "posix_fallocate", traced_fallocate)
        patch.setattr(os, "fdatasync", lambda file: traced_flush(file, fdatasync))
        patch.setattr(os, "fsync", lambda file: traced_flush(file, fsync))
        patch.setattr(Path, "replace", traced_replace)
        patch.setattr(Path, "unlink", traced_unlink)
        patch.setattr(env_module.Env, "sync", traced_sync)

    def see_plain_writes(self, path: Path, traced: TracedFile) -> None:
        """A file object wrote or cut it without a call that is traced: one write of all that differs."""
        data = path.read_bytes()
        if data != traced.now():
            traced.waiting += [(0, data), len(data)]

    def flush_names(self, directory: str) -> None:
        prefix = "" if directory == "." else directory + "/"

        def inside(name: str) -> bool:
            return name.startswith(prefix) and "/" not in name[len(prefix) :]

        kept = {name: file for name, file in self.names_flushed.items() if not inside(name)}
        self.names_flushed = kept | {name: file for name, file in self.files.items() if inside(name)}

    # -- crash states

    def crash_state(self, target: Path, rng: random.Random) -> None:
        """Write one of the states the disk may be in if the power fails now."""
        names = dict(self.names_flushed)
        for name in sorted(self.files.keys() | self.names_flushed.keys()):
            if names.get(name) is not self.files.get(name) and rng.random() < 0.5:
                names.pop(name, None)
                if name in self.files:
                    names[name] = self.files[name]
        keep = rng.choice((0.0, 0.5, 0.9, 1.0))
        for name, traced in names.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name == TABLES:
                # The system may have written a page back at any time since the flush, and again, or not.
                self.table_versions = [*self.table_versions[-4:], (self.root / name).read_bytes()]
                path.write_bytes(torn_pages(traced.flushed, self.table_versions, keep, rng))
            else:
                path.write_bytes(torn_file(traced, keep, rng))
        (target / "stream").mkdir(exist_ok=True)


def torn_file(traced: TracedFile, keep: float, rng: random.Random) -> bytes:
    data = bytearray(traced.flushed)
    for change in traced.waiting:
        if isinstance(change, int):
            if rng.random() < keep:
                put(data, change)
            continue
        offset, written = change
        sector = rng.choice((512, PAGE))
        at = 0
        while at < len(written):
            step = min(sector - (offset + at) % sector, len(written) - at)
            if rng.random() < keep:
                put(data, (offset + at, written[at : at + step]))
            at += step
    return bytes(data)


def torn_pages(old: bytes, versions: list[bytes], keep: float, rng: random.Random) -> bytes:
    data = bytearray(old)
    length = len(versions[-1])
    sector = rng.choice((512, PAGE))
    if length > len(old) and rng.random() < 0.8:
        data.extend(bytes(rng.randrange(len(old), length + 1) - len(old)))
    for at in range(0, length, sector):
        if rng.random() < keep:
            written = rng.choice(versions)[at : at + sector]
            if written and written != old[at : at + sector]:
                put(data, (at, written))
    return bytes(data)


class Workload:
    """Deliveries, moves and deletions; knows what was acknowledged."""

    def __init__(self, database: Database, rng: random.Random) -> None:
        self.database = database
        self.rng = rng
        self.held: dict[int, tuple[bytes, int]] = {}  # message id -> bytes, folder id
        self.in_doubt: dict[int, tuple[bytes, int] | None] = {}
        self.sequence = 0
        with database.transaction(ACTOR) as txn:
            anna = mailboxes.create(txn, "anna")
            self.folders = [anna.roles[role] for role in ("inbox", "sent", "drafts")]

    def raw(self) -> bytes:
        body = self.rng.randbytes(self.rng.choice((40, 700, 3000, 9000)))
        return b"Subject: %d\r\n\r\n" % self.rng.randrange(10**6) + body

    def step(self) -> None:
        prepared = [
            messages.prepare(self.database.files, self.raw()) for _ in range(self.rng.randrange(1, 4))
        ]
        with self.database.transaction(ACTOR) as txn:
            changed: dict[int, tuple[bytes, int] | None] = {}
            for each in prepared:
                item = messages.append(txn, self.rng.choice(self.folders), each)
                changed[item.message_id] = (each.raw, item.folder_id)
            for message_id in self.rng.sample(sorted(self.held), min(2, len(self.held))):
                if self.rng.random() < 0.5:
                    messages.delete(txn, message_id)
                    changed[message_id] = None
                else:
                    moved = messages.move(txn, message_id, self.rng.choice(self.folders))
                    changed[message_id] = (self.held[message_id][0], moved.folder_id)
            self.in_doubt = changed
        self.settle()

    def settle(self) -> None:
        for message_id, what in self.in_doubt.items():
            if what is None:
                del self.held[message_id]
            else:
                self.held[message_id] = what
        self.in_doubt = {}

    def possible(self) -> list[dict[int, tuple[bytes, int]]]:
        """The states the database may show: without the transaction that is going on, and with it."""
        after = {**self.held, **{key: what for key, what in self.in_doubt.items() if what is not None}}
        gone = {key for key, what in self.in_doubt.items() if what is None}
        return [self.held, {key: what for key, what in after.items() if key not in gone}]


def new_database(path: Path) -> Database:
    return Database(
        path,
        GUID,
        "DB",
        DatabaseKind.MAILBOX_STORE,
        clock=VirtualClock(),
        rng=random.Random(str(path)),
        tuning=TUNING,
    )


def found_in(database: Database, folder_ids: list[int]) -> dict[int, tuple[bytes, int]]:
    with database.read(ACTOR) as read:
        items = [item for each in folder_ids for item in folders.messages(read, each)]
        for table in Table:
            list(
                read.records(table, b"", None)
                if table < Table.FOLDER_NAME
                else read.indexes(table, b"", None)
            )
        return {item.message_id: (messages.content(read, item), item.folder_id) for item in items}


class PowerLoss:
    """Tries crash states of a database at work."""

    def __init__(self, tmp_path: Path, patch: pytest.MonkeyPatch, seed: int) -> None:
        self.rng = random.Random(seed)
        self.patch = patch
        self.scratch = tmp_path / "state"
        self.states = 0
        self.boot = 1
        for module in (database_module, checkpointer_module):
            patch.setattr(module, "boot_identity", lambda: self.boot.to_bytes(16, "big"))
        path = tmp_path / "live"
        new_database(path).create()
        self.path = path
        self.recorder = Recorder(path, patch)
        self.database = new_database(path)
        self.database.mount()
        self.workload = Workload(self.database, self.rng)

    def try_states(self, count: int) -> None:
        for _ in range(count):
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.recorder.crash_state(self.scratch, self.rng)
            self.states += 1
            with self.next_boot():
                self._open_and_check()

    @contextmanager
    def next_boot(self) -> Iterator[None]:
        before = self.boot
        self.boot = before + 1
        try:
            yield
        finally:
            self.boot = before

    def _open_and_check(self) -> None:
        database = new_database(self.scratch)
        try:
            database.mount()
            found = found_in(database, self.workload.folders)
            assert found in self.workload.possible()
            assert check_database(database, ACTOR).clean
            with database.transaction(ACTOR) as txn:
                mailboxes.create(txn, "after the crash")
        finally:
            database.dismount()


def seams(patch: pytest.MonkeyPatch, between: Any) -> None:
    """Call `between` before every flush and after every write, where states differ from those at rest."""
    pwrite, fdatasync, fsync, sync = os.pwrite, os.fdatasync, os.fsync, env_module.Env.sync

    def write(file: int, data: Any, offset: int) -> int:
        written = pwrite(file, data, offset)
        between()
        return written

    def flush_data(file: int) -> None:
        between()
        fdatasync(file)

    def flush(file: int) -> None:
        between()
        fsync(file)

    def flush_tables(env: env_module.Env) -> None:
        between()
        sync(env)
        between()

    patch.setattr(os, "pwrite", write)
    patch.setattr(os, "fdatasync", flush_data)
    patch.setattr(os, "fsync", flush)
    patch.setattr(env_module.Env, "sync", flush_tables)


def run_campaign(
    tmp_path: Path, patch: pytest.MonkeyPatch, seed: int, steps: int, at_rest: int, at_seams: int
) -> int:
    loss = PowerLoss(tmp_path, patch, seed)
    busy = False

    def between() -> None:
        nonlocal busy
        if busy:
            return
        busy = True
        try:
            loss.try_states(at_seams)
        finally:
            busy = False

    seams(patch, between)
    for _ in range(steps):
        loss.workload.step()
        busy = True
        loss.try_states(at_rest)
        busy = False
    busy = True
    loss.database.dismount()
    return loss.states


def test_power_loss_while_mounting_after_a_power_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replay applies more than once, and must not use a page that the checkpoint still needs."""
    monkeypatch.setattr(replay_module, "_ROWS_PER_APPLY", 10)
    loss = PowerLoss(tmp_path, monkeypatch, seed=5)
    loss.database.tuning = TUNING._replace(checkpoint_stream_bytes=10 << 20, checkpoint_pages=1 << 20)
    loss.database.dismount()
    loss.database.mount()
    for _ in range(15):
        loss.workload.step()
    second = tmp_path / "second"
    loss.recorder.crash_state(second, random.Random(1))
    loss.database.dismount()
    loss.recorder = Recorder(second, monkeypatch)
    apply, applied = env_module.Env.apply, 0
    trying = False

    def between(env: env_module.Env, changes: Any, before_commit: Any = None) -> None:
        nonlocal applied, trying
        apply(env, changes, before_commit)
        if env.path.is_relative_to(second) and not trying:
            applied += 1
            trying = True
            loss.try_states(1)
            trying = False

    with loss.next_boot():
        monkeypatch.setattr(env_module.Env, "apply", between)
        recovered = new_database(second)
        recovered.mount()
        recovered.dismount()
    assert applied > 5


def test_every_state_of_a_power_loss_opens_with_all_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    states = run_campaign(tmp_path, monkeypatch, seed=1, steps=12, at_rest=2, at_seams=1)
    record_property("crash_states", states)
    assert states >= 50


class CompactionLoss(PowerLoss):
    """Tries crash states also as the stream alone: what is left of it must make the same tables again."""

    def _open_and_check(self) -> None:
        super()._open_and_check()
        if self.states % 4:
            return
        database = new_database(self.scratch)
        (self.scratch / "checkpoint").unlink()
        (self.scratch / TABLES).write_bytes(b"lost")
        assert repair_database(database).lost == ()
        database.mount()
        try:
            assert found_in(database, self.workload.folders) in self.workload.possible()
        finally:
            database.dismount()


def run_compactions(tmp_path: Path, patch: pytest.MonkeyPatch, seed: int, rounds: int, at_seams: int) -> int:
    loss = CompactionLoss(tmp_path, patch, seed)
    if seed % 2:
        # No checkpoint but compaction's own: replay would need the segments if they went before it.
        loss.database.dismount()
        loss.database.tuning = TUNING._replace(checkpoint_stream_bytes=10 << 20, checkpoint_pages=1 << 20)
        loss.database.mount()
    busy = True

    def between() -> None:
        nonlocal busy
        if not busy:
            busy = True
            loss.try_states(at_seams)
            busy = False

    seams(patch, between)
    unlink = Path.unlink

    def traced_unlink(path: Path, missing_ok: bool = False) -> None:
        between()
        unlink(path, missing_ok)
        between()

    patch.setattr(Path, "unlink", traced_unlink)
    oldest = 1
    for _ in range(rounds):
        for _ in range(14):
            loss.workload.step()
        busy = False
        compact(loss.database, ACTOR, live_ratio_max=0.9)
        busy = True
        loss.try_states(2)
        oldest = loss.database.stream.segments()[0]
    assert oldest > 1
    loss.database.dismount()
    return loss.states


def test_a_power_loss_at_any_step_of_compaction_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_compactions(tmp_path, monkeypatch, seed=1, rounds=1, at_seams=1) >= 15


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_power_loss_during_compaction_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any, seed: int
) -> None:
    states = run_compactions(tmp_path, monkeypatch, seed, rounds=2 if SHORT else 6, at_seams=3)
    record_property("crash_states", states)
    print(f"{states} crash states opened and checked")
    assert states >= (30 if SHORT else 100)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 30))
def test_power_loss_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any, seed: int
) -> None:
    states = run_campaign(tmp_path, monkeypatch, seed, steps=30 if SHORT else 60, at_rest=5, at_seams=3)
    record_property("crash_states", states)
    print(f"{states} crash states opened and checked")
    assert states >= 200


# -- upgrades

GOLDEN = Path(__file__).parents[1] / "backup" / "golden_server_1.zip"


class UpgradeLoss(PowerLoss):
    """Tries crash states of a database of layout 1 that a newer program replays and upgrades."""

    def __init__(self, tmp_path: Path, patch: pytest.MonkeyPatch, seed: int) -> None:
        self.rng = random.Random(seed)
        self.scratch = tmp_path / "state"
        self.states = 0
        self.boot = 1
        for module in (database_module, checkpointer_module):
            patch.setattr(module, "boot_identity", lambda: self.boot.to_bytes(16, "big"))
        with ZipFile(GOLDEN) as archive:
            archive.extractall(tmp_path, [name for name in archive.namelist() if name.startswith("killed/")])
            expected = json.loads(archive.read("expected.json"))
        self.guid = bytes.fromhex(expected["databases"]["Archive"][0])
        self.contents: dict[str, str] = expected["server"]["Archive"]["content"]
        self.recorder = Recorder(tmp_path / "killed", patch)
        self.database = self.database_at(tmp_path / "killed")

    def database_at(self, path: Path) -> Database:
        kind = DatabaseKind.MAILBOX_STORE
        return Database(path, self.guid, "Archive", kind, clock=VirtualClock(), tuning=TUNING)

    def _open_and_check(self) -> None:
        database = self.database_at(self.scratch)
        database.mount()
        with database.read(ACTOR) as read:
            items = dict(read.records(Table.ITEM, b"", None))
            assert {item[-1] for item in items.values()} == {"blue"}
            assert read.record(Table.META, IDENTITY_KEY).layout_version == LAYOUT_VERSION + 1
            assert self.contents == {
                key.hex(): hashlib.sha256(messages.content(read, item)).hexdigest()
                for key, item in items.items()
            }
        assert check_database(database, ACTOR).clean
        database.dismount()


def colour_some(txn: WriteTransaction) -> bool:
    """A step of an upgrade that colours twelve messages in a transaction."""
    uncoloured = [(key, item) for key, item in txn.records(Table.ITEM, b"", None) if item[-1] == "red"]
    for key, item in uncoloured[:12]:
        txn.put(Table.ITEM, key, item._replace(colour="blue"))
    return len(uncoloured) <= 12


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))])
def test_power_loss_at_any_step_of_replay_and_upgrade_loses_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    newer_program: Callable[[], AbstractContextManager[Table]],
    seed: int,
) -> None:
    """The tables of the newer program are made meanwhile, too."""
    loss = UpgradeLoss(tmp_path, monkeypatch, seed)
    busy = False

    def between() -> None:
        nonlocal busy
        if not busy:
            busy = True
            loss.try_states(1 if seed == 1 else 4)
            busy = False

    make_tables = env_module.Env.make_missing_tables

    def made_tables(env: env_module.Env) -> None:
        between()
        make_tables(env)
        between()

    seams(monkeypatch, between)
    monkeypatch.setattr(env_module.Env, "make_missing_tables", made_tables)
    with newer_program():
        upgrade.STEPS[LAYOUT_VERSION + 1] = colour_some
        loss.database.mount()
        busy = True
        loss.try_states(5)
        loss.database.dismount()
    assert loss.states >= 20
