"""Connectors that go down: seen by who has mail for them, stated once, and gone round where a way is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pillarbox.replication.core import backfill, outbox, overview
from pillarbox.replication.core.effects import Effect, GiveReceipt, Pass
from pillarbox.replication.core.hello import REACHABLE_MS
from pillarbox.replication.core.links import RESTATE_MS
from pillarbox.replication.core.preset import HOUR_MS, MINUTE_MS
from pillarbox.replication.core.replica import Moment
from pillarbox.replication.core.replicator import Replicator
from pillarbox.replication.core.state import BackfillEntry
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.organisation.link_state import LAPSES_MS, LinkState, StatedLinks
from pillarbox.replication.organisation.topology import Connector, Organisation
from pillarbox.replication.wire.messages import BackfillRequest, LinkReport, Message
from pillarbox.store.change_number import CNSet
from tests.shared.driven_stores import TREE, Post


class Triangle(Post):
    """Sites a, b and c, joined each to each; the way from a to c over b is the dearer one.

    While `is_cut` nothing goes over the connector between a and c.
    """

    def __init__(self) -> None:
        self.is_cut = False
        super().__init__("aabbcc")
        connectors = (*self.organisation.connectors, Connector("ac", ("a", "c"), 5))
        self.organisation = replace(self.organisation, connectors=connectors)
        for store in self.stores:
            self.put(store, store.organisation_changed(self.organisation, self.now))
        self.wait(MINUTE_MS)

    def put(self, store: Replicator, effects: list[Effect]) -> None:
        giver = store.replica.me.database
        super().put(
            store,
            [
                effect
                for effect in effects
                if not (isinstance(effect, GiveReceipt) and self._is_lost(giver, effect.to))
            ],
        )

    def _pass(self, hop: bytes, copy: Pass, is_lost: Callable[[Message], bool]) -> None:
        super()._pass(hop, copy, lambda message: self._is_lost(hop, copy.label.to))

    def _is_lost(self, one: bytes, other: bytes) -> bool:
        sites = {self.organisation.servers[each].site for each in (one, other)}
        return self.is_cut and sites == {"a", "c"}


def arrange(post: Post, organisation: Organisation) -> None:
    """Have all stores learn of another organisation."""
    post.organisation = organisation
    for store in post.stores:
        post.put(store, store.organisation_changed(organisation, post.now))


def reports(post: Post) -> list[Message]:
    return [message for message in post.sent if isinstance(message.body, LinkReport)]


def test_a_connector_that_takes_nothing_is_stated_as_down_once_and_mail_goes_round() -> None:
    post = Triangle()
    folder = post.folder("123456")
    post.is_cut = True
    post.passed.clear()
    post.post(0, folder)
    post.wait(20_000)
    assert not post.messages(4, folder)
    assert not reports(post), "it may be up again in a moment"
    post.wait(40_000)
    assert {message.sender.database for message in reports(post)} == {b"1" * 16}
    assert all(store.replica.down == {"ac"} for store in post.stores)
    assert len(post.messages(4, folder)) == len(post.messages(5, folder)) == 1, "by site b"
    post.post(1, folder)
    post.wait(2_000)
    assert len(post.messages(4, folder)) == 2, "who never tried the connector goes round as well"


def test_who_takes_a_copy_for_the_sites_behind_it_relieves_the_way_that_led_to_them_before() -> None:
    post = Triangle()
    folder = post.folder("123456")
    post.is_cut = True
    post.post(0, folder)
    post.wait(20_000)
    assert set(post.replica(0).state(folder).marks) == {"c"}
    post.wait(40_000)
    assert post.messages(4, folder) and not post.replica(0).state(folder).marks


def test_a_tree_that_changes_marks_nothing_for_a_site_that_leads_to_nobody_who_lacks_it() -> None:
    post = Triangle()
    folder = post.folder("123456")
    post.is_cut = True
    post.post(0, folder)
    post.wait(20_000)
    replica = post.replica(0)
    outbox.mark_again(replica, replica.site_tree())
    assert set(replica.state(folder).marks) == {"c"}, "site b has taken it"


def cut_triangle() -> Triangle:
    """Stores of which the first has seen the cut of the connector that its mail would go by."""
    post = Triangle()
    folder = post.folder("123456")
    post.is_cut = True
    post.post(0, folder)
    post.wait(MINUTE_MS)
    return post


def test_it_is_stated_as_up_again_when_its_mail_was_taken() -> None:
    post = cut_triangle()
    assert post.replica(0).down == {"ac"}
    post.is_cut = False
    post.wait(6 * MINUTE_MS)
    assert not any(store.replica.down for store in post.stores)
    sent = len(reports(post))
    post.wait(30 * MINUTE_MS)
    assert len(reports(post)) == sent, "a connector that is up is stated no more"


def test_a_silent_server_that_is_tried_again_makes_no_connector_come_and_go() -> None:
    post = cut_triangle()
    for _ in range(40):
        post.wait(MINUTE_MS)
        assert all(store.replica.down == {"ac"} for store in post.stores)
    post.is_cut = False
    post.wait(6 * MINUTE_MS)
    assert not any(store.replica.down for store in post.stores)


def test_what_a_store_stated_counts_no_more_when_it_starts_again() -> None:
    post = cut_triangle()
    assert all(store.replica.down == {"ac"} for store in post.stores)
    post.is_cut = False
    replica = post.replica(0)
    replica.watches.clear()  # as after a restart: it does not know what it stated
    replica.stated_ms.clear()
    replica.links = StatedLinks()
    post.put(post.stores[0], post.stores[0].start(post.now))
    post.wait(MINUTE_MS)
    assert not any(store.replica.down for store in post.stores)


def is_from_first(message: Message) -> bool:
    return message.sender.database == b"1" * 16


def stalled() -> tuple[Post, ObjectId]:
    """Two stores, the first of which has mail for a site from which no receipt comes."""
    post = Post("ab")
    folder = post.folder("12")
    post.post(0, folder)
    post.wait(20_000, is_from_first)
    assert post.replica(0).lines["b"].stalled()
    return post, folder


def test_a_line_is_cut_while_a_silent_server_is_tried_again() -> None:
    post, folder = stalled()
    replica, line = post.replica(0), post.replica(0).lines["b"]
    while line.stalled():
        post.wait(1_000, is_from_first)
    assert line.flights and line.is_cut(), "it is tried again"
    assert not line.has_urgent_room() and not outbox.is_open_to(replica, "b")
    assert not outbox.on_its_way(replica, folder, "b")
    assert [site.is_stalled for site in overview.overview(replica).sites if site.site == "b"] == [True]


def test_what_was_on_its_way_over_a_cut_line_and_is_dropped_says_nothing_of_what_comes_after() -> None:
    post, folder = stalled()
    line = post.replica(0).lines["b"]
    line.flights.clear()  # as by a stop of content
    line.silent.clear()  # as after five minutes
    post.post(0, folder)
    post.wait(5_000, is_from_first)
    assert line.flights and not line.is_cut()
    post.wait(20_000, is_from_first)
    assert line.is_cut()


def test_servers_that_are_silent_and_then_told_to_be_away_make_no_connector_come_and_go() -> None:
    post = cut_triangle()
    for peer in (b"5" * 16, b"6" * 16):
        post.put(post.stores[0], post.stores[0].link_changed(peer, False, post.now))
        post.wait(3_000)
    assert len(post.replica(0).watches["ac"].changes_ms) == 1


def test_a_connector_by_which_no_mail_goes_is_up_once_a_site_has_a_server_again_that_is_reached() -> None:
    post = Triangle()
    servers = post.organisation.servers
    dearer = tuple(
        each._replace(cost=500) if each.name == "ac" else each for each in post.organisation.connectors
    )
    arrange(post, replace(post.organisation, connectors=dearer))
    for peer in (b"5" * 16, b"6" * 16):
        post.put(post.stores[0], post.stores[0].link_changed(peer, False, post.now))
    post.wait(MINUTE_MS)
    assert "c" not in post.replica(0).lines and post.replica(1).down == {"ac"}
    moved = servers[b"4" * 16]._replace(site="c")
    arrange(post, replace(post.organisation, servers={**servers, moved.database: moved}))
    post.wait(MINUTE_MS)
    assert not any(store.replica.down for store in post.stores)


def test_who_ends_its_hello_asks_by_the_ways_of_then(monkeypatch: pytest.MonkeyPatch) -> None:
    post = Triangle()
    folder = post.folder("123456")
    store, replica = post.stores[0], post.replica(0)
    post.put(store, store.start(post.now))
    post.table.clear()
    assert replica.waiting is not None
    replica.waiting.first_answer_ms = post.now.steady_ms
    replica.links.hear("ac", b"5" * 16, 1, LinkState.DOWN, post.now.steady_ms + 10_000 - LAPSES_MS)
    replica.down = frozenset({"ac"})
    hierarchy_state = replica.state(TREE.hierarchy)
    hierarchy_state.entries = (BackfillEntry(CNSet.of([folder]), post.now.steady_ms),)
    asked: list[frozenset[str]] = []
    monkeypatch.setattr(backfill, "ask", lambda replica, folder: asked.append(replica.down))
    monkeypatch.setattr(backfill, "note_missing", lambda replica, folder: None)
    later = Moment(post.now.steady_ms + REACHABLE_MS, post.now.wall_ms + REACHABLE_MS)
    store.tick(later)
    assert replica.waiting is None and asked == [frozenset()]


def test_what_waits_at_a_store_that_does_not_see_the_way_goes_when_another_states_it_as_up() -> None:
    post = Post("aab")
    folder, other = post.folder("123"), b"3" * 16

    def is_cut(message: Message) -> bool:
        return (message.to == other) != (message.sender.database == other)

    post.put(post.stores[0], post.stores[0].link_changed(other, False, post.now))
    for store in (0, 1):
        post.post(store, folder)
    post.wait(2 * MINUTE_MS, is_lost=is_cut)
    assert post.replica(1).down == {"ab"}
    post.put(post.stores[0], post.stores[0].link_changed(other, True, post.now))
    post.wait(MINUTE_MS)
    assert len(post.messages(2, folder)) == 2
    assert not [message for message in post.sent if isinstance(message.body, BackfillRequest)]


def test_a_site_without_servers_is_waited_for_no_more() -> None:
    post = Triangle()
    folder = post.folder("12345")
    post.is_cut = True
    post.post(0, folder)
    post.wait(MINUTE_MS)
    assert post.replica(0).down == {"ac"}
    for store in (5, 4):
        post.lose(store)
    post.wait(15 * MINUTE_MS)
    assert not any(store.replica.down for store in post.stores)
    said = len(reports(post))
    post.wait(HOUR_MS)
    assert len(reports(post)) == said
    assert not post.replica(0).state(folder).marks and "c" not in post.replica(0).lines


def test_a_site_that_falls_and_is_taken_out_is_stated_as_down_no_more() -> None:
    post = Post("abb")
    assert not post.replica(1).lines, "nothing was to be sent there yet"
    post.stores[1].link_changed(b"1" * 16, False, post.now)
    post.lose(0)
    post.stores[1].link_changed(b"1" * 16, False, post.now)
    post.wait(15 * MINUTE_MS)
    said = len(reports(post))
    post.wait(HOUR_MS)
    assert len(reports(post)) == said
    assert not any(store.replica.down for store in post.stores)


def test_a_statement_is_repeated_and_lapses_when_its_maker_is_gone() -> None:
    post = cut_triangle()
    said = len(reports(post))
    post.wait(RESTATE_MS + MINUTE_MS)
    assert len(reports(post)) > said
    post.lose(0)
    post.wait(12 * MINUTE_MS)
    assert not any(store.replica.down for store in post.stores)


def test_who_moves_away_from_a_connector_that_is_down_states_it_no_more() -> None:
    post = Triangle()
    post.post(0, post.folder("123456"))
    post.is_cut = True
    post.post(0, post.folder("123456"))
    post.wait(MINUTE_MS)
    assert post.replica(0).stated_ms.keys() == {"ac"}
    moved = post.organisation.servers[b"1" * 16]._replace(site="b")
    post.organisation = replace(post.organisation, servers={**post.organisation.servers, b"1" * 16: moved})
    for store in post.stores:
        post.put(store, store.organisation_changed(post.organisation, post.now))
    assert not post.replica(0).stated_ms and post.replica(0).watches.keys() <= {"ab", "bc"}
    post.is_cut = False
    post.wait(12 * MINUTE_MS)
    assert not any(store.replica.down for store in post.stores)
