"""The snapshot that is meant: by its id, as the newest, or by a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from pillarbox.backup.repository.repository import LATEST, Repository, Snapshot
from pillarbox.backup.restore import RECOVERY_TITLES, RestorableDatabase, restorable_databases
from pillarbox.backup.snapshot import database_guids
from pillarbox.backup.snapshot_owner import (
    ServerMark,
    choose_server,
    foreign_snapshot,
    is_of_server,
    list_servers,
    split_by_server,
)
from pillarbox.store.disk.tables import DatabaseKind
from pillarbox.store.errors import InvalidName, InvalidSetting, NotFound
from pillarbox.store.names import name_key
from pillarbox.store.server_config import KIND_TEXTS

AT: Final = "@"


def find_snapshot(
    repository: Repository, name: str, *, group: str | None = None, of: str | None = None
) -> Snapshot:
    """The snapshot of that id, of an id that begins so, `latest`, or `@2026-11-25T10:00:00Z`: the state at
    that time, which is the newest snapshot or capture taken then or before.

    `group` names the storage group and `of` the server, by name or id, where `latest` or a time is asked for.
    Raises NotFound, Corrupt, InvalidSetting for a time that is none; Refused while a snapshot that cannot be
    read may be the newest; InvalidName when several ids begin
    so, or when the repository has several servers, or for a time several storage groups, and none is named.
    """
    if not is_moment(name):
        return repository.snapshot(name)
    time_ms = None if name == LATEST else read_moment(name.removeprefix(AT))
    repository.refuse_unclear_newest()
    found = _of_one_server(repository.snapshots(), group, of)
    return found[-1] if time_ms is None else choose_moment(_of_one_group(found), time_ms)


def is_moment(name: str) -> bool:
    """True when `name` means the newest snapshot, or that of a time, and not one of an id."""
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


def in_group(snapshots: Sequence[Snapshot], group: str | None) -> list[Snapshot]:
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
    found = in_group(snapshots if of is None else choose_server(snapshots, of), group)
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


# --- for a server -------------------------------------------------------------------------------------------


class FoundDatabases(NamedTuple):
    """Databases in a snapshot, by name."""

    snapshot: Snapshot
    databases: tuple[RestorableDatabase, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the databases in the snapshot."""
        return tuple(database.name for database in self.databases)


def find_for_server(
    repository: Repository,
    name: str,
    server: ServerMark,
    *,
    of: str | None = None,
    group: str | None = None,
    names: Collection[str] = (),
) -> list[FoundDatabases]:
    """The databases of a server that a snapshot's name means, or those of the given names; newest first.

    `latest` and a time mean for each database the newest snapshot then or before that holds it: several
    snapshots where the newest is without one. `of` names another server, whose databases are meant; without
    it a snapshot of another server is refused. `group` is that of `find_snapshot`.
    Raises Refused, NotFound, Corrupt, InvalidSetting; InvalidName when the name of a database is not clear.
    """
    if not is_moment(name):
        snapshot = repository.snapshot(name)
        if of is not None:
            _refuse_other(snapshot, choose_server(repository.snapshots(), of))
        elif not is_of_server(snapshot, server):
            raise foreign_snapshot(snapshot)
        return [FoundDatabases(snapshot, tuple(restorable_databases(snapshot, names)))]
    time_ms = None if name == LATEST else read_moment(name.removeprefix(AT))
    repository.refuse_unclear_newest()
    found = repository.snapshots()
    if of is not None:
        found = choose_server(found, of)
    else:
        found = [snapshot for snapshot in found if is_of_server(snapshot, server)]
        if not found:
            raise NotFound(
                "the repository has no snapshot of this server",
                hint="take one with `pillarbox backup create`; --of names another server whose mail is meant",
            )
    found = in_group(found, group)
    newest = found[-1] if time_ms is None else choose_moment(found, time_ms)
    then = [snapshot for snapshot in found if (snapshot.time_ms, snapshot.id) <= (newest.time_ms, newest.id)]
    return _newest_of_each(then, server, names)


def _refuse_other(snapshot: Snapshot, snapshots: Sequence[Snapshot]) -> None:
    if snapshot.id not in {each.id for each in snapshots}:
        raise foreign_snapshot(snapshot)


def _newest_of_each(
    snapshots: Sequence[Snapshot], server: ServerMark, names: Collection[str]
) -> list[FoundDatabases]:
    """For each database, or each of those names, the newest of `snapshots`, oldest first, that holds it."""
    newest: dict[bytes, tuple[Snapshot, RestorableDatabase]] = {}
    for snapshot in reversed(snapshots):
        for database in restorable_databases(snapshot):
            newest.setdefault(database.guid, (snapshot, database))
    if names:
        wanted = {_guid_called(name, [each for _, each in newest.values()], server) for name in names}
    else:
        wanted = database_guids(snapshots[-1]).union(server.database_guids)
    found: dict[str, FoundDatabases] = {}
    for guid, (snapshot, database) in newest.items():
        if guid in wanted:
            before = found.get(snapshot.id, FoundDatabases(snapshot, ()))
            found[snapshot.id] = before._replace(databases=(*before.databases, database))
    return list(found.values())


def _guid_called(name: str, databases: Sequence[RestorableDatabase], server: ServerMark) -> bytes:
    """The GUID of the database that is called so now or, where the server has it no more, was; of several the
    one that the server has.
    """
    names = {each.guid: server.names.get(each.guid, each.name) for each in databases}
    found = [guid for guid, called in names.items() if name_key(called) == name_key(name)]
    if not found:
        raise NotFound(
            f"the repository has no database {name!r} of this server",
            hint=f"it has {', '.join(sorted(set(names.values())))}",
        )
    own = [guid for guid in found if guid in server.names] or found
    if len(own) > 1:
        raise InvalidName(
            f"{len(own)} databases are called {name!r}",
            hint="name the storage group with --group, or a snapshot by its id",
        )
    return own[0]


def mailbox_stores(found: Sequence[FoundDatabases]) -> list[FoundDatabases]:
    """The mailbox stores among what was found, which the recovery storage group takes.

    Raises NotFound when there is none, InvalidName when they are of several storage groups.
    """
    stores = stores_of_kind(found, DatabaseKind.MAILBOX_STORE)
    if not stores:
        raise NotFound(
            "there is no mailbox store; the recovery storage group takes no other",
            hint="see what a snapshot holds with `pillarbox backup show`",
        )
    return stores


def stores_of_kind(found: Sequence[FoundDatabases], kind: DatabaseKind) -> list[FoundDatabases]:
    """The databases of a kind among what was found, which the recovery group of that kind takes.

    Raises InvalidName when they are of several storage groups.
    """
    stores = []
    for snapshot, databases in found:
        chosen = tuple(each for each in databases if each.kind is kind)
        stores += [FoundDatabases(snapshot, chosen)] if chosen else []
    groups = {database.group for each in stores for database in each.databases}
    if len(groups) > 1:
        raise InvalidName(
            f"there are {KIND_TEXTS[kind]}s of {len(groups)} storage groups; "
            f"the {RECOVERY_TITLES[kind]} takes one",
            hint=f"name it with --group: {', '.join(sorted(groups))}",
        )
    return stores
