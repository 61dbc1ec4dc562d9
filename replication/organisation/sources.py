"""Choice of backfill sources (DOMAIN.md "Backfill source selection"), with the reasons.

All stores that have some of the needed changes are sorted once: the cheapest to reach first, of equal cost
the newest version, of equal version the one with most of the needed changes. In this order each is asked for
all it has of what is then still needed. So a cheap store that has a part is asked for that part although a
dearer one has everything, and an old store of one's own site is asked rather than a new one elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from pillarbox.store.change_number import CNSet


class Late(StrEnum):
    """The reason for which a store comes after the others of its cost."""

    NO = ""
    DOWN = "down"
    LEAVING = "being removed"
    SILENT = "did not answer"


class Candidate(NamedTuple):
    """A store that may be asked: what it costs to reach it, its version, and the numbers it is known to
    have."""

    database: bytes
    cost: int
    version: int
    available: CNSet
    late: Late = Late.NO


class Request(NamedTuple):
    """Numbers to ask one store for."""

    source: bytes
    numbers: CNSet


class Reason(NamedTuple):
    """The place of a store in the order: it has `needed_count` of the needed changes and is asked for
    `asked_count` of them."""

    source: bytes
    is_preferred: bool
    cost: int
    late: Late
    version: int
    needed_count: int
    asked_count: int


class Plan(NamedTuple):
    """The requests in the order in which they are made, what no candidate has, and a reason for each
    candidate that has some of what is needed, in order."""

    requests: tuple[Request, ...]
    left: CNSet
    reasons: tuple[Reason, ...]


class _Offer(NamedTuple):
    candidate: Candidate
    is_preferred: bool
    needed_count: int


def choose_sources(
    asker: bytes, needed: CNSet, candidates: Sequence[Candidate], preferred: Sequence[bytes] = ()
) -> Plan:
    """Assign the needed changes to sources; the same for the same arguments in any order of candidates.

    `preferred` are stores that an operator named for `asker`: they come first, ordered among themselves as
    all are. Where everything else is equal, a hash of asker and source decides, so that not all ask the same
    one.
    """
    offers = sorted(
        (
            _Offer(candidate, candidate.database in preferred, needed_count)
            for candidate in candidates
            if (needed_count := needed.count_common(candidate.available))
        ),
        key=lambda offer: _place(asker, offer),
    )
    requests: list[Request] = []
    reasons: list[Reason] = []
    for offer in offers:
        asked = needed & offer.candidate.available
        if asked:
            requests.append(Request(offer.candidate.database, asked))
            needed -= asked
        reasons.append(_reason(offer, asked.count()))
    return Plan(tuple(requests), needed, tuple(reasons))


def _place(asker: bytes, offer: _Offer) -> tuple[bool, int, bool, int, int, bytes]:
    candidate = offer.candidate
    tie = hashlib.blake2b(asker + candidate.database, digest_size=8).digest()
    return (
        not offer.is_preferred,
        candidate.cost,
        bool(candidate.late),
        -candidate.version,
        -offer.needed_count,
        tie,
    )


def _reason(offer: _Offer, asked_count: int) -> Reason:
    candidate = offer.candidate
    return Reason(
        candidate.database,
        offer.is_preferred,
        candidate.cost,
        candidate.late,
        candidate.version,
        offer.needed_count,
        asked_count,
    )
