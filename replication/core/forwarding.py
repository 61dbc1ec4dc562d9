"""Copies of other stores' bundles, handed on: in this site, and along the tree that their maker gave them.

Whoever receives a site's copy acts as its bridgehead, replica or not, whatever it believes of others. Only
for a site of which it knows no server it keeps none: the last one may have left, and a new one asks.
"""

from __future__ import annotations

from typing import Final

from pillarbox.replication.core import outbox
from pillarbox.replication.core.effects import GiveReceipt, Pass
from pillarbox.replication.core.line import Item, Kind
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import Passing
from pillarbox.replication.organisation.site_tree import SiteTree
from pillarbox.replication.wire.messages import Bundle, Label, LinkReport, Receipt, RestPoll, RestSums, Says

HOPS_MAX: Final = 16
PASSING_COUNT_MAX: Final = 1000  # for one neighbour: some 300 MB; of more the oldest goes
SEEN_COUNT_MAX: Final = 10_000


def take(replica: Replica, label: Label, bundle: Bundle, hop: bytes) -> bool:
    """Take a copy that `hop` gave; True when what it says is to be taken too, as it is new here.

    A copy for a site is put into the outbox for each site behind this one, in the call's transaction, and the
    receipt follows that. A second copy is not handed on again, or two ways into a site would double all that
    lies behind it; nor is one that went over too many hops, for then a tree leads in a circle.
    """
    if label.hops > HOPS_MAX:
        replica.fired["too_many_hops"] += 1
        return False
    is_new = bundle.key not in replica.seen
    if label.is_for_site:
        replica.effects.append(GiveReceipt(hop, Receipt(bundle.key, replica.me.database, Says.TAKEN)))
        if is_new:
            _hand_on(replica, label, bundle, SiteTree.of_pairs(replica.site, bundle.tree))
    replica.fired["second_copy"] += not is_new
    replica.seen[bundle.key] = label.is_for_site or replica.seen.get(bundle.key, False)
    if len(replica.seen) > SEEN_COUNT_MAX:
        del replica.seen[next(iter(replica.seen))]
    return is_new


def answer(replica: Replica, asked: Receipt) -> None:
    """Say whether a copy was taken for this site and those behind it, as far as this start remembers."""
    says = Says.TAKEN if replica.seen.get(asked.key) else Says.NOT_TAKEN
    replica.effects.append(GiveReceipt(asked.by, Receipt(asked.key, replica.me.database, says)))


def _hand_on(replica: Replica, label: Label, bundle: Bundle, tree: SiteTree) -> None:
    wanted = {peer for message in bundle.messages for peer in replica.mates(message.folder)}
    for mate in sorted(wanted - {bundle.sender.database}):
        replica.effects.append(Pass(Label(mate, label.hops + 1, False, label.behind_ms), bundle))
    for site in filter(replica.organisation.at, tree.children(replica.site)):
        copies = replica.record.passing.setdefault(site, {})
        if not _make_room(replica, site, bundle):
            continue
        copies[bundle.key] = Passing(bundle, label.hops, label.behind_ms)
        outbox.line_to(replica, site).turns.put(bundle.of, Item(Kind.COPY, bundle.key))


def _make_room(replica: Replica, site: str, bundle: Bundle) -> bool:
    """Let copies go for which a new one stands, and the oldest where there are too many: a site that is away
    for days would stop all that goes to others else. It asks then for what it lacks. False when a later one
    is here already.
    """
    copies, stands_for = replica.record.passing[site], _stands_for(bundle)
    if stands_for is not None:
        older = [key for key, copy in copies.items() if _stands_for(copy.bundle) == stands_for]
        if any(key > bundle.key for key in older):
            return False
        for key in older:
            del copies[key]
    while len(copies) >= PASSING_COUNT_MAX:
        replica.fired["copy_given_up"] += 1
        del copies[next(iter(copies))]
    return True


def _stands_for(bundle: Bundle) -> tuple[bytes, str] | None:
    """The thing of which only the last copy says anything: sums of a store, the state it saw a connector in;
    None for all else."""
    match bundle.messages[0].body:
        case LinkReport(connector):
            return bundle.key.database, connector
        case RestSums() | RestPoll():
            return bundle.key.database, ""
        case _:
            return None
