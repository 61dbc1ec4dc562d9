"""Retention: which snapshots are kept, by rules that count for each database by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from itertools import groupby, islice
from typing import Final, NamedTuple

from pillarbox.backup.repository.repository import Snapshot, SnapshotKind
from pillarbox.backup.snapshot import OF_ANOTHER_PROGRAM, snapshot_databases
from pillarbox.backup.snapshot_owner import configured_guids, split_by_server
from pillarbox.store.errors import InvalidSetting

CAPTURES_MS: Final = 48 * 3_600_000


@dataclass(frozen=True)
class KeepRules:
    """The snapshots to keep: so many of the newest, the newest of each of so many hours, days, weeks (ISO),
    months and years that have any, and all within `within_ms` of the newest. Zero is a rule that keeps none.

    Captures (capture.py) don't count among them: all that were taken within `captures_ms` of the newest
    snapshot or capture are kept, and no others but those within `within_ms`.

    The rules count for each database by itself, and the newest snapshot that holds a database is always kept,
    or the newest capture of one that no other snapshot holds. But of a database that its server no longer has
    nothing is kept once the newest snapshot that holds it is `gone_ms` older than the server's newest; None
    keeps it for ever.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within_ms: int = 0
    captures_ms: int = CAPTURES_MS
    gone_ms: int | None = None

    def __post_init__(self) -> None:
        counts = (self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly, self.within_ms)
        if min(*counts, self.captures_ms, self.gone_ms or 0) < 0 or not any(counts):
            raise InvalidSetting("say how many snapshots to keep: at least one rule, none of them negative")


@dataclass(frozen=True)
class Decision:
    """The fate of a snapshot: it is kept when there is a reason."""

    snapshot: Snapshot
    reasons: tuple[str, ...]

    @property
    def is_kept(self) -> bool:
        return bool(self.reasons)


def _hour(at: datetime) -> tuple[object, ...]:
    # With its offset from UTC: an hour that the end of summer time repeats is two.
    return at.year, at.month, at.day, at.hour, at.utcoffset()


_PERIODS: Final[tuple[tuple[str, Callable[[datetime], tuple[object, ...]]], ...]] = (
    ("hourly", _hour),
    ("daily", lambda at: (at.year, at.month, at.day)),
    ("weekly", lambda at: at.isocalendar()[:2]),
    ("monthly", lambda at: (at.year, at.month)),
    ("yearly", lambda at: (at.year,)),
)


class HeldDatabase(NamedTuple):
    """The snapshots that hold one database, newest first. Those of another program hold one without a name.

    `is_gone` says that its server no longer has it, as the server's newest snapshot tells; `age_ms` is how
    much older than that one the newest of `snapshots` is.
    """

    guid: bytes
    name: str
    snapshots: tuple[Snapshot, ...]
    is_gone: bool
    age_ms: int


def held_databases(snapshots: Iterable[Snapshot]) -> list[HeldDatabase]:
    """Every database that is in any of the snapshots; servers that have the same one count apart."""
    return [held for server in split_by_server(snapshots) for held in _held_of(server.snapshots)]


def _held_of(snapshots: Sequence[Snapshot]) -> Iterator[HeldDatabase]:
    newest_first = sorted(snapshots, key=lambda each: (each.time_ms, each.id), reverse=True)
    known = configured_guids(newest_first[0])
    names: dict[bytes, str] = {}
    holding: dict[bytes, list[Snapshot]] = {}
    for snapshot in newest_first:
        for guid, name in _names_by_guid(snapshot).items():
            names.setdefault(guid, name)
            holding.setdefault(guid, []).append(snapshot)
    for guid, found in holding.items():
        is_gone = bool(guid) and known is not None and guid not in known
        age_ms = newest_first[0].time_ms - found[0].time_ms
        yield HeldDatabase(guid, names[guid], tuple(found), is_gone, age_ms)


def _names_by_guid(snapshot: Snapshot) -> dict[bytes, str]:
    try:
        return {entry["guid"]: entry["name"] for entry, _ in snapshot_databases(snapshot)}
    except OF_ANOTHER_PROGRAM:
        return {b"": str(snapshot.manifest.get("group") or "")}


def choose_kept(snapshots: Sequence[Snapshot], rules: KeepRules, zone: tzinfo = UTC) -> list[Decision]:
    """Apply `rules` to each snapshot, newest first; hours, days and so on are those of `zone`.

    Give it all snapshots of the repository: what is the last of a database shows only among all.
    """
    newest_first = sorted(snapshots, key=lambda each: (each.time_ms, each.id), reverse=True)
    reasons: dict[str, list[str]] = {snapshot.id: [] for snapshot in newest_first}
    for held in held_databases(snapshots):
        for snapshot, reason in _reasons(held, rules, zone):
            if reason not in reasons[snapshot.id]:
                reasons[snapshot.id].append(reason)
    return [Decision(snapshot, tuple(reasons[snapshot.id])) for snapshot in newest_first]


def _reasons(held: HeldDatabase, rules: KeepRules, zone: tzinfo) -> Iterator[tuple[Snapshot, str]]:
    """Why snapshots are kept for the sake of one database."""
    if held.is_gone and rules.gone_ms is not None and held.age_ms > rules.gone_ms:
        return
    counted = [snapshot for snapshot in held.snapshots if not is_capture(snapshot)]
    last, is_last_kept = (counted or held.snapshots)[0], False
    for snapshot, reason in _reasons_by_rule(held.snapshots, counted, rules, zone):
        is_last_kept |= snapshot is last
        yield snapshot, reason
    if held.is_gone or not is_last_kept:
        yield last, f"last of {held.name}"


def _reasons_by_rule(
    newest_first: Sequence[Snapshot], counted: Sequence[Snapshot], rules: KeepRules, zone: tzinfo
) -> Iterator[tuple[Snapshot, str]]:
    for snapshot in counted[: rules.last]:
        yield snapshot, "last"
    for snapshot in newest_first:
        age_ms = newest_first[0].time_ms - snapshot.time_ms
        if rules.within_ms and age_ms <= rules.within_ms:
            yield snapshot, "within"
        if rules.captures_ms and age_ms <= rules.captures_ms and is_capture(snapshot):
            yield snapshot, "capture"
    for name, period_of in _PERIODS:
        for snapshot in _newest_of_each(counted, period_of, zone, getattr(rules, name)):
            yield snapshot, name


def is_capture(snapshot: Snapshot) -> bool:
    """True when a snapshot is a moment between backups (capture.py)."""
    return snapshot.manifest.get("kind") == SnapshotKind.CAPTURE


def _newest_of_each(
    newest_first: Sequence[Snapshot],
    period_of: Callable[[datetime], tuple[object, ...]],
    zone: tzinfo,
    periods_count: int,
) -> Iterator[Snapshot]:
    """The newest snapshot of each of the last `periods_count` periods that have any."""
    periods = groupby(
        newest_first, lambda each: period_of(datetime.fromtimestamp(each.time_ms // 1000, zone))
    )
    for _, snapshots in islice(periods, periods_count):
        yield next(snapshots)
