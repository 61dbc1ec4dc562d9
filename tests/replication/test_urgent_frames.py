"""Frames that are urgent pass others that wait, in an outbox and in the inbox of a node."""

from __future__ import annotations

from pillarbox.replication.node.inbox import Inbox
from pillarbox.replication.transports.bounded_queue import BoundedQueue


def test_in_an_outbox_an_urgent_frame_passes_all_but_what_is_begun_and_those_that_are_urgent_too() -> None:
    outbox = BoundedQueue(1000)
    for frame in (b"one", b"two"):
        assert outbox.put(frame)
    assert outbox.begin() == b"one"
    for frame in (b"fire", b"flood"):
        assert outbox.put(frame, is_urgent=True)
    assert outbox.put(b"three")
    taken = []
    while len(outbox):
        taken.append(outbox.next())
        outbox.took()
    assert taken == [b"one", b"fire", b"flood", b"two", b"three"]


def test_in_an_outbox_of_which_nothing_is_begun_an_urgent_frame_is_the_first() -> None:
    outbox = BoundedQueue(1000)
    assert outbox.put(b"one") and outbox.put(b"fire", is_urgent=True)
    given: list[bytes] = []
    assert not outbox.hand_on(lambda frame, went: False)
    while len(outbox):
        assert outbox.hand_on(lambda frame, went: given.append(frame) is None)
    assert given == [b"fire", b"one"]


def test_an_outbox_that_is_full_has_as_much_room_again_for_what_is_urgent() -> None:
    outbox = BoundedQueue(10)
    assert outbox.put(bytes(10)) and not outbox.put(b"x")
    assert outbox.put(bytes(10), is_urgent=True) and not outbox.put(b"x", is_urgent=True)


def test_in_an_inbox_an_urgent_frame_passes_frames_and_nothing_else() -> None:
    inbox: Inbox[str] = Inbox()
    inbox.put("a link came up")
    inbox.put_bytes("one", 3)
    inbox.put_bytes("two", 3)
    inbox.put_bytes("fire", 4, is_urgent=True)
    inbox.put("a command")
    inbox.put_bytes("flood", 5, is_urgent=True)
    found = [inbox.take() for _ in range(6)]
    assert found == ["a link came up", "fire", "flood", "one", "two", "a command"]
    assert inbox.take() is None


def test_an_urgent_frame_alone_is_taken_and_its_room_is_free_again() -> None:
    inbox: Inbox[str] = Inbox(bytes_max=4)
    for _ in range(3):
        inbox.put_bytes("fire", 4, is_urgent=True)
        assert inbox.take(None) == "fire"
    assert inbox.take() is None
