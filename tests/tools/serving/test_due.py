"""The choice of what a serving process begins, at any moment."""

from __future__ import annotations

from pillarbox.tools.serving.due import LOOK_AGAIN_MS, Standing, Task, Work, choose_due

SIZES, MAINTENANCE = Task(Work.SIZE_CHECK), Task(Work.MAINTENANCE)
STAFF, STUDENTS = Task(Work.BACKUP, "Staff"), Task(Work.BACKUP, "Students")
NOW = 1_000_000_000_000


def test_what_was_never_done_is_due_at_once() -> None:
    assert choose_due([SIZES, MAINTENANCE], {}, NOW).tasks == (SIZES, MAINTENANCE)


def test_a_task_is_begun_when_its_time_has_come_and_the_next_time_ends_the_rest() -> None:
    standings = {SIZES: Standing(NOW + 5000, NOW), MAINTENANCE: Standing(NOW, NOW - 1)}
    due = choose_due([SIZES, MAINTENANCE], standings, NOW)
    assert due.tasks == (MAINTENANCE,) and due.wake_ms == NOW + 5000


def test_a_task_that_runs_is_not_begun_beside_itself() -> None:
    due = choose_due([SIZES], {SIZES: Standing(is_running=True)}, NOW)
    assert due.tasks == () and due.wake_ms == NOW + LOOK_AGAIN_MS


def test_other_work_goes_on_beside_a_long_run() -> None:
    assert choose_due([SIZES, MAINTENANCE], {MAINTENANCE: Standing(is_running=True)}, NOW).tasks == (SIZES,)


def test_backups_are_taken_one_at_a_time_the_one_first_that_is_due_longest() -> None:
    standings = {STAFF: Standing(NOW - 1, NOW - 9), STUDENTS: Standing(NOW - 2, NOW - 9)}
    assert choose_due([STAFF, STUDENTS], standings, NOW).tasks == (STUDENTS,)
    standings[STUDENTS] = Standing(is_running=True)
    assert choose_due([STAFF, STUDENTS], standings, NOW).tasks == ()
    standings[STUDENTS] = Standing(NOW + 5, NOW)
    assert choose_due([STAFF, STUDENTS], standings, NOW).tasks == (STAFF,)


def test_the_rest_is_bounded_so_that_a_clock_that_jumped_is_noticed() -> None:
    due = choose_due([SIZES], {SIZES: Standing(NOW + 86_400_000, NOW)}, NOW)
    assert due.tasks == () and due.wake_ms == NOW + LOOK_AGAIN_MS


def test_a_clock_that_was_put_back_makes_everything_due() -> None:
    standings = {SIZES: Standing(NOW + 86_400_000, NOW)}
    assert choose_due([SIZES], standings, NOW - 3_600_000).tasks == (SIZES,)


def test_a_task_that_is_asked_for_no_more_is_not_begun() -> None:
    assert choose_due([SIZES], {STAFF: Standing(NOW - 1)}, NOW).tasks == (SIZES,)
