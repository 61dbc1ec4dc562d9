"""Messages of other stores: what is applied is there, whatever was there before, and only once."""

from __future__ import annotations

import email
import email.policy
import random
from typing import TYPE_CHECKING

import pytest

from pillarbox.store.access import Actor
from pillarbox.store.change_number import CNSet
from pillarbox.store.content.blocks import digest_of
from pillarbox.store.disk.tables import DatabaseKind, ItemRecord, ItemRole, ObjectKind, Table
from pillarbox.store.engine import change_feed, numbering
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import NotFound, Refused
from pillarbox.store.ids import COUNTER_BITS
from pillarbox.store.mail import apply_messages, folders, messages, public_folders, versions
from pillarbox.store.mail.apply_messages import MessageState, MessageVersion
from pillarbox.store.upkeep.check import check_database
from pillarbox.store.upkeep.joining import join

if TYPE_CHECKING:
    from conftest import OpenDatabase

ACTOR = Actor.task("replication")
B, C = 2 << COUNTER_BITS, 3 << COUNTER_BITS  # numbers of two other stores
MESSAGE = B | 1
RAWS = [b"Subject: %d\r\n\r\n" % number + b"body " * 600 for number in range(4)]
DIGESTS = [digest_of(raw) for raw in RAWS]


class Folder:
    """A folder of a store that has joined a tree, and what a test applies there."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.transaction(ACTOR) as txn:
            public_folders.create_tree(txn)
            self.folder_id = public_folders.create(txn, "News").folder_id
        join(database, ACTOR, b"t" * 16)
        with database.transaction(ACTOR) as txn:
            for origin in (b"b" * 16, b"c" * 16):
                numbering.replica_number(txn, origin, origin, 1)
        self.contents = {
            digest: messages.prepare(database.files, raw) for digest, raw in zip(DIGESTS, RAWS, strict=True)
        }

    def apply(self, state: MessageState, message_id: int = MESSAGE) -> bool:
        with self.database.transaction(ACTOR) as txn:
            return apply_messages.apply(txn, self.folder_id, message_id, as_one(state), self.contents)

    def state(self, message_id: int = MESSAGE) -> MessageState | None:
        with self.database.read(ACTOR) as read:
            return apply_messages.state_of(read, self.folder_id, message_id)

    def items(self) -> list[ItemRecord]:
        with self.database.read(ACTOR) as read:
            return list(folders.messages(read, self.folder_id))

    def raws(self) -> list[bytes]:
        with self.database.read(ACTOR) as read:
            return [messages.content(read, item) for item in folders.messages(read, self.folder_id)]

    def cn(self) -> int:
        return self.database.wait_for_change(0)


@pytest.fixture
def folder(open_database: OpenDatabase) -> Folder:
    return Folder(open_database(kind=DatabaseKind.PUBLIC_FOLDER_STORE))


def version(number: int, content: int | None = 0, **fields: object) -> MessageVersion:
    digest = b"" if content is None else DIGESTS[content]
    made = MessageVersion(number, (1_000_000_000_000 + (number & 0xFF), 0), "bert", digest)
    return made._replace(**fields)  # type: ignore[arg-type]


def state(*held: MessageVersion, context: dict[int, int] | None = None) -> MessageState:
    found = context or numbering.context_of(tuple(each.number for each in held))
    return MessageState(found, tuple(sorted(held)))


def as_one(wanted: MessageState) -> MessageState:
    """A state with what its live versions are read as, if there are several."""
    live = [each for each in wanted.versions if each.digest]
    return (
        wanted._replace(shown=live[-1]._replace(number=0))
        if len(live) > 1 and wanted.shown is None
        else wanted
    )


def test_a_message_comes_under_its_own_id_and_numbers_as_a_change_of_this_database(folder: Folder) -> None:
    with folder.database.read(ACTOR) as read:
        before = change_feed.changes(read, CNSet()).cnset
    stamps = (("keyword work", 5, 6, 3),)
    arrived = version(B | 1, flags=4, keywords=("work",), properties={"p": "v"}, stamps=stamps)
    assert folder.apply(state(arrived))
    assert folder.state() == state(arrived)
    (item,) = folder.items()
    assert (item.message_id, item.versions, item.actor) == (MESSAGE, (B | 1,), "bert")
    assert item.subject == "0" and folder.raws() == [RAWS[0]]
    assert messages.flag_names(item) == ("\\Flagged", "work")
    with folder.database.read(ACTOR) as read:
        told = list(change_feed.changes(read, before, folder.folder_id))
        assert [(change.kind, change.object_id, change.cn) for change in told] == [
            (change_feed.ChangeKind.NEW, MESSAGE, item.arrived_cn)
        ]
        assert item.arrived_cn >> COUNTER_BITS == 1
        assert folders.get(read, folder.folder_id).messages_count == 1
    assert check_database(folder.database, ACTOR).clean


def test_what_is_there_already_is_no_change(folder: Folder) -> None:
    conflict = state(version(B | 1), version(C | 1, 1), version(C | 7, None))
    bare = MessageState({2: 5}, ())
    for wanted in (conflict, bare):
        assert folder.apply(wanted)
        before = folder.cn()
        assert not folder.apply(wanted)
        assert folder.cn() == before


def test_a_change_of_properties_keeps_the_uid_and_other_content_is_another_message(folder: Folder) -> None:
    folder.apply(state(version(B | 1)))
    (first,) = folder.items()
    folder.apply(state(version(C | 2, flags=4), context={2: 1, 3: 2}))
    (second,) = folder.items()
    assert (second.uid, second.message_id, second.flags) == (first.uid, MESSAGE, 4)
    assert second.versions == (C | 2, B | 1) and second.change_cn > first.change_cn
    with folder.database.read(ACTOR) as read:
        known = change_feed.changes(read, CNSet()).cnset
    folder.apply(state(version(B | 3, 1), context={2: 3, 3: 2}))
    (third,) = folder.items()
    assert third.uid > first.uid and third.message_id == MESSAGE and folder.raws() == [RAWS[1]]
    with folder.database.read(ACTOR) as read:
        assert list(change_feed.vanished(read, folder.folder_id, second.modseq)) == [first.uid]
        told = [change.kind for change in change_feed.changes(read, known, folder.folder_id)]
        assert told == [change_feed.ChangeKind.DELETED, change_feed.ChangeKind.NEW]
    assert check_database(folder.database, ACTOR).clean


def test_a_conflict_is_one_message_that_holds_the_versions_until_one_is_kept(folder: Folder) -> None:
    conflict = state(version(B | 1), version(C | 1, 1))
    folder.apply(conflict)
    assert folder.state() == conflict
    (shown,) = folder.items()
    assert (shown.message_id, shown.role, shown.subject) == (MESSAGE, ItemRole.CONFLICT, "Conflict: 1")
    assert attached(folder.raws()[0]) == RAWS[:2]
    with folder.database.read(ACTOR) as read:
        (found,) = versions.conflicts(read, folder.folder_id)
        assert found.message == shown
        assert [messages.content(read, each) for each in found.versions] == RAWS[:2]
        assert folders.get(read, folder.folder_id).messages_count == 1
        with pytest.raises(NotFound):
            messages.get_by_uid(read, folder.folder_id, found.versions[0].uid)
    _, other = found.versions
    for change in (
        lambda txn: messages.set_flags(txn, MESSAGE, add=["\\Flagged"]),
        lambda txn: messages.set_flags(txn, other.message_id, add=["\\Seen"]),
        lambda txn: messages.delete(txn, MESSAGE),
        lambda txn: messages.delete(txn, other.message_id),
        lambda txn: messages.move(txn, MESSAGE, public_folders.root_id(txn)),
    ):
        with (
            folder.database.transaction(ACTOR) as txn,
            pytest.raises(Refused, match="two places") as refused,
        ):
            change(txn)
        for way in ("`pillarbox replication resolve`", "`messages.keep_version` in a program"):
            assert way in refused.value.hint
    with folder.database.transaction(ACTOR) as txn, pytest.raises(Refused, match="none of them"):
        messages.keep_version(txn, MESSAGE)
    with folder.database.transaction(ACTOR) as txn:
        assert messages.set_flags(txn, MESSAGE, add=["\\Seen"]).versions == shown.versions
        kept = messages.keep_version(txn, other.message_id)
    assert folder.raws() == [RAWS[1]] and folder.items() == [kept]
    assert (kept.message_id, kept.conflict_of, kept.role) == (MESSAGE, 0, ItemRole.MESSAGE)
    assert messages.has_flag(kept, "\\Seen")
    assert kept.versions == (numbering_of(kept.change_cn), B | 1, C | 1)
    state_now = folder.state()
    assert state_now is not None and [each.number for each in state_now.versions] == [kept.versions[0]]
    assert check_database(folder.database, ACTOR).clean


def numbering_of(cn: int) -> int:
    """The replicated number of a change made here."""
    return 1 << COUNTER_BITS | cn & ((1 << COUNTER_BITS) - 1)


def attached(raw: bytes) -> list[bytes]:
    """The messages in a conflict message, those of its digest too, byte for byte."""
    found: list[bytes] = []
    for held in RAWS:
        found += [held] * raw.count(held)
    parsed = email.message_from_bytes(raw, policy=email.policy.default)
    assert sum(part.get_content_type() == "message/rfc822" for part in parsed.walk()) == len(found)
    return found


def test_all_versions_become_messages_of_their_own(folder: Folder) -> None:
    folder.apply(state(version(B | 1), version(C | 1, 1, flags=4), version(C | 7, None)))
    with folder.database.transaction(ACTOR) as txn:
        kept, copied = messages.keep_all_versions(txn, MESSAGE)
    assert (kept.message_id, messages.flag_names(kept)) == (MESSAGE, ())
    assert copied.message_id != MESSAGE and messages.flag_names(copied) == ("\\Flagged",)
    assert sorted(folder.raws()) == RAWS[:2]
    state_now = folder.state()
    assert state_now is not None and [each.number for each in state_now.versions] == [kept.versions[0]]
    assert check_database(folder.database, ACTOR).clean
    with folder.database.transaction(ACTOR) as txn:
        assert messages.keep_all_versions(txn, MESSAGE) == [kept]
        assert messages.keep_version(txn, MESSAGE) == kept


def test_versions_of_one_content_are_one_message_with_the_properties_of_all(folder: Folder) -> None:
    """K6: flags and keywords that were set in two places are no conflict; a change takes the place of all."""
    mine, theirs = version(B | 2, flags=4), version(C | 1, keywords=("work",))
    wanted = state(mine, theirs, context={2: 2, 3: 1})
    shown = theirs._replace(
        number=0, flags=4, stamps=(("\\Flagged", *mine.changed, 2), ("keyword work", *theirs.changed, 3))
    )
    folder.apply(state(version(B | 1)))
    (first,) = folder.items()
    folder.apply(wanted._replace(shown=shown))
    (one,) = folder.items()
    assert (one.uid, one.message_id, one.role) == (first.uid, MESSAGE, ItemRole.MESSAGE)
    assert messages.flag_names(one) == ("\\Flagged", "work") and folder.state() == wanted
    assert check_database(folder.database, ACTOR).clean
    with folder.database.transaction(ACTOR) as txn:
        assert versions.conflicts(txn, folder.folder_id) == []
        changed = messages.set_flags(txn, MESSAGE, remove=["work"])
    assert folder.items() == [changed] and changed.versions == (
        numbering_of(changed.change_cn),
        B | 2,
        C | 1,
    )
    assert changed.stamps == (
        ("\\Flagged", *mine.changed, 2),
        ("keyword work", *changed.changed, 1),
    )
    state_now = folder.state()
    assert state_now is not None and [each.number for each in state_now.versions] == [changed.versions[0]]
    assert check_database(folder.database, ACTOR).clean
    with folder.database.transaction(ACTOR) as txn:
        messages.delete(txn, MESSAGE)
    state_now = folder.state()
    assert state_now is not None and [each.digest for each in state_now.versions] == [b""]
    assert check_database(folder.database, ACTOR).clean


def test_a_deletion_takes_the_message_and_a_late_edit_brings_it_back(folder: Folder) -> None:
    folder.apply(state(version(B | 1)))
    (item,) = folder.items()
    gone = state(version(C | 2, None), context={2: 1, 3: 2})
    folder.apply(gone)
    assert folder.items() == [] and folder.state() == gone
    with folder.database.read(ACTOR) as read:
        assert list(change_feed.vanished(read, folder.folder_id, item.modseq)) == [item.uid]
    both = state(version(C | 2, None), version(B | 4, 1), context={2: 4, 3: 2})
    folder.apply(both)
    assert folder.raws() == [RAWS[1]] and folder.state() == both
    assert check_database(folder.database, ACTOR).clean


def test_a_deletion_of_what_was_never_here_tells_no_reader(folder: Folder) -> None:
    with folder.database.read(ACTOR) as read:
        before = change_feed.changes(read, CNSet()).cnset
    folder.apply(state(version(B | 1, None)))
    assert folder.state() == state(version(B | 1, None))
    with folder.database.read(ACTOR) as read:
        assert list(change_feed.changes(read, before, folder.folder_id)) == []
        assert list(change_feed.changes(read, before)) == []
        assert list(change_feed.vanished(read, folder.folder_id, 0)) == []
    assert check_database(folder.database, ACTOR).clean


def test_what_is_let_go_here_tells_readers_and_no_other_store(folder: Folder) -> None:
    folder.apply(state(version(B | 1)))
    folder.apply(state(version(C | 5, None)), C | 5)
    (item,) = folder.items()
    with folder.database.transaction(ACTOR) as txn:
        apply_messages.forget(txn, folder.folder_id, [MESSAGE, C | 5])
    assert folder.state() is None and folder.state(C | 5) is None
    with folder.database.read(ACTOR) as read:
        assert apply_messages.ids_in(read, folder.folder_id) == set()
        assert list(change_feed.vanished(read, folder.folder_id, item.modseq)) == [item.uid]
        assert [row.versions for _, row in read.records(Table.TOMBSTONE, b"", None)] == [()]
    with folder.database.transaction(ACTOR) as txn:
        apply_messages.forget(txn, folder.folder_id, [MESSAGE])
    assert check_database(folder.database, ACTOR).clean


@pytest.mark.parametrize("count", [0, 1, 2, 11, 12])
def test_the_size_of_messages_is_theirs_whether_they_are_few_or_many(folder: Folder, count: int) -> None:
    for number in range(1, 13):
        folder.apply(MessageState({2: number}, (version(B | number, number % 4),)), B | number)
    with folder.database.transaction(ACTOR) as txn:
        messages.append(txn, folder.folder_id, messages.prepare(folder.database.files, b"Subject: long" * 99))
        folder_id = public_folders.create(txn, "Another").folder_id
        messages.append(txn, folder_id, folder.contents[DIGESTS[0]])
    some = random.Random(count).sample(folder.items(), count)
    with folder.database.read(ACTOR) as read:
        told = apply_messages.size_of(read, folder.folder_id, {item.uid for item in some})
    assert told == sum(item.size for item in some)


def test_the_clock_runs_ahead_of_what_it_has_seen_but_not_into_2099(folder: Folder) -> None:
    ahead = version(B | 1, changed=(1_000_000_060_000, 7))
    folder.apply(state(ahead))
    with folder.database.transaction(ACTOR) as txn:
        assert messages.set_flags(txn, MESSAGE, add=["\\Flagged"]).changed == (1_000_000_060_000, 8)
    folder.apply(state(version(C | 1, changed=(4_070_908_800_000, 0))), C | 1)
    with folder.database.transaction(ACTOR) as txn:
        assert messages.set_flags(txn, MESSAGE, remove=["\\Flagged"]).changed == (1_000_000_060_000, 9)


def test_a_store_that_has_not_joined_takes_nothing(database: Database, open_database: OpenDatabase) -> None:
    with database.transaction(ACTOR) as txn, pytest.raises(Refused, match="joined"):
        apply_messages.apply(txn, 1, MESSAGE, state(version(B | 1)))


def test_a_folder_that_is_not_here_takes_nothing(folder: Folder) -> None:
    with folder.database.transaction(ACTOR) as txn, pytest.raises(NotFound):
        apply_messages.apply(txn, 99, MESSAGE, state(version(B | 1)), folder.contents)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_states_follow_each_other_the_last_one_is_there(folder: Folder, seed: int) -> None:
    """Counters, indexes and content are right after each; who follows the feed holds what is there."""
    rng = random.Random(seed)
    states: dict[int, MessageState] = {}
    copy: dict[int, bytes] = {}
    known = CNSet()
    for _ in range(40):
        message_id = rng.choice((B | 1, C | 1, B | 2))
        if rng.random() < 0.15:
            with folder.database.transaction(ACTOR) as txn:
                apply_messages.forget(txn, folder.folder_id, [message_id])
            states.pop(message_id, None)
        else:
            states[message_id] = wanted = some_state(rng, message_id)
            folder.apply(wanted, message_id)
        assert {each: folder.state(each) for each in states} == states
        if rng.random() < 0.3:
            known = follow(folder, known, copy)
    follow(folder, known, copy)
    contents = {message_id: contents_of(held) for message_id, held in states.items()}
    assert {item.message_id for item in folder.items()} == {each for each in contents if contents[each]}
    for item, raw in zip(folder.items(), folder.raws(), strict=True):
        held = sorted(contents[item.message_id])
        assert held == ([digest_of(raw)] if len(held) == 1 else sorted(map(digest_of, attached(raw))))
    assert copy == {item.message_id: item.digest for item in folder.items()}
    with folder.database.read(ACTOR) as read:
        assert apply_messages.ids_in(read, folder.folder_id) == set(states)
        in_conflict = {found.message.message_id for found in versions.conflicts(read, folder.folder_id)}
        assert in_conflict == {each for each in contents if len(contents[each]) > 1}
    assert check_database(folder.database, ACTOR).clean


def contents_of(held: MessageState) -> set[bytes]:
    return {each.digest for each in held.versions if each.digest}


def some_state(rng: random.Random, message_id: int) -> MessageState:
    """A state of a message whose numbers no other message has."""
    block = (message_id & 0xF) * 1000 + (message_id >> COUNTER_BITS) * 10_000
    context = {origin: block + rng.randrange(1, 900) for origin in (2, 3) if rng.random() < 0.8} or {2: block}
    held = []
    for origin, counter in context.items():
        for number in sorted({counter, counter - 1}):
            if rng.random() < 0.4:
                content = rng.choice((0, 1, 2, None))
                fields = {} if content is None else {"flags": rng.choice((0, 4)), "keywords": ("a",)}
                held.append(version(origin << COUNTER_BITS | number, content, **fields))
    return MessageState(context, tuple(sorted(held)))


def follow(folder: Folder, known: CNSet, copy: dict[int, bytes]) -> CNSet:
    """Bring a client's copy of the folder up to date from the feed alone."""
    with folder.database.read(ACTOR) as read:
        changes = change_feed.changes(read, known, folder.folder_id)
        for change in changes:
            if change.object_kind is ObjectKind.MESSAGE and change.item is not None:
                copy[change.object_id] = change.item.digest
            else:
                copy.pop(change.object_id, None)
        return changes.cnset
