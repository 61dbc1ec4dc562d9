"""Connectors with a schedule of their own: outside it they count as down, and mail for them waits."""

from __future__ import annotations

from dataclasses import replace

from driven_stores import ACTOR, TREE, Post

from pillarbox.replication.core import backfill, writing
from pillarbox.replication.core.preset import DAY_MS, HOUR_MS, MINUTE_MS
from pillarbox.replication.organisation import opening
from pillarbox.replication.organisation.schedules import NEVER, parse_schedule
from pillarbox.replication.organisation.topology import Connector, Organisation
from pillarbox.replication.wire.messages import BackfillRequest

MORNING = parse_schedule("weekly UTC mon-sun 06:00-07:00")
OPEN_MS = 1_800_000_000_000 // DAY_MS * DAY_MS + 6 * HOUR_MS
AB, AC, BC = Connector("ab", ("a", "b"), 10), Connector("ac", ("a", "c"), 10), Connector("bc", ("b", "c"), 10)


def changed(post: Post, *connectors: Connector) -> Post:
    """The stores with other connectors, an hour before these open."""
    organisation = replace(post.organisation, connectors=connectors)
    post.now_ms = OPEN_MS + DAY_MS - HOUR_MS
    for store in post.stores:
        post.put(store, store.organisation_changed(organisation, post.now))
    post.wait(MINUTE_MS)
    return post


def test_connectors_are_closed_outside_their_schedules() -> None:
    organisation = Organisation({}, (AB._replace(schedule=MORNING), AC._replace(schedule=NEVER), BC))
    assert opening.closed(organisation, OPEN_MS) == {"ac"}
    assert opening.closed(organisation, OPEN_MS - 1) == {"ab", "ac"}
    assert opening.next_change_ms(organisation, OPEN_MS - 1) == OPEN_MS
    assert opening.next_change_ms(organisation, OPEN_MS) == OPEN_MS + HOUR_MS
    assert opening.next_change_ms(Organisation({}, (BC,)), OPEN_MS) is None
    assert opening.is_shut(organisation, "b", "a", OPEN_MS - 1)
    assert not opening.is_shut(organisation, "a", "b", OPEN_MS)
    assert not opening.is_shut(organisation, "b", "c", OPEN_MS)
    doubled = Organisation({}, (AB._replace(schedule=NEVER), AB._replace(name="other")))
    assert not opening.is_shut(doubled, "a", "b", OPEN_MS)


def test_mail_for_a_closed_connector_waits_until_it_opens_and_nobody_asks_for_it() -> None:
    post = Post("ab")
    folder = post.folder()
    changed(post, AB._replace(schedule=MORNING))
    post.sent.clear()
    post.passed.clear()
    post.do(0, lambda replica: writing.post(replica, folder, b"text", 100, ACTOR))
    made = post.do(0, lambda replica: writing.create_folder(replica, TREE.root, "Late", {}, ACTOR))
    post.wait(30 * MINUTE_MS)
    assert not post.passed
    assert post.messages(1, folder) == [] and post.replica(1).folder(made) is None
    post.wait(31 * MINUTE_MS)
    assert len(post.messages(1, folder)) == 1 and post.replica(1).folder(made)
    assert not any(isinstance(message.body, BackfillRequest) for message in post.sent)


def test_another_way_is_taken_while_a_connector_is_closed() -> None:
    post = Post("abc")
    folder = post.folder("123")
    changed(post, AB._replace(schedule=MORNING), AC, BC)
    assert backfill.ways_of(post.replica(0))["b"].cost == 20
    post.do(0, lambda replica: writing.post(replica, folder, b"text", 100, ACTOR))
    post.wait(5_000)
    assert len(post.messages(1, folder)) == 1
    post.wait(HOUR_MS)
    assert backfill.ways_of(post.replica(0))["b"].cost == 10
