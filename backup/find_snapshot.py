"""Which snapshot is meant: by its id, as the newest, or by a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pillarbox.backup.repository.repository import LATEST, Repository, Snapshot
from pillarbox.backup.snapshot import split_by_group
from pillarbox.store.errors import InvalidName, InvalidSetting, NotFound

AT: Final = "@"


def find_snapshot(repository: Repository, name: str, *, group: str | None = None) -> Snapshot:
    """The snapshot of that id, of an id that begins so, `latest`, or `@2026-11-25T10:00:00Z`: the state at
    that time, which is the newest snapshot or capture taken then or before.

    `group` names the storage group where `latest` or a time is asked for. Raises NotFound, Corrupt,
    InvalidSetting for what is no time; InvalidName when several ids begin so, or when it is not clear which
    of the storage groups in the repository is meant: none is named, or several servers have one of the name.
    """
    if name.startswith(AT):
        time_ms = read_moment(name.removeprefix(AT))
        return choose_moment(_of_one_group(repository.snapshots(), group), time_ms)
    if name == LATEST and group is not None:
        newest = _of_one_group(repository.snapshots(), group)[-1:]
        if not newest:
            raise NotFound(
                f"the repository has no snapshot of storage group {group!r}",
                hint="see which it has with `pillarbox backup list`",
            )
        return newest[0]
    return repository.snapshot(name)


def read_moment(text: str) -> int:
    """A time as people write it, ISO 8601 with its zone, in ms UTC. Raises InvalidSetting."""
    hint = "write it like 2026-11-25T10:00:00Z or 2026-11-25T11:00+01:00"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidSetting(f"{text!r} is no time", hint=hint) from error
    if moment.tzinfo is None:
        raise InvalidSetting(f"{text!r} does not say in which time zone it is", hint=hint)
    return round(moment.timestamp() * 1000)


def choose_moment(snapshots: Sequence[Snapshot], time_ms: int) -> Snapshot:
    """The newest of `snapshots` taken at `time_ms`, ms UTC, or before. Raises NotFound."""
    found = [each for each in snapshots if each.time_ms <= time_ms]
    if not found:
        raise NotFound(
            "the repository has nothing that was taken at that time or before",
            hint="see which moments there are with `pillarbox backup list`",
        )
    return max(found, key=lambda each: (each.time_ms, each.id))


def _of_one_group(snapshots: Sequence[Snapshot], group: str | None) -> list[Snapshot]:
    """Those of storage group `group`; of the only one there is, when None."""
    found = [each for each in snapshots if group is None or each.manifest.get("group") == group]
    groups = split_by_group(found)
    if len(groups) > 1:
        names = {str(each[0].manifest.get("group")) for each in groups}
        hint = "name the one that is meant with --group"
        if len(names) < len(groups):
            hint = "name a snapshot by its id, as `pillarbox backup list --captures` shows it"
        raise InvalidName(
            f"the repository holds {len(groups)} storage groups, {', '.join(sorted(names))}, "
            "each with moments of its own",
            hint=hint,
        )
    return found
