"""Choice of backfill sources (DOMAIN.md "Backfill source selection"), with the reasons.

All stores that have some of the needed changes are sorted once: the cheapest to reach first, of equal cost
the newest version, of equal version the one with most of the needed changes. In this order each is asked for
all it has of what is then still needed. So a cheap store that has a part is asked for that part although a
dearer one has everything, and an old store of one's own site is asked rather than a new one elsewhere.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Sequence
from enum import StrEnum
from itertools import accumulate
from typing import NamedTuple

from pillarbox.store.change_number import CNSet
from pillarbox.store.errors import InvalidSetting


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


def check_sources(asker: bytes, sources: Collection[bytes], name: str) -> None:
    """Raise InvalidSetting where the store of the server called `name` is to ask itself."""
    if asker in sources:
        raise InvalidSetting(f"{name} cannot be its own source", hint="name other servers")


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
    parts, together = _first_disjoint(needed, offers)
    needed -= together
    for offer in offers[len(parts) :]:
        asked = needed & offer.candidate.available
        parts.append(asked)
        needed -= asked
    asked_of = list(zip(offers, parts, strict=True))
    return Plan(
        tuple(Request(offer.candidate.database, asked) for offer, asked in asked_of if asked),
        needed,
        tuple(_reason(offer, asked.count()) for offer, asked in asked_of),
    )


def _first_disjoint(needed: CNSet, offers: Sequence[_Offer]) -> tuple[list[CNSet], CNSet]:
    """The parts of the first sources, where no two of these have a needed number in common, and their union.

    As many are looked at as have no more than all needed numbers between them; nothing where two overlap.
    Taken one by one, a hundred sources that have a hundredth of each interval would leave ever more intervals
    to be searched by the next one.
    """
    counts = accumulate(offer.needed_count for offer in offers)
    first = offers[: bisect_right(list(counts), needed.count())]
    parts = [_part(needed, offer) for offer in first]
    together = CNSet.disjoint_union(parts)
    return ([], CNSet()) if together is None else (parts, together)


def _part(needed: CNSet, offer: _Offer) -> CNSet:
    available = offer.candidate.available
    return available if offer.needed_count == available.count() else needed & available


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
