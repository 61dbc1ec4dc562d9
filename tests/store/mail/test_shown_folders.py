"""Folders that waited for a name or a place have it as soon as it is free, whoever made it so."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pillarbox.store.disk.tables import DatabaseKind, Table
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import WriteTransaction
from pillarbox.store.errors import AlreadyExists
from pillarbox.store.mail import apply_folders, folders, mailboxes, public_folders, shown_folders
from pillarbox.store.upkeep.check import check_database
from tests.shared.trees import ACTOR, B, C, Tree, state

if TYPE_CHECKING:
    from conftest import OpenDatabase

FIRST, SECOND, TOP = B | 100, B | 200, C | 50  # the second of one name gives it up to the first
SECOND_WITH_ID = "News (c8-62626262)"


@pytest.fixture
def tree(open_database: OpenDatabase) -> Tree:
    return Tree(open_database(kind=DatabaseKind.PUBLIC_FOLDER_STORE))


def change(tree: Tree, operation: Callable[..., Any], *given: Any, **named: Any) -> None:
    """A change of a user; the tables are whole afterwards."""
    with tree.database.transaction(ACTOR) as txn:
        operation(txn, *given, **named)
    assert check_database(tree.database, ACTOR).clean


def put(tree: Tree, folder_id: int, name: str = "News", parent_id: int = 0, number: int = 0) -> None:
    tree.apply(folder_id, state(tree.version(number or folder_id, name, parent_id)))


# -- names


@pytest.mark.parametrize(
    ("operation", "given"),
    [(folders.rename, "Old news"), (folders.move, TOP), (folders.delete, None)],
    ids=["rename", "move", "delete"],
)
def test_a_name_that_a_user_makes_free_is_its_other_folders(
    tree: Tree, operation: Callable[..., Any], given: Any
) -> None:
    """Every store to which the change comes shows it so."""
    put(tree, TOP, "Top")
    put(tree, FIRST)
    put(tree, SECOND)
    before = tree.state(SECOND)
    change(tree, operation, FIRST, *([] if given is None else [given]))
    assert tree.shown()[SECOND] == "IPM_SUBTREE: News"
    assert tree.state(SECOND) == before and tree.folder(SECOND).written == ()


def test_a_folder_that_had_given_up_its_name_has_it_where_a_user_moves_it(tree: Tree) -> None:
    put(tree, TOP, "Top")
    put(tree, FIRST)
    put(tree, SECOND)
    assert tree.shown()[SECOND] == f"IPM_SUBTREE: {SECOND_WITH_ID}"
    change(tree, folders.move, SECOND, TOP)
    assert tree.shown()[SECOND] == "IPM_SUBTREE: Top/News"
    found = tree.state(SECOND)
    assert found is not None
    (version,) = found.versions
    assert (version.name, version.parent_id) == ("News", TOP)
    assert [row[0] for row in version.stamps] == ["name"], "the name was set by an earlier change"


def test_a_user_moves_no_folder_to_where_its_own_name_is_taken(tree: Tree) -> None:
    """One of the two would have its id behind its name, perhaps the one that was there."""
    put(tree, TOP, "Top")
    put(tree, FIRST)
    put(tree, SECOND)
    put(tree, B | 300, "News", TOP)
    with pytest.raises(AlreadyExists, match="'News'"):
        change(tree, folders.move, SECOND, TOP)
    change(tree, folders.rename, SECOND, "Other")
    assert tree.shown()[SECOND] == "IPM_SUBTREE: Other"
    change(tree, folders.move, SECOND, TOP)
    assert tree.shown()[SECOND] == "IPM_SUBTREE: Top/Other"


@pytest.mark.parametrize("order", list(permutations([0, 1, 2])))
def test_a_name_with_an_id_is_that_folders_whoever_else_is_called_so(
    tree: Tree, order: tuple[int, ...]
) -> None:
    third = C | 70
    named = [(FIRST, "News"), (SECOND, "News"), (third, SECOND_WITH_ID)]
    for each in order:
        put(tree, *named[each])
        assert check_database(tree.database, ACTOR).clean
    assert tree.shown() == {
        FIRST: "IPM_SUBTREE: News",
        SECOND: f"IPM_SUBTREE: {SECOND_WITH_ID}",
        third: f"IPM_SUBTREE: {SECOND_WITH_ID} (46-63636363)",
    }
    change(tree, folders.rename, FIRST, "Old news")
    assert (tree.folder(SECOND).name, tree.folder(third).name) == ("News", SECOND_WITH_ID)


def test_of_names_that_cannot_be_shown_the_one_that_is_shown_for_them_is_free_again(tree: Tree) -> None:
    put(tree, FIRST, "a/b")
    put(tree, SECOND, "a/b")
    assert tree.shown() == {FIRST: "IPM_SUBTREE: a_b", SECOND: "IPM_SUBTREE: a_b (c8-62626262)"}
    change(tree, folders.delete, FIRST)
    assert tree.shown() == {SECOND: "IPM_SUBTREE: a_b"}


LONG = "x" * 255
LONG_WITH_ID = "x" * 233 + " (c8-6262626262626262)"  # a name that was cut for it has a longer id


@pytest.mark.parametrize("order", list(permutations([0, 1, 2])))
def test_two_long_names_that_end_in_an_id_are_shown_with_the_own_id_of_each(
    tree: Tree, order: tuple[int, ...]
) -> None:
    """Cut, one could be the other's, or its own."""
    third = C | 70
    named = [(FIRST, LONG_WITH_ID), (SECOND, LONG_WITH_ID.upper()), (third, LONG[:241] + " (c8-62626262)")]
    for each in order:
        put(tree, *named[each])
        assert check_database(tree.database, ACTOR).clean
    assert tree.shown() == {
        FIRST: f"IPM_SUBTREE: {LONG[:233]} (64-6262626262626262)",
        SECOND: f"IPM_SUBTREE: {LONG[:233].upper()} (c8-6262626262626262)",
        third: f"IPM_SUBTREE: {named[2][1]}",
    }


def test_a_user_gives_no_folder_the_long_id_of_another(tree: Tree) -> None:
    """What a user makes or renames is shown as at all other stores."""
    put(tree, FIRST, LONG)
    put(tree, SECOND, LONG)
    assert tree.folder(SECOND).name == LONG_WITH_ID
    change(tree, folders.rename, SECOND, LONG_WITH_ID.upper())
    assert tree.folder(SECOND).name == LONG_WITH_ID[:233].upper() + LONG_WITH_ID[233:]
    change(tree, folders.rename, SECOND, "y")
    change(tree, folders.rename, FIRST, LONG_WITH_ID)
    assert tree.folder(FIRST).name == f"{LONG[:233]} (64-6262626262626262)"
    with tree.database.transaction(ACTOR) as txn:
        made = folders.create(txn, tree.root_id, LONG_WITH_ID)
    own_id = f" ({made.folder_id & 0xFFFFFFFF:x}-"
    assert own_id in made.name and made.written == (LONG_WITH_ID, tree.root_id)
    assert tree.folder(made.folder_id) == made


@pytest.mark.parametrize(
    "name",
    [LONG, "a" + " " * 250 + "b", "a" + "\u0301" * 200 + "\u0316" * 50, "J" + "\u0316" * 240 + "\u030c"],
    ids=["letters", "blanks", "marks in another order", "a mark that becomes one with its letter"],
)
def test_a_long_name_that_is_free_again_is_its_other_folders(tree: Tree, name: str) -> None:
    put(tree, FIRST, name)
    put(tree, SECOND, name)
    assert tree.folder(SECOND).name.endswith(" (c8-6262626262626262)")
    change(tree, folders.delete, FIRST)
    assert (tree.folder(SECOND).name, tree.folder(SECOND).written) == (name, ())


# -- places


def test_a_place_that_a_users_move_makes_free_is_taken_by_who_waited_for_it(tree: Tree) -> None:
    for name, folder_id in (("One", FIRST), ("Other", SECOND)):
        put(tree, folder_id, name)
    put(tree, SECOND, "Other", FIRST, B | 210)
    put(tree, FIRST, "One", SECOND, B | 205)
    assert tree.shown() == {SECOND: "Lost and Found: Other", FIRST: "Lost and Found: Other/One"}
    change(tree, folders.move, FIRST, tree.root_id)
    assert tree.shown() == {FIRST: "IPM_SUBTREE: One", SECOND: "IPM_SUBTREE: One/Other"}


def test_a_name_in_lost_and_found_is_free_when_a_user_takes_its_folder_out(tree: Tree) -> None:
    put(tree, FIRST, "News", C | 999)
    put(tree, SECOND, "News", C | 999)
    assert tree.shown() == {FIRST: "Lost and Found: News", SECOND: f"Lost and Found: {SECOND_WITH_ID}"}
    change(tree, folders.move, FIRST, tree.root_id)
    assert tree.shown() == {FIRST: "IPM_SUBTREE: News", SECOND: "Lost and Found: News"}
    put(tree, C | 999, "Top")
    assert tree.shown()[SECOND] == "IPM_SUBTREE: Top/News"


def test_the_name_of_a_folder_that_goes_to_lost_and_found_is_free_where_it_was(tree: Tree) -> None:
    put(tree, TOP, "Top")
    put(tree, FIRST, "News", TOP)
    put(tree, SECOND, "News", TOP)
    put(tree, TOP, "Top", FIRST, C | 90)  # before the first, which was moved into it last
    assert tree.shown() == {
        FIRST: "Lost and Found: News",
        TOP: "Lost and Found: News/Top",
        SECOND: "Lost and Found: News/Top/News",
    }


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are nested ten deep at most."""
    for module in (folders, shown_folders):
        monkeypatch.setattr(module, "DEPTH_MAX", 10)


def put_chain(tree: Tree, first: int, count: int) -> None:
    """Put folders into one another, with ascending numbers."""
    for number in range(first, first + count):
        put(tree, B | number, "x", 0 if number == first else B | number - 1)


def test_a_folder_at_the_depth_that_users_may_make_stands_there(tree: Tree, shallow: None) -> None:
    with tree.database.transaction(ACTOR) as txn:
        made = folders.ensure(txn, tree.root_id, tuple("y" * 10))
    put_chain(tree, 100, 11)
    assert tree.shown()[made.folder_id] == "IPM_SUBTREE: y/y/y/y/y/y/y/y/y/y"
    assert tree.shown()[B | 109] == "IPM_SUBTREE: x/x/x/x/x/x/x/x/x/x"
    assert tree.shown()[B | 110] == "Lost and Found: x"


@pytest.mark.parametrize("upper_first", [True, False])
def test_what_lies_too_deep_after_moves_at_two_stores_waits_in_lost_and_found(
    tree: Tree, shallow: None, upper_first: bool
) -> None:
    """Three subtrees of four levels: the third was moved into the second, and that into the first."""
    for first in (100, 200, 300):
        put_chain(tree, first, 4)
    moves = [(B | 200, B | 103, B | 500), (B | 300, B | 203, B | 501)]
    for folder_id, parent_id, number in moves if upper_first else reversed(moves):
        put(tree, folder_id, "x", parent_id, number)
    shown = tree.shown()
    assert shown[B | 301] == "IPM_SUBTREE: x/x/x/x/x/x/x/x/x/x"
    assert (shown[B | 302], shown[B | 303]) == ("Lost and Found: x", "Lost and Found: x/x")
    change(tree, folders.rename, B | 200, "y")
    change(tree, folders.move, B | 200, tree.root_id)
    assert tree.shown()[B | 303] == "IPM_SUBTREE: y/x/x/x/x/x/x/x"


@pytest.mark.parametrize("order", list(permutations([0, 1, 2])))
def test_of_a_circle_longer_than_folders_are_deep_the_last_moved_waits_in_lost_and_found(
    tree: Tree, shallow: None, order: tuple[int, ...]
) -> None:
    """Three subtrees of four levels, each moved into another."""
    for first in (100, 200, 300):
        put_chain(tree, first, 4)
    moves = [(B | 100, B | 203, B | 500), (B | 200, B | 303, B | 502), (B | 300, B | 103, B | 501)]
    for each in order:
        folder_id, parent_id, number = moves[each]
        put(tree, folder_id, "x", parent_id, number)
        assert check_database(tree.database, ACTOR).clean
    shown = tree.shown()
    assert shown[B | 200] == "Lost and Found: x"
    assert shown[B | 301] == shown[B | 200] + "/x" * 9
    with_id = "Lost and Found: x (12e-62626262)"
    assert (shown[B | 302], shown[B | 303]) == (with_id, f"{with_id}/x")
    numbers = {folder_id: tree.folder(folder_id).change_cn for folder_id in shown}
    put(tree, TOP, "Top")
    assert {folder_id: tree.folder(folder_id).change_cn for folder_id in shown} == numbers


def test_a_folder_that_comes_has_none_read_that_wait_for_others(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a parent comes after all its folders, each of them would read all before it."""
    reads_counts = [0]
    record_of = WriteTransaction.record

    def counted(txn: WriteTransaction, table: Table, key: bytes) -> Any:
        reads_counts[-1] += table == Table.FOLDER
        return record_of(txn, table, key)

    monkeypatch.setattr(WriteTransaction, "record", counted)
    with tree.database.transaction(ACTOR) as txn:
        for number in range(100, 150):
            reads_counts.append(0)
            apply_folders.apply(txn, B | number, state(tree.version(B | number, f"of {number}", TOP)))
    assert reads_counts[-1] == reads_counts[10] > 0
    put(tree, TOP, "Top")
    assert set(tree.shown().values()) == {
        "IPM_SUBTREE: Top",
        *(f"IPM_SUBTREE: Top/of {number}" for number in range(100, 150)),
    }


def test_who_waits_for_a_folder_that_comes_in_the_same_transaction_is_shown_in_it(tree: Tree) -> None:
    """Though it was not there, or waited for another, when Lost and Found was read."""
    put(tree, FIRST, "First", C | 999)
    steps = [(SECOND, "Second", TOP, SECOND), (FIRST, "First", TOP, B | 300), (TOP, "Top", tree.root_id, TOP)]
    with tree.database.transaction(ACTOR) as txn:
        for folder_id, name, parent_id, number in steps:
            apply_folders.apply(txn, folder_id, state(tree.version(number, name, parent_id)))
    assert set(tree.shown().values()) == {
        "IPM_SUBTREE: Top",
        "IPM_SUBTREE: Top/First",
        "IPM_SUBTREE: Top/Second",
    }


# -- where nothing waits


def noted_reads(monkeypatch: pytest.MonkeyPatch) -> list[Table]:
    """The indexes that transactions look into from now on."""
    found, indexes_of = list[Table](), WriteTransaction.indexes

    def noted(txn: WriteTransaction, table: Table, *given: Any, **named: Any) -> Any:
        found.append(table)
        return indexes_of(txn, table, *given, **named)

    monkeypatch.setattr(WriteTransaction, "indexes", noted)
    return found


def test_in_a_mailbox_nothing_is_looked_for(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with database.transaction(ACTOR) as txn:
        root_id = mailboxes.create(txn, "anna").root_id
        one, other = (folders.create(txn, root_id, name).folder_id for name in ("One", "Other"))
    looked = noted_reads(monkeypatch)
    with database.transaction(ACTOR) as txn:
        folders.rename(txn, one, "Two")
        assert looked == []
        folders.move(txn, one, other)
        assert looked == [Table.FOLDER_NAME], "what is in it, for its depth"


def test_a_store_that_has_joined_no_organisation_has_nobody_who_waits(
    open_database: OpenDatabase, tmp_path: Path
) -> None:
    database = open_database(tmp_path / "alone", kind=DatabaseKind.PUBLIC_FOLDER_STORE)
    with database.transaction(ACTOR) as txn:
        public_folders.create_tree(txn)
        made = [public_folders.create(txn, name).folder_id for name in ("One", "Other")]
        folders.rename(txn, made[0], "Two")
        folders.move(txn, made[0], made[1])
        folders.delete(txn, made[1], with_contents=True)
    assert check_database(database, ACTOR).clean
