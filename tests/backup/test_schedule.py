"""Backups at an interval: when one is due, what goes after it, and that nothing stops them for good."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pillarbox.backup.capture import Capture
from pillarbox.backup.repository.check import check_repository
from pillarbox.backup.retention import KeepRules
from pillarbox.backup.schedule import EARLY_MS, Schedule, next_backup_ms, run_due
from pillarbox.backup.snapshot import GroupSnapshot, LeftOut, SnapshotSource, snapshot_databases
from pillarbox.backup.snapshot_owner import split_by_server
from pillarbox.store.errors import RepositoryLocked

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@pytest.fixture
def source(group) -> SnapshotSource:
    group.deliver(group.databases[0], group.corpus()[:3])
    return SnapshotSource("server", "First", group.databases)


def test_the_first_is_due_at_once_and_each_further_one_an_interval_later(group, source):
    schedule = Schedule(DAY_MS)
    first = run_due(source, group.repository, schedule, clock=group.clock)
    assert first.snapshot is not None
    assert first.next_ms == first.snapshot.time_ms + DAY_MS
    group.clock.advance_ms(DAY_MS // 2)
    early = run_due(source, group.repository, schedule, clock=group.clock)
    assert (early.snapshot, early.next_ms) == (None, first.next_ms)
    group.clock.advance_ms(DAY_MS // 2)
    assert run_due(source, group.repository, schedule, clock=group.clock).snapshot is not None
    assert len(group.repository.snapshots()) == 2, "without rules nothing is forgotten"


def test_a_timer_that_comes_a_little_early_need_not_come_again(group, source):
    schedule = Schedule(DAY_MS)
    run_due(source, group.repository, schedule, clock=group.clock)
    group.clock.advance_ms(DAY_MS - EARLY_MS - 1)
    assert run_due(source, group.repository, schedule, clock=group.clock).snapshot is None
    group.clock.advance_ms(1)
    assert run_due(source, group.repository, schedule, clock=group.clock).snapshot is not None


def test_after_a_long_absence_one_backup_is_taken_not_all_that_were_missed(group, source):
    schedule = Schedule(HOUR_MS)
    run_due(source, group.repository, schedule, clock=group.clock)
    group.clock.advance_ms(10 * DAY_MS)
    assert run_due(source, group.repository, schedule, clock=group.clock).snapshot is not None
    assert run_due(source, group.repository, schedule, clock=group.clock).snapshot is None


def test_what_the_rules_do_not_keep_goes_and_its_space_with_it(group, source):
    schedule = Schedule(HOUR_MS, KeepRules(last=2))
    forgotten = []
    for number in range(4):
        group.deliver(group.databases[0], group.corpus()[number + 3 : number + 4])
        run = run_due(source, group.repository, schedule, clock=group.clock)
        assert run.pruned is not None
        forgotten += [each.id for each in run.forgotten]
        group.clock.advance_ms(HOUR_MS)
    kept = group.repository.snapshots()
    assert len(forgotten) == 2 and len(kept) == 2
    assert not {each.id for each in kept} & set(forgotten)
    assert check_repository(group.repository, read_data=1.0).is_whole
    assert group.restored(kept[-1], "out")[0] == group.corpus()[:7]


def test_captures_and_other_groups_do_not_count_as_backups(group, source):
    other = SnapshotSource("server", "Second", group.databases[:1])
    run_due(other, group.repository, Schedule(DAY_MS), clock=group.clock)
    first = run_due(source, group.repository, Schedule(DAY_MS), clock=group.clock).snapshot
    assert first is not None
    group.clock.advance_ms(DAY_MS - HOUR_MS)
    group.deliver(group.databases[0], group.corpus()[:1])
    capture = Capture(source, group.repository, clock=group.clock, interval_ms=60_000)
    assert capture.capture() is not None
    found = group.repository.snapshots()
    assert next_backup_ms(found, source, DAY_MS, group.clock.now_ms()) == first.time_ms + DAY_MS


def test_the_rules_of_one_group_leave_the_snapshots_of_another(group, source):
    other = SnapshotSource("server", "Second", group.databases[:1])
    keep = Schedule(HOUR_MS, KeepRules(last=1))
    for _ in range(2):
        for each in (other, source):
            run_due(each, group.repository, keep, clock=group.clock)
        group.clock.advance_ms(HOUR_MS)
    left = [each.manifest["group"] for each in group.repository.snapshots()]
    assert sorted(left) == ["First", "Second"]


def test_a_clock_that_was_wrong_once_does_not_stop_the_backups(group, source):
    schedule = Schedule(DAY_MS)
    run_due(source, group.repository, schedule, clock=group.clock)
    (far,) = group.repository.snapshots()
    before_ms = far.time_ms - 1000 * DAY_MS
    assert next_backup_ms([far], source, DAY_MS, before_ms) == 0


def test_a_prune_that_another_backup_kept_away_is_made_up_for(group, source):
    schedule = Schedule(HOUR_MS, KeepRules(last=1))
    run_due(source, group.repository, schedule, clock=group.clock)
    group.clock.advance_ms(HOUR_MS)
    with group.repository.writer(), pytest.raises(RepositoryLocked):
        run_due(source, group.repository, schedule, clock=group.clock)
    group.clock.advance_ms(HOUR_MS)
    run = run_due(source, group.repository, schedule, clock=group.clock)
    assert run.pruned is not None and len(group.repository.snapshots()) == 1


def test_servers_of_the_same_name_have_backups_and_rules_of_their_own(group, source):
    sources = [SnapshotSource("mail", "First", [each]) for each in group.databases]
    assert len(sources) > 1
    for _ in range(2):
        for each in sources:
            run = run_due(each, group.repository, Schedule(HOUR_MS, KeepRules(last=1)), clock=group.clock)
            assert run.snapshot is not None, "what another server took does not count"
        group.clock.advance_ms(HOUR_MS)
    left = [[each["guid"] for each, _ in snapshot_databases(kept)] for kept in group.repository.snapshots()]
    assert sorted(left) == [[each.guid] for each in group.databases]


def test_a_server_that_gets_another_database_stays_the_same_server(group):
    first, second = group.databases[:2]
    takes = [[first], [first, second], [second]]
    for databases in takes:
        GroupSnapshot(SnapshotSource("mail", "First", databases), group.repository, clock=group.clock).run()
        group.clock.advance_ms(HOUR_MS)
    assert [len(each.snapshots) for each in split_by_server(group.repository.snapshots())] == [3]


def test_a_database_that_is_left_out_keeps_its_last_snapshot_through_every_prune(group, source):
    first, second = group.databases
    held = run_due(source, group.repository, Schedule(HOUR_MS, KeepRules(last=1)), clock=group.clock).snapshot
    left_out = replace(source, databases=[second], left_out=[LeftOut(first, "it is dismounted")])
    for _ in range(3):
        group.clock.advance_ms(HOUR_MS)
        run = run_due(left_out, group.repository, Schedule(HOUR_MS, KeepRules(last=1)), clock=group.clock)
        assert run.snapshot is not None
    kept = group.repository.snapshots()
    assert [each.id for each in kept] == [held.id, run.snapshot.id]
    assert group.restored(kept[0], "out")[0] == group.corpus()[:3]
