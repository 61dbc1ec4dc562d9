"""Reports: what checks and verifications found, kept in the repository for the backups that come after.

The index goes on listing a blob whose bytes are damaged, so a backup that has the content would believe that
it is stored. A report names such copies; a writer does not count them, and stores the blob anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import msgpack
from blake3 import blake3

from pillarbox.backup.repository.backend import Backend, FileKind, is_name
from pillarbox.backup.repository.crypto import Sealer
from pillarbox.backup.repository.damage import damaged_file
from pillarbox.backup.repository.pack import pack_value, unpack_value
from pillarbox.backup.repository.sealed_files import read_sealed_file
from pillarbox.store.errors import Corrupt, NoPermission, NotFound, ReadOnly, UnsupportedVersion

_REPORT_LETTER: Final = b"R"
_PER_MILLE: Final = 1000
_PACK_NAME_BYTES: Final = 32

DamagedCopy = tuple[str, int]
"""One damaged copy of a blob: the name of its pack, and the offset at which it lies there."""


class ReportKind(StrEnum):
    """The work that made a report."""

    CHECK = "check"
    VERIFICATION = "verification"


@dataclass(frozen=True)
class Report:
    """The findings of a check or a verification of snapshots.

    `read_share` (0 to 1) of the packs were read; `hit` are ids of snapshots that do not restore whole.
    `subjects` are what it is of, in the program's terms, and empty when it is of the whole repository;
    `about` is what else the program says.
    """

    time_ms: int
    kind: ReportKind
    read_share: float
    damaged: frozenset[DamagedCopy]
    hit: frozenset[str]
    subjects: frozenset[bytes] = frozenset()
    about: Mapping[str, Any] = field(default_factory=dict)

    def replaces(self, earlier: Report) -> bool:
        """True when nobody needs `earlier` any more, once its damaged copies are in the later report."""
        return earlier.kind is self.kind and earlier.subjects <= self.subjects


def read_reports(backend: Backend, sealer: Sealer) -> dict[str, Report]:
    """The reports in a repository by file name, without those that are damaged or of a newer program."""
    return {name: report for name, report in _read_all(backend, sealer).items() if report is not None}


def _read_all(backend: Backend, sealer: Sealer) -> dict[str, Report | None]:
    """The reports by file name, None for a damaged one."""
    found: dict[str, Report | None] = {}
    for name in sorted(info.name for info in backend.list(FileKind.REPORT)):
        with suppress(NotFound, UnsupportedVersion):  # replaced since the listing; or of a newer program
            try:
                found[name] = _read_report(backend, sealer, name)
            except Corrupt:
                found[name] = None
    return found


def keep_report(backend: Backend, sealer: Sealer, report: Report) -> bool:
    """Store a report durably, then delete those that it replaces and damaged ones; False where nothing may be
    written.

    `damaged` must have the copies that those name and that are not proven whole meanwhile. Needs no lock: of
    two at once each stores its own, and deletes only what it has read. Raises: DiskFull.
    """
    earlier = _read_all(backend, sealer)
    data = sealer.seal(_REPORT_LETTER, _encode(report))
    try:
        backend.put(FileKind.REPORT, blake3(data).hexdigest(), data)
        for name, each in earlier.items():
            if each is None or report.replaces(each):
                backend.delete(FileKind.REPORT, name)
    except (ReadOnly, NoPermission):
        return False
    return True


def known_damage(reports: Mapping[str, Report]) -> frozenset[DamagedCopy]:
    """The damaged copies that any of the reports names."""
    return frozenset().union(*(report.damaged for report in reports.values()))


def _encode(report: Report) -> bytes:
    damaged = [[bytes.fromhex(pack), offset] for pack, offset in sorted(report.damaged)]
    share = int(report.read_share * _PER_MILLE)
    fields = [report.time_ms, str(report.kind), share, damaged, sorted(report.hit), sorted(report.subjects)]
    return pack_value([*fields, dict(report.about)])


def _read_report(backend: Backend, sealer: Sealer, name: str) -> Report:
    file = f"{FileKind.REPORT}/{name}"
    try:
        return _decode(unpack_value(read_sealed_file(backend, sealer, FileKind.REPORT, name, _REPORT_LETTER)))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise damaged_file(f"{file}: {error}", file=file) from error


def _decode(fields: Any) -> Report:
    """Fields behind those that this program knows are of a newer one, and left alone."""
    time_ms, kind, share, damaged, hit, subjects, about = fields[:7]
    copies = frozenset((pack.hex(), int(offset)) for pack, offset in damaged if len(pack) == _PACK_NAME_BYTES)
    if type(time_ms) is not int or not isinstance(about, dict) or not all(map(is_name, hit)):
        raise ValueError("its fields are not those of a report")
    return Report(
        time_ms, ReportKind(kind), share / _PER_MILLE, copies, frozenset(hit), frozenset(subjects), about
    )
