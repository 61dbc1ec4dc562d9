"""Mailboxes of a server by name, over all its databases: find, create, rename, move.

No two mailboxes of a server have the same name. A mounted database says itself which it holds; the names in
one that is not mounted stand in a file of the server (`MailboxNames`), or else are read from its tables
(`NamesInTables`), so that such a database stops only what concerns its own mailboxes. Where neither tells
them, a name is given that one of its mailboxes may have, and that one gets another at its next mount.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import count
from typing import Final, Protocol

from pillarbox.store.access import Actor
from pillarbox.store.arguments import check_kind
from pillarbox.store.disk.file_lock import is_locked
from pillarbox.store.disk.tables import DatabaseKind, MailboxRecord, Table
from pillarbox.store.engine.database import LOCK, Database, MountState
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    Dismounted,
    NotFound,
    PillarboxError,
    Refused,
    Retryable,
)
from pillarbox.store.events import EventId
from pillarbox.store.mail import mailboxes
from pillarbox.store.names import NAME_CHARS_MAX, check_name, name_key
from pillarbox.store.upkeep.move_copies import (
    copies_in,
    discard_copy,
    is_incomplete,
    is_used,
    why_it_does_not_count,
)
from pillarbox.store.upkeep.move_mailbox import (
    Alone,
    MailboxMove,
    Progress,
    finish_move,
    move_mailbox,
)
from pillarbox.store.upkeep.names_in_tables import NamesInTables

_TELLING_APART: Final = Actor.task("mount")
_DISCARDING: Final = Actor.task("discard copies")
_FINDING: Final = Actor.task("find mailbox")


class Databases(Protocol):
    """The databases of a server."""

    @property
    def not_mounted(self) -> Mapping[str, PillarboxError]:
        """Why a database that should be mounted is not, by its label."""
        ...

    def databases(self) -> Iterator[Database]:
        """Every database of the regular storage groups."""
        ...

    def database(self, name: str) -> Database:
        """The database of that name. Raises NotFound, InvalidName."""
        ...


class MailboxDirectory:
    """The mailboxes of one server. Its methods may be called from any thread, and by several processes."""

    def __init__(
        self,
        server: Databases,
        changing: AbstractContextManager[object],
        alone: Callable[[], AbstractContextManager[object]],
    ) -> None:
        """`changing` keeps other threads, `alone` other processes, from giving a mailbox a name meanwhile."""
        self._server = server
        self._changing = changing
        self._alone = alone
        self._names_in_tables = NamesInTables()

    def find(self, name: str) -> tuple[Database, MailboxRecord]:
        """The mailbox of that name, in any case, and the mounted database it is in.

        Raises NotFound, InvalidName; Dismounted when it is, or may be, in a mailbox store that is not
        mounted, WriterBusy when another process has that store; Conflict when databases that were apart hold
        mailboxes of the same name.
        """
        check_kind(name, "name", str, "the name of a mailbox; a GUID is for `mailboxes.get`")
        found = list(self._called(name))
        if len(found) != 1:
            # A move may have ended after one database was looked at and before the other was.
            found = list(self._called(name))
        if len(found) > 1:
            stores = ", ".join(database.label for database, _ in found)
            raise Conflict(
                f"there are mailboxes {name!r} in {stores}",
                hint="dismount all but one of these databases, rename the mailbox in that one with "
                "`pillarbox mailbox rename`, and mount the others again",
            )
        if not found:
            for database in self._not_mounted():
                names = self._names_in(database)
                if names is None or name_key(name) in names:
                    raise self._apart(name, database)
            raise NotFound(
                f"there is no mailbox {name!r}", hint="list those there are with `pillarbox mailbox list`"
            )
        return found[0]

    def create(self, actor: Actor, name: str, database_name: str = "") -> tuple[Database, MailboxRecord]:
        """Make a mailbox, durably, in the database named, or in the server's only mailbox store.

        Event 20016 tells of each mailbox store that is not mounted and of which the names are not known.
        Raises InvalidName, AlreadyExists, NotFound, ReadOnly, Dismounted; WriterBusy when another process has
        such a store; Refused in a public folder store, or when none is named and the server has several
        mailbox stores.
        """
        with self._changing, self._alone():
            database = self._server.database(database_name) if database_name else self._only_mailbox_store()
            check_name(name)
            if reason := self._server.not_mounted.get(database.label):
                raise reason.anew()
            self._refuse_taken(name)
            with database.transaction(actor) as txn:
                return database, mailboxes.create(txn, name)

    def rename(self, actor: Actor, name: str, new_name: str) -> tuple[Database, MailboxRecord]:
        """Give a mailbox another name, durably, that no other mailbox of the server has.

        Raises as `find` and `create`.
        """
        with self._changing, self._alone():
            database, box = self.find(name)
            check_name(new_name)
            self._refuse_taken(new_name, box.guid)
            with database.transaction(actor) as txn:
                return database, mailboxes.rename(txn, box.guid, new_name)

    def move(
        self,
        actor: Actor,
        name: str,
        database_name: str,
        *,
        skip_damaged_max: int = 0,
        progress: Progress | None = None,
    ) -> MailboxMove:
        """Move a mailbox to another database, while it is used; durable when this returns.

        A move that was interrupted is ended by making it again. Raises as `find`, `Server.database` and
        `move_mailbox.move_mailbox`; WriterBusy when another process has the other database.
        """
        source, box = self.find(name)
        target = self._server.database(database_name)
        if reason := self._server.not_mounted.get(target.label):
            raise reason.anew()
        if source is target and box.moved_from:
            return finish_move(target, box.guid, actor)
        self.discard_copies(box.guid)
        self._discard_called(name)
        return move_mailbox(
            source, box.guid, target, actor, skip_damaged_max=skip_damaged_max, progress=progress
        )

    def all_of(self, database: Database) -> list[MailboxRecord]:
        """The mailboxes in a mounted database, by name; no copies whose moves have not ended.

        Raises Dismounted, Corrupt.
        """
        with database.read(_FINDING) as read:
            return [box for box in mailboxes.all_of(read) if self._counts(read, box)]

    # -- what interrupted moves have left

    def discard_copies(self, *guids: bytes) -> None:
        """Delete what interrupted moves have left of those mailboxes, or of all; event 20017 tells.

        What counts stays, and so does what is being made, what lies in a database that is not mounted for
        writing, and a complete copy whose source is not mounted. Raises Dismounted, DiskFull, Corrupt.
        """
        for database in self._stores():
            if database.state is not MountState.MOUNTED:
                continue
            with database.read(_DISCARDING) as read:
                left = [box for box in self._copies(read, guids) if not self._counts(read, box)]
            for box in left:
                source = self._source_of(box)
                if source is not None and source.state is MountState.DISMOUNTED:
                    source = None
                with Alone(box.guid) as is_alone:
                    if is_alone:
                        discard_copy(database, box.guid, source, _DISCARDING)

    def _copies(self, read: Reader, guids: Collection[bytes]) -> Iterator[MailboxRecord]:
        if not guids:
            yield from copies_in(read)
        for guid in guids:
            box: MailboxRecord | None = read.record(Table.MAILBOX, guid)
            if box is not None:
                yield box

    def _discard_called(self, name: str) -> None:
        """Delete copies of a name that do not count: they keep it from others in their databases."""
        found = []
        for database in self._stores():
            if database.state is MountState.MOUNTED:
                with database.read(_FINDING) as read:
                    guid = read.index(Table.MAILBOX_NAME, name_key(name))
                found += [] if guid is None else [guid]
        if found:
            self.discard_copies(*found)

    # -- mounted databases

    def _stores(self) -> list[Database]:
        return [each for each in self._server.databases() if each.kind == DatabaseKind.MAILBOX_STORE]

    def _only_mailbox_store(self) -> Database:
        stores = self._stores()
        if len(stores) != 1:
            names = ", ".join(store.label for store in stores)
            hint = f"name one of them: {names}" if names else "create one with `pillarbox database create`"
            raise Refused(f"the server has {len(stores)} mailbox stores", hint=hint)
        return stores[0]

    def _called(self, name: str) -> Iterator[tuple[Database, MailboxRecord]]:
        """The mailboxes of a name in the mounted databases, but for copies whose source has not gone yet."""
        for database in self._stores():
            if database.state is MountState.DISMOUNTED:
                continue
            with database.read(_FINDING) as read:
                try:
                    found = mailboxes.find(read, name)
                except NotFound:
                    continue
                counts = self._counts(read, found)
            if counts:
                yield database, found

    def _counts(self, read: Reader, box: MailboxRecord) -> bool:
        """True for a mailbox that is no copy, or one whose source went there (`move_copies`)."""
        if is_incomplete(box):
            return False
        source = self._source_of(box)
        if source is None:
            return True
        if source.state is MountState.DISMOUNTED:
            names = self._names_in(source)
            return (names is not None and box.guid not in names.values()) or is_used(read, box)
        with source.read(_FINDING) as at_source:
            return not why_it_does_not_count(read, box, at_source)

    def _source_of(self, box: MailboxRecord) -> Database | None:
        """The database that a copy comes from, None when it is no copy or the server has it no more."""
        if not box.moved_from:
            return None
        return next((each for each in self._stores() if each.guid == box.moved_from), None)

    # -- databases that are not mounted

    def _not_mounted(self) -> list[Database]:
        return [store for store in self._stores() if store.state is MountState.DISMOUNTED]

    def _names_in(self, database: Database) -> Mapping[bytes, bytes] | None:
        """GUIDs by name key of the mailboxes in a database that is not mounted; None when not known."""
        try:
            return self._read_names(database)
        except PillarboxError:
            return None

    def _read_names(self, database: Database) -> Mapping[bytes, bytes]:
        names = database.mailbox_names
        assert names is not None  # every mailbox store of a server has them
        try:
            return names.read()
        except (NotFound, Corrupt):
            return self._names_in_tables(database.path)

    def _refuse_taken(self, name: str, own: bytes = b"") -> None:
        """Raises AlreadyExists when a mailbox but `own` (GUID) has a name; Dismounted, WriterBusy when
        one may have it, in a database that another process has mounted.
        """
        self._discard_called(name)
        for database, found in self._called(name):
            if found.guid != own:
                raise _mailbox_exists(name, database.label)
        for database in self._not_mounted():
            try:
                names = self._read_names(database)
            except PillarboxError as error:
                if is_locked(database.path / LOCK):
                    raise self._apart(name, database) from error
                database.report(EventId.MAILBOX_NAMES_UNKNOWN, mailbox=name, reason=str(error))
                continue
            if names.get(name_key(name), own) != own:
                raise _mailbox_exists(name, f"{database.label}, which is not mounted")

    def end_doubles(self, database: Database) -> None:
        """Give each mailbox of a database another name that another database has a mailbox of: event 20015.

        Call it after the mount of one whose names were not known. The copies of a move are no doubles. Raises
        as `rename`.
        """
        if not list(self._doubles(database)):
            return
        with self._changing, self._alone():
            for box, other in list(self._doubles(database)):
                self._give_another_name(database, box, other)

    def _doubles(self, database: Database) -> Iterator[tuple[MailboxRecord, Database]]:
        with database.read(_TELLING_APART) as read:
            boxes = [box for box in mailboxes.all_of(read) if not box.moved_from]
        for box in boxes:
            if (other := self._other_called(box, database)) is not None:
                yield box, other

    def _other_called(self, box: MailboxRecord, database: Database) -> Database | None:
        for other in self._stores():
            if other is database:
                continue
            if other.state is MountState.DISMOUNTED:
                guid = (self._names_in(other) or {}).get(name_key(box.name))
            else:
                with other.read(_TELLING_APART) as read:
                    guid = read.index(Table.MAILBOX_NAME, name_key(box.name))
            if guid is not None and guid != box.guid:
                return other
        return None

    def _give_another_name(self, database: Database, box: MailboxRecord, other: Database) -> None:
        for number in count(2):
            name = f"{box.name[: NAME_CHARS_MAX - 10]} {number}"
            try:
                self._refuse_taken(name)
            except AlreadyExists:
                continue
            with database.transaction(_TELLING_APART) as txn:
                mailboxes.rename(txn, box.guid, name)
                txn.report(EventId.MAILBOX_NAME_TAKEN, mailbox=box.name, name=name, other=other.label)
            return

    def _apart(self, name: str, database: Database) -> PillarboxError:
        """Why a mailbox that may be in a database that is not mounted cannot be told of."""
        label = database.label
        reason = self._server.not_mounted.get(label)
        if isinstance(reason, Retryable):
            return reason.anew()
        return Dismounted(
            f"mailbox {name!r} is in no mounted database, and {label} is not mounted: "
            f"{reason or database.dismount_reason}",
            hint=(reason.hint if reason else "") or "mount it first: `pillarbox mount`",
        )


def _mailbox_exists(name: str, store: str) -> AlreadyExists:
    return AlreadyExists(f"there is a mailbox {name!r} already, in {store}", hint="choose another name")
