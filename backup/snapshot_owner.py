"""The servers whose snapshots share a repository, kept apart by their GUIDs.

Snapshots of before servers had GUIDs are told apart by those of their databases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from pillarbox.backup.repository.repository import Snapshot
from pillarbox.backup.snapshot import database_guids, server_guid_of
from pillarbox.store.errors import InvalidName, InvalidSetting, NotFound, Refused, UnsupportedVersion
from pillarbox.store.ids import guid_text
from pillarbox.store.names import name_key
from pillarbox.store.server import Server
from pillarbox.store.server_config import parse_config


@dataclass(frozen=True)
class ServerMark:
    """The mark of a server: its GUID, empty when it has none yet, and its databases' names by their GUIDs."""

    guid: bytes
    names: Mapping[bytes, str]

    @property
    def database_guids(self) -> Set[bytes]:
        """The GUIDs of its databases."""
        return self.names.keys()


@dataclass
class ServerSnapshots:
    """The snapshots of one server, in the order in which they were given."""

    guid: bytes = b""
    database_guids: set[bytes] = field(default_factory=set)
    snapshots: list[Snapshot] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        """The names that the server had."""
        return {_server_name(snapshot) for snapshot in self.snapshots}

    @property
    def id_text(self) -> str:
        """The id for `--of`: the server's GUID or, where it has none, that of a database."""
        return guid_text(self.guid or min(self.database_guids)) if self.guid or self.database_guids else ""


def mark_of(server: Server) -> ServerMark:
    """The mark of an open server."""
    return ServerMark(server.guid, {database.guid: database.name for database in server.databases()})


def is_of_server(snapshot: Snapshot, mark: ServerMark) -> bool:
    """True when a snapshot is of that server: it has its GUID, or a database in common with it."""
    has_its_guid = bool(mark.guid) and server_guid_of(snapshot) == mark.guid
    return has_its_guid or not database_guids(snapshot).isdisjoint(mark.database_guids)


def foreign_snapshot(snapshot: Snapshot) -> Refused:
    """The refusal of a snapshot of another server."""
    name = _server_name(snapshot)
    return Refused(
        f"snapshot {snapshot.id[:12]} is one of another server, {name!r}",
        hint=f"say --of {name!r} if that server's mail is meant; `pillarbox backup list` has all snapshots",
    )


def split_by_server(snapshots: Iterable[Snapshot]) -> list[ServerSnapshots]:
    """The snapshots of each server by itself."""
    servers: list[ServerSnapshots] = []
    for snapshot in snapshots:
        guid = server_guid_of(snapshot)
        same = [server for server in servers if _is_same(server, guid, snapshot)]
        # Two servers that a snapshot of before GUIDs fits stay two: one may be a copy of the other's files.
        first = next((server for server in same if server.guid), None)
        joined = ServerSnapshots(guid or (first.guid if first else b""))
        for server in [server for server in same if not server.guid or server is first]:
            servers.remove(server)
            joined.database_guids |= server.database_guids
            joined.snapshots += server.snapshots
        joined.database_guids |= database_guids(snapshot)
        joined.snapshots.append(snapshot)
        servers.append(joined)
    return servers


def _is_same(server: ServerSnapshots, guid: bytes, snapshot: Snapshot) -> bool:
    if server.guid and guid:
        return server.guid == guid
    guids = database_guids(snapshot)
    if not guids and not server.database_guids:  # of another program
        return _server_name(snapshot) in server.names
    return not server.database_guids.isdisjoint(guids)


def choose_server(snapshots: Sequence[Snapshot], of: str) -> list[Snapshot]:
    """The snapshots of the server of that name, or of the id that begins so.

    Raises NotFound, InvalidName when several servers have the name.
    """
    found = [server for server in split_by_server(snapshots) if _is_called(server, of)]
    if not found:
        raise NotFound(
            f"the repository has no snapshot of a server {of!r}",
            hint=f"it has those of {list_servers(split_by_server(snapshots))}",
        )
    if len(found) > 1:
        raise InvalidName(
            f"{len(found)} servers in the repository are called {of!r}",
            hint=f"name one by its id: {list_servers(found)}",
        )
    return found[0].snapshots


def _is_called(server: ServerSnapshots, of: str) -> bool:
    if name_key(of) in {name_key(name) for name in server.names}:
        return True
    ids = [server.guid] if server.guid else sorted(server.database_guids)
    return any(guid_text(each).startswith(of.lower()) for each in ids) if of else False


def list_servers(servers: Iterable[ServerSnapshots]) -> str:
    """Names and ids of servers, for a person who has to choose one."""
    return ", ".join(f"{', '.join(sorted(server.names))} ({server.id_text})" for server in servers)


def configured_guids(snapshot: Snapshot) -> frozenset[bytes] | None:
    """The GUIDs of all databases that the server had then; None when the snapshot does not say."""
    text = snapshot.manifest.get("config")
    if not text or not isinstance(text, str):
        return None
    try:
        config = parse_config(text, f"the configuration in snapshot {snapshot.id}")
    except (InvalidSetting, UnsupportedVersion):
        return None
    return frozenset(entry.guid for group in config.groups for entry in group.databases)


def _server_name(snapshot: Snapshot) -> str:
    return str(snapshot.manifest.get("server") or "")
