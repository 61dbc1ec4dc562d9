"""The table `[backup]` of server.toml: the backups that a serving process takes.

    [backup]
    repository = "/backup/mail"           # or "s3://BUCKET/PREFIX"
    every = "1d"
    keep = { daily = 7, monthly = 12 }    # without it nothing is ever removed
    passphrase_file = "backup-passphrase" # or key_file; none: PILLARBOX_PASSPHRASE, or not encrypted

A credential file that is no full path is one of systemd's credentials.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from pillarbox.store.errors import InvalidSetting, NotFound
from pillarbox.tools.parameters import duration_ms

TABLE: Final = "backup"
CREDENTIALS_DIRECTORY: Final = "CREDENTIALS_DIRECTORY"
_COUNTS: Final = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_TIMES: Final = ("captures", "gone")
_CREDENTIALS: Final = ("passphrase_file", "key_file")
_KEYS: Final = frozenset({"repository", "every", "keep", *_CREDENTIALS})


class BackupPlan(NamedTuple):
    """The backups to take: where, how far apart, with `keep` as the options of `pillarbox backup run-due`.

    `credential` is the option that names the credential file, and the file; empty for none.
    """

    repository: str
    every: str
    keep: tuple[tuple[str, str], ...] = ()
    credential: tuple[str, str] = ("", "")

    @property
    def every_ms(self) -> int:
        return duration_ms(self.every) or 0

    def options(self, environment: Mapping[str, str]) -> list[str]:
        """The options that say all this to `pillarbox backup run-due`.

        Raises NotFound for one of systemd's credentials where there are none.
        """
        words = ["--every", self.every]
        for option, value in self.keep:
            words += [option, value]
        option, file = self.credential
        return [*words, option, str(_credential_path(file, environment))] if option else words


def _credential_path(file: str, environment: Mapping[str, str]) -> Path:
    directory = environment.get(CREDENTIALS_DIRECTORY, "")
    if Path(file).is_absolute():
        return Path(file)
    if not directory:
        raise NotFound(
            f"there is no credential {file!r}: systemd gave none to this process",
            hint=f"say LoadCredential={file}:/PATH in the unit, or write the full path in server.toml",
        )
    return Path(directory) / file


def read_backup_plan(tables: Mapping[str, Any]) -> BackupPlan | None:
    """The plan in what server.toml holds beside its databases; None where nobody asks for backups.

    Raises InvalidSetting, naming the key that is wrong.
    """
    if TABLE not in tables:
        return None
    table = tables[TABLE]
    if not isinstance(table, dict):
        raise _wrong(TABLE, table, "write it as a table: [backup]")
    for key in table.keys() - _KEYS:
        raise _wrong(key, table[key], f"the keys are {', '.join(sorted(_KEYS))}")
    repository = _text(table, "repository", "a directory by its full path, or s3://BUCKET/PREFIX")
    if not repository.startswith("s3://") and not Path(repository).is_absolute():
        raise _wrong("repository", repository, "write a directory by its full path, or s3://BUCKET/PREFIX")
    every = _duration(table, "every")
    given = [key for key in _CREDENTIALS if key in table]
    if len(given) > 1:
        raise _wrong(given[1], table[given[1]], f"{given[0]} is said already: one of them opens it")
    credential = ("", "")
    if given:
        credential = (f"--{given[0].replace('_', '-')}", _text(table, given[0], "the name of a file"))
    return BackupPlan(repository, every, tuple(_keep(table.get("keep", {}))), credential)


def _keep(table: Any) -> list[tuple[str, str]]:
    if not isinstance(table, dict):
        raise _wrong("keep", table, "write it as a table: { daily = 7, monthly = 12 }")
    options = []
    for key, value in table.items():
        if key in _COUNTS and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            options.append((f"--keep-{key}", str(value)))
        elif key in _TIMES:
            options.append((f"--keep-{key}", _duration(table, key)))
        else:
            raise _wrong(
                f"keep.{key}", value, f"{', '.join(_COUNTS)} are numbers, {' and '.join(_TIMES)} times"
            )
    if table and not any(table.get(key) for key in _COUNTS):
        raise _wrong("keep", table, f"say how many to keep: one of {', '.join(_COUNTS)}")
    return options


def _text(table: Mapping[str, Any], key: str, hint: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        raise _wrong(key, value, f"write {hint}")
    return value


def _duration(table: Mapping[str, Any], key: str) -> str:
    text = _text(table, key, "a time: 30m, 6h or 1d")
    if not duration_ms(text):
        raise _wrong(key, text, "write a time: 30m, 6h or 1d")
    return text


def _wrong(key: str, value: Any, hint: str) -> InvalidSetting:
    found = "is missing" if value is None else f"cannot be {value!r}"
    return InvalidSetting(f"[{TABLE}] of server.toml: {key} {found}", hint=hint)
