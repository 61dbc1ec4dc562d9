"""The last backups of each database, as its server knows them without the repository (docs/format.md)."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from xxhash import xxh3_64_hexdigest

from pillarbox.store.disk.checkpoint import write_atomically
from pillarbox.store.disk.stream import disk_error, make_directories
from pillarbox.store.errors import PillarboxError

_FORMAT: Final = {"format": "pillarbox-last-backup", "version": 1}
CLOCK_SLACK_MS: Final = 15 * 60_000
"""So far apart may clocks be that note times in one place (as hosts of one repository: locks)."""


@dataclass(frozen=True)
class LastBackup:
    """The backups of one database, as far as they are known; times in ms UTC, None for never.

    `snapshot_ms` is of the newest backup that is not known to be damaged, `snapshot` and `repository` are
    the ids of it and of where it is. `check_ms` and `verification_ms` are when its snapshots were last
    checked, and restored for a trial; `..._damaged` says whether that found them damaged. The last restore
    that was measured wrote `restored_bytes` in `restored_ms`.
    """

    snapshot_ms: int | None = None
    snapshot: str = ""
    repository: str = ""
    capture_ms: int | None = None
    check_ms: int | None = None
    check_damaged: bool = False
    verification_ms: int | None = None
    verification_damaged: bool = False
    restored_bytes: int = 0
    restored_ms: int = 0

    def followed_by(self, later: LastBackup, now_ms: int) -> LastBackup:
        """Both, joined: the snapshot of `later`, and of all else what is of the later time.

        A time to come is of a clock that was wrong, and gives way to any other.
        """
        merged = self
        if later.snapshot_ms is not None:
            merged = replace(
                merged,
                snapshot_ms=later.snapshot_ms,
                snapshot=later.snapshot,
                repository=later.repository,
            )
        if _is_later(later.capture_ms, self.capture_ms, now_ms):
            merged = replace(merged, capture_ms=later.capture_ms)
        if _is_later(later.check_ms, self.check_ms, now_ms):
            merged = replace(merged, check_ms=later.check_ms, check_damaged=later.check_damaged)
        if _is_later(later.verification_ms, self.verification_ms, now_ms):
            merged = replace(
                merged,
                verification_ms=later.verification_ms,
                verification_damaged=later.verification_damaged,
            )
        if later.restored_bytes:
            merged = replace(merged, restored_bytes=later.restored_bytes, restored_ms=later.restored_ms)
        return merged


def _is_later(time_ms: int | None, before_ms: int | None, now_ms: int) -> bool:
    if time_ms is None or before_ms is None:
        return time_ms is not None
    latest_ms = now_ms + CLOCK_SLACK_MS
    return (time_ms <= latest_ms, time_ms) >= (before_ms <= latest_ms, before_ms)


_FIELDS: Final = {field.name: getattr(LastBackup(), field.name) for field in fields(LastBackup)}


def read_last_backup(directory: Path, guid: bytes) -> LastBackup:
    """The record in `directory` of the database of that GUID; an empty one where the file is damaged or gone:
    at worst somebody looks after a backup that is well.
    """
    try:
        body, _, checksum = (directory / guid.hex()).read_bytes().rstrip(b"\n").rpartition(b" ")
        found = json.loads(body)
    except (OSError, ValueError, RecursionError):
        return LastBackup()
    if checksum != _checksum(body, guid) or not isinstance(found, dict) or found | _FORMAT != found:
        return LastBackup()
    known = {key: value for key, value in found.items() if _is_of_kind(key, value)}
    return LastBackup(**known)


def keep_last_backup(directory: Path, guid: bytes, later: LastBackup, now_ms: int) -> None:
    """Add what was learnt to what `directory` has of a database, durably; fields that are not known stay out.

    What cannot be written is not kept: a backup is made by accounts that may only read, and it is whole
    whatever becomes of the note of it. Of two processes at once one may win: the next backup notes all again.
    """
    merged = read_last_backup(directory, guid).followed_by(later, now_ms)
    told = {key: value for key, value in asdict(merged).items() if value != _FIELDS[key]}
    body = json.dumps({**_FORMAT, **told}).encode()
    with suppress(PillarboxError, OSError):
        make_directories(directory)
        write_atomically(directory / guid.hex(), b"%s %s\n" % (body, _checksum(body, guid)))


def forget_last_backup(directory: Path, guid: bytes) -> None:
    """Remove what is known of a database that is deleted. Raises PillarboxError when the disk fails."""
    try:
        (directory / guid.hex()).unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, str(directory)) from error


def _checksum(body: bytes, guid: bytes) -> bytes:
    return xxh3_64_hexdigest(body, int.from_bytes(guid[:8], "little")).encode()


def _is_of_kind(key: str, value: Any) -> bool:
    """True when `key` is a field of ours and `value` one that it can have."""
    if key not in _FIELDS:
        return False
    kind = int if _FIELDS[key] is None else type(_FIELDS[key])
    return type(value) is kind
