"""Point in time: every captured moment comes back, costs what changed, and is pruned by a window."""

from __future__ import annotations

import pytest

from pillarbox.backup.capture import Capture
from pillarbox.backup.find_snapshot import choose_moment
from pillarbox.backup.repository.backend import FileKind
from pillarbox.backup.repository.check import check_repository
from pillarbox.backup.repository.prune import prune
from pillarbox.backup.repository.repository import Snapshot, SnapshotKind
from pillarbox.backup.restore import restore_to_directory
from pillarbox.backup.retention import KeepRules, choose_kept
from pillarbox.backup.snapshot import SnapshotSource
from pillarbox.store.errors import InvalidSetting, NotFound, RepositoryLocked
from pillarbox.store.upkeep.sizes import record_size_check

INTERVAL_MS = 60_000


@pytest.fixture
def capture(group) -> Capture:
    source = SnapshotSource("server", "First", group.databases)
    return Capture(source, group.repository, clock=group.clock, interval_ms=INTERVAL_MS)


def test_every_captured_moment_between_snapshots_comes_back(group, capture):
    mail = group.corpus()
    database = group.databases[0]
    moments = []
    group.deliver(database, mail[:10])
    group.snapshot()
    for end in range(11, 20):
        group.deliver(database, mail[end - 1 : end])
        group.clock.advance_ms(INTERVAL_MS)
        capture.run_due()
        moments.append((end, group.clock.now_ms()))
    group.snapshot()
    snapshots = group.repository.snapshots()
    assert [each.manifest["kind"] for each in snapshots] == ["full"] + ["capture"] * 9 + ["full"]
    for end, time_ms in moments:
        found = choose_moment(snapshots, time_ms + INTERVAL_MS // 2)
        assert group.restored(found, f"out{end}")[0] == mail[:end]


def test_it_captures_at_its_interval_and_nothing_when_nothing_changed(group, capture, backend):
    group.deliver(group.databases[0], group.corpus()[:3])
    started_ms = group.clock.monotonic_ms()
    assert capture.run_due() == started_ms + INTERVAL_MS
    assert len(group.repository.snapshots()) == 1
    files = dict(backend.files)
    group.clock.advance_ms(INTERVAL_MS)
    assert capture.run_due() == started_ms + 2 * INTERVAL_MS
    assert backend.files == files
    group.deliver(group.databases[1], group.corpus()[:1])
    group.clock.advance_ms(INTERVAL_MS - 1)
    capture.run_due()
    assert backend.files == files, "it is not yet time"
    group.clock.advance_ms(1)
    capture.run_due()
    assert len(group.repository.snapshots()) == 2


def test_it_takes_up_where_a_snapshot_or_another_process_stopped(group, capture):
    group.deliver(group.databases[0], group.corpus()[:3])
    group.snapshot()
    assert capture.capture() is None
    group.deliver(group.databases[0], group.corpus()[3:5])
    group.clock.advance_ms(1)
    made = capture.capture()
    assert made is not None
    assert made.manifest["based_on_ms"] == group.repository.snapshots()[0].time_ms
    source = SnapshotSource("server", "First", group.databases)
    assert Capture(source, group.repository, clock=group.clock).capture() is None


def test_what_the_engine_notes_for_itself_is_no_change(group, capture):
    """Every opening of a server notes that sizes were checked."""
    group.deliver(group.databases[0], group.corpus()[:3])
    capture.capture()
    record_size_check(group.databases[0], group.clock.now_ms() + 5)
    assert capture.capture() is None


def test_a_database_that_went_back_and_on_is_captured(group, capture):
    """It has as many changes as when it was last captured, but other ones."""
    group.deliver(group.databases[0], group.corpus()[:3])
    early = group.snapshot()
    group.deliver(group.databases[0], group.corpus()[3:4])
    group.clock.advance_ms(1)
    capture.capture()
    place = group.directory / "back"
    restored = restore_to_directory(group.repository, early, place, names=["Store 1"], clock=group.clock)
    group.databases[0].dismount()
    back = group.open_restored(restored[0].path, 1, group.clock)
    group.databases[0] = back
    group.deliver(back, group.corpus()[5:6])
    group.clock.advance_ms(1)
    made = capture.capture()
    assert made is not None
    assert group.restored(made, "out")[0] == [*group.corpus()[:3], group.corpus()[5]]


def test_a_capture_writes_in_proportion_to_what_changed(group, capture, backend):
    group.deliver(group.databases[0], [b"Subject: big\n\n" + bytes(range(256)) * 900] * 1)
    for number in range(30):
        group.deliver(group.databases[0], [b"Subject: %d\n\n" % number + group.corpus()[number % 20] * 3])
    group.snapshot()
    before = dict(backend.files)
    group.deliver(group.databases[0], [b"Subject: small\n\none more\n"])
    capture.capture()
    written = sum(len(data) for key, data in backend.files.items() if key not in before)
    assert written < 2 * 262_144, "one chunk of the stream, a redo record, trees"


def test_dismounted_databases_are_left_out_and_do_not_keep_the_others_from_it(group, capture):
    group.deliver(group.databases[0], group.corpus()[:3])
    group.databases[1].dismount()
    made = capture.capture()
    assert made is not None
    assert [entry["name"] for entry in made.manifest["databases"]] == ["Store 1"]
    group.databases[0].dismount()
    assert capture.capture() is None


def test_while_a_prune_holds_the_repository_it_says_so_and_goes_on_later(group, capture):
    group.deliver(group.databases[0], group.corpus()[:3])
    with (
        group.repository.lock(exclusive=True, purpose="prune"),
        pytest.raises(RepositoryLocked),
    ):
        capture.run_due()
    group.clock.advance_ms(INTERVAL_MS)
    capture.run_due()
    assert len(group.repository.snapshots()) == 1


def test_captures_read_what_others_stored_once(group, capture, backend):
    """An index or snapshot file that is known is not read again, however many captures there are."""
    reads: list[tuple[FileKind, str]] = []

    def note(operation: str, kind: FileKind, name: str) -> None:
        if operation == "get" and kind in (FileKind.INDEX, FileKind.SNAPSHOT):
            reads.append((kind, name))

    backend.before = note
    for raw in group.corpus()[:6]:
        group.deliver(group.databases[0], [raw])
        group.clock.advance_ms(1000)
        capture.capture()
    assert len(reads) == len(set(reads))


def test_the_index_is_read_anew_after_a_prune_by_somebody_else(group, capture, world, backend):
    for raw in group.corpus()[:6]:
        group.deliver(group.databases[0], [raw])
        group.clock.advance_ms(1000)
        capture.capture()
    other = world.open(backend)
    other.forget([each.id for each in other.snapshots()[:-1]])
    prune(other)
    group.deliver(group.databases[0], group.corpus()[6:7])
    group.clock.advance_ms(1000)
    made = capture.capture()
    assert check_repository(world.open(backend), read_data=True).is_whole
    assert group.restored(made, "out")[0] == group.corpus()[:7]


# --- how long they are kept ---------------------------------------------------------------------------------


def taken(hour: int, kind: SnapshotKind) -> Snapshot:
    return Snapshot(f"{kind}{hour}", hour * 3_600_000, (), {"kind": str(kind)})


def kept(snapshots: list[Snapshot], rules: KeepRules) -> dict[str, tuple[str, ...]]:
    return {each.snapshot.id: each.reasons for each in choose_kept(snapshots, rules) if each.is_kept}


def test_captures_are_kept_for_a_window_and_take_no_snapshots_place():
    captures = [taken(hour, SnapshotKind.CAPTURE) for hour in range(1000, 1100)]
    fulls = [taken(hour, SnapshotKind.FULL) for hour in (1000, 1024, 1048)]
    found = kept([*captures, *fulls], KeepRules(last=2, captures_ms=2 * 3_600_000))
    assert found == {
        "capture1099": ("capture",), "capture1098": ("capture",), "capture1097": ("capture",),
        "full1048": ("last",), "full1024": ("last",),
    }  # fmt: skip


def test_captures_of_the_last_days_are_kept_when_no_rule_speaks_of_them():
    found = kept([taken(hour, SnapshotKind.CAPTURE) for hour in range(100)], KeepRules(daily=7))
    assert set(found) == {f"capture{hour}" for hour in range(51, 100)}


def test_captures_can_be_let_go_at_once_but_not_be_all_that_is_kept():
    found = [taken(1, SnapshotKind.FULL), taken(2, SnapshotKind.CAPTURE)]
    assert list(kept(found, KeepRules(last=1, captures_ms=0))) == ["full1"]
    with pytest.raises(InvalidSetting):
        KeepRules(captures_ms=5)


def test_before_the_first_moment_there_is_nothing():
    with pytest.raises(NotFound):
        choose_moment([taken(5, SnapshotKind.CAPTURE)], 4 * 3_600_000)
