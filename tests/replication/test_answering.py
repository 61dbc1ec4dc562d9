"""Answers to backfill requests cross a link once, however often somebody of the site asks."""

from __future__ import annotations

from pillarbox.replication.core import commands
from pillarbox.replication.core.effects import Answer, AnswerKey
from pillarbox.replication.core.preset import HOUR_MS, MINUTE_MS, SECOND_MS
from pillarbox.replication.core.replica import Moment
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.wire.messages import (
    AnswerTo,
    BackfillRequest,
    Changes,
    Hello,
    Life,
    Message,
    Statement,
    Status,
)
from pillarbox.store.change_number import CNSet
from tests.shared.driven_stores import ACTOR, Post, is_changes


def asks(post: Post, store: int, folder: ObjectId, at_ms: int) -> Answer:
    """The answer that the first store begins for another one, which asks it for all of a folder."""
    first, asker = post.replica(0), post.replica(store)
    request = BackfillRequest(first.state(folder).knowledge.known, NOTHING)
    said = Statement(asker.life(folder), NOTHING, NOTHING)
    message = Message(asker.me, first.me.database, folder, said, request)
    post.stores[0].receive(message, Moment(at_ms, at_ms))
    return first.answers[AnswerKey(asker.me.database, folder)]


def carries(post: Post, answer: Answer) -> bool:
    """True when an answer that has just begun will carry any object."""
    return bool(answer.left & post.replica(0).objects.entries(answer.folder))


def page(post: Post, answer: Answer, at_ms: int) -> int:
    """The count of objects in the next page of an answer."""
    message = post.stores[0].answer_page(answer.key, Moment(at_ms, at_ms))
    assert message and isinstance(message.body, Changes)
    return len(message.body.objects)


def posted(sites: str, replicas: str) -> tuple[Post, ObjectId]:
    post = Post(sites)
    folder = post.folder(replicas)
    post.post(0, folder)
    post.wait(MINUTE_MS)
    return post, folder


def filled(count: int, size_bytes: int) -> tuple[Post, ObjectId]:
    """A folder of which the other site has no replica, with so many posts of a size."""
    post = Post("ab")
    folder = post.folder("1")
    for _ in range(count):
        post.post(0, folder, size_bytes=size_bytes)
    post.wait(HOUR_MS)
    return post, folder


def test_what_a_slow_link_has_not_brought_yet_is_not_sent_again_to_the_site() -> None:
    post, folder = posted("abb", "123")
    begun_ms = post.now_ms
    answer = asks(post, 1, folder, begun_ms)
    assert page(post, answer, begun_ms) == 1
    for store in (1, 2):
        assert not carries(post, asks(post, store, folder, begun_ms + 2 * MINUTE_MS))
    taken_ms = begun_ms + 2 * MINUTE_MS
    post.stores[0].page_taken(answer.key, Moment(taken_ms, taken_ms))
    soon_ms = taken_ms + 2 * MINUTE_MS - 2 * SECOND_MS
    assert not carries(post, asks(post, 2, folder, soon_ms)), "it may wait as long on other links"
    late_ms = taken_ms + 2 * MINUTE_MS + SECOND_MS
    assert page(post, asks(post, 1, folder, late_ms), late_ms) == 1, "it was lost, and is asked for again"


def requests(
    post: Post, store: int, folder: ObjectId, needed: CNSet, had: CNSet, expired: CNSet = NOTHING
) -> Answer | None:
    """What the first store answers to a request; None when it is not taken on."""
    first, asker = post.replica(0), post.replica(store)
    said = Statement(asker.life(folder), had - expired, expired)
    message = Message(asker.me, first.me.database, folder, said, BackfillRequest(needed, had))
    first.answers.clear()
    post.stores[0].receive(message, post.now)
    return first.answers.get(AnswerKey(asker.me.database, folder))


def one_by_one(post: Post, folder: ObjectId, count: int) -> list[CNSet]:
    """The numbers of some posts."""
    return [CNSet.of([post.post(0, folder)]) for _ in range(count)]


def test_a_request_that_comes_twice_over_a_link_or_after_a_later_one_is_answered_once() -> None:
    post, folder = posted("ab", "12")
    one, two = one_by_one(post, folder, 2)
    assert requests(post, 1, folder, one | two, NOTHING)
    assert not requests(post, 1, folder, one | two, NOTHING)
    assert requests(post, 1, folder, two, one)
    assert not requests(post, 1, folder, one | two, NOTHING)
    post.now_ms += 2 * MINUTE_MS
    assert requests(post, 1, folder, two, one), "asked for in vain"
    post.wait(HOUR_MS)
    assert not post.replica(0).asked_of_me


def test_a_request_that_was_overtaken_is_answered_where_it_asks_for_something_else() -> None:
    post, folder = posted("ab", "12")
    one, two, three, four = one_by_one(post, folder, 4)
    assert requests(post, 1, folder, three, four)
    assert requests(post, 1, folder, one | two, NOTHING)


def test_what_was_let_go_by_age_may_be_asked_for_again_at_once() -> None:
    post, folder = posted("ab", "12")
    one, two, three = one_by_one(post, folder, 3)
    assert requests(post, 1, folder, three, one | two)
    assert requests(post, 1, folder, one, two, expired=one)


def test_a_request_is_answered_no_more_where_its_withdrawal_overtook_it() -> None:
    post, folder = posted("ab", "12")
    one, two = one_by_one(post, folder, 2)
    assert not requests(post, 1, folder, NOTHING, one | two)
    assert not requests(post, 1, folder, one, two)


def test_who_withdrew_and_still_lacks_something_is_answered_again_at_once() -> None:
    post, folder = posted("ab", "12")
    one, two = one_by_one(post, folder, 2)
    assert requests(post, 1, folder, one, two)
    assert not requests(post, 1, folder, NOTHING, two)
    assert requests(post, 1, folder, one, two)


def test_another_life_of_a_replica_asks_anew() -> None:
    post, folder = posted("ab", "12")
    (one,) = one_by_one(post, folder, 1)
    assert requests(post, 1, folder, one, NOTHING)
    post.replica(1).state(folder).life += 1
    assert requests(post, 1, folder, one, NOTHING)


def test_after_a_stop_of_content_all_are_answered_again_at_once() -> None:
    post, folder = posted("ab", "12")
    (one,) = one_by_one(post, folder, 1)
    assert requests(post, 1, folder, one, NOTHING)
    post.do(0, lambda replica: commands.stop_content(replica, ACTOR))
    post.do(0, lambda replica: commands.resume_content(replica, ACTOR))
    assert requests(post, 1, folder, one, NOTHING)


def test_who_began_anew_or_was_cut_off_is_answered_again_at_once() -> None:
    post, folder = posted("ab", "12")
    asker, needed = post.replica(1).me, CNSet.of([post.post(0, folder)])
    hello = Hello(b"s" * 16, asker.origin)
    said = Statement(Life(0, 0), NOTHING, NOTHING)
    for happens in (
        lambda: post.stores[0].receive(
            Message(asker, post.replica(0).me.database, folder, said, hello), post.now
        ),
        lambda: post.stores[0].link_changed(asker.database, False, post.now),
    ):
        assert requests(post, 1, folder, needed, NOTHING)
        assert not requests(post, 1, folder, needed, NOTHING)
        happens()
    assert requests(post, 1, folder, needed, NOTHING)


def test_of_requests_of_two_mates_that_waited_one_is_answered_over_the_link() -> None:
    post, folder = posted("abb", "123")
    both = [asks(post, store, folder, post.now_ms) for store in (1, 2)]
    assert [page(post, answer, post.now_ms) for answer in both] == [1, 0]


def test_pages_are_filled_by_what_was_left_of_those_before_when_they_were_packed() -> None:
    post, folder = filled(60, 50_000)
    answer = asks(post, 1, folder, post.now_ms)
    counts = []
    for _ in range(6):
        counts.append(page(post, answer, post.now_ms))
        post.stores[0].page_taken(answer.key, post.now, counts[-1] * 25_000)
    assert counts[0] == 6 and counts == sorted(counts) and counts[-1] == 9


def test_a_page_that_is_found_in_several_steps_holds_each_object_once() -> None:
    """More small posts than the first step finds: each step finds those of the ones before again."""
    post, folder = filled(450, 100)
    answer = asks(post, 1, folder, post.now_ms)
    message = post.stores[0].answer_page(answer.key, post.now)
    assert message and isinstance(message.body, Changes)
    assert [object_id for object_id, _ in message.body.objects] == sorted(post.replica(0).objects.ids(folder))
    assert message.body.answer and message.body.answer.is_last


def test_pages_that_follow_each_other_fast_are_noted_together_until_they_have_arrived() -> None:
    """Each page looks at all that are on their way: over a fast link there are hundreds."""
    post, folder = filled(200, 300_000)
    store, answer = post.stores[0], asks(post, 1, folder, post.now_ms)
    for number in range(200):
        at = Moment(post.now_ms + 20 * number, post.now_ms + 20 * number)
        assert store.answer_page(answer.key, at)
        store.page_taken(answer.key, at)
    (on_their_way,) = store.replica.pages.values()
    assert len(on_their_way) <= 5
    assert sum(each.numbers.count() for each in on_their_way) >= 200
    for after_ms, is_given_again in ((10 * SECOND_MS, False), (15 * SECOND_MS, True)):
        at = Moment(post.now_ms + after_ms, post.now_ms + after_ms)
        store.link_changed(answer.asker, True, at)
        assert carries(post, asks(post, 1, folder, at.steady_ms)) is is_given_again


def test_an_answer_of_which_no_transport_tells_is_believed_to_be_on_its_way_for_an_hour() -> None:
    post, folder = posted("ab", "12")
    begun_ms = post.now_ms
    assert page(post, asks(post, 1, folder, begun_ms), begun_ms) == 1
    assert not carries(post, asks(post, 1, folder, begun_ms + 59 * MINUTE_MS))
    assert page(post, asks(post, 1, folder, begun_ms + 61 * MINUTE_MS), begun_ms + 61 * MINUTE_MS) == 1


def test_in_a_site_who_asks_again_is_answered_again() -> None:
    post, folder = posted("aa", "12")
    for _ in range(2):
        assert page(post, asks(post, 1, folder, post.now_ms), post.now_ms) == 1


def test_what_waits_in_the_outbox_for_a_site_is_not_put_into_an_answer_while_the_line_works() -> None:
    post = Post("ab")
    folder = post.folder("12")
    post.post(0, folder)
    post.wait(2 * SECOND_MS, is_lost=is_changes)
    assert post.replica(0).state(folder).marks["b"]
    assert page(post, asks(post, 1, folder, post.now_ms), post.now_ms) == 0
    post.wait(2 * MINUTE_MS, is_lost=is_changes)
    assert post.replica(0).lines["b"].stalled()
    assert page(post, asks(post, 1, folder, post.now_ms), post.now_ms) == 1


def test_what_the_asker_came_to_know_meanwhile_is_left_out() -> None:
    post, folder = posted("ab", "12")
    answer, asker = asks(post, 1, folder, post.now_ms), post.replica(1)
    known = asker.state(folder).knowledge.known
    told = Message(
        asker.me, b"1" * 16, folder, Statement(asker.life(folder), known, NOTHING), Status(numberings=None)
    )
    post.stores[0].receive(told, post.now)
    assert page(post, answer, post.now_ms) == 0


def test_a_request_for_nothing_withdraws_the_one_before() -> None:
    post, folder = posted("ab", "12")
    answer, asker = asks(post, 1, folder, post.now_ms), post.replica(1)
    said = Statement(asker.life(folder), NOTHING, NOTHING)
    request = BackfillRequest(NOTHING, asker.state(folder).knowledge.known)
    post.stores[0].receive(Message(asker.me, b"1" * 16, folder, said, request), post.now)
    assert post.stores[0].answer_page(answer.key, post.now) is None


def test_requests_are_withdrawn_once_all_has_come_another_way() -> None:
    post = Post("ab")
    folder = post.folder("12")
    post.post(0, folder)
    post.wait(HOUR_MS, is_lost=is_changes)
    requests = [each.body for each in post.sent if isinstance(each.body, BackfillRequest)]
    assert len(requests) > 2 and all(each.needed for each in requests), "no answer came"
    late = next(each for each in post.changes() if each.folder == folder)
    post.sent.clear()
    post.put(post.stores[1], post.stores[1].receive(late, post.now))
    post.wait(MINUTE_MS, is_lost=is_changes)
    assert len(post.messages(1, folder)) == 1
    (request,) = [each for each in post.sent if isinstance(each.body, BackfillRequest)]
    assert isinstance(request.body, BackfillRequest) and not request.body.needed
    state = post.replica(1).state(folder)
    assert not state.asked and not state.silent, "nobody is thought to be silent for it"


def test_a_request_that_is_answered_to_its_end_is_not_withdrawn() -> None:
    post = Post("ab")
    folder = post.folder("12")
    post.post(0, folder)
    post.wait(10 * SECOND_MS, is_lost=is_changes)
    post.sent.clear()
    post.wait(HOUR_MS, is_lost=lambda each: is_changes(each) and answer_of(each) is None)
    assert len(post.messages(1, folder)) == 1
    requests = [each.body for each in post.sent if isinstance(each.body, BackfillRequest)]
    assert len(requests) == 1 and requests[0].needed


def answer_of(message: Message) -> AnswerTo | None:
    assert isinstance(message.body, Changes)
    return message.body.answer
