"""Which snapshot is meant: by its id, as the newest, or by a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pillarbox.backup.repository.repository import LATEST, Repository, Snapshot
from pillarbox.backup.snapshot_owner import choose_server, list_servers, split_by_server
from pillarbox.store.errors import InvalidName, InvalidSetting, NotFound
from pillarbox.store.names import name_key

AT: Final = "@"


def find_snapshot(
    repository: Repository, name: str, *, group: str | None = None, of: str | None = None
) -> Snapshot:
    """The snapshot of that id, of an id that begins so, `latest`, or `@2026-11-25T10:00:00Z`: the state at
    that time, which is the newest snapshot or capture taken then or before.

    `group` names the storage group and `of` the server, by name or id, where `latest` or a time is asked for.
    Raises NotFound, Corrupt, InvalidSetting for a time that is none; InvalidName when several ids begin
    so, or when the repository has several servers, or for a time several storage groups, and none is named.
    """
    if not is_moment(name):
        return repository.snapshot(name)
    time_ms = None if name == LATEST else read_moment(name.removeprefix(AT))
    found = _of_one_server(repository.snapshots(), group, of)
    return found[-1] if time_ms is None else choose_moment(_of_one_group(found), time_ms)


def is_moment(name: str) -> bool:
    """Whether `name` means the newest snapshot, or that of a time, and not one of an id."""
    return name == LATEST or name.startswith(AT)


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


def of_group(snapshots: Sequence[Snapshot], group: str | None) -> list[Snapshot]:
    """The snapshots of the storage group of that name, in any case; all when None. Raises NotFound."""
    found = [each for each in snapshots if group is None or _group_key(each) == name_key(group)]
    if not found:
        what = "the repository has no snapshots"
        if group is not None:
            what = f"the repository has no snapshot of storage group {group!r}"
        raise NotFound(what, hint="see which it has with `pillarbox backup list --captures`")
    return found


def _group_key(snapshot: Snapshot) -> bytes:
    return name_key(str(snapshot.manifest.get("group") or ""))


def _of_one_server(snapshots: Sequence[Snapshot], group: str | None, of: str | None) -> list[Snapshot]:
    """The snapshots of a group of a server, oldest first; of the only server there is, when none is named."""
    found = of_group(snapshots if of is None else choose_server(snapshots, of), group)
    servers = split_by_server(found)
    if len(servers) == 1:
        return found
    raise InvalidName(
        f"the repository holds snapshots of {len(servers)} servers: {list_servers(servers)}",
        hint="name the one that is meant with --of, by its name or id, or a snapshot by its id",
    )


def _of_one_group(snapshots: Sequence[Snapshot]) -> Sequence[Snapshot]:
    """The snapshots themselves. Raises InvalidName when they are of several storage groups."""
    names = {str(each.manifest.get("group") or "") for each in snapshots}
    if len({name_key(name) for name in names}) > 1:
        raise InvalidName(
            f"the server has {len(names)} storage groups, {', '.join(sorted(names))}, "
            "each with moments of its own",
            hint="name the one that is meant with --group",
        )
    return snapshots
