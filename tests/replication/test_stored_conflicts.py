"""Conflicts in real stores: one conflict message, alike everywhere, until one or all versions are kept."""

from __future__ import annotations

import email
import email.policy
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

from pillarbox.replication.core import applying, subtree
from pillarbox.replication.core.effects import Notice
from pillarbox.replication.core.preset import MINUTE_MS
from pillarbox.replication.core.subtree import Action
from pillarbox.replication.ground.records import MessageVersion, ObjectId
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.node.fence import FenceFile
from pillarbox.replication.node.store_replicator import StoreReplicator
from pillarbox.replication.node.stored_organisation import replicator_at_rest
from pillarbox.store.access import FolderRights
from pillarbox.store.change_number import ChangeNumber
from pillarbox.store.content.blocks import digest_of
from pillarbox.store.disk.tables import ItemRole
from pillarbox.store.engine import numbering
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import PillarboxError
from pillarbox.store.hybrid_clock import Stamp
from pillarbox.store.mail import folders, messages, public_folders, versions
from pillarbox.store.upkeep.check import check_database
from tests.shared.nodes import ANNA, Nodes, StoreNode

LONG_MS = 10 * MINUTE_MS
SUBTREES = (public_folders.IPM_SUBTREE, public_folders.LOST_AND_FOUND)


@pytest.fixture
def make_nodes(tmp_path: Path) -> Iterator[Callable[[str], Nodes]]:
    made: list[Nodes] = []

    def make(sites: str) -> Nodes:
        made.append(Nodes(tmp_path, sites))
        made[0].wait(1_000)
        return made[0]

    yield make
    for store in made[0].stores:
        assert check_database(store.database, ANNA).clean
        assert not store.faults
    made[0].close()


def raw(text: str) -> bytes:
    return f"Subject: {text}\r\n\r\n{text}\r\n".encode()


def edit(store: StoreNode, message: int, text: str) -> None:
    prepared = messages.prepare(store.database.files, raw(text))
    store.change(lambda txn: messages.replace_content(txn, message, prepared))


def in_conflict(nodes: Nodes, texts: list[str], path: str = "News") -> list[int]:
    """Edit one message at stores that do not know of each other; the id that the message has at each."""
    if not nodes[0].has(path):
        nodes.share(path)
    nodes[0].post(path, "first")
    nodes.wait(1_000)
    everywhere = [store.items(path)[0].message_id for store in nodes.stores]
    apart(nodes)
    for store, message, text in zip(nodes.stores, everywhere, texts, strict=False):
        edit(store, message, text)
    nodes.wait(MINUTE_MS)
    nodes.cut()
    nodes.wait(LONG_MS)
    return everywhere


def apart(nodes: Nodes) -> None:
    count = len(nodes.stores)
    nodes.cut(*((one, other) for one in range(count) for other in range(one)))


def raws(store: StoreNode, path: str = "News") -> list[bytes]:
    with store.database.read(ANNA) as read:
        found = folders.messages(read, public_folders.find(read, path).folder_id)
        return [messages.content(read, item) for item in found]


def found_conflicts(store: StoreNode, path: str = "News") -> list[versions.Conflict]:
    with store.database.read(ANNA) as read:
        return versions.conflicts(read, store.folder(path))


def test_flags_and_keywords_that_were_set_in_two_places_are_one_message_with_both(
    make_nodes: Callable[[str], Nodes],
) -> None:
    """K6: they merge entry by entry, and a user sees one message; the next change replaces all versions."""
    two = make_nodes("aa")
    two.share("News")
    two[0].post("News", "first")
    two.wait(1_000)
    apart(two)
    for store, keyword in zip(two.stores, ("mine", "theirs"), strict=True):
        (there,) = store.items("News")
        store.change(lambda txn, of=there, to=keyword: messages.set_flags(txn, of.message_id, add=[to]))
    two.wait(MINUTE_MS)
    two.cut()
    two.wait(LONG_MS)

    def keywords() -> list[list[tuple[str, ...]]]:
        return [[item.keywords for item in store.items("News")] for store in two.stores]

    assert keywords() == [[("mine", "theirs")]] * 2
    assert [found_conflicts(store) for store in two.stores] == [[], []]
    (there,) = two[1].items("News")
    two[1].change(lambda txn: messages.set_flags(txn, there.message_id, remove=["mine"]))
    two.wait(1_000)
    assert keywords() == [[("theirs",)]] * 2
    (there,) = two[0].items("News")
    two[0].change(lambda txn: messages.delete(txn, there.message_id))
    two.wait(1_000)
    assert keywords() == [[], []]


def test_edits_of_one_message_in_two_places_are_the_same_conflict_message_everywhere(
    make_nodes: Callable[[str], Nodes],
) -> None:
    three = make_nodes("aab")
    in_conflict(three, ["mine", "theirs"])
    (shown,) = raws(three[0])
    assert [raws(store) for store in three.stores] == [[shown]] * 3
    assert [check_database(store.database, ANNA).messages for store in three.stores] == [1] * 3
    assert [item.role for store in three.stores for item in store.items("News")] == [ItemRole.CONFLICT] * 3
    assert raw("mine") in shown and raw("theirs") in shown
    parsed = email.message_from_bytes(shown, policy=email.policy.default)
    assert parsed["Subject"].startswith("Conflict: ")
    for store in three.stores:
        (conflict,) = found_conflicts(store)
        assert sorted(item.subject for item in conflict.versions) == ["mine", "theirs"]
    counters = [store.database.wait_for_change(0) for store in three.stores]
    three.wait(LONG_MS)
    assert [store.database.wait_for_change(0) for store in three.stores] == counters, "no store announces it"


def test_the_version_that_is_kept_takes_the_place_of_all_at_every_store(
    make_nodes: Callable[[str], Nodes],
) -> None:
    two = make_nodes("aa")
    in_conflict(two, ["mine", "theirs"])
    (conflict,) = found_conflicts(two[1])
    chosen = next(item for item in conflict.versions if item.subject == "mine")
    two[1].change(lambda txn: messages.keep_version(txn, chosen.message_id))
    two.wait(LONG_MS)
    assert [raws(store) for store in two.stores] == [[raw("mine")]] * 2
    assert [found_conflicts(store) for store in two.stores] == [[], []]


def test_all_versions_that_are_kept_are_messages_of_their_own_at_every_store(
    make_nodes: Callable[[str], Nodes],
) -> None:
    two = make_nodes("aa")
    message, _ = in_conflict(two, ["mine", "theirs"])
    two[0].change(lambda txn: messages.keep_all_versions(txn, message))
    two.wait(LONG_MS)
    assert [sorted(raws(store)) for store in two.stores] == [sorted([raw("mine"), raw("theirs")])] * 2
    assert [found_conflicts(store) for store in two.stores] == [[], []]


@pytest.mark.parametrize("kept", [("mine", "mine"), ("mine", "theirs"), ("all", "theirs"), ("all", "all")])
def test_resolutions_at_two_places_at_once_lose_nothing_that_was_kept_and_end_alike(
    make_nodes: Callable[[str], Nodes], kept: tuple[str, str]
) -> None:
    """Who keeps the same settles it; two that keep different versions are in conflict again, and no third."""
    two = make_nodes("aa")
    everywhere = in_conflict(two, ["mine", "theirs"])
    apart(two)
    for store, message, choice in zip(two.stores, everywhere, kept, strict=True):
        resolve(store, message, choice)
    two.wait(MINUTE_MS)
    two.cut()
    two.wait(LONG_MS)
    assert sorted(raws(two[0])) == sorted(raws(two[1]))
    contents = {held for conflict in found_conflicts(two[0]) for held in contents_of(two[0], conflict)}
    left = {*contents, *raws(two[0])}
    for choice in kept:
        assert {raw(text) for text in (("mine", "theirs") if choice == "all" else (choice,))} <= left
    if kept[0] == kept[1] != "all":
        assert not contents, "both kept the same"
    for conflict in found_conflicts(two[0]):
        resolve(two[0], conflict.message.message_id, "theirs")
    two.wait(LONG_MS)
    assert [found_conflicts(store) for store in two.stores] == [[], []]
    assert sorted(raws(two[0])) == sorted(raws(two[1]))


def resolve(store: StoreNode, message: int, choice: str) -> None:
    def change(txn: WriteTransaction) -> Any:
        if choice == "all":
            return messages.keep_all_versions(txn, message)
        live = versions.live_versions(txn, messages.get(txn, message))
        return messages.keep_version(txn, next(item.message_id for item in live if item.subject == choice))

    store.change(change)


def contents_of(store: StoreNode, conflict: versions.Conflict) -> list[bytes]:
    with store.database.read(ANNA) as read:
        return [messages.content(read, item) for item in conflict.versions]


def test_contacts_and_posters_are_told_once_of_each_conflict_at_each_store(
    make_nodes: Callable[[str], Nodes],
) -> None:
    two = make_nodes("aa")
    two.share("News")
    news = two[0].object_id("News")
    rights = FolderRights.FOLDER_CONTACT | FolderRights.READ_ITEMS
    two.ask(0, lambda replica: subtree.change_rights(replica, news, Action.ADD, "carl", rights, "operator"))
    two.wait(LONG_MS)
    in_conflict(two, ["mine", "theirs"])
    told = [[(notice.account, notice.notice) for notice in store.told] for store in two.stores]
    assert told == [[("anna", Notice.CONFLICT), ("carl", Notice.CONFLICT)]] * 2
    assert len({notice.key for store in two.stores for notice in store.told}) == 2, "one for each account"
    notice = two[0].told[0]
    assert notice.folder == "News" and notice.subject in ("mine", "theirs")
    parsed = email.message_from_bytes(notice.render(), policy=email.policy.default)
    assert parsed["To"] == "anna" and "News" in parsed["Subject"]
    assert "pillarbox replication resolve" in parsed.get_content()


@pytest.mark.parametrize("is_commanded", [False, True])
def test_a_conflict_is_told_at_the_next_start_when_the_program_died_before_it_told_it(
    make_nodes: Callable[[str], Nodes], monkeypatch: pytest.MonkeyPatch, is_commanded: bool
) -> None:
    """A command that comes before it tells nobody, and leaves it to the node."""

    class Killed(BaseException):
        """The end of the program, between a transaction and what follows from it."""

    def killed(replicator: StoreReplicator, done: Any) -> None:
        if done.notices:
            raise Killed
        follow(replicator, done)

    two, follow = make_nodes("aa"), StoreReplicator._follow
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(StoreReplicator, "_follow", killed)
        in_conflict(two, ["mine", "theirs"])
    two[0].database.dismount()
    if is_commanded:
        two[0].mount()
        fence = FenceFile(two[0].place.with_suffix(".fence"), b"m" * 16)
        replicator_at_rest(two[0].database, fence).perform(lambda replica: None)
        two[0].database.dismount()
    two[0].begin()
    two.wait(LONG_MS)
    assert [[notice.account for notice in store.told] for store in two.stores] == [["anna"]] * 2
    for store in two.stores:
        store.stop()
        store.begin()
    two.wait(LONG_MS)
    assert [len(store.told) for store in two.stores] == [1, 1]


def test_of_twenty_versions_the_oldest_are_joined_into_one_item_and_each_can_be_kept(
    make_nodes: Callable[[str], Nodes],
) -> None:
    """K2: nothing is lost above sixteen, here or on the way to another store."""
    two = make_nodes("aa")
    two.share("News")
    two.share("Drafts")  # whose content is in the store already when the versions come
    texts = [f"version {number:02}" for number in range(20)]
    for text in texts:
        two[0].post("Drafts", text)
    two[0].post("News", "first")
    two.wait(1_000)
    news, (item,) = two[0].object_id("News"), two[0].items("News")
    with two[0].database.read(ANNA) as read:
        message = numbering.as_change_number(read, item.message_id)
    two.ask(0, lambda replica: applying.take(replica, news, message, edited(message, texts)))
    two.wait(LONG_MS)
    (shown,) = raws(two[0])
    assert raws(two[1]) == [shown]
    parsed = email.message_from_bytes(shown, policy=email.policy.default)
    text, *items = parsed.iter_parts()
    assert [part.get_content_type() for part in items] == ["multipart/digest", *["message/rfc822"] * 15]
    held = [part.get_payload(0)["Subject"] for part in parsed.walk() if part.is_multipart() and is_held(part)]
    assert held == texts, "the oldest first, those that are joined too"
    for store in two.stores:
        (conflict,) = found_conflicts(store)
        assert [version.subject for version in conflict.versions] == texts
        assert any("more than 16 versions" in str(event.details) for event in store.events)
    joined = next(each for each in conflict.versions if each.subject == "version 01")
    two[1].change(lambda txn: messages.keep_version(txn, joined.message_id))
    two.wait(LONG_MS)
    assert [raws(store) for store in two.stores] == [[raw("version 01")]] * 2


def is_held(part: Any) -> bool:
    return bool(part.get_content_type() == "message/rfc822")


def edited(message: ObjectId, texts: list[str]) -> Versions[MessageVersion]:
    """A message that was edited by as many stores that knew nothing of each other."""
    origins = [bytes([100 + k]) * 16 for k in range(len(texts))]
    siblings = {
        ChangeNumber(origin, 7): MessageVersion(
            Stamp(1_000_000_000_000, k, origin), "bert", digest_of(raw(text)), len(raw(text))
        )
        for k, (origin, text) in enumerate(zip(origins, texts, strict=True))
    }
    return Versions({message.origin: message.counter, **dict.fromkeys(origins, 7)}, siblings)


def test_two_folders_of_one_name_that_were_made_at_two_places_live_both_under_the_same_names(
    make_nodes: Callable[[str], Nodes],
) -> None:
    two = make_nodes("aa")
    apart(two)
    for store in two.stores:
        store.change(lambda txn: public_folders.create(txn, "News"))
        store.post("News", f"of {store.place.name}")
    two.wait(MINUTE_MS)
    two.cut()
    two.wait(LONG_MS)
    shown = [names_of(store) for store in two.stores]
    assert shown[0] == shown[1] and len(shown[0]) == 2 and "IPM_SUBTREE/News" in shown[0]
    assert all(name.startswith("IPM_SUBTREE/News") for name in shown[0])


def names_of(store: StoreNode) -> list[str]:
    with store.database.read(ANNA) as read:
        return sorted(
            "/".join((subtree, *path))
            for subtree in SUBTREES
            for path, _ in public_folders.walk(read, "", subtree=subtree)
        )


def two_of_one_name(two: Nodes) -> tuple[int, int]:
    """A folder and another of its name beside it, made at the second store; their ids at the first."""
    apart(two)
    for store, beside in zip(two.stores, ("Top", "Other"), strict=True):
        store.change(lambda txn: public_folders.create(txn, "News"))
        store.change(lambda txn, name=beside: public_folders.create(txn, name))
    two.wait(MINUTE_MS)
    two.cut()
    two.wait(LONG_MS)
    (other_name,) = (name for (name,) in paths_of(two[0]) if name.startswith("News ("))
    return two[0].folder("News"), two[0].folder(other_name)


def paths_of(store: StoreNode) -> list[tuple[str, ...]]:
    with store.database.read(ANNA) as read:
        return [path for path, _ in public_folders.walk(read)]


def rename_it(txn: WriteTransaction, folder_id: int) -> None:
    folders.rename(txn, folder_id, "Old news")


def move_it(txn: WriteTransaction, folder_id: int) -> None:
    folders.move(txn, folder_id, public_folders.find(txn, "Top").folder_id)


def delete_it(txn: WriteTransaction, folder_id: int) -> None:
    folders.delete(txn, folder_id, with_contents=True)


@pytest.mark.parametrize("leaves", [rename_it, move_it, delete_it])
@pytest.mark.parametrize("is_first", [True, False], ids=["that has the name", "that had given it up"])
def test_a_name_that_is_free_at_one_store_is_its_other_folders_at_all(
    make_nodes: Callable[[str], Nodes], leaves: Callable[[WriteTransaction, int], None], is_first: bool
) -> None:
    """The store where a user changes a folder shows it, and the one beside it, as all others do."""
    two = make_nodes("aa")
    news_id, other_id = two_of_one_name(two)
    leaving_id = news_id if is_first else other_id
    for folder_id in (news_id, other_id):  # so that the first store may delete it
        with two[0].database.read(ANNA) as read:
            name = folders.get(read, folder_id).name
        two.add_replica(0, name, two[0].guid)
    two.wait(LONG_MS)
    two[0].change(lambda txn: leaves(txn, leaving_id))
    two.wait(LONG_MS)
    expected = {
        rename_it: ["News", "Old news", "Other", "Top"],
        move_it: ["News", "Other", "Top", "Top/News"],
        delete_it: ["News", "Other", "Top"],
    }
    for store in two.stores:
        assert names_of(store) == [f"IPM_SUBTREE/{path}" for path in expected[leaves]]


def test_a_place_that_is_free_at_one_store_is_taken_at_all_by_who_waited_for_it(
    make_nodes: Callable[[str], Nodes],
) -> None:
    two = make_nodes("aa")
    two.share("Berlin")
    two.share("Paris")
    apart(two)
    for store, moved, into in zip(two.stores, ("Berlin", "Paris"), ("Paris", "Berlin"), strict=True):
        two.clock.advance_ms(10)
        source, target = store.folder(moved), store.folder(into)
        store.change(lambda txn, of=source, to=target: folders.move(txn, of, to))
    two.wait(MINUTE_MS)
    two.cut()
    two.wait(LONG_MS)
    assert names_of(two[0]) == ["Lost and Found/Paris", "Lost and Found/Paris/Berlin"]
    with two[0].database.read(ANNA) as read:
        berlin = public_folders.find(read, "Paris/Berlin", subtree=public_folders.LOST_AND_FOUND)
    two[0].change(lambda txn: folders.move(txn, berlin.folder_id, public_folders.root_id(txn)))
    two.wait(LONG_MS)
    assert [names_of(store) for store in two.stores] == [
        ["IPM_SUBTREE/Berlin", "IPM_SUBTREE/Berlin/Paris"]
    ] * 2


def change_something(store: StoreNode, rng: random.Random) -> None:
    """A folder that is made, moved, renamed or deleted, where that is possible."""
    with store.database.read(ANNA) as read:
        roots = [public_folders.root_id(read, subtree) for subtree in SUBTREES]
        there = [record.folder_id for root in roots for _, record in folders.walk(read, root)]
        names = [name for root in roots for path, _ in folders.walk(read, root) for name in path]
    folder_id, parent_id = rng.choice([*there, roots[0]]), rng.choice([*there, roots[0], roots[0]])
    # One in three is called as another is, perhaps with the id of that.
    name = rng.choice(["x", "y", *([rng.choice(names)] if names else [])])
    operations: list[Callable[[WriteTransaction], Any]] = [
        lambda txn: folders.create(txn, parent_id, name),
        lambda txn: folders.move(txn, folder_id, parent_id),
        lambda txn: folders.rename(txn, folder_id, name),
        lambda txn: folders.delete(txn, folder_id, with_contents=True),
    ]
    (change,) = rng.choices(operations, [6, 5, 6, 3])
    with suppress(PillarboxError):
        store.change(change)


@pytest.mark.parametrize(
    "seed", [22, 26, *(pytest.param(k, marks=pytest.mark.slow) for k in range(40) if k not in (22, 26))]
)
def test_after_whatever_users_did_all_stores_show_the_same_folders(
    make_nodes: Callable[[str], Nodes], seed: int
) -> None:
    rng = random.Random(seed)
    nodes = make_nodes("aab"[: rng.choice((2, 3))])
    for _ in range(5):
        apart(nodes)
        for _ in range(rng.randrange(2, 8)):
            change_something(rng.choice(nodes.stores), rng)
            nodes.clock.advance_ms(rng.choice((0, 10)))
        nodes.wait(1_000)
        nodes.cut()
        nodes.wait(LONG_MS)
        change_something(rng.choice(nodes.stores), rng)  # of what all know
        nodes.wait(LONG_MS)
        shown = [names_of(store) for store in nodes.stores]
        assert shown == shown[:1] * len(nodes.stores)


def test_a_folder_deleted_here_and_filled_there_stands_in_lost_and_found_with_what_was_unseen(
    make_nodes: Callable[[str], Nodes],
) -> None:
    two = make_nodes("aa")
    two.share("News")
    two[0].post("News", "seen")
    two.wait(1_000)
    apart(two)
    news_id = two[0].folder("News")
    two[0].change(lambda txn: folders.delete(txn, news_id, with_contents=True))
    two[1].post("News", "unseen")
    two.wait(MINUTE_MS)
    two.cut()
    two.wait(LONG_MS)
    for store in two.stores:
        assert not store.has("News")
        assert names_of(store) == ["Lost and Found/News"]
        with store.database.read(ANNA) as read:
            news = public_folders.find(read, "News", subtree=public_folders.LOST_AND_FOUND)
            assert [item.subject for item in folders.messages(read, news.folder_id)] == ["unseen"]
    two[0].change(lambda txn: folders.move(txn, news_id, public_folders.root_id(txn)))
    two.wait(LONG_MS)
    assert [store.subjects("News") for store in two.stores] == [["unseen"]] * 2


def test_of_a_circle_of_moves_one_folder_stands_in_lost_and_found_and_contacts_are_told(
    make_nodes: Callable[[str], Nodes],
) -> None:
    two = make_nodes("aa")
    two.share("Berlin")
    two.share("Paris")
    berlin = two[0].object_id("Berlin")
    rights = FolderRights.FOLDER_CONTACT | FolderRights.READ_ITEMS
    two.ask(0, lambda replica: subtree.change_rights(replica, berlin, Action.ADD, "carl", rights, "operator"))
    two.wait(LONG_MS)
    apart(two)
    for store, moved, into in zip(two.stores, ("Berlin", "Paris"), ("Paris", "Berlin"), strict=True):
        source, target = store.folder(moved), store.folder(into)
        store.change(lambda txn, of=source, to=target: folders.move(txn, of, to))
    two.wait(MINUTE_MS)
    two.cut()
    two.wait(LONG_MS)
    shown = [names_of(store) for store in two.stores]
    assert shown[0] == shown[1]
    assert shown[0] in (
        ["Lost and Found/Berlin", "Lost and Found/Berlin/Paris"],
        ["Lost and Found/Paris", "Lost and Found/Paris/Berlin"],
    )
    for store in two.stores:
        assert [(notice.account, notice.notice) for notice in store.told] == [
            ("carl", Notice.FOLDERS_IN_CIRCLE)
        ]


@pytest.mark.parametrize("is_changed_since", [False, True])
def test_a_name_that_was_set_in_two_places_is_the_last_one_everywhere_and_contacts_are_told(
    make_nodes: Callable[[str], Nodes], is_changed_since: bool
) -> None:
    """Though something else was changed where the name was set last."""
    two = make_nodes("aa")
    two.share("News")
    news = two[0].object_id("News")
    rights = FolderRights.FOLDER_CONTACT | FolderRights.READ_ITEMS
    two.ask(0, lambda replica: subtree.change_rights(replica, news, Action.ADD, "carl", rights, "operator"))
    two.wait(LONG_MS)
    apart(two)
    for store, name in zip(two.stores, ("Berlin", "Paris"), strict=True):
        two.clock.advance_ms(10)
        folder_id = store.folder("News")
        store.change(lambda txn, of=folder_id, to=name: folders.rename(txn, of, to))
    if is_changed_since:
        two.clock.advance_ms(10)
        reads = FolderRights.READ_ITEMS
        two.ask(
            1, lambda replica: subtree.change_rights(replica, news, Action.ADD, "dora", reads, "operator")
        )
    two.wait(MINUTE_MS)
    two.cut()
    two.wait(LONG_MS)
    assert [store.has("Paris") and not store.has("Berlin") for store in two.stores] == [True, True]
    for store in two.stores:
        assert [(notice.account, notice.notice) for notice in store.told] == [
            ("carl", Notice.DESIGN_CONFLICT)
        ]
