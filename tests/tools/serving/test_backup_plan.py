"""The table `[backup]` of server.toml: read, refused, and said to the command that takes backups."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

from pillarbox.store.errors import InvalidSetting, NotFound
from pillarbox.tools.serving.backup_plan import read_backup_plan

WHOLE: dict[str, Any] = {"repository": "/backup/mail", "every": "6h"}


def options(table: dict[str, Any], **environment: str) -> list[str]:
    plan = read_backup_plan({"backup": table})
    assert plan is not None
    return plan.options(environment)


def test_without_the_table_there_are_no_backups() -> None:
    assert read_backup_plan({"backups": {}, "other": 1}) is None


def test_the_plan_is_said_in_the_options_of_run_due() -> None:
    keep = {"daily": 7, "monthly": 12, "captures": "3d"}
    found = options({**WHOLE, "keep": keep, "passphrase_file": "/etc/secret"})
    assert found == [
        *("--every", "6h", "--keep-daily", "7", "--keep-monthly", "12", "--keep-captures", "3d"),
        *("--passphrase-file", "/etc/secret"),
    ]
    assert options(WHOLE) == ["--every", "6h"]


def test_a_file_without_a_full_path_is_a_credential_of_systemd() -> None:
    table = {**WHOLE, "key_file": "backup-key"}
    assert options(table, CREDENTIALS_DIRECTORY="/run/c")[-2:] == ["--key-file", "/run/c/backup-key"]
    with pytest.raises(NotFound) as told:
        options(table)
    assert "LoadCredential=backup-key:" in told.value.hint


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("daily", "backup"),
        ({**WHOLE, "evry": "1d"}, "evry"),
        ({"every": "1d"}, "repository"),
        ({**WHOLE, "repository": "mail"}, "repository"),
        ({**WHOLE, "every": 5}, "every"),
        ({**WHOLE, "every": "0d"}, "every"),
        ({**WHOLE, "keep": 7}, "keep"),
        ({**WHOLE, "keep": {"daily": True}}, "keep.daily"),
        ({**WHOLE, "keep": {"daily": -1}}, "keep.daily"),
        ({**WHOLE, "keep": {"sometimes": 1}}, "keep.sometimes"),
        ({**WHOLE, "keep": {"daily": 0}}, "keep"),
        ({**WHOLE, "keep": {"daily": 1, "gone": "soon"}}, "gone"),
        ({**WHOLE, "passphrase_file": ""}, "passphrase_file"),
        ({**WHOLE, "passphrase_file": "a", "key_file": "b"}, "key_file"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(table: Any, key: str) -> None:
    with pytest.raises(InvalidSetting, match=rf"^\[backup\] of server.toml: {key} "):
        read_backup_plan({"backup": table})
