"""Effects: work for the node. Nothing of it may leave before the call's transaction is durable."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.wire.messages import Bundle, Label, Life, Message, Receipt
from pillarbox.store.change_number import CNSet


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message."""

    message: Message


@dataclass(frozen=True, slots=True)
class Pass:
    """Give a store a copy of a bundle.

    Of a copy for a site the transport tells by `Replicator.sent` when the link has taken it, and gives the
    receipt that comes back to `Replicator.receipt_came`.
    """

    label: Label
    bundle: Bundle


@dataclass(frozen=True, slots=True)
class GiveReceipt:
    """Give a store the receipt of a copy that it handed on: a frame of the transport."""

    to: bytes
    receipt: Receipt


class AnswerKey(NamedTuple):
    """The name of an answer that is under way: a source gives one at a time to each asker of a folder."""

    asker: bytes
    folder: ObjectId


@dataclass(frozen=True, slots=True)
class Answer:
    """Send the next page of the answer to a backfill request: its turn has come.

    `Replicator.answer_page` makes the page, and `page_taken` says that the link has taken it: the next one
    takes its turn then. `left` are the numbers for which no page was made yet. A newer request of the same
    store for the same folder replaces what is left of this one. `claimed` are the numbers that the asker knew
    by its row when it asked; None where no row follows it. `page_count` is that of the objects in the page
    before, by which the next one is read.
    """

    asker: bytes
    folder: ObjectId
    life: Life
    needed: CNSet
    had: CNSet
    left: CNSet
    claimed: CNSet | None = None
    page_count: int = 50

    @property
    def key(self) -> AnswerKey:
        """The name of the answer."""
        return AnswerKey(self.asker, self.folder)


class Notice(StrEnum):
    """Notices for the administrator."""

    FOLDER_CAME_BACK = "a deleted folder came back with content that the deletion had not seen"
    REPLICA_DROPPED = "a leaving replica let its content go"
    REPLICA_BACK_TO_LEAVING = "a store that no list names holds content, and leaves by the rules"
    LAST_REPLICA_KEPT = "all replicas were to leave: the one here stays, and is active again"
    STAMP_AHEAD = "a change is stamped more than a day ahead and decides nothing"
    HOLE_CLOSED = "numbers that no replica holds any more were given up"
    NUMBER_GIVEN_TWICE = "two changes came under one number: its store was copied, and is quarantined"
    WENT_BACK = "others know changes of this store that it does not: it went back in time, and numbers anew"
    QUARANTINED = "others refuse what this store says: a copy of it is at work; an operator decides"
    SET_ASIDE = "a change cannot be applied here: it is set aside and tried again"
    TOO_LARGE = "a message is too large to be replicated: it stays here until it is changed or deleted"
    CONFLICT = "a message was changed in two places at once, and all versions are kept"
    VERSIONS_JOINED = "a message in conflict has more than 16 versions, of which the oldest are shown as one"
    DESIGN_CONFLICT = "a folder's setting was changed in two places at once, and the last one counts"
    FOLDERS_IN_CIRCLE = "folders were moved into each other, and the last one stands in Lost and Found"
    EXPIRED_LOST = "content goes that every other replica has expired"


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the administrator; `numbers` are those that the notice is about, where it is about numbers, and
    `object_id` is the object where it is about one. `accounts` are the people who are to be told as well.
    """

    notice: Notice
    folder: ObjectId
    numbers: CNSet = NOTHING
    object_id: ObjectId | None = None
    accounts: tuple[str, ...] = ()


Effect: TypeAlias = Send | Pass | GiveReceipt | Answer | Report
