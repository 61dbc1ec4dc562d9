"""Random operations on a database and on a dict: they never differ, not after aborts, mounts and crashes."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.clock import VirtualClock
from pillarbox.store.disk.tables import DatabaseKind, FolderRecord, MailboxRecord, ObjectKind
from pillarbox.store.engine import change_feed, removal
from pillarbox.store.engine.change_feed import ChangeKind
from pillarbox.store.engine.checkpointer import Tuning
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.pace import Pace
from pillarbox.store.engine.removal import Batches
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import AlreadyExists, NotEmpty, NotFound, Refused
from pillarbox.store.mail import copying, folders, mailboxes, messages, views
from pillarbox.store.mail.flags import SEEN_BIT
from pillarbox.store.upkeep.check import check_database

ACTOR = Actor.task("test")
GUID = b"model-test-store"
TUNING = Tuning(
    8 << 10,
    checkpoint_stream_bytes=12 << 10,
    checkpoint_pages=32,
    checkpoint_beside=False,
    remove_beside=False,
)
NAMES = ("Lists", "lists", "Post", "Ärger", "z" * 255)
BODIES = (b"", b"x", b"same text " * 400, bytes(range(256)) * 20)
FLAGS = ("\\Seen", "\\Flagged", "\\Deleted", "work", "later")
PICK = st.integers(0, 10**6)


class Model:
    """What a database should hold. Folders and messages by id."""

    def __init__(self) -> None:
        self.mailboxes: dict[bytes, str] = {}
        self.folders: dict[int, tuple[int, str]] = {}  # (parent, name)
        self.messages: dict[int, tuple[int, int, bytes, frozenset[str]]] = {}  # folder, UID, bytes, flags

    def copy(self) -> Model:
        other = Model()
        other.mailboxes = dict(self.mailboxes)
        other.folders = dict(self.folders)
        other.messages = dict(self.messages)
        return other

    def inside(self, folder_id: int) -> set[int]:
        found = {folder_id}
        while more := {each for each, (parent, _) in self.folders.items() if parent in found} - found:
            found |= more
        return found

    def remove_folder(self, folder_id: int) -> None:
        gone = self.inside(folder_id)
        self.folders = {each: what for each, what in self.folders.items() if each not in gone}
        self.messages = {each: what for each, what in self.messages.items() if what[0] not in gone}


def held_by(read: Reader) -> Model:
    """All that the database shows, in the model's form."""
    found = Model()
    for box in mailboxes.all_of(read):
        found.mailboxes[box.guid] = box.name
        root = folders.get(read, box.root_id)
        for record in (root, *(record for _, record in folders.walk(read, box.root_id))):
            found.folders[record.folder_id] = (record.parent_id, record.name)
            items = list(folders.messages(read, record.folder_id))
            assert record.messages_count == len(items)
            assert record.size == sum(item.size for item in items)
            assert record.unread_count == sum(not item.flags & SEEN_BIT for item in items)
            assert all(item.uid < record.uid_next for item in items)
            for item in items:
                flags = frozenset(messages.flag_names(item))
                body = messages.content(read, item)
                found.messages[item.message_id] = (item.folder_id, item.uid, body, flags)
    return found


class Operations:
    """One transaction's operations, done to the database and to the model alike."""

    def __init__(self, txn: WriteTransaction, model: Model, number: Callable[[], int]) -> None:
        self.txn = txn
        self.model = model
        self.number = number

    def run(self, name: str, pick: int) -> None:
        getattr(self, name)(random.Random(pick))

    def _box(self, rng: random.Random) -> MailboxRecord | None:
        guids = sorted(self.model.mailboxes)
        return mailboxes.get(self.txn, rng.choice(guids)) if guids else None

    def _folder(self, rng: random.Random) -> int | None:
        return rng.choice(sorted(self.model.folders)) if self.model.folders else None

    def _message(self, rng: random.Random) -> int | None:
        return rng.choice(sorted(self.model.messages)) if self.model.messages else None

    def _note_tree(self, folder_id: int) -> None:
        record = folders.get(self.txn, folder_id)
        for each in (record, *(inner for _, inner in folders.walk(self.txn, folder_id))):
            self.model.folders[each.folder_id] = (each.parent_id, each.name)

    def create_mailbox(self, rng: random.Random) -> None:
        if len(self.model.mailboxes) < 4:
            name = f"user {self.number()}"
            box = mailboxes.create(self.txn, name)
            assert box.guid not in self.model.mailboxes
            self.model.mailboxes[box.guid] = name
            self._note_tree(box.root_id)

    def rename_mailbox(self, rng: random.Random) -> None:
        if box := self._box(rng):
            self.model.mailboxes[box.guid] = mailboxes.rename(self.txn, box.guid, f"u {self.number()}").name

    def purge_mailbox(self, rng: random.Random) -> None:
        if (box := self._box(rng)) and rng.random() < 0.3:
            mailboxes.purge(self.txn, box.guid)
            del self.model.mailboxes[box.guid]
            self.model.remove_folder(box.root_id)

    def create_folder(self, rng: random.Random) -> None:
        parent, name = self._folder(rng), rng.choice(NAMES)
        if parent is None:
            return
        taken = self._taken(parent, name)
        try:
            made = folders.create(self.txn, parent, name)
        except AlreadyExists:
            assert taken
            return
        assert not taken
        assert made.folder_id not in self.model.folders
        self.model.folders[made.folder_id] = (parent, name)

    def _taken(self, parent: int, name: str) -> bool:
        return (parent, name.casefold()) in {
            (at, held.casefold()) for at, held in self.model.folders.values()
        }

    def _standard(self, folder_id: int) -> bool:
        box = mailboxes.get(self.txn, folders.get(self.txn, folder_id).mailbox)
        return folder_id == box.root_id or folder_id in box.roles.values()

    def rename_folder(self, rng: random.Random) -> None:
        if (folder_id := self._folder(rng)) is None:
            return
        name = rng.choice(NAMES)
        parent, old = self.model.folders[folder_id]
        refused = self._standard(folder_id)
        refused = refused or (name.casefold() != old.casefold() and self._taken(parent, name))
        try:
            folders.rename(self.txn, folder_id, name)
        except (Refused, AlreadyExists):
            assert refused
            return
        assert not refused
        self.model.folders[folder_id] = (parent, name)

    def move_folder(self, rng: random.Random) -> None:
        folder_id, parent = self._folder(rng), self._folder(rng)
        if folder_id is None or parent is None:
            return
        name = self.model.folders[folder_id][1]
        inside = parent in self.model.inside(folder_id)
        there = self.model.folders[folder_id][0] == parent  # that changes nothing
        refused = self._standard(folder_id) or inside or (self._taken(parent, name) and not there)
        try:
            folders.move(self.txn, folder_id, parent)
        except (Refused, AlreadyExists):
            assert refused
            return
        assert not refused
        self.model.folders[folder_id] = (parent, name)

    def copy_folder(self, rng: random.Random) -> None:
        folder_id, parent = self._folder(rng), self._folder(rng)
        if folder_id is None or parent is None or len(self.model.folders) > 80:
            return
        if parent in self.model.inside(folder_id):
            return
        before = {
            rest: sorted(what[2] for what in self.model.messages.values() if what[0] == each)
            for each, rest in self._paths(folder_id).items()
        }
        copied = messages.copy_folder(self.txn, folder_id, parent, f"copy {self.number()}")
        self._note_tree(copied.folder_id)
        for each, rest in self._paths(copied.folder_id).items():
            items = list(folders.messages(self.txn, each))
            assert sorted(messages.content(self.txn, item) for item in items) == before[rest]
            for item in items:
                assert item.message_id not in self.model.messages
                self._note_copy(item, folder_id)

    def _note_copy(self, item: Any, source_tree: int) -> None:
        source = next(
            what
            for each, what in self.model.messages.items()
            if what[0] in self.model.inside(source_tree)
            and messages.get(self.txn, each).digest == item.digest
        )
        flags = frozenset(messages.flag_names(item))
        self.model.messages[item.message_id] = (item.folder_id, item.uid, source[2], flags)

    def _paths(self, folder_id: int) -> dict[int, tuple[str, ...]]:
        return {folder_id: ()} | {each.folder_id: path for path, each in folders.walk(self.txn, folder_id)}

    def delete_folder(self, rng: random.Random) -> None:
        if (folder_id := self._folder(rng)) is None:
            return
        with_contents = rng.random() < 0.7
        inner = self.model.inside(folder_id)
        full = len(inner) > 1 or any(what[0] == folder_id for what in self.model.messages.values())
        refused = self._standard(folder_id) or (full and not with_contents)
        try:
            folders.delete(self.txn, folder_id, with_contents=with_contents)
        except (Refused, NotEmpty):
            assert refused
            return
        assert not refused
        self.model.remove_folder(folder_id)

    def append(self, rng: random.Random) -> None:
        if (folder_id := self._folder(rng)) is None:
            return
        raw = b"Subject: %d\r\n\r\n" % rng.randrange(3) + rng.choice(BODIES)
        flags = frozenset(rng.sample(FLAGS, rng.randrange(3)))
        prepared = messages.prepare(self.txn.files, raw)
        self._note(messages.append(self.txn, folder_id, prepared, flags=sorted(flags)), raw, flags)

    def _note(self, item: Any, raw: bytes, flags: frozenset[str]) -> None:
        self.model.messages[item.message_id] = (item.folder_id, item.uid, raw, flags)

    def deliver(self, rng: random.Random) -> None:
        if guids := sorted(self.model.mailboxes):
            raw = b"Subject: all\r\n\r\n" + rng.choice(BODIES)
            prepared = messages.prepare(self.txn.files, raw)
            for item in messages.deliver(self.txn, guids, prepared):
                self._note(item, raw, frozenset())

    def set_flags(self, rng: random.Random) -> None:
        if (message_id := self._message(rng)) is None:
            return
        add, remove = rng.sample(FLAGS, 2), rng.sample(FLAGS, 2)
        remove = [flag for flag in remove if flag not in add]
        messages.set_flags(self.txn, message_id, add=add, remove=remove)
        folder_id, uid, raw, flags = self.model.messages[message_id]
        self.model.messages[message_id] = (folder_id, uid, raw, flags - set(remove) | set(add))

    def move(self, rng: random.Random) -> None:
        message_id, folder_id = self._message(rng), self._folder(rng)
        if message_id is not None and folder_id is not None:
            _, _, raw, flags = self.model.messages[message_id]
            self._note(messages.move(self.txn, message_id, folder_id), raw, flags)

    def copy(self, rng: random.Random) -> None:
        message_id, folder_id = self._message(rng), self._folder(rng)
        if message_id is not None and folder_id is not None:
            _, _, raw, flags = self.model.messages[message_id]
            copied = messages.copy(self.txn, message_id, folder_id)
            assert copied.message_id not in self.model.messages
            self._note(copied, raw, flags)

    def delete(self, rng: random.Random) -> None:
        if (message_id := self._message(rng)) is not None:
            messages.delete(self.txn, message_id)
            del self.model.messages[message_id]


class Killed(BaseException):
    """The process is gone: not an error that anything may catch."""


class Contents:
    """The messages of a folder, and of those below it, in the order of their UIDs: bytes and flags."""

    def __init__(self, read: Reader, model: Model, folder_id: int) -> None:
        walked = [((), folder_id), *((path, each.folder_id) for path, each in folders.walk(read, folder_id))]
        self.paths = {
            path: [
                (raw, flags)
                for at, _, raw, flags in sorted(model.messages.values(), key=lambda what: what[1])
                if at == inner_id
            ]
            for path, inner_id in walked
        }

    def note_copy(self, read: Reader, model: Model, made: FolderRecord) -> None:
        walked = [((), made), *folders.walk(read, made.folder_id)]
        assert [path for path, _ in walked] == list(self.paths)
        for path, found in walked:
            assert found.folder_id not in model.folders
            model.folders[found.folder_id] = (found.parent_id, found.name)
            items = list(folders.messages(read, found.folder_id))
            for item, (raw, flags) in zip(items, self.paths[path], strict=True):
                assert item.message_id not in model.messages
                model.messages[item.message_id] = (item.folder_id, item.uid, raw, flags)


KINDS = [
    *("append", "append", "deliver", "set_flags", "move", "move", "copy", "delete"),
    *("create_folder", "create_folder", "rename_folder", "move_folder", "copy_folder", "delete_folder"),
    *("create_mailbox", "rename_mailbox", "purge_mailbox"),
]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), PICK), min_size=1, max_size=6)


class Follower:
    """Knows a database only by its change feed, or one folder of it."""

    def __init__(self, scope: int = 0) -> None:
        self.scope = scope
        self.seen = CNSet()
        self.places: dict[int, tuple[int, int]] = {}  # message id -> folder, UID
        self.flags: dict[int, int] = {}
        self.folders: set[int] = set()

    def catch_up(self, read: Reader) -> None:
        changes = change_feed.changes(read, self.seen, self.scope)
        listed = list(changes)
        assert changes.cost().changes == len(listed)
        assert [change.cn for change in listed] == sorted({change.cn for change in listed}), (
            "each once, in order"
        )
        for change in listed:
            self._apply(change)
        # Only now: what had been moved out of a folder before it went may be told after it.
        gone = {change.object_id for change in listed if change.object_kind is ObjectKind.FOLDER_GONE}
        self.places = {each: place for each, place in self.places.items() if place[0] not in gone}
        self.seen = changes.cnset
        assert list(change_feed.changes(read, self.seen, self.scope)) == []

    def _apply(self, change: change_feed.Change) -> None:
        if change.object_kind is ObjectKind.FOLDER:
            assert (change.kind is ChangeKind.NEW) == (change.object_id not in self.folders)
            self.folders.add(change.object_id)
        elif change.object_kind is ObjectKind.FOLDER_GONE:
            self.folders.discard(change.object_id)
        elif change.object_kind is ObjectKind.MESSAGE_GONE:
            if self.places.get(change.object_id, (0, 0))[1] == change.uid or not self.scope:
                self.places.pop(change.object_id, None)
        elif change.item is not None:
            if not self.scope:
                assert (change.kind is ChangeKind.NEW) == (change.object_id not in self.places)
            self.places[change.object_id] = (change.folder_id, change.uid)
            self.flags[change.object_id] = change.item.flags


class EngineMachine(RuleBasedStateMachine):
    """The database and the model, side by side."""

    @initialize()
    def create(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pillarbox-model-"))
        self.numbers = 0
        self.places = 0
        self.model = Model()
        self.uids: set[tuple[int, int, int]] = set()  # (UIDVALIDITY, UID, message id) ever seen
        self.followers = [Follower()]
        self.database = self._new(self.directory / "0")
        self.database.create()
        self.database.mount()
        self._transact([("create_mailbox", 1), ("create_mailbox", 2), ("append", 3), ("deliver", 4)])

    def _new(self, path: Path) -> Database:
        return Database(
            path,
            GUID,
            "DB",
            DatabaseKind.MAILBOX_STORE,
            clock=VirtualClock(),
            rng=random.Random(self._number()),
            tuning=TUNING,
        )

    def _number(self) -> int:
        self.numbers += 1
        return self.numbers

    def _transact(self, steps: list[tuple[str, int]]) -> None:
        after = self.model.copy()
        with self.database.transaction(ACTOR) as txn:
            for name, pick in steps:
                Operations(txn, after, self._number).run(name, pick)
        self.model = after

    @rule(pick=PICK)
    def make_mailbox(self, pick: int) -> None:
        self._transact([("create_mailbox", pick)])

    @rule(steps=STEPS)
    def transact(self, steps: list[tuple[str, int]]) -> None:
        self._transact(steps)

    @rule(steps=STEPS)
    def transact_and_abort(self, steps: list[tuple[str, int]]) -> None:
        scratch = self.model.copy()
        with pytest.raises(ZeroDivisionError), self.database.transaction(ACTOR) as txn:
            for name, pick in steps:
                Operations(txn, scratch, self._number).run(name, pick)
            raise ZeroDivisionError

    @precondition(lambda self: self.model.folders)
    @rule(pick=PICK, steps=STEPS, ends=st.sampled_from(["complete", "complete", "failed", "crashed"]))
    def copy_in_many_transactions(self, pick: int, steps: list[tuple[str, int]], ends: str) -> None:
        """The copy holds what the folder held when it began, whatever is changed between its batches."""
        rng = random.Random(pick)
        parent = rng.choice(sorted(self.model.folders))
        with_messages = [what[0] for what in self.model.messages.values()]
        folder_id = rng.choice(sorted(with_messages or self.model.folders))
        with self.database.read(ACTOR) as read:
            held = Contents(read, self.model, folder_id)
        if len(self.model.folders) > 80:
            return
        batches = 0

        def beside(progress: object) -> None:
            nonlocal batches
            batches += 1
            if batches == 1:
                self._transact(steps)
                self._catch_up(pick)
                if ends != "complete":
                    raise Killed

        name = f"copy {self._number()}"
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(copying, "Pace", lambda: Pace(1))
                if ends == "crashed":
                    patch.setattr(removal, "give_up_copy", lambda *_: None)
                made = copying.copy_folder(self.database, ACTOR, folder_id, parent, name, progress=beside)
        except Killed:
            if ends == "crashed":
                self.crash(pick % 2 == 1)
            return
        except NotFound:
            assert parent not in self.model.folders
            return
        with self.database.read(ACTOR) as read:
            held.note_copy(read, self.model, made)

    @rule()
    def mount_again(self) -> None:
        self.database.dismount()
        self.database.mount()

    @rule(rows_max=st.integers(1, 4))
    def remove_rows_of_what_was_deleted(self, rows_max: int) -> None:
        with self.database.transaction(ACTOR) as txn:
            Batches().remove(txn, rows_max)

    @rule()
    def checkpoint(self) -> None:
        self.database.checkpoint()

    @rule(new_boot=st.booleans())
    def crash(self, new_boot: bool) -> None:
        """Go on from a copy of the files as they are while the database is mounted."""
        self.places += 1
        path = self.directory / str(self.places)
        with self.database.paused():
            shutil.copytree(self.database.path, path)
        self.database.dismount()
        shutil.rmtree(self.database.path)
        (path / "properties" / "lock.mdb").unlink()
        self.database = self._new(path)
        with pytest.MonkeyPatch.context() as patch:
            if new_boot:
                patch.setattr("pillarbox.store.engine.database.boot_identity", lambda: b"another boot....")
            self.database.mount()
            if new_boot:
                self.database.dismount()
        self.database.mount()

    @precondition(lambda self: self.model.folders)
    @rule(pick=PICK)
    def follow_folder(self, pick: int) -> None:
        if len(self.followers) < 4:
            self.followers.append(Follower(sorted(self.model.folders)[pick % len(self.model.folders)]))

    @rule(pick=PICK)
    def catch_up(self, pick: int) -> None:
        self._catch_up(pick)

    def _catch_up(self, pick: int) -> None:
        follower = self.followers[pick % len(self.followers)]
        with self.database.read(ACTOR) as read:
            follower.catch_up(read)
            expected = {
                message_id: (what[0], what[1])
                for message_id, what in self.model.messages.items()
                if follower.scope in (0, what[0])
            }
            if not follower.scope:
                assert follower.folders == set(self.model.folders)
            if follower.scope in (0, *self.model.folders):
                assert follower.places == expected
                for message_id in expected:
                    assert follower.flags[message_id] == messages.get(read, message_id).flags

    @precondition(lambda self: self.model.folders)
    @rule(
        pick=PICK, sort=st.sampled_from(list(views.Sort)), limit=st.integers(1, 5), descending=st.booleans()
    )
    def page(self, pick: int, sort: views.Sort, limit: int, descending: bool) -> None:
        folder_id = sorted(self.model.folders)[pick % len(self.model.folders)]
        with self.database.read(ACTOR) as read:
            after, found = None, []
            while True:
                page = views.page(read, folder_id, sort=sort, descending=descending, after=after, limit=limit)
                found += [item.message_id for item in page.items]
                if page.next is None:
                    break
                after = page.next
        assert sorted(found) == sorted(
            each for each, what in self.model.messages.items() if what[0] == folder_id
        )
        assert len(found) == len(set(found))

    @invariant()
    def the_database_holds_what_the_model_holds(self) -> None:
        with self.database.read(ACTOR) as read:
            found = held_by(read)
            for message_id, (folder_id, uid, _, _) in found.messages.items():
                self.uids.add((folders.get(read, folder_id).uid_validity, uid, message_id))
        assert found.mailboxes == self.model.mailboxes
        assert found.folders == self.model.folders
        assert found.messages == self.model.messages
        assert len({(validity, uid) for validity, uid, _ in self.uids}) == len(self.uids), "a UID came again"

    def teardown(self) -> None:
        if not hasattr(self, "database"):
            return
        try:
            report = check_database(self.database, ACTOR)
            assert report.clean, report
            self.database.finish_removals()
            report = check_database(self.database, ACTOR)
            assert report.clean and report.messages == len(self.model.messages), report
        finally:
            self.database.dismount()
            shutil.rmtree(self.directory)


SHORT = os.environ.get("PILLARBOX_CAMPAIGN") == "short"
QUICK = settings(
    max_examples=10,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


class TestEngine(EngineMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = QUICK


@pytest.mark.slow
class TestEngineCampaign(EngineMachine.TestCase):  # type: ignore[misc, name-defined]
    # The short run repeats itself: what fails it is the change. The long one goes where none has been.
    settings = settings(QUICK, max_examples=40 if SHORT else 200, stateful_step_count=60, derandomize=SHORT)
