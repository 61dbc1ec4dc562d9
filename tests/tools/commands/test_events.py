"""The event log from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pillarbox.store.events import EventId, EventLog, make_event
from pillarbox.store.server import Server

if TYPE_CHECKING:
    from conftest import Pillarbox


def test_events_are_listed_the_newest_first(pillarbox: Pillarbox, server: Path) -> None:
    newest = pillarbox.answer("events", "list", server)
    assert newest == pillarbox.answer("events", "list", server, "--oldest-first")[::-1]
    assert {"event_id", "severity", "category", "time_ms", "database", "text", "details"} == newest[0].keys()
    assert pillarbox.answer("events", "list", server, "--limit", 2) == newest[:2]


def test_events_are_found_by_every_condition(pillarbox: Pillarbox, server: Path) -> None:
    with Server.open(server) as opened:
        opened.database("Public Folder Store").report(EventId.DISK_SPACE_LOW)
    everything = pillarbox.answer("events", "list", server)
    assert len({each["database"] for each in everything}) > 1
    for words, holds in (
        (("--id", 20020), lambda each: each["event_id"] == 20020),
        (("--category", "mailbox.general"), lambda each: each["category"] == "mailbox.general"),
        (("--severity", "warning"), lambda each: each["severity"] == "warning"),
        (("--database", "Mailbox Store"), lambda each: each["database"] == "Mailbox Store"),
        (("--since", "2100-01-01"), lambda each: False),
    ):
        assert pillarbox.answer("events", "list", server, *words) == list(filter(holds, everything)), words


def test_events_are_for_people_too(pillarbox: Pillarbox, server: Path) -> None:
    line = pillarbox.run("events", "list", server, "--id", 20020).stdout
    assert "20020 info     30 messages were imported into anna." in line
    assert "no such events" in pillarbox.run("events", "list", server, "--id", 9690).stdout


def test_a_log_with_damaged_lines_says_so(pillarbox: Pillarbox, server: Path) -> None:
    with next((server / "events").glob("*.jsonl")).open("ab") as file:
        file.write(b"\n{junk")
    result = pillarbox.run("events", "list", server)
    assert result.exit_code == 0 and "1 damaged line" in result.stderr


@pytest.mark.parametrize(
    "words", [("--id", "7"), ("--category", "x"), ("--severity", "x"), ("--since", "x"), ("--limit", "0")]
)
def test_a_condition_that_makes_no_sense_is_a_mistake_of_usage(
    pillarbox: Pillarbox, server_with_mail: Path, words: tuple[str, str]
) -> None:
    assert "Error: " in pillarbox.refused(2, "events", "list", server_with_mail, *words)


def test_diagnostic_levels_are_set_and_kept(pillarbox: Pillarbox, server: Path) -> None:
    levels = pillarbox.answer("events", "diagnostics", "show", server)
    assert set(levels.values()) == {"none"} and "public_folder.general" in levels
    pillarbox.answer("events", "diagnostics", "set", server, "public_folder.general", "MEDIUM")
    levels = pillarbox.answer("events", "diagnostics", "show", server)
    assert levels["public_folder.general"] == "medium"
    assert "public_folder.general    medium" in pillarbox.run("events", "diagnostics", "show", server).stdout


def test_an_unknown_category_or_level_is_a_mistake_of_usage(pillarbox: Pillarbox, server: Path) -> None:
    assert "x" in pillarbox.refused(2, "events", "diagnostics", "set", server, "x", "medium")
    assert "x" in pillarbox.refused(2, "events", "diagnostics", "set", server, "system.general", "x")


# -- of one database

TWINS = ("First Storage Group/Mailbox Store", "Second Group/Mailbox Store")


def of(pillarbox: Pillarbox, server: Path, name: str) -> list[str]:
    """What the events listed for a database call it."""
    return [each["database"] for each in pillarbox.answer("events", "list", server, "--database", name)]


def test_a_database_is_named_in_any_case_and_with_its_group(pillarbox: Pillarbox, server: Path) -> None:
    found = of(pillarbox, server, "Mailbox Store")
    assert found and set(found) == {"Mailbox Store"}
    assert of(pillarbox, server, "MAILBOX store") == found
    assert of(pillarbox, server, "first storage group/mailbox store") == found


@pytest.fixture
def talkative(pillarbox: Pillarbox) -> Callable[[Path], None]:
    """Lets the commands on a server write each mount."""
    return lambda server: pillarbox.answer(
        "events", "diagnostics", "set", server, "system.general", "minimum"
    )


def test_mounts_of_single_commands_are_written_only_when_asked_for(
    pillarbox: Pillarbox, server: Path, talkative: Callable[[Path], None]
) -> None:
    pillarbox.answer("mailbox", "create", server, "carl")
    pillarbox.answer("mount", server, "Mailbox Store")
    assert not {9523, 9539, 20000} & {each["event_id"] for each in pillarbox.answer("events", "list", server)}
    talkative(server)
    pillarbox.answer("mailbox", "create", server, "emil")
    assert {9523, 9539, 20000} <= {each["event_id"] for each in pillarbox.answer("events", "list", server)}


def test_a_severity_is_the_least_that_is_listed(pillarbox: Pillarbox, server: Path) -> None:
    with Server.open(server) as opened:
        for event_id in (EventId.MAILBOX_DELETED, EventId.DISK_SPACE_LOW, EventId.DISK_FLOOR_REACHED):
            opened.database("Mailbox Store").report(event_id)
    listed = {
        severity: {
            each["severity"] for each in pillarbox.answer("events", "list", server, "--severity", severity)
        }
        for severity in ("information", "warning", "error")
    }
    assert listed["error"] == {"error"} and listed["warning"] == {"error", "warning"}
    assert listed["information"] == {"error", "warning", "information"}


def test_events_tell_databases_of_one_name_apart(
    pillarbox: Pillarbox, twins: Path, talkative: Callable[[Path], None]
) -> None:
    talkative(twins)
    for label in TWINS:
        pillarbox.answer("mount", twins, label)
        found = of(pillarbox, twins, label)
        assert found and set(found) == {label}
    text = pillarbox.run("events", "list", twins, "--database", TWINS[1], "--id", 9523).stdout
    assert f"Database {TWINS[1]} was mounted." in text


def test_events_of_a_database_are_found_when_it_is_the_only_one_of_its_name_again(
    pillarbox: Pillarbox, twins: Path, talkative: Callable[[Path], None]
) -> None:
    talkative(twins)
    pillarbox.answer("mount", twins, TWINS[0])
    pillarbox.answer("database", "delete", twins, TWINS[1], "--yes")
    pillarbox.answer("mount", twins, "Mailbox Store")
    assert set(of(pillarbox, twins, "Mailbox Store")) == {"Mailbox Store", TWINS[0]}


def test_events_of_a_database_that_is_gone_are_found_and_an_unknown_name_is_refused(
    pillarbox: Pillarbox, server: Path
) -> None:
    before = of(pillarbox, server, "Mailbox Store")
    pillarbox.answer("database", "rename", server, "Mailbox Store", "Staff")
    assert of(pillarbox, server, "Mailbox Store") == before
    assert of(pillarbox, server, "Staff") == []
    stderr = pillarbox.refused(40, "events", "list", server, "--database", "Stuff")
    assert "there is no database 'Stuff'" in stderr and "Staff" in stderr


def test_a_name_of_two_databases_is_refused_unless_the_log_knows_it_alone(
    pillarbox: Pillarbox, twins: Path
) -> None:
    with EventLog(twins / "events") as log:
        log.report(make_event(EventId.DISK_SPACE_LOW, 0, "Mailbox Store"))
    assert set(of(pillarbox, twins, "Mailbox Store")) == {"Mailbox Store"}, "from when there was one"
    for path in (twins / "events").glob("*.jsonl"):
        path.unlink()
    assert "Storage Group/Database" in pillarbox.refused(
        26, "events", "list", twins, "--database", "Mailbox Store"
    )
