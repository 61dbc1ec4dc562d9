"""Referral of clients to a replica of a folder, with the reasons (DOMAIN.md "Referrals").

A client that asks for content which is not here is sent to a replica: to one of its own site first, then by
cost; or, where the server has a list of its own, to the servers on it alone, by their costs there. A dearer
one is chosen only when no cheaper one is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import NamedTuple

from pillarbox.replication.ground.records import ReplicaState
from pillarbox.replication.organisation.topology import Organisation, Way, ways_from


class Unfit(StrEnum):
    """The reason for which a client is not sent to a replica."""

    NO = ""
    REMOVED = "is no replica any more"
    LEAVING = "is delete pending"
    STALE = "does not hold all of the folder"
    NOT_ON_THE_LIST = "is not on this server's list"
    NO_WAY = "no connector that allows referrals leads there"
    NOT_THERE = "is not there now"


class Offer(NamedTuple):
    """A replica of the folder, as the server that refers knows it."""

    database: bytes
    state: ReplicaState = ReplicaState.ACTIVE
    is_stale: bool = False
    is_there: bool = True


class Reason(NamedTuple):
    """The place of a replica in the order: its cost, None where nothing leads to it, and why it is unfit."""

    database: bytes
    cost: int | None
    unfit: Unfit


class Referral(NamedTuple):
    """The replica that a client is sent to, None where none is fit, and a reason for each in order."""

    database: bytes | None
    reasons: tuple[Reason, ...]


def choose_referral(
    server: bytes,
    client: str,
    offers: Sequence[Offer],
    organisation: Organisation,
    down: Collection[str] = (),
) -> Referral:
    """Choose the replica to which `server` refers `client`, the same for the same arguments in any order.

    `down` are connectors that are down: what only they lead to is not there. Of replicas of equal cost a hash
    of client and replica decides, so that a client comes back to the same one and not all come to one.
    """
    allowed = [connector for connector in organisation.connectors if connector.allows_referrals]
    ways = ways_from(organisation.servers[server].site, allowed, down)
    own_list = organisation.referrals.get(server)
    reasons = []
    for offer in offers:
        found = organisation.servers.get(offer.database)
        way = ways.get(found.site) if found else None
        if own_list is not None:
            cost = own_list.get(offer.database)
            unfit = Unfit.NOT_ON_THE_LIST if cost is None else Unfit.NO
        else:
            cost = way.cost if way else None
            unfit = Unfit.NO_WAY if way is None else Unfit.NO
        unfit = _unfit(offer, organisation) or unfit or _not_there(offer, way)
        reasons.append(Reason(offer.database, cost, unfit))
    reasons.sort(key=lambda reason: _place(client, reason))
    chosen = next((reason.database for reason in reasons if not reason.unfit), None)
    return Referral(chosen, tuple(reasons))


def _unfit(offer: Offer, organisation: Organisation) -> Unfit:
    """The reason that lies in the replica itself, whatever leads to it."""
    if offer.state is ReplicaState.REMOVED or organisation.is_removed(offer.database):
        return Unfit.REMOVED
    if offer.state is ReplicaState.DELETE_PENDING:
        return Unfit.LEAVING
    return Unfit.STALE if offer.is_stale else Unfit.NO


def _not_there(offer: Offer, way: Way | None) -> Unfit:
    """NOT_THERE where the server or the way to it is down; a server on a list needs no way that is known."""
    is_cut = way is not None and not way.is_up
    return Unfit.NOT_THERE if is_cut or not offer.is_there else Unfit.NO


def _place(client: str, reason: Reason) -> tuple[bool, int, bytes]:
    tie = hashlib.blake2b(client.encode() + reason.database, digest_size=8).digest()
    return reason.cost is None, reason.cost or 0, tie
