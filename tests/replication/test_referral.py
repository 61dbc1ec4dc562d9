"""Referral of clients: own site first, then by cost, or by a list of its own; never to an unfit replica."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pillarbox.replication.ground.records import ReplicaState
from pillarbox.replication.organisation.referral import Offer, Unfit, choose_referral
from pillarbox.replication.organisation.topology import Connector, Organisation, Server

A1, A2, B1, C1 = (bytes([number]) * 16 for number in range(4))
ORGANISATION = Organisation(
    servers={
        A1: Server(A1, "a1", "a", 6),
        A2: Server(A2, "a2", "a", 6),
        B1: Server(B1, "b1", "b", 6),
        C1: Server(C1, "c1", "c", 6),
    },
    connectors=(Connector("ab", ("a", "b"), 10), Connector("bc", ("b", "c"), 10)),
    sites=("a", "b", "c"),
)
ALL = [Offer(A2), Offer(B1), Offer(C1)]


def chosen(
    offers: list[Offer], organisation: Organisation = ORGANISATION, **options: set[str]
) -> bytes | None:
    return choose_referral(A1, "anna", offers, organisation, **options).database


def reasons(
    offers: list[Offer], organisation: Organisation = ORGANISATION, **options: set[str]
) -> list[Unfit]:
    found = choose_referral(A1, "anna", offers, organisation, **options).reasons
    return [reason.unfit for reason in found]


def test_the_own_site_comes_first_then_the_cheaper_site() -> None:
    assert chosen(ALL) == A2
    assert chosen([Offer(C1), Offer(B1)]) == B1


def test_a_dearer_replica_is_chosen_only_when_the_cheaper_ones_are_not_there() -> None:
    offers = [Offer(A2, is_there=False), Offer(B1, is_there=False), Offer(C1)]
    assert chosen(offers) == C1
    assert reasons(offers) == [Unfit.NOT_THERE, Unfit.NOT_THERE, Unfit.NO]
    assert chosen(ALL[1:], down={"ab"}) is None, "nothing leads there while the connector is down"


def test_no_client_is_sent_to_a_stale_leaving_or_removed_replica() -> None:
    for unfit, why in (
        (Offer(A2, is_stale=True), Unfit.STALE),
        (Offer(A2, ReplicaState.DELETE_PENDING), Unfit.LEAVING),
        (Offer(A2, ReplicaState.REMOVED), Unfit.REMOVED),
    ):
        assert chosen([unfit, Offer(C1)]) == C1
        assert chosen([unfit]) is None
        assert reasons([unfit]) == [why]
    removed = ORGANISATION.servers[A2]._replace(is_removed=True)
    without = replace(ORGANISATION, servers={**ORGANISATION.servers, A2: removed})
    assert reasons([Offer(A2)], without) == [Unfit.REMOVED]
    assert reasons([Offer(b"x" * 16)]) == [Unfit.REMOVED]


def test_a_list_of_its_own_is_exclusive() -> None:
    listed = replace(ORGANISATION, referrals={A1: {C1: 1, B1: 50}})
    assert chosen(ALL, listed) == C1
    assert chosen([Offer(A2), Offer(B1)], listed) == B1
    assert chosen([Offer(A2)], listed) is None, "though it is in the same site"
    assert reasons([Offer(A2)], listed) == [Unfit.NOT_ON_THE_LIST]
    assert chosen([Offer(C1, is_stale=True), Offer(B1)], listed) == B1
    assert choose_referral(A2, "anna", [Offer(B1)], listed).database == B1, "it is another server's list"


def test_a_connector_that_allows_no_referrals_leads_nowhere() -> None:
    connectors = (ORGANISATION.connectors[0], ORGANISATION.connectors[1]._replace(allows_referrals=False))
    guarded = replace(ORGANISATION, connectors=connectors)
    assert chosen([Offer(C1)], guarded) is None
    assert reasons([Offer(C1)], guarded) == [Unfit.NO_WAY]
    assert chosen([Offer(C1), Offer(B1)], guarded) == B1


def test_clients_spread_over_replicas_of_equal_cost_and_come_back_to_the_same() -> None:
    offers = [Offer(A1), Offer(A2)]
    counts = Counter(
        choose_referral(A1, f"client {number}", offers, ORGANISATION).database for number in range(400)
    )
    assert min(counts[A1], counts[A2]) > 120
    again = choose_referral(A1, "client 7", offers[::-1], ORGANISATION)
    assert again == choose_referral(A1, "client 7", offers, ORGANISATION)


@given(
    st.permutations([A1, A2, B1, C1]),
    st.lists(st.tuples(st.sampled_from(ReplicaState), st.booleans(), st.booleans()), min_size=4, max_size=4),
)
def test_the_cheapest_fit_replica_is_chosen(
    order: list[bytes], states: list[tuple[ReplicaState, bool, bool]]
) -> None:
    offers = [Offer(database, *state) for database, state in zip(order, states, strict=True)]
    costs = {A1: 0, A2: 0, B1: 10, C1: 20}
    fit = {
        offer.database
        for offer in offers
        if offer.state is ReplicaState.ACTIVE and not offer.is_stale and offer.is_there
    }
    found = choose_referral(A1, "anna", offers, ORGANISATION)
    assert (found.database is None) == (not fit)
    if found.database is not None:
        assert found.database in fit
        assert costs[found.database] == min(costs[database] for database in fit)
    assert [reason.cost for reason in found.reasons] == sorted(costs[database] for database in order)
