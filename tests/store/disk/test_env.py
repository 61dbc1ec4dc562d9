"""The LMDB environment: snapshots that stay, groups all or nothing, and a checkpoint to go back to."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store.disk import env as env_module
from pillarbox.store.disk.env import (
    DATA_FILE,
    LOCK_FILE,
    META_BYTES,
    PAGE_BYTES,
    Env,
    MapFull,
    ReadView,
    put_back_meta_pages,
    scratch_env,
)
from pillarbox.store.disk.tables import Table
from pillarbox.store.errors import Corrupt, DiskFull, Dismounted, PillarboxError, Refused, Retryable

SMALL_MAP = 1 << 20
Rows = dict[bytes, bytes]

steady = settings(deadline=None, max_examples=40)
keys = st.binary(min_size=1, max_size=3)
changes_of_a_group = st.dictionaries(
    st.sampled_from([Table.ITEM, Table.FOLDER]),
    st.dictionaries(keys, st.none() | st.binary(max_size=20), max_size=5),
    max_size=2,
)


@pytest.fixture
def env(tmp_path: Path) -> Iterator[Env]:
    with scratch_env(tmp_path / "properties") as made:
        yield made


def rows_in(view: ReadView, table: Table = Table.ITEM) -> Rows:
    return dict(view.scan(table, b"", None))


def rows_of(env: Env, table: Table = Table.ITEM) -> Rows:
    with env.view() as view:
        return rows_in(view, table)


def filler(count: int, size: int = 2000, begin: int = 0) -> Rows:
    return {b"%08d" % n: bytes(size) for n in range(begin, begin + count)}


# -- applying


@given(groups=st.lists(changes_of_a_group, max_size=6))
@steady
def test_groups_of_changes_make_what_a_dict_would_hold(
    tmp_path_factory: pytest.TempPathFactory, groups: list[dict[Table, dict[bytes, bytes | None]]]
) -> None:
    path = tmp_path_factory.mktemp("properties")
    held: dict[Table, Rows] = {Table.ITEM: {}, Table.FOLDER: {}}
    with scratch_env(path) as env:
        for group in groups:
            env.apply(group)
            for table, changes in group.items():
                for key, value in changes.items():
                    held[table].pop(key, None)
                    if value is not None:
                        held[table][key] = value
            with env.view() as view:
                assert {table: rows_in(view, table) for table in held} == held
                assert {table: view.count(table) for table in held} == {
                    table: len(rows) for table, rows in held.items()
                }
    with scratch_env(path) as again:
        assert {table: rows_of(again, table) for table in held} == held


def test_a_group_that_cannot_be_applied_changes_nothing(env: Env) -> None:
    env.apply({Table.ITEM: {b"kept": b"1"}})
    with pytest.raises(PillarboxError):
        env.apply({Table.FOLDER: {b"good": b"2"}, Table.ITEM: {b"kept": None, b"x" * 600: b"too long a key"}})
    assert rows_of(env) == {b"kept": b"1"}
    assert rows_of(env, Table.FOLDER) == {}


# -- snapshots


def test_a_snapshot_never_changes_and_never_blocks(env: Env) -> None:
    env.apply({Table.ITEM: {b"a": b"1", b"b": b"1"}})
    with env.view() as before:
        env.apply({Table.ITEM: {b"a": None, b"b": b"2", b"c": b"2"}})
        with env.view() as after:
            assert rows_in(before) == {b"a": b"1", b"b": b"1"}
            assert rows_in(after) == {b"b": b"2", b"c": b"2"}
            assert (before.get(Table.ITEM, b"a"), after.get(Table.ITEM, b"a")) == (b"1", None)
            assert before.transaction_id < after.transaction_id


def test_a_snapshot_may_be_closed_twice_and_is_of_no_use_then(env: Env) -> None:
    view = env.view()
    view.close()
    view.close()
    with pytest.raises(Refused, match="has ended"):
        view.get(Table.ITEM, b"a")
    with pytest.raises(Refused, match="has ended"):
        list(view.scan(Table.ITEM, b"", None))


@given(rows=st.sets(keys), start=st.binary(max_size=3), stop=st.none() | st.binary(min_size=1, max_size=3))
@steady
def test_a_scan_gives_the_rows_between_two_keys_in_either_order(
    shared_env: Env, rows: set[bytes], start: bytes, stop: bytes | None
) -> None:
    shared_env.apply({Table.ITEM: dict.fromkeys(rows_of(shared_env))})
    shared_env.apply({Table.ITEM: {key: key * 2 for key in rows}})
    expected = [(key, key * 2) for key in sorted(rows) if key >= start and (stop is None or key < stop)]
    with shared_env.view() as view:
        assert list(view.scan(Table.ITEM, start, stop)) == expected
        assert list(view.scan(Table.ITEM, start, stop, reverse=True)) == expected[::-1]


@pytest.fixture(scope="module")
def shared_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Env]:
    with scratch_env(tmp_path_factory.mktemp("shared")) as made:
        yield made


def test_a_scan_may_end_early_and_others_go_on(env: Env) -> None:
    env.apply({Table.ITEM: {b"%d" % n: b"" for n in range(5)}})
    with env.view() as view:
        assert next(iter(view.scan(Table.ITEM, b"", None)))[0] == b"0"
        pairs = zip(
            view.scan(Table.ITEM, b"", None), view.scan(Table.ITEM, b"", None, reverse=True), strict=True
        )
        assert next((one[0], other[0]) for one, other in pairs) == (b"0", b"4")


def test_more_reads_at_once_than_there_are_places_are_refused_until_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env_module, "_READERS_MAX", 3)
    with scratch_env(tmp_path / "properties") as env:
        views = [env.view() for _ in range(3)]
        with pytest.raises(Retryable, match="3 reads are open"):
            env.view()
        views.pop().close()
        views.append(env.view())
        for view in views:
            view.close()


def test_a_read_that_is_closed_takes_no_place_whatever_still_refers_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env_module, "_READERS_MAX", 3)
    with scratch_env(tmp_path / "properties") as env:
        env.apply({Table.ITEM: {b"a": b"1", b"b": b"1"}})
        kept: list[object] = []
        for _ in range(10):
            with env.view() as view:
                rows = view.scan(Table.ITEM, b"", None)
                next(rows)
                kept += [view, rows]
        with pytest.raises(Refused, match="has ended"):
            next(rows)


def test_the_oldest_reader_holds_its_state_until_it_ends(env: Env) -> None:
    assert env.oldest_reader() is None
    first = env.view()
    env.apply({Table.ITEM: {b"a": b"1"}})
    second = env.view()
    assert env.oldest_reader() == first.transaction_id < second.transaction_id
    first.close()
    assert env.oldest_reader() == second.transaction_id
    second.close()
    assert env.oldest_reader() is None


# -- growing


def fill(env: Env) -> int:
    """Apply groups until one does not fit. How many rows went in."""
    count = 0
    with pytest.raises(MapFull):
        while True:
            env.apply({Table.ITEM: filler(20, begin=count)})
            count += 20
    return count


def test_a_full_map_takes_the_same_group_when_it_has_grown(tmp_path: Path) -> None:
    env = Env(tmp_path / "properties", create=True, map_bytes=SMALL_MAP)
    env.keep(env.pin())
    count = fill(env)
    assert rows_of(env) == filler(count)
    env.grow(0)
    env.apply({Table.ITEM: filler(20, begin=count)})
    assert rows_of(env) == filler(count + 20)
    env.close()


def test_growing_waits_for_reads_that_are_open_and_lets_new_ones_wait(tmp_path: Path) -> None:
    env = Env(tmp_path / "properties", create=True, map_bytes=SMALL_MAP)
    count = fill(env)
    view = env.view()
    with ThreadPoolExecutor(2) as threads:
        growing = threads.submit(env.grow, 60)
        while not env._growing:
            pass
        reading = threads.submit(rows_of, env)
        assert rows_in(view) == filler(count)
        view.close()
        growing.result()
        assert reading.result() == filler(count)
    env.apply({Table.ITEM: filler(20, begin=count)})
    env.close()


def test_a_read_that_stays_open_puts_growing_off_and_nothing_is_lost(tmp_path: Path) -> None:
    env = Env(tmp_path / "properties", create=True, map_bytes=SMALL_MAP)
    count = fill(env)
    with env.view() as view, env.view():
        with pytest.raises(Retryable, match="2 snapshots are held open"):
            env.grow(0)
        assert rows_in(view) == rows_of(env) == filler(count)
    env.grow(0)
    env.apply({Table.ITEM: filler(20, begin=count)})
    env.close()


# -- checkpoints


def test_putting_back_the_pinned_meta_pages_gives_exactly_the_pinned_state(tmp_path: Path) -> None:
    """What every recovery after a power loss rests on."""
    path, crashed = tmp_path / "properties", tmp_path / "crashed"
    env = Env(path, create=True)
    for n in range(5):
        env.apply({Table.ITEM: filler(50, begin=50 * n)})
    expected = rows_of(env)
    pin = env.pin()
    env.sync()
    env.keep(pin)
    for n in range(40):
        env.apply({Table.ITEM: dict.fromkeys(expected, b"new" if n % 2 else None), Table.FOLDER: filler(9)})
    shutil.copytree(path, crashed)
    assert rows_of(env) != expected
    env.close()
    (crashed / "lock.mdb").unlink()
    put_back_meta_pages(crashed, pin.meta_pages)
    with scratch_env(crashed) as again:
        assert rows_of(again) == expected
        assert rows_of(again, Table.FOLDER) == {}
        again.apply({Table.ITEM: {b"more": b"1"}})
        assert rows_of(again) == {**expected, b"more": b"1"}


def test_a_pin_is_kept_while_the_map_grows(tmp_path: Path) -> None:
    path, crashed = tmp_path / "properties", tmp_path / "crashed"
    env = Env(path, create=True, map_bytes=SMALL_MAP)
    count = fill(env)
    pin = env.pin()
    env.sync()
    env.keep(pin)
    env.grow(0)
    for n in range(5):
        env.apply({Table.ITEM: dict.fromkeys(filler(20), b"%d" % n)})
    shutil.copytree(path, crashed)
    env.close()
    (crashed / "lock.mdb").unlink()
    put_back_meta_pages(crashed, pin.meta_pages)
    with scratch_env(crashed) as again:
        assert rows_of(again) == filler(count)


def test_pages_come_back_when_the_next_checkpoint_is_kept(env: Env) -> None:
    def churn() -> int:
        begin = env.last_page()
        for n in range(20):
            env.apply({Table.ITEM: dict.fromkeys(filler(20), b"%d" % n * 500)})
        return env.last_page() - begin

    env.keep(env.pin())
    while_pinned = churn()
    env.keep(env.pin())
    assert churn() < while_pinned / 2


def test_meta_pages_are_the_first_two_of_the_file(env: Env) -> None:
    env.apply({Table.ITEM: {b"a": b"1"}})
    pin = env.pin()
    assert len(pin.meta_pages) == META_BYTES == 2 * PAGE_BYTES
    assert (env.path / DATA_FILE).read_bytes()[:META_BYTES] == pin.meta_pages
    env.keep(pin)


# -- size, copies, closing


def test_pages_in_use_go_down_when_rows_go_and_the_file_does_not(env: Env) -> None:
    env.apply({Table.ITEM: filler(500)})
    used, total = env.pages_used_and_total()
    assert 250 <= used <= total == env.file_bytes() // PAGE_BYTES
    env.apply({Table.ITEM: dict.fromkeys(filler(400))})
    used_after, total_after = env.pages_used_and_total()
    assert used_after < used / 3
    assert total_after >= total


def test_a_copy_is_what_the_snapshot_shows_and_smaller(env: Env, tmp_path: Path) -> None:
    env.apply({Table.ITEM: filler(300)})
    env.apply({Table.ITEM: dict.fromkeys(filler(290))})
    out = tmp_path / "image"
    out.mkdir()
    with env.view() as view:
        env.apply({Table.ITEM: {b"later": b"1"}})
        env.copy_to(out, view)
        shown = rows_in(view)
    assert (out / DATA_FILE).stat().st_size < env.file_bytes() / 4
    with scratch_env(out) as image:
        assert rows_of(image) == shown == filler(10, begin=290)


def test_a_read_only_environment_reads_what_another_writes_and_refuses_to_write(
    env: Env, tmp_path: Path
) -> None:
    env.apply({Table.ITEM: {b"a": b"1"}})
    copy = tmp_path / "copy"
    shutil.copytree(env.path, copy)
    reader = Env(copy, read_only=True)
    assert rows_of(reader) == {b"a": b"1"}
    with pytest.raises(PillarboxError):
        reader.apply({Table.ITEM: {b"a": b"2"}})
    assert rows_of(reader) == {b"a": b"1"}
    reader.close()


@pytest.mark.parametrize("pages", [0, 0.5, 1, 1.9, 2, 3, 5.5, -0.1, -1])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_is_cut_short_is_damage_and_does_not_end_the_process(
    tmp_path: Path, pages: float, read_only: bool
) -> None:
    with scratch_env(tmp_path / "properties") as env:
        env.apply({Table.ITEM: filler(50)})
    data = tmp_path / "properties" / DATA_FILE
    whole = data.read_bytes()
    data.write_bytes(whole[: int(pages * PAGE_BYTES)])
    with pytest.raises(Corrupt, match="cut short") as raised:
        Env(tmp_path / "properties", read_only=read_only)
    assert raised.value.file == str(data)


def test_a_file_that_is_missing_is_damage_and_not_made_anew(tmp_path: Path) -> None:
    with scratch_env(tmp_path / "properties"):
        pass
    data = tmp_path / "properties" / DATA_FILE
    data.unlink()
    for call in (
        lambda: Env(tmp_path / "properties"),
        lambda: put_back_meta_pages(tmp_path / "properties", bytes(META_BYTES)),
    ):
        with pytest.raises(Corrupt, match="missing"):
            call()
    assert not data.exists()


def test_a_file_that_is_none_of_lmdb_is_damage_that_names_it(tmp_path: Path) -> None:
    with scratch_env(tmp_path / "properties"):
        pass
    for content in (b"no database" * 2000, bytes(20_000)):
        (tmp_path / "properties" / DATA_FILE).write_bytes(content)
        with pytest.raises(Corrupt) as raised:
            Env(tmp_path / "properties")
        assert raised.value.file.startswith(str(tmp_path / "properties"))


def test_the_lock_file_has_its_room_before_it_is_mapped_and_a_full_disk_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scratch_env(tmp_path / "one"):
        status = (tmp_path / "one" / LOCK_FILE).stat()
        assert status.st_blocks * 512 >= status.st_size >= 1024 * 64

    def full(file: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFull):
        Env(tmp_path / "two", create=True)


@pytest.mark.parametrize(("free_bytes", "expected"), [(1000, DiskFull), (1 << 30, PillarboxError)])
def test_a_disk_that_took_a_part_of_a_write_is_full_when_nothing_is_left(
    env: Env, monkeypatch: pytest.MonkeyPatch, free_bytes: int, expected: type[PillarboxError]
) -> None:
    class Failing:
        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def begin(self, **options: bool) -> Any:
            raise lmdb.DiskError("mdb_txn_commit: Input/output error")

    usage = shutil.disk_usage(env.path)._replace(free=free_bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with monkeypatch.context() as patch:
        patch.setattr(env, "_env", Failing(env._env))
        with pytest.raises(PillarboxError) as raised:
            env.apply({Table.ITEM: {b"a": b"b"}})
    assert type(raised.value) is expected
    env.apply({Table.ITEM: {b"a": b"b"}})


def test_an_environment_that_is_not_there_is_not_made_by_opening_it(tmp_path: Path) -> None:
    with pytest.raises(PillarboxError):
        Env(tmp_path / "properties")
    assert not (tmp_path / "properties" / DATA_FILE).exists()


def test_after_closing_everything_is_refused_as_dismounted(tmp_path: Path) -> None:
    env = Env(tmp_path / "properties", create=True)
    env.keep(env.pin())
    env.close()
    for call in (env.view, lambda: env.apply({Table.ITEM: {b"a": b"1"}}), env.pin, env.sync, env.last_page):
        with pytest.raises(Dismounted):
            call()


# A process that was killed while it opened the environment leaves the lock file as LMDB begins it: with no
# transaction. Here another one that has the environment open stands for it.
_LEFT_BY_A_KILL = """
import fcntl, os, sys
with open(sys.argv[1], "r+b") as lock:
    fcntl.lockf(lock, fcntl.LOCK_SH, 1)
    os.pwrite(lock.fileno(), bytes(8), 48)
    print(flush=True)
    sys.stdin.read()
"""


@contextmanager
def left_by_a_kill(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that keeps the lock file of an environment that nobody has open from being set up anew."""
    with lmdb.open(str(path)):
        pass
    command = [sys.executable, "-c", _LEFT_BY_A_KILL, str(path / LOCK_FILE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture(params=[2, 3])
def closed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A closed environment whose last state is in either of the meta pages."""
    with scratch_env(tmp_path / "properties") as made:
        for n in range(request.param):
            made.apply({Table.ITEM: {b"a": b"%d" % n}})
    return tmp_path / "properties"


def test_who_waited_for_a_process_that_was_killed_as_it_opened_sees_the_last_state_and_goes_on_from_it(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scratch_env(closed) as before:
        last, rows = before.last_transaction(), rows_of(before)
    with left_by_a_kill(closed) as process:
        lmdb_open = lmdb.open

        def opened(*args: Any, **settings: Any) -> lmdb.Environment:
            found = lmdb_open(*args, **settings)
            process.kill()
            process.wait()
            return found

        monkeypatch.setattr(lmdb, "open", opened)
        env = Env(closed)
    assert rows_of(env) == rows
    env.apply({Table.ITEM: {b"b": b"1"}})
    assert env.last_transaction() == last + 1
    env.close()


def test_nobody_writes_while_a_process_that_reads_keeps_what_such_a_kill_left(closed: Path) -> None:
    with left_by_a_kill(closed):
        with pytest.raises(Retryable):
            Env(closed)
        reader = Env(closed, read_only=True)
        assert rows_of(reader)
        reader.close()
    Env(closed).close()


def test_an_opening_that_failed_can_be_tried_again_at_once(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> bool:
        raise lmdb.ReadersFullError("no place")

    with monkeypatch.context() as patch, pytest.raises(PillarboxError) as failed:
        patch.setattr(env_module, "_begins_with_last", fail)
        Env(closed)
    Env(closed).close()
    assert failed.value is not None  # it refers to the opening that failed
