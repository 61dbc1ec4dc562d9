"""A server as a whole from the command line: made, looked at, mounted, checked, repaired; its parts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pillarbox.store.engine.database import MountState
from pillarbox.store.engine.held_space import HeldSpace
from pillarbox.store.server import Server
from pillarbox.store.upkeep import sizes

if TYPE_CHECKING:
    from conftest import Pillarbox

STORE = "Mailbox Store"


def test_an_edition_is_changed_by_command(pillarbox: Pillarbox, server: Path) -> None:
    assert pillarbox.answer("edition", server, "enterprise") == {
        "server": str(server),
        "edition": "enterprise",
    }
    assert pillarbox.run("status", server).stdout.startswith(f"{server}: edition enterprise")
    pillarbox.answer("group", "create", server, "Second Group")
    assert "2 storage groups, at most 1" in pillarbox.refused(20, "edition", server, "standard")
    pillarbox.answer("group", "delete", server, "Second Group")
    assert pillarbox.run("edition", server, "standard").stdout == f"{server} is of the edition standard.\n"


def test_a_server_is_made_once_and_only_in_an_empty_directory(
    pillarbox: Pillarbox, server: Path, tmp_path: Path
) -> None:
    assert pillarbox.answer("init", tmp_path / "new", "--edition", "enterprise") == {
        "server": str(tmp_path / "new"),
        "edition": "enterprise",
    }
    assert "a server already" in pillarbox.refused(51, "init", server)
    (tmp_path / "file").touch()
    assert "not an empty directory" in pillarbox.refused(51, "init", tmp_path / "file")


def test_status_shows_sizes_against_limits_and_mailboxes(pillarbox: Pillarbox, server: Path) -> None:
    mail, public = pillarbox.answer("status", server)
    assert (mail["database"], mail["state"], mail["in_use"]) == (STORE, "mounted", False)
    assert 0 < mail["logical_size_bytes"] <= mail["physical_size_bytes"] < mail["limit_bytes"]
    assert mail["threshold_bytes"] < mail["limit_bytes"] and mail["last_size_check_ms"]
    boxes = {each["mailbox"]: each["messages"] for each in mail["mailboxes"]}
    assert boxes == {"anna": 30, "bert": 0}
    assert public["folders"] == public["messages"] == 0
    text = pillarbox.run("status", server).stdout
    assert "of 18.0 GB used (0.0 %)" in text and "anna" in text


def test_status_names_the_process_that_keeps_the_property_file_from_shrinking(
    pillarbox: Pillarbox, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pillarbox.answer("status", server)[0]["held_space"] is None
    held = HeldSpace(process_id=4711, age_ms=7_200_000, transactions_count=16_000, held_bytes=507 << 20)
    monkeypatch.setattr(sizes, "held_space", lambda database: held)
    assert pillarbox.answer("status", server)[0]["held_space"] == held._asdict()
    text = pillarbox.run("status", server).stdout
    assert "process 4711, begun 120 minutes ago, reads a state 16,000 transactions old" in text
    assert "507.0 MB of the property file wait for it to end" in text


def test_status_says_why_a_database_is_not_mounted(pillarbox: Pillarbox, server: Path) -> None:
    (server / "First Storage Group" / STORE / "properties" / "data.mdb").unlink()
    result = pillarbox.run("status", server, "--json")
    mail, public = json.loads(result.stdout)
    assert mail["state"] == "dismounted" and mail["error"]
    assert public["state"] == "mounted"
    assert result.exit_code == 21 and f"not mounted, and should be: {STORE}" in result.stderr


def test_a_dismounted_database_stays_so_until_it_is_mounted(pillarbox: Pillarbox, server: Path) -> None:
    assert pillarbox.answer("dismount", server, "mailbox store")["mount_at_startup"] is False
    assert pillarbox.answer("status", server)[0]["state"] == "dismounted"
    assert "Mailbox Store" in pillarbox.refused(21, "list", server, "anna")
    assert pillarbox.answer("mount", server, STORE)["mount_at_startup"] is True
    assert pillarbox.answer("status", server)[0]["state"] == "mounted"


def test_a_database_that_cannot_be_mounted_is_not_set_to_be(pillarbox: Pillarbox, server: Path) -> None:
    pillarbox.answer("dismount", server, STORE)
    path = server / "First Storage Group" / STORE
    path.rename(path.with_name("elsewhere"))
    assert "restore it" in pillarbox.refused(40, "mount", server, STORE)
    assert pillarbox.answer("database", "list", server)[0]["mount_at_startup"] is False


def test_dismount_says_that_another_process_holds_on(pillarbox: Pillarbox, server: Path) -> None:
    with Server.open(server) as opened:
        assert pillarbox.answer("dismount", server, STORE)["in_use"] is True
        assert opened.database(STORE).state is MountState.MOUNTED


def test_a_whole_server_is_checked_clean_dismounted_databases_as_well(
    pillarbox: Pillarbox, server: Path
) -> None:
    pillarbox.answer("dismount", server, STORE)
    report = pillarbox.answer("check", server)
    assert report["clean"] and report["findings"] == []
    assert [each["messages"] for each in report["databases"]] == [30, 0]


def test_damage_is_named_by_check_and_taken_out_by_repair(
    pillarbox: Pillarbox, server: Path, damage: Callable[[Path], None]
) -> None:
    damage(server)
    result = pillarbox.run("check", server)
    assert result.exit_code == 1 and "Mailbox Store: " in result.stdout
    report = pillarbox.answer("repair", server, STORE, "--yes")
    assert report["kept"] + len(report["lost"]) == 30 and len(report["lost"]) >= 1
    assert report["damaged_stream"]
    assert all(each["subject"] for each in report["lost"])
    (box, _) = pillarbox.answer("status", server)[0]["mailboxes"]
    assert box["messages"] == report["kept"]
    assert pillarbox.run("check", server).exit_code == 0


def test_repair_takes_a_relative_path(
    pillarbox: Pillarbox, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(server.parent)
    assert pillarbox.answer("repair", server.name, STORE, "--yes")["kept"] == 30


def test_repair_says_what_is_lost(pillarbox: Pillarbox, server: Path, damage: Callable[[Path], None]) -> None:
    damage(server)
    text = pillarbox.run("repair", server, STORE, "--yes").stdout
    assert " kept whole, " in text and "  lost: " in text


def test_repair_says_when_a_mailbox_may_get_another_name(pillarbox: Pillarbox, server: Path) -> None:
    assert "NAME 2" not in pillarbox.run("repair", server, STORE, "--yes").stdout
    for file in (server / "mailboxes").iterdir():
        file.unlink()
    assert "NAME 2" in pillarbox.run("repair", server, STORE, "--yes").stdout


@pytest.mark.parametrize("answer", ["n\n", "", "\n", "perhaps\n"])
def test_repair_asks_first_and_takes_only_yes(pillarbox: Pillarbox, server: Path, answer: str) -> None:
    assert "nothing was done" in pillarbox.refused(20, "repair", server, STORE, input=answer)


def test_repair_of_a_database_in_use_is_refused(pillarbox: Pillarbox, server: Path) -> None:
    with Server.open(server):
        assert "another process" in pillarbox.refused(11, "repair", server, STORE, input="y\n")


def test_maintenance_purges_and_says_what_it_gave_back(pillarbox: Pillarbox, server: Path) -> None:
    rows = pillarbox.answer("maintain", server)
    assert [each["database"] for each in rows] == [STORE, "Public Folder Store"]
    assert rows[0]["purged_mailboxes"] == rows[0]["dictionary"] == 0
    assert "0 mailboxes purged" in pillarbox.run("maintain", server, STORE).stdout
    assert pillarbox.answer("check", server)["clean"]
    with Server.open(server):
        assert pillarbox.answer("maintain", server) == []
        assert "another process" in pillarbox.refused(11, "maintain", server, STORE)


def test_maintenance_does_not_end_well_when_a_database_cannot_be_mounted(
    pillarbox: Pillarbox, server: Path
) -> None:
    with Server.open(server, mount=False) as opened:
        shutil.rmtree(opened.database(STORE).path)
    result = pillarbox.run("maintain", server)
    assert result.exit_code == 40
    assert "Public Folder Store: 0 mailboxes purged" in result.stdout
    assert "the files of database Mailbox Store are not at" in result.stderr
