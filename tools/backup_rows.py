"""The last backups of a database as commands print them: as JSON, and in lines for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pillarbox.store.clock import SystemClock
from pillarbox.tools.output import local_time, size_text

if TYPE_CHECKING:
    from pillarbox.store.upkeep.backup_ages import BackupRules
    from pillarbox.store.upkeep.last_backup import LastBackup


def backup_data(known: LastBackup, rules: BackupRules) -> dict[str, Any]:
    """The last backups of a database as JSON has them, with what of them needs attention now."""
    from pillarbox.store.upkeep.backup_ages import find_concerns

    return {
        "snapshot_ms": known.snapshot_ms,
        "snapshot": known.snapshot or None,
        "repository": known.repository or None,
        "capture_ms": known.capture_ms,
        "check_ms": known.check_ms,
        "verification_ms": known.verification_ms,
        "restored_bytes": known.restored_bytes,
        "restored_ms": known.restored_ms,
        "concerns": [
            {
                "what": concern.what,
                "reason": concern.reason.value,
                "age_ms": concern.age_ms,
                "age_max_ms": concern.age_max_ms,
                "state": concern.explain(),
            }
            for concern in find_concerns(known, rules, SystemClock().now_ms())
        ],
    }


def backup_lines(data: dict[str, Any]) -> Iterator[str]:
    """The same in lines, of at most 76 columns but for concerns."""
    from pillarbox.store.upkeep.backup_ages import MEASURED_BYTES_MIN

    when = {
        what: local_time(data[key]) or "never"
        for what, key in (
            ("backed up", "snapshot_ms"),
            ("captured", "capture_ms"),
            ("repository checked", "check_ms"),
            ("verified", "verification_ms"),
        )
    }
    told = [f"{what} {time}" for what, time in when.items()]
    yield "; ".join(told[:2])
    yield "; ".join(told[2:])
    if data["restored_bytes"] >= MEASURED_BYTES_MIN and data["restored_ms"]:
        rate = data["restored_bytes"] * 1000 // data["restored_ms"]
        yield f"the last restore brought back {size_text(rate)} a second"
    for concern in data["concerns"]:
        yield concern["state"]
