"""K9: an object that a store refuses for a reason of its own stops nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from driven_stores import ACTOR, TREE, Post, new_guids, to_or_from

from pillarbox.replication.core import applying, deletion, hierarchy, setting_aside, views, writing
from pillarbox.replication.core.effects import Send
from pillarbox.replication.core.hello import Start
from pillarbox.replication.core.overview import overview
from pillarbox.replication.core.preset import DAY_MS, HOUR_MS, MINUTE_MS, PROMPT
from pillarbox.replication.core.replicator import Replicator
from pillarbox.replication.core.state import SetAside
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.simulation.objects import DictObjects
from pillarbox.replication.wire.messages import (
    BackfillRequest,
    ReconcileAnswer,
    ReconcileQuestion,
    Statement,
)
from pillarbox.store.change_number import ChangeNumber, CNSet


def refusing(sites: str) -> tuple[Post, ObjectId, set[ObjectId]]:
    """Stores with a folder of which each holds a replica, and the objects that the second one refuses."""
    post = Post(sites)
    folder = post.folder("123"[: len(sites)])
    refused: set[ObjectId] = set()
    objects = post.replica(1).objects
    assert isinstance(objects, DictObjects)
    objects.refuses = lambda object_id, versions: object_id in refused
    return post, folder, refused


def test_the_others_go_on_and_what_was_refused_comes_when_it_can_be_taken() -> None:
    post, folder, refused = refusing("aa")
    bad, _ = post.post(0, folder, b"bad"), post.post(0, folder, b"good")
    refused.add(bad)
    post.wait(10_000)
    assert [view.contents for view in post.messages(1, folder)] == [(b"good",)]
    explained = post.stores[1].explain(folder, post.now)
    assert [(each.object_id, each.tries) for each in explained.set_aside] == [(bad, 0)]
    assert explained.set_aside[0].reason and not explained.is_in_sync
    own = views.status(post.replica(1), folder)[0]
    of_folder = {each.folder: each for each in overview(post.replica(1)).folders}[folder]
    assert own.sync is of_folder.sync is views.Sync.NOT_IN_SYNC
    post.wait(DAY_MS)
    tries = post.stores[1].explain(folder, post.now).set_aside[0].tries
    assert 3 < tries < 12, "it is tried ever less often"
    refused.clear()
    post.wait(2 * DAY_MS)
    assert len(post.messages(1, folder)) == 2
    explained = post.stores[1].explain(folder, post.now)
    assert explained.is_in_sync and not explained.set_aside


def test_what_is_set_aside_is_not_offered_to_others() -> None:
    post, folder, refused = refusing("aaa")
    made = post.post(0, folder, b"bad")
    refused.add(made)
    post.wait(10_000)
    knowledge = post.replica(1).state(folder).knowledge
    assert made in knowledge.expired and made not in knowledge.known
    post.lose(2)
    post.wait(HOUR_MS)
    assert made not in post.replica(1).state(folder).knowledge.known


def test_no_number_is_forgotten_when_it_is_tried_again() -> None:
    post, folder, refused = refusing("aa")
    made = post.post(0, folder, b"bad")
    refused.add(made)
    post.wait(10_000)
    explained = post.stores[1].explain(folder, post.now)
    assert made not in explained.missing
    was_asked_for = False
    for _ in range(20):
        post.wait(MINUTE_MS // 2, is_lost=lambda message: isinstance(message.body, BackfillRequest))
        assert made in post.replica(1).state(folder).knowledge.had
        was_asked_for |= made in post.stores[1].explain(folder, post.now).missing
    assert was_asked_for
    post.wait(HOUR_MS)
    explained = post.stores[1].explain(folder, post.now)
    assert explained.set_aside and not explained.wanted, "between two tries nobody is asked"


def test_what_was_deleted_and_purged_meanwhile_is_set_aside_no_more() -> None:
    post, folder, refused = refusing("aa")
    made = post.post(0, folder, b"bad")
    refused.add(made)
    post.wait(10_000)
    post.do(0, lambda replica: writing.delete(replica, folder, made, ACTOR))
    post.do(0, lambda replica: replica.objects.remove(folder, made))
    knowledge = post.replica(0).state(folder).knowledge
    post.table.clear()
    knowledge.purged |= knowledge.known & CNSet.full(made.origin, made.counter + 1)
    post.wait(3 * DAY_MS)
    explained = post.stores[1].explain(folder, post.now)
    assert explained.is_in_sync and not explained.set_aside and not explained.wanted


def test_an_older_version_comes_when_all_who_had_the_one_set_aside_went_back_to_it() -> None:
    """The older one counts as replaced here, and never was here."""
    post, folder, refused = refusing("aa")
    post.wait(HOUR_MS)
    made = post.post(0, folder, b"old")
    post.wait(10_000, is_lost=lambda message: message.folder == folder)
    first = post.replica(0)
    assert isinstance(first.objects, DictObjects)
    record, objects = first.record.copy(), first.objects.snapshot()
    post.do(0, lambda replica: writing.edit(replica, folder, made, ACTOR, content=b"new"))
    refused.add(made)
    post.wait(HOUR_MS)
    explained = post.stores[1].explain(folder, post.now)
    assert explained.set_aside and made in post.replica(1).state(folder).knowledge.known
    post.stores[0] = Replicator(record, TREE, post.organisation, PROMPT, DictObjects(objects), new_guids(9))
    post.put(post.stores[0], post.stores[0].start(post.now, Start.WENT_BACK))
    refused.clear()
    post.wait(3 * DAY_MS)
    assert [view.contents for view in post.messages(1, folder)] == [(b"old",)]
    explained = post.stores[1].explain(folder, post.now)
    assert explained.is_in_sync and not explained.set_aside and not explained.wanted


def test_where_nothing_is_left_of_what_was_set_aside_its_first_number_is_asked_for_once() -> None:
    post, folder, refused = refusing("aa")
    post.wait(HOUR_MS)
    made = post.post(0, folder, b"old")
    post.do(0, lambda replica: writing.edit(replica, folder, made, ACTOR, content=b"new"))
    refused.add(made)
    post.wait(HOUR_MS)
    assert post.stores[1].explain(folder, post.now).set_aside
    first = post.replica(0)
    held = first.objects.get(folder, made)
    assert held is not None
    lost = CNSet.of(held.siblings)
    first.objects.remove(folder, made)  # it went back to before the edit, and the older version is purged
    first.state(folder).knowledge.known -= lost
    rows = post.replica(1).state(folder).rows
    rows[first.me.database] = replace(rows[first.me.database], known=first.state(folder).knowledge.known)
    post.wait(3 * DAY_MS)
    assert not post.stores[1].explain(folder, post.now).set_aside
    post.sent.clear()
    post.wait(3 * DAY_MS)
    assert not any(isinstance(message.body, BackfillRequest) for message in post.sent)


def test_what_is_set_aside_beside_a_version_that_is_gone_keeps_no_question_open() -> None:
    post = Post("aa")
    folder = post.folder("12")
    made = post.post(0, folder, b"old")
    post.wait(HOUR_MS)
    replica, newer = post.replica(1), ChangeNumber(b"C" * 16, 9)
    replica.objects.remove(folder, made)
    state, both = replica.state(folder), frozenset([made, newer])
    state.knowledge.expire(CNSet.of(both))
    state.expired_objects[made] = both
    state.set_aside[made] = SetAside(both, "a fault", 0, 0, 0)
    gone = {made: frozenset([made])}
    answer = ReconcileAnswer(replica.life(folder), gone, (), NOTHING, NOTHING, state.applied)
    told = Statement(post.replica(0).life(folder), CNSet.of([made]), NOTHING)
    deletion.apply_reconcile(replica, folder, post.replica(0).me.database, told, answer)
    assert made in state.knowledge.known and newer in state.knowledge.expired


def test_what_was_set_aside_and_is_gone_by_now_is_told_to_others_as_gone() -> None:
    post = Post("aa")
    folder = post.folder("12")
    made = post.post(0, folder, b"old")
    post.wait(HOUR_MS)
    asker, replica = post.replica(0), post.replica(1)
    sights = deletion.sights(asker, folder)
    replica.objects.remove(folder, made)
    state = replica.state(folder)
    state.set_aside[made] = SetAside(frozenset([made]), "a fault", 0, 0, 0)
    question = ReconcileQuestion(sights, 0)
    for is_known in (False, True):
        state.knowledge.expire(CNSet.of([made]))
        if is_known:
            state.knowledge.claim(CNSet.of([made]))
        replica.effects.clear()
        deletion.answer_reconcile(replica, folder, asker.me.database, asker.life(folder), question)
        (sent,) = [each.message.body for each in replica.effects if isinstance(each, Send)]
        assert isinstance(sent, ReconcileAnswer)
        assert sent.gone == ({made: frozenset([made])} if is_known else {})


def test_an_older_version_that_comes_late_takes_nothing_back_from_aside() -> None:
    post, folder, refused = refusing("aa")
    made = post.post(0, folder, b"bad")
    refused.add(made)
    post.wait(10_000)
    (late,) = [message for message in post.changes() if message.folder == folder]
    post.do(0, lambda replica: writing.edit(replica, folder, made, ACTOR, content=b"worse"))
    post.wait(10_000)
    post.table.append(late)
    post.carry()
    assert post.stores[1].explain(folder, post.now).set_aside
    refused.clear()
    post.wait(2 * DAY_MS)
    assert [view.contents for view in post.messages(1, folder)] == [(b"worse",)]


def test_what_was_replaced_by_a_version_that_was_let_go_by_age_is_set_aside_no_more() -> None:
    post, folder, refused = refusing("aaa")
    second = post.replica(1).me.database
    made = post.post(0, folder, b"bad")
    post.wait(10_000, is_lost=lambda each: each.to == second and each.folder == folder)
    (late,) = [each for each in post.changes() if each.to == second and each.folder == folder]
    post.do(2, lambda replica: writing.edit(replica, folder, made, ACTOR, content=b"worse"))
    newer = post.replica(2).objects.get(folder, made)
    assert newer is not None
    post.do(1, lambda replica: replica.state(folder).knowledge.expire(CNSet.of(newer.siblings)))
    refused.add(made)
    post.table.append(late)
    post.carry()
    assert post.stores[1].explain(folder, post.now).set_aside
    post.wait(DAY_MS)
    explained = post.stores[1].explain(folder, post.now)
    assert explained.is_in_sync and not explained.set_aside and not explained.wanted


def test_what_a_deletion_that_is_set_aside_replaced_is_not_known_by_reconciling() -> None:
    """Others would be told that it is gone, by a store that has not applied what deleted it."""
    post, folder, refused = refusing("aa")
    made, other = post.post(0, folder, b"bad"), post.post(0, folder, b"other")
    refused.add(made)
    post.wait(10_000)
    first, second = post.replica(0), post.replica(1)
    post.do(0, lambda replica: writing.delete(replica, folder, made, ACTOR))
    post.wait(10_000)
    assert len(second.state(folder).set_aside[made].numbers) == 2
    post.do(0, lambda replica: writing.delete(replica, folder, other, ACTOR))
    tombstone = first.objects.get(folder, other)
    assert tombstone is not None
    first.objects.remove(folder, other)
    first.state(folder).knowledge.purged |= CNSet.of(tombstone.entries())
    post.table.clear()
    post.wait(HOUR_MS)
    assert second.objects.get(folder, other) is None and second.fired["reconcile"]
    assert made in second.state(folder).set_aside and made not in second.state(folder).knowledge.known
    refused.clear()
    post.wait(2 * DAY_MS)
    explained = post.stores[1].explain(folder, post.now)
    assert explained.is_in_sync and not explained.set_aside and made in second.state(folder).knowledge.known


def contents_after_the_folder_of_what_is_set_aside_was_deleted() -> list[list[tuple[bytes, ...]]]:
    """The second store sets a message's second version aside, never saw the first, and deletes the folder.
    The third holds the first one alone. What does each show in the end?"""
    post, folder, refused = refusing("aaa")
    post.wait(HOUR_MS)
    to_second, third = to_or_from(b"2" * 16), to_or_from(b"3" * 16)
    post.post(0, folder, b"other")
    made = post.post(0, folder, b"old")
    post.wait(10_000, to_second)
    refused.add(made)
    post.do(0, lambda replica: writing.edit(replica, folder, made, ACTOR, content=b"new"))
    post.wait(10_000, third)
    assert made in post.replica(1).state(folder).set_aside
    post.do(1, lambda replica: hierarchy.delete_folder(replica, folder, ACTOR))
    post.wait(10_000, third)
    refused.clear()
    post.wait(DAY_MS)
    return [[view.contents for view in post.messages(store, folder)] for store in range(3)]


def test_what_is_set_aside_above_a_hole_does_not_go_with_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    one, *others = contents_after_the_folder_of_what_is_set_aside_was_deleted()
    assert (b"new",) in one and (b"old",) not in one and others == [one, one]
    monkeypatch.setattr(setting_aside, "above_holes", lambda state: NOTHING)
    one, *others = contents_after_the_folder_of_what_is_set_aside_was_deleted()
    assert others != [one, one]


def test_a_replica_that_leaves_stays_while_another_has_set_aside_what_it_holds() -> None:
    post, folder, refused = refusing("aa")
    post.wait(HOUR_MS)
    refused.add(post.post(0, folder, b"bad"))
    post.wait(HOUR_MS)
    assert post.replica(1).state(folder).set_aside
    leaves = {b"1" * 16: ReplicaState.DELETE_PENDING}
    post.do(1, lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=leaves))
    post.wait(3 * DAY_MS)
    assert [view.contents for view in post.messages(0, folder)] == [(b"bad",)]
    refused.clear()
    post.wait(3 * DAY_MS)
    assert [view.contents for view in post.messages(1, folder)] == [(b"bad",)]
    assert post.replica(0).held(folder) is None


def test_an_older_version_that_counts_as_a_gap_below_what_is_set_aside_is_taken() -> None:
    """All who had the newest one went back to it, and it was never here."""
    post, folder, _ = refusing("aa")
    replica = post.replica(1)
    knowledge = replica.state(folder).knowledge
    made = post.post(0, folder, b"old")
    arrived = post.replica(0).objects.get(folder, made)
    assert arrived is not None
    (old,) = arrived.siblings.values()
    knowledge.claim(CNSet.full(made.origin, made.counter))
    newest = ChangeNumber(made.origin, made.counter + 5)
    setting_aside.set_aside(replica, folder, made, Versions({made.origin: newest.counter}, {newest: old}), "")
    applying.take(replica, folder, made, arrived)
    assert replica.objects.get(folder, made) == arrived
    replica.objects.remove(folder, made)
    knowledge.purged |= CNSet.of(arrived.siblings)
    applying.take(replica, folder, made, arrived)
    assert replica.objects.get(folder, made) is None, "it was deleted, and that is known here"


def test_nobody_takes_what_a_store_has_set_aside_in_the_hierarchy_for_gone() -> None:
    """What it had replaced would be a gap then, and who holds that alone could give it to nobody."""
    post, _, refused = refusing("aaa")
    post.wait(HOUR_MS)
    made = post.do(0, lambda replica: writing.create_folder(replica, TREE.root, "Old", {}, ACTOR))
    post.table.clear()
    store = post.replica(0)
    assert isinstance(store.objects, DictObjects)
    record, objects = store.record.copy(), store.objects.snapshot()
    refused.add(made)
    post.do(0, lambda replica: writing.change_folder(replica, made, ACTOR, name="New"))
    post.wait(HOUR_MS, to_or_from(b"3" * 16))
    assert made in post.replica(1).state(TREE.hierarchy).set_aside
    post.stores[0] = Replicator(record, TREE, post.organisation, PROMPT, DictObjects(objects), new_guids(9))
    post.wait(DAY_MS, to_or_from(b"1" * 16))
    knowledge = post.replica(2).state(TREE.hierarchy).knowledge
    assert not post.replica(2).state(TREE.hierarchy).rows[b"2" * 16].expired and made not in knowledge.had
    post.put(post.stores[0], post.stores[0].start(post.now, Start.WENT_BACK))
    post.wait(DAY_MS)
    read = post.replica(2).folder(made)
    assert read is not None and read.name.value == "Old"
