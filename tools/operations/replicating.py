"""The replicator of a server's public folder store, as operations find it, and things by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import pillarbox
from pillarbox.store.errors import Dismounted, NotFound, Refused

if TYPE_CHECKING:
    from pillarbox.replication.core.replica import Replica
    from pillarbox.replication.ground.records import ObjectId
    from pillarbox.store.disk.tables import FolderRecord
    from pillarbox.store.engine.transaction import Reader
    from pillarbox.store.mail.messages import PreparedMessage

R = TypeVar("R")
FENCE: Final = "replication-fence"
"""The file of a server that tells of the last mount of its public folder store (replication.md,
"Identity")."""
HIERARCHY: Final = "/"
"""What the hierarchy is called beside paths of folders. None of these begins with a slash."""


class Performs(Protocol):
    """Makes changes, and looks, where the store's replicator is."""

    def perform(self, change: Callable[[Replica], R], prepared: Mapping[bytes, PreparedMessage] = {}) -> R:
        """The result of a function of the core, once that is durable. Raises what it raises.

        `prepared` is mail that it brings, by its digest.
        """
        ...


def joined_store(server: pillarbox.Server) -> pillarbox.Database:
    """The public folder store of a server that is in a tree; a server has one.

    Raises Refused where none has joined an organisation, Dismounted where it cannot be told.
    """
    from pillarbox.store.engine import numbering
    from pillarbox.tools.options import ACTOR

    stores = public_folder_stores(server)
    for database in stores:
        with database.read(ACTOR) as read:
            if numbering.membership(read) is not None:
                return database
    raise Refused(
        "the server's public folders belong to no organisation"
        if stores
        else "the server has no public folder store",
        hint="make one (`pillarbox org init`), or join one (`pillarbox node join`)",
    )


def public_folder_stores(server: pillarbox.Server) -> list[pillarbox.Database]:
    """The public folder stores of a server."""
    from pillarbox.store.disk.tables import DatabaseKind

    return [each for each in server.databases() if each.kind == DatabaseKind.PUBLIC_FOLDER_STORE]


def replicator_at_rest(server: pillarbox.Server) -> Performs:
    """The replicator of a server that no process serves. Raises as `joined_store`."""
    from pillarbox.replication.node.stored_organisation import replicator_at_rest

    return replicator_at_rest(joined_store(server), fence_of(server))


def notice_return(server: pillarbox.Server) -> None:
    """Have the public folder store of a server number its next change anew, where it is a copy or was put
    back; nothing where it has joined no organisation, or is not mounted.

    Raises as `FenceFile` and a transaction do.
    """
    try:
        database = joined_store(server)
    except (Refused, Dismounted):  # no number of its own can be given now
        return
    from pillarbox.replication.node import returning

    returning.notice_return(database, fence_of(server))


def not_running() -> Refused:
    """The error of a command that has something sent, where no node runs."""
    return Refused(
        "nothing leaves this server: replication does not run",
        hint="serve it (`pillarbox serve`), and look at its log",
    )


def fence_of(server: pillarbox.Server) -> Any:
    """The fence of a server's public folder store."""
    from pillarbox.replication.node.fence import FenceFile
    from pillarbox.replication.node.machine import machine_id

    return FenceFile(server.path / FENCE, machine_id())


# -- things by their names


def folder_id(server: pillarbox.Server, path: str) -> ObjectId:
    """A public folder as all stores call it, also one in Lost and Found, as `walk_everywhere` names it.

    Raises NotFound; Refused for the top of the tree.
    """
    from pillarbox.store.engine import numbering
    from pillarbox.tools.options import ACTOR

    names = "/".join(filter(None, path.split("/")))
    if not names:
        raise Refused("the top of the tree is in no replica list", hint="name a folder")
    with joined_store(server).read(ACTOR) as read:
        return numbering.as_change_number(read, _find_everywhere(read, names).folder_id)


def _find_everywhere(reader: Reader, path: str) -> FolderRecord:
    from pillarbox.store.mail import public_folders
    from pillarbox.store.names import name_key

    top, _, below = path.partition("/")
    try:
        return public_folders.find(reader, path)
    except NotFound:
        lost = public_folders.LOST_AND_FOUND
        if not below or name_key(top) != name_key(lost):
            raise
        return public_folders.find(reader, below, subtree=lost)


def walk_everywhere(reader: Reader) -> Iterator[tuple[str, FolderRecord]]:
    """(path, folder) of all public folders that users see, and of those in Lost and Found, named so.

    No two have the same path: where users have a folder of their own called Lost and Found, and another one
    has the path already, a slash is before it.
    """
    from pillarbox.store.mail import public_folders

    lost, taken = public_folders.LOST_AND_FOUND, set()
    for names, record in public_folders.walk(reader, ""):
        if names[0] == lost:
            taken.add(names)
        yield "/".join(names), record
    for below, record in public_folders.walk(reader, "", subtree=lost):
        names = (lost, *below)
        yield ("/" if names in taken else "") + "/".join(names), record


def folder_paths(server: pillarbox.Server) -> dict[ObjectId, str]:
    """The paths of all public folders, as `walk_everywhere` names them."""
    from pillarbox.store.engine import numbering
    from pillarbox.tools.options import ACTOR

    with joined_store(server).read(ACTOR) as read:
        return {
            numbering.as_change_number(read, record.folder_id): path
            for path, record in walk_everywhere(read)
            if record.versions
        }


def folder_name(replica: Replica, folder: ObjectId, paths: Mapping[ObjectId, str]) -> str:
    """A folder by its path, the hierarchy, or what has no path by its id: each folder otherwise."""
    from pillarbox.store.ids import guid_text

    if folder == replica.tree.hierarchy:
        return HIERARCHY
    return paths.get(folder) or f"/{guid_text(folder.origin)}:{folder.counter:x}"


def shown_folder(name: str) -> str:
    """A folder of `folder_name` as people are shown it."""
    return "/ (the hierarchy)" if name == HIERARCHY else name


def server_named(replica: Replica, name: str) -> bytes:
    """The store of the server that is called so, in any case. Raises NotFound."""
    from pillarbox.store.names import name_key

    servers = [each for each in replica.organisation.servers.values() if not each.is_removed]
    for each in servers:
        if name_key(each.name) == name_key(name):
            return each.database
    names = ", ".join(sorted(each.name for each in servers))
    raise NotFound(f"no server of the organisation is called {name!r}", hint=f"the servers: {names}")


def servers_named(replica: Replica, names: Iterable[str]) -> list[bytes]:
    """The stores of servers by name. Raises as `server_named`."""
    return [server_named(replica, name) for name in names]


def name_of(replica: Replica, database: bytes) -> str:
    """The name of a store's server, its GUID where no entry names it."""
    from pillarbox.store.ids import guid_text

    server = replica.organisation.servers.get(database)
    return server.name if server and server.name else guid_text(database)
