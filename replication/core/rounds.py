"""The memory that a store has of rounds at rest (`at_rest`): nothing of it is kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pillarbox.replication.core.state import NEVER_MS, Row
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.organisation.topology import Organisation
from pillarbox.replication.wire.messages import RestSums, Silent
from pillarbox.store.change_number import CNSet


class Share(NamedTuple):
    """The part of a folder in the sums: its digest, so often, for each site.

    `had` are the numbers in it, `rows` the other replicas' rows of that moment.
    """

    had: CNSet
    rows: Mapping[bytes, Row]
    digest: bytes
    bucket: int
    factors: Mapping[str, int]


@dataclass
class FolderSums:
    """The sums of a store by site, and the folders' shares in them.

    `changed` are folders that are to be looked at again. The sums hold for these servers, of which those in
    `silent` count for nothing.
    """

    organisation: Organisation | None = None
    silent: Silent = field(default_factory=dict)
    changed: set[ObjectId] = field(default_factory=set)
    shares: dict[ObjectId, Share] = field(default_factory=dict)
    of_site: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Told:
    """The last sums of another site, the head that told them, and when they came."""

    by: bytes
    sums: RestSums
    came_ms: int


@dataclass
class Rounds:
    """The memory of a store between rounds.

    `silent_here` are the stores of its site that count for nothing in the next round. `given` is what the
    head was given in the round that ends at `closes_ms`. `totals` are the site's sums of the last round, None
    where its stores' hierarchies differed; `hierarchy` is the digest that they had, `equal` the sites that
    agreed. `said` is what other sites are told. `differed` are the digests of others in which folders
    differed though the numbers are the same, and whether all were asked for that.
    """

    due_ms: int = NEVER_MS
    closes_ms: int = NEVER_MS
    sums: FolderSums = field(default_factory=FolderSums)
    silent_here: frozenset[bytes] = frozenset()
    given: dict[bytes, RestSums] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    totals: dict[str, list[int]] | None = None
    hierarchy: bytes = b""
    equal: set[str] = field(default_factory=set)
    said: RestSums | None = None
    differed: dict[ObjectId, tuple[bytes, bool]] = field(default_factory=dict)
