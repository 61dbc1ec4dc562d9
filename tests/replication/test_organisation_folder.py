"""The organisation in the hierarchy: every store goes by the entries that it holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from driven_stores import ACTOR, TREE, Post

from pillarbox.replication.core import hierarchy, organisation_folder, writing
from pillarbox.replication.core.preset import CLASSIC, PROMPT
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import ReplicaState
from pillarbox.replication.organisation.organisation_export import format_organisation
from pillarbox.replication.organisation.organisation_file import parse_organisation
from pillarbox.replication.organisation.topology import Connector, Organisation, PresetName, Server
from pillarbox.store.errors import Refused

ONE, TWO, THREE = (name.encode() * 16 for name in "123")


def organisation(post: Post) -> Organisation:
    """The organisation with which the stores were started, with its sites."""
    return replace(post.organisation, sites=("a", "b"))


def applied(sites: str = "aab") -> Post:
    post = Post(sites)
    post.wait(1_000)
    post.do(0, lambda replica: organisation_folder.apply(replica, organisation(post), ACTOR))
    post.wait(60_000)
    return post


def apply(post: Post, store: int, wanted: Organisation, **options: tuple[bytes, ...]) -> tuple[str, ...]:
    """Apply an organisation at a store; the differences."""
    said: tuple[str, ...] = post.do(
        store, lambda replica: organisation_folder.apply(replica, wanted, ACTOR, **options)
    )
    return said


def test_every_store_goes_by_what_was_applied_at_one() -> None:
    post = applied()
    dearer = replace(
        organisation(post), connectors=(Connector("ab", ("a", "b"), 20),), preset=PresetName.CLASSIC
    )
    said = apply(post, 0, dearer)
    assert said == ("preset: prompt becomes classic", "connector ab: cost: 10 becomes 20")
    assert post.replica(2).preset is PROMPT
    post.wait(300_000)  # the classic preset broadcasts the hierarchy every five minutes
    for store in range(3):
        assert post.replica(store).organisation == dearer
        assert post.replica(store).preset is CLASSIC


def test_applying_what_is_there_spends_no_number() -> None:
    post = applied()
    before = post.replica(0).record.counter
    assert apply(post, 0, organisation(post)) == ()
    assert post.replica(0).record.counter == before


def test_two_administrators_who_apply_in_two_places_merge() -> None:
    post = applied()
    base = format_organisation(organisation_folder.reading(post.replica(0)).organisation)
    dearer = parse_organisation(base.replace("cost = 10", "cost = 20"), organisation(post))
    renamed = parse_organisation(base.replace('name = "3"', 'name = "paris"'), organisation(post))
    apply(post, 0, dearer)
    apply(post, 2, renamed)
    post.wait(120_000)
    for store in range(3):
        found = organisation_folder.reading(post.replica(store)).organisation
        assert found.connectors[0].cost == 20 and found.servers[THREE].name == "paris"
        assert post.replica(store).organisation == found


def test_two_stores_that_write_the_first_organisation_make_one_folder() -> None:
    post = Post("aab")
    other = replace(organisation(post), connectors=(Connector("other", ("a", "b"), 5),))
    apply(post, 0, organisation(post))
    apply(post, 2, other)
    post.wait(120_000)
    for store in range(3):
        names = [connector.name for connector in post.replica(store).organisation.connectors]
        assert names == ["ab", "other"]
        assert hierarchy.places(post.replica(store)) == {}


def test_a_store_that_was_away_learns_the_organisation_when_it_comes_back() -> None:
    post = applied()
    moved = replace(
        organisation(post),
        servers={**post.organisation.servers, THREE: Server(THREE, "3", "a", 6)},
        sites=("a",),
        connectors=(),
    )
    apply(post, 0, moved)
    post.wait(60_000, is_lost=lambda message: message.to == THREE)
    assert post.replica(2).organisation.servers[THREE].site == "b"
    post.put(post.stores[2], post.stores[2].start(post.now))
    post.wait(300_000)
    assert post.replica(2).organisation == moved


def test_a_server_that_holds_a_replica_or_has_a_delete_pending_is_not_retired() -> None:
    post = applied()
    folder = post.folder("13")
    without = replace(
        organisation(post),
        servers={ONE: post.organisation.servers[ONE], TWO: post.organisation.servers[TWO]},
        sites=("a",),
        connectors=(),
    )
    with pytest.raises(Refused, match=r"server 3 holds replicas of News$"):
        apply(post, 0, without)
    pending = {THREE: ReplicaState.DELETE_PENDING}
    post.do(0, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=pending))
    with pytest.raises(Refused, match=r"News \(delete pending\)"):
        apply(post, 0, without)
    post.wait(600_000)
    assert apply(post, 0, without)[-1] == "server 3: is removed, for ever"
    post.wait(1_000)
    assert post.replica(1).organisation.is_removed(THREE)


def test_a_refusal_names_ten_folders_and_carries_all_by_path_where_that_is_given() -> None:
    post = applied()
    folders = [post.folder("13") for _ in range(12)]
    without = replace(
        organisation(post),
        servers={ONE: post.organisation.servers[ONE], TWO: post.organisation.servers[TWO]},
    )
    paths = {folder: f"Lists/{number:02}" for number, folder in enumerate(folders[1:])}

    def refused(replica: Replica) -> None:
        with pytest.raises(Refused, match=r"of Lists/00, .*, Lists/09 and 2 more$") as told:
            organisation_folder.plan(replica, without, paths=paths)
        assert told.value.folders == (*paths.values(), "News")

    post.do(0, refused)


def test_a_server_that_is_lost_for_good_is_retired_with_what_it_held() -> None:
    post = applied()
    post.folder("13")
    without = replace(
        organisation(post),
        servers={ONE: post.organisation.servers[ONE], TWO: post.organisation.servers[TWO]},
    )
    apply(post, 0, without, lost=(THREE,))
    assert post.replica(0).organisation.is_removed(THREE)


def test_what_two_administrators_take_out_in_two_places_leaves_no_site_without_a_way() -> None:
    post = applied("aab")
    both = (Connector("ab", ("a", "b"), 10), Connector("dear", ("a", "b"), 50))
    apply(post, 0, replace(organisation(post), connectors=both))
    post.wait(60_000)
    apply(post, 0, replace(organisation(post), connectors=both[:1]))
    apply(post, 2, replace(organisation(post), connectors=both[1:]))
    post.wait(60_000)
    for store in range(3):
        reading = organisation_folder.reading(post.replica(store))
        assert not reading.organisation.connectors and "stands in" in reading.findings[0]
    apply(post, 2, replace(organisation(post), connectors=both[:1]))
    post.wait(60_000)
    for store in range(3):
        assert post.replica(store).organisation.connectors == both[:1]


def test_a_store_says_its_version_once() -> None:
    post = applied()

    def state(replica: Replica) -> None:
        organisation_folder.state_version(replica, 7, {2, 3}, ACTOR)

    post.do(1, state)
    before = post.replica(1).record.counter
    post.do(1, state)
    post.wait(1_000)
    said = post.replica(0).organisation.servers[TWO]
    assert (said.version, said.reads) == (7, {2, 3})
    assert post.replica(1).record.counter == before


def test_the_folder_of_the_organisation_stays_where_it_is() -> None:
    post = applied()
    for change in ({"name": "x"}, {"parent": TREE.root}, {"replicas": {ONE: ReplicaState.ACTIVE}}):
        with pytest.raises(Refused):
            post.do(
                0,
                lambda replica, change=change: writing.change_folder(
                    replica, TREE.organisation, ACTOR, **change
                ),
            )
