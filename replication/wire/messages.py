"""The messages between stores, decoded (DOMAIN.md "Public folder replication", "Messages between stores").

Every message carries what its sender has of the folder, so a lost status is made up for by whatever comes
next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeAlias

from pillarbox.replication.ground.knowledge import Pair
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.ground.versions import Sight, Versions
from pillarbox.store.change_number import ChangeNumber, CNSet


class MessageType(IntEnum):
    """The types of DOMAIN.md, one for the state of links, and the hello of a store that starts."""

    HIERARCHY = 0x2
    CONTENT = 0x4
    BACKFILL_REQUEST = 0x8
    STATUS = 0x10
    STATUS_REQUEST = 0x20
    LINK_STATE = 0x40
    HELLO = 0x80


class Sender(NamedTuple):
    """A store, the incarnation of it that speaks, and the replica GUID under which that numbers its
    changes."""

    database: bytes
    incarnation: int
    origin: bytes


class Life(NamedTuple):
    """The replica that says something: a later one replaces what an earlier one said of itself."""

    incarnation: int
    life: int


class Statement(NamedTuple):
    """The sender's numbers of a folder: held, and expired by its own age limit."""

    life: Life
    known: CNSet
    expired: CNSet

    @property
    def had(self) -> CNSet:
        """The numbers that the sender need not be sent."""
        return self.known | self.expired if self.expired else self.known


class Numberings(NamedTuple):
    """The owner of each origin, as (database, incarnation), and numbers that owners left out for ever."""

    owners: Mapping[bytes, tuple[bytes, int]]
    left_out: CNSet


class AnswerTo(NamedTuple):
    """For which replica an answer was made, purged numbers that the asker lacks, whether it is complete."""

    life: Life
    purged: CNSet
    is_last: bool


Objects: TypeAlias = tuple[tuple[ObjectId, Versions[Any]], ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """Changed objects and the gaps that come with them: a broadcast, or a part of an answer to a request."""

    objects: Objects
    pair: Pair
    answer: AnswerTo | None = None


@dataclass(frozen=True, slots=True)
class BackfillRequest:
    """Asks for the needed numbers; `had` is all that the asker has."""

    needed: CNSet
    had: CNSet


@dataclass(frozen=True, slots=True)
class ReconcileQuestion:
    """Asks which of these versions are deleted. `applied` counts what the asker had applied before."""

    held: Mapping[ObjectId, Sight]
    applied: int


@dataclass(frozen=True, slots=True)
class ReconcileAnswer:
    """The versions that are gone, objects that live in other versions instead, and all purged numbers.

    `required` are the numbers of all objects of the source, and those that it expired. The asker may take all
    that the source knows for had if it holds them.
    """

    life: Life
    gone: Mapping[ObjectId, frozenset[ChangeNumber]]
    objects: Objects
    purged: CNSet
    required: CNSet
    applied: int


class Acknowledgement(NamedTuple):
    """Says that the sender has all that a leaving replica stated under this number in this incarnation."""

    incarnation: int
    statement: int


@dataclass(frozen=True, slots=True)
class Status:
    """A statement alone; to a leaving replica with an acknowledgement, in the hierarchy with numberings.

    Over links one store states for its site: `mates` are the last statements of the others there.
    """

    acknowledgement: Acknowledgement | None = None
    numberings: Numberings | None = None
    mates: Mapping[bytes, Statement] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """Asks for a status; of a leaving replica, for an acknowledgement of its statement of this number."""

    leaving: int | None = None


@dataclass(frozen=True, slots=True)
class Hello:
    """Asks what was heard of the sender's numbering under `origin`. `start` is another GUID at each start.

    The statement of a hello and of its answer says nothing: the asker does not know yet how old it is.
    """

    start: bytes
    origin: bytes


@dataclass(frozen=True, slots=True)
class HelloAnswer:
    """Answers the hello of `start`: the highest number under its `origin` that was heard of, 0 for none.

    `is_quarantined` says that nothing is taken that comes under that replica GUID.
    """

    start: bytes
    highest: int
    is_quarantined: bool
    numberings: Numberings


@dataclass(frozen=True, slots=True)
class Fetching:
    """Tells the stores of the same site which numbers were asked for over a link, and whom: they need not."""

    numbers: CNSet
    source: bytes


@dataclass(frozen=True, slots=True)
class LinkReport:
    """The state of a connector, as one end of it sees it: 0 up, 1 down, 2 oscillating. `number` counts its
    reports.
    """

    connector: str
    number: int
    state: int


Silent: TypeAlias = Mapping[str, frozenset[bytes]]
SUM_BYTES: Final = 16
BUCKETS_COUNT: Final = 256


@dataclass(frozen=True, slots=True)
class RestPoll:
    """Asks a store of the same site for its sums, in a round at rest.

    `silent` names for each site that was heard of late those of its stores that were not: they count for
    nothing. `equal` are the sites that agreed in the last round.
    """

    silent: Silent
    equal: frozenset[str]


@dataclass(frozen=True, slots=True)
class RestSums:
    """The sums, by site, over the folders that the sender shares with it; a site that is missing has 0.

    In the site, and where two sites differ, all 256 of a site, else their sum. `hierarchy` is the digest of
    what the sender has of the hierarchy. `silent` are the stores of the sender's site that gave no sums.
    """

    hierarchy: bytes
    sums: Mapping[str, bytes]
    silent: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class BucketQuestion:
    """Asks a store to tell `to` the digests of the folders in some buckets that it shares with `site`."""

    site: str
    buckets: bytes
    to: bytes


@dataclass(frozen=True, slots=True)
class BucketDigests:
    """Digests of what the store `source` has of folders."""

    source: bytes
    digests: Mapping[ObjectId, bytes]


Body: TypeAlias = (
    Changes
    | BackfillRequest
    | ReconcileQuestion
    | ReconcileAnswer
    | Status
    | StatusRequest
    | Hello
    | HelloAnswer
    | Fetching
    | LinkReport
    | RestPoll
    | RestSums
    | BucketQuestion
    | BucketDigests
)


EVERYONE: Final = bytes(16)  # the addressee of what goes to all replicas of its folder
BUNDLE_MESSAGES_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Message:
    """One message about one folder, or about the hierarchy, from one store to another or to `EVERYONE`."""

    sender: Sender
    to: bytes
    folder: ObjectId
    statement: Statement
    body: Body

    @property
    def acknowledges(self) -> bool:
        """True when it acknowledges a leaving replica's statement."""
        return isinstance(self.body, Status) and self.body.acknowledgement is not None


class Class(IntEnum):
    """The classes of what goes over a link."""

    URGENT = 0  # urgent folders, and all that is not content
    CHANGES = 1
    ANSWERS = 2


class BundleKey(NamedTuple):
    """The name of a bundle: who made it, and the number that it gave it."""

    database: bytes
    incarnation: int
    number: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """Messages of one store and one type about one or more folders: sealed as one, and forwarded as it is.

    All its messages are `to` the same: one store, or all replicas of their folders. `tree` is the way that it
    takes from the maker's site, as pairs of sites, each parent before its children.
    """

    sender: Sender
    number: int
    of: Class
    bucket: int
    tree: tuple[tuple[str, str], ...]
    messages: tuple[Message, ...]
    to: bytes = EVERYONE

    @property
    def key(self) -> BundleKey:
        """The bundle's name."""
        return BundleKey(self.sender.database, self.sender.incarnation, self.number)


class Label(NamedTuple):
    """The transport's part of a bundle, written anew at each hop and trusted for nothing else.

    `is_for_site` says that the next store is to hand the bundle on, in its site and to the sites behind it.
    `behind_ms` is the time that what waits behind this bundle will take.
    """

    to: bytes
    hops: int
    is_for_site: bool
    behind_ms: int


class Says(IntEnum):
    """Words of a receipt: a copy was refused or taken; it is asked whether it was taken, and it was not."""

    REFUSED = 0
    TAKEN = 1
    ASKS = 2
    NOT_TAKEN = 3


class Receipt(NamedTuple):
    """Says that a copy for a site is in the outbox of who gives the receipt, or that it is refused; or asks
    whether it is there, and says that it is not."""

    key: BundleKey
    by: bytes
    says: Says = Says.TAKEN
