"""Events: what they say, which are written, and what the log on disk keeps."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.store import events
from pillarbox.store.errors import InvalidSetting, PillarboxError, UnsupportedVersion
from pillarbox.store.events import (
    EVENTS,
    Category,
    Diagnostics,
    Event,
    EventId,
    EventLog,
    Level,
    PythonLoggingSink,
    Severity,
    make_event,
    tee,
)

SMALL_FILE_BYTES = 2000


class Collected:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> None:
        self.events.append(event)


class Broken:
    def report(self, event: Event) -> None:
        raise PillarboxError("broken")


def numbered(number: int) -> Event:
    return make_event(EventId.DAMAGE_FOUND, 1000 + number, "DB1", error=f"place {number}", number=number)


def numbers(found: list[Event]) -> list[int]:
    return [event.details["number"] for event in found]


def newest_file(directory: Path) -> Path:
    return max(directory.glob("events-*.jsonl"))


# --- events ---------------------------------------------------------------------------------------------


def test_the_numbers_of_the_domain_are_all_there() -> None:
    assert {1025, 1112, 1221, 9523, 9535, 9539, 9665, 9682, 9688, 9689, 9690} <= set(EVENTS)


def test_a_public_folder_deletion_says_what_the_domain_says() -> None:
    event = make_event(9682, 5, "PF1", folder="Plans", folder_id="1-2f4", mailbox="Ann", account="ann")
    assert event.text == "Folder Plans with folder ID 1-2f4 was deleted by Ann, ann."
    assert event.time_ms == 5
    assert event.database == "PF1"
    assert event.details["folder_id"] == "1-2f4"


def test_sizes_are_shown_in_units_people_use_and_kept_in_bytes() -> None:
    event = make_event(9688, 0, "DB1", logical_size_bytes=17 << 30, limit_bytes=18 << 30)
    assert "17.00 GB" in event.text
    assert event.severity is Severity.WARNING
    assert event.details["logical_size_bytes"] == 17 << 30


@pytest.mark.parametrize("event_id", sorted(EVENTS))
def test_an_event_without_its_details_is_still_an_event(event_id: int) -> None:
    event = make_event(event_id, 0)
    assert event.severity in Severity
    assert event.category in set(Category)
    assert "{" not in event.text


def test_a_number_that_is_no_event_is_a_mistake_of_the_program() -> None:
    with pytest.raises(KeyError):
        make_event(4711, 0)


def test_details_from_outside_neither_begin_lines_nor_grow() -> None:
    event = make_event(
        1025, 0, "DB1", request="a\nb\x1b[2J", error="x" * 10**6, key=b"\x01\xff", path=Path("/p")
    )
    assert event.text.isprintable()
    assert len(event.text) < 2 * events.DETAIL_CHARS_MAX
    assert event.details["key"] == "01ff"
    assert event.details["path"] == "/p"
    many = make_event(1025, 0, "", **{f"detail{number}": number for number in range(1000)})
    assert len(many.details) == events.DETAILS_MAX


# --- diagnostics ----------------------------------------------------------------------------------------


def deletion() -> Event:
    return make_event(EventId.FOLDER_DELETED, 0, "PF1")


@pytest.mark.parametrize(
    ("level", "written"), [("none", False), ("minimum", False), ("Medium", True), ("MAXIMUM", True)]
)
def test_deletion_tracking_is_off_by_default_and_on_at_medium(level: str, written: bool) -> None:
    assert not Diagnostics().writes(deletion())
    assert Diagnostics({"public_folder.general": level}).writes(deletion()) is written


def test_another_category_changes_nothing() -> None:
    assert not Diagnostics({"system.general": "maximum"}).writes(deletion())


def test_errors_are_written_at_any_level() -> None:
    quiet = Diagnostics(dict.fromkeys(Category, "none"))
    assert all(kind.level == Level.NONE for kind in EVENTS.values() if kind.severity is Severity.ERROR)
    assert quiet.writes(make_event(9690, 0))


@pytest.mark.parametrize(
    "levels", [{"nonsense": "medium"}, {"system.general": "loud"}, {"system.general": ""}]
)
def test_unknown_categories_and_levels_are_refused(levels: dict[str, str]) -> None:
    with pytest.raises(InvalidSetting):
        Diagnostics(levels)


def test_a_filter_follows_the_levels_as_they_change() -> None:
    collected, diagnostics = Collected(), Diagnostics()
    reporter = diagnostics.filter(collected)
    reporter.report(deletion())
    diagnostics.set_level(Category.PUBLIC_FOLDER_GENERAL, "medium")
    reporter.report(deletion())
    assert len(collected.events) == 1
    assert diagnostics.level(Category.PUBLIC_FOLDER_GENERAL) is Level.MEDIUM


# --- sinks ----------------------------------------------------------------------------------------------


def test_tee_reaches_every_sink_even_past_a_broken_one() -> None:
    first, last = Collected(), Collected()
    with pytest.raises(PillarboxError, match="broken"):
        tee(first, Broken(), last).report(deletion())
    assert first.events == last.events == [deletion()]


def test_python_logging_gets_events_by_category(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pillarbox")
    PythonLoggingSink().report(numbered(1))
    [record] = caplog.records
    assert record.name == "pillarbox.system.storage"
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "20003 Damage in database DB1: place 1"
    assert record.__dict__["event"] == numbered(1)


# --- the log on disk ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    text=st.text(max_size=50),
    value=st.one_of(st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.text(max_size=50)),
)
def test_an_event_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, text: str, value: object
) -> None:
    event = make_event(1025, 3, text, error=text, value=value)
    log = EventLog(tmp_path_factory.mktemp("log"))
    with log:
        log.report(event)
    assert list(log.query()) == [event]


def test_a_log_without_events_is_empty_and_leaves_no_trace(tmp_path: Path) -> None:
    assert list(EventLog(tmp_path / "none").query()) == []
    assert list(tmp_path.iterdir()) == []


def test_the_lines_are_json_for_other_programs(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.report(numbered(7))
    header, line = newest_file(tmp_path).read_bytes().split(b"\n")
    assert json.loads(header) == {"format": "pillarbox-events", "version": 1}
    assert json.loads(line)["event_id"] == 20003
    assert stat.S_IMODE(newest_file(tmp_path).stat().st_mode) == 0o600


def test_queries_by_every_condition(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        for number in range(5):
            log.report(numbered(number))
        log.report(make_event(EventId.DATABASE_MOUNTED, 2000, "DB2", number=5))
    assert numbers(list(log.query())) == [5, 4, 3, 2, 1, 0]
    assert numbers(list(log.query(newest_first=False))) == [0, 1, 2, 3, 4, 5]
    assert numbers(list(log.query(since_ms=1003))) == [5, 4, 3]
    assert numbers(list(log.query(event_id=9523))) == [5]
    assert numbers(list(log.query(category=Category.SYSTEM_STORAGE, limit=2))) == [4, 3]
    assert numbers(list(log.query(severity_min=Severity.INFORMATION))) == [5, 4, 3, 2, 1, 0]
    log.report(make_event(EventId.DISK_SPACE_LOW, 2000, "DB2", number=6))
    assert numbers(list(log.query(severity_min=Severity.WARNING, limit=2))) == [6, 4]
    assert 6 not in numbers(list(log.query(severity_min=Severity.ERROR)))
    assert numbers(list(log.query(databases={"DB2"}))) == [6, 5]
    assert list(log.query(limit=0)) == []


def test_full_files_are_followed_by_new_ones_and_the_oldest_go(tmp_path: Path) -> None:
    with EventLog(tmp_path, file_bytes_max=SMALL_FILE_BYTES, files_max=3) as log:
        for number in range(100):
            log.report(numbered(number))
    files = sorted(tmp_path.glob("events-*.jsonl"))
    assert len(files) == 3
    assert all(file.stat().st_size <= SMALL_FILE_BYTES for file in files)
    kept = numbers(list(log.query()))
    assert kept == list(range(99, 99 - len(kept), -1))
    assert numbers(list(log.query(newest_first=False))) == kept[::-1]


def test_a_log_is_carried_on_after_reopening(tmp_path: Path) -> None:
    for number in range(3):
        with EventLog(tmp_path) as log:
            log.report(numbered(number))
    assert len(list(tmp_path.glob("events-*.jsonl"))) == 1
    assert numbers(list(log.query())) == [2, 1, 0]


def test_a_log_that_was_deleted_begins_again(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.report(numbered(0))
        newest_file(tmp_path).unlink()
        log.report(numbered(1))
        assert numbers(list(log.query())) == [1]


def test_events_longer_than_a_block_are_read_from_both_ends(tmp_path: Path) -> None:
    wide = {f"detail{number}": "x" * 999 for number in range(events.DETAILS_MAX - 1)}
    with EventLog(tmp_path, file_bytes_max=1 << 20) as log:
        for number in range(20):
            log.report(make_event(1025, 0, number=number, **wide))
    assert numbers(list(log.query())) == list(range(19, -1, -1))
    assert numbers(list(log.query(newest_first=False))) == list(range(20))


def test_an_event_too_long_for_a_line_is_kept_without_its_details(tmp_path: Path) -> None:
    event = numbered(1)._replace(text="x" * 10**6)
    with EventLog(tmp_path) as log:
        log.report(event)
    assert list(log.query()) == [event._replace(text="x" * events.DETAIL_CHARS_MAX, details={})]


def test_damaged_lines_are_counted_and_skipped(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        for number in range(4):
            log.report(numbered(number))
    data = newest_file(tmp_path).read_bytes()
    newest_file(tmp_path).write_bytes(data.replace(b"place 1", b"place 9"))
    query = log.query()
    assert numbers(list(query)) == [3, 2, 0]
    assert query.damaged_count == 1


def test_no_flipped_byte_brings_a_wrong_event_or_stops_the_others(tmp_path: Path) -> None:
    written = [numbered(number) for number in range(3)]
    with EventLog(tmp_path) as log:
        for event in written:
            log.report(event)
    path = newest_file(tmp_path)
    data = path.read_bytes()
    for at in range(len(data)):
        flipped = data[at] ^ 1
        path.write_bytes(data[:at] + bytes([flipped]) + data[at + 1 :])
        query = log.query(newest_first=False)
        try:
            found = list(query)
        except UnsupportedVersion:
            assert data[at : at + 1] == b"1"  # the header's version
            continue
        assert [event for event in written if event in found] == found
        assert len(found) >= 1
        assert query.damaged_count >= 1


def test_an_unfinished_write_costs_only_its_own_event(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.report(numbered(0))
        log.report(numbered(1))
        os.truncate(newest_file(tmp_path), newest_file(tmp_path).stat().st_size - 10)
        log.report(numbered(2))
    query = log.query()
    assert numbers(list(query)) == [2, 0]
    assert query.damaged_count == 1


@settings(deadline=None)
@given(junk=st.binary(max_size=300), newest_first=st.booleans())
def test_junk_in_the_file_is_counted_and_passed_over(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, newest_first: bool
) -> None:
    directory = tmp_path_factory.mktemp("log")
    with EventLog(directory) as log:
        log.report(numbered(0))
        with newest_file(directory).open("ab") as file:
            file.write(b"\n" + junk)
        log.report(numbered(1))
    query = log.query(newest_first=newest_first)
    assert sorted(numbers(list(query))) == [0, 1]
    assert query.damaged_count == junk.count(b"\n") + 1


@pytest.mark.parametrize("newest_first", [True, False])
def test_a_huge_line_without_an_end_is_one_damaged_line(tmp_path: Path, newest_first: bool) -> None:
    with EventLog(tmp_path) as log:
        log.report(numbered(0))
    with newest_file(tmp_path).open("ab") as file:
        file.write(b"\n" + b"[" * 3_000_000)
    query = log.query(newest_first=newest_first)
    assert numbers(list(query)) == [0]
    assert query.damaged_count == 1


def test_a_log_of_an_unknown_version_is_neither_read_nor_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "events-00000001.jsonl"
    file.write_bytes(b'{"format":"pillarbox-events","version":2}')
    log = EventLog(tmp_path)
    with pytest.raises(UnsupportedVersion):
        list(log.query())
    log.report(numbered(0))
    assert log.lost_count == 1
    assert "version 2" in caplog.text
    assert file.read_bytes() == b'{"format":"pillarbox-events","version":2}'


def test_a_log_that_cannot_be_written_stops_nobody_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log").write_bytes(b"a file where the directory should be")
    log = EventLog(tmp_path / "log")
    log.report(numbered(0))
    assert log.lost_count == 1
    assert "event 20003 was not written" in caplog.text


def test_a_directory_in_a_files_place_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "events-00000001.jsonl").mkdir()
    with pytest.raises(PillarboxError):
        list(EventLog(tmp_path).query())


def append_many(directory: str, writer: int, count: int) -> None:
    with EventLog(Path(directory), file_bytes_max=8 * SMALL_FILE_BYTES, files_max=100) as log:
        for number in range(count):
            log.report(make_event(1025, number, f"writer{writer}", error="x" * (number % 50), number=number))
        if log.lost_count:
            raise AssertionError("events were lost")


def test_processes_append_to_one_log_without_losing_or_mixing_lines(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # a new interpreter could not import this file
    count = 300
    writers = [context.Process(target=append_many, args=(str(tmp_path), writer, count)) for writer in (0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    query = EventLog(tmp_path).query(newest_first=False)
    found = list(query)
    assert query.damaged_count == 0
    for name in ("writer0", "writer1"):
        assert numbers([event for event in found if event.database == name]) == list(range(count))
    assert len(list(tmp_path.glob("events-*.jsonl"))) > 2
