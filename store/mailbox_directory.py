"""Mailboxes of a server by name, over all its databases: find, create, rename, move.

No two mailboxes of a server have the same name. A mounted database says itself which it holds; the names in
one that is not mounted stand in a file of the server (`MailboxNames`), or else are read from its tables
(`NamesInTables`), so that such a database stops only what concerns its own mailboxes. Where neither tells
them, a name is given that one of its mailboxes may have, and that one gets another at its next mount.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import count
from typing import Final, Protocol

from pillarbox.store.access import Actor
from pillarbox.store.arguments import check_kind
from pillarbox.store.disk.file_lock import is_locked
from pillarbox.store.disk.tables import DatabaseKind, MailboxRecord, Table
from pillarbox.store.engine.database import LOCK, Database, MountState
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
from pillarbox.store.upkeep.move_mailbox import (
    MOVED_FROM,
    MailboxMove,
    Progress,
    finish_move,
    is_incomplete_copy,
    move_mailbox,
)
from pillarbox.store.upkeep.names_in_tables import NamesInTables

_TELLING_APART: Final = Actor.task("mount")


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
        `move_mailbox.move_mailbox`.
        """
        source, box = self.find(name)
        target = self._server.database(database_name)
        if source is target and MOVED_FROM in box.properties:
            return finish_move(target, box.guid, actor)
        mounted = [each for each in self._server.databases() if each.state is MountState.MOUNTED]
        return move_mailbox(
            source,
            box.guid,
            target,
            actor,
            skip_damaged_max=skip_damaged_max,
            progress=progress,
            elsewhere=[database for database in mounted if database not in (source, target)],
        )

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
            with database.read(Actor.task("find mailbox")) as read:
                try:
                    found = mailboxes.find(read, name)
                except NotFound:
                    continue
            if not self._has_its_source(found):
                yield database, found

    def _has_its_source(self, found: MailboxRecord) -> bool:
        """True when a mailbox is the copy of one that has not gone yet from where it is moved from."""
        origin = found.properties.get(MOVED_FROM)
        source = next((each for each in self._server.databases() if each.guid.hex() == origin), None)
        if source is None:
            return False
        if source.state is MountState.DISMOUNTED:
            names = self._names_in(source)
            return names is None or found.guid in names.values()
        with source.read(Actor.task("find mailbox")) as read:
            record: MailboxRecord | None = read.record(Table.MAILBOX, found.guid)
        if record is None or is_incomplete_copy(record):
            return False
        # A copy has higher numbers than its source. A complete one there, hidden no more, is that of a move
        # back that has not ended: each of the two has a mark then that names the other's database.
        return record.root_id < found.root_id

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
            boxes = list(mailboxes.all_of(read))
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
