"""The cheapest way between sites, and what a connector that is down means for it."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.replication.organisation.rates import rate_bytes
from pillarbox.replication.organisation.topology import (
    Connector,
    ContentFlow,
    Organisation,
    Server,
    Way,
    ways_from,
    with_stand_ins,
)

SITES = "abcde"

connectors_of_five = st.lists(
    st.tuples(st.sampled_from(SITES), st.sampled_from(SITES), st.integers(1, 100)).filter(
        lambda link: link[0] != link[1]
    ),
    max_size=8,
).map(lambda links: [Connector(f"c{k}", (one, other), cost) for k, (one, other, cost) in enumerate(links)])


def brute_force(site: str, target: str, connectors: list[Connector]) -> int | None:
    """The cheapest of all paths that visit no site twice."""
    step = {}
    for connector in connectors:
        for one, other in (connector.sites, connector.sites[::-1]):
            step[one, other] = min(step.get((one, other), connector.cost), connector.cost)
    costs = [
        sum(step.get(hop, 10**6) for hop in zip((site, *between), (*between, target), strict=True))
        for length in range(len(SITES) - 1)
        for between in permutations(set(SITES) - {site, target}, length)
    ]
    return min(cost for cost in costs) if site != target and min(costs) < 10**6 else None


@settings(deadline=None)
@given(connectors_of_five, st.sets(st.integers(0, 7)))
def test_ways_are_the_cheapest_of_all_paths(connectors: list[Connector], numbers: set[int]) -> None:
    down = {f"c{k}" for k in numbers}
    ways = ways_from("a", connectors, down)
    up = [connector for connector in connectors if connector.name not in down]
    assert ways["a"] == Way(0, True)
    for target in SITES[1:]:
        over_up, over_all = brute_force("a", target, up), brute_force("a", target, connectors)
        if over_up is not None:
            assert ways[target] == Way(over_up, True)
        elif over_all is not None:
            assert ways[target] == Way(over_all, False), "its mail waits for the connector"
        else:
            assert target not in ways


def test_the_longer_way_is_taken_where_the_sum_is_lower() -> None:
    triangle = [
        Connector("x", ("a", "c"), 50),
        Connector("y", ("a", "b"), 10),
        Connector("z", ("b", "c"), 20),
    ]
    assert ways_from("a", triangle)["c"] == Way(30, True)
    assert ways_from("a", triangle, {"z"})["c"] == Way(50, True)


def test_a_rate_is_shared_by_the_servers_of_a_site_and_a_connector_has_its_own() -> None:
    servers = {bytes([n]) * 16: Server(bytes([n]) * 16, str(n), "aabb"[n], 1) for n in range(4)}
    one, removed = bytes(16), servers[bytes([1]) * 16]._replace(is_removed=True)
    link = Connector("x", ("b", "a"), 5)
    base = Organisation(servers, (link,))
    assert rate_bytes(base, one, "b") == 0
    resumed = replace(base, content=ContentFlow(rate_bytes=1000))
    assert rate_bytes(resumed, one, "b") == 500
    own = replace(resumed, connectors=(link._replace(rate_bytes=90), link._replace(name="y", cost=50)))
    assert rate_bytes(own, one, "b") == 45
    assert rate_bytes(replace(own, servers={**servers, removed.database: removed}), one, "b") == 90


def test_a_dear_connector_stands_in_where_none_leads_to_a_site_with_servers() -> None:
    servers = {bytes([n]) * 16: Server(bytes([n]) * 16, str(n), "abc"[n], 1) for n in range(3)}
    whole = Organisation(servers, (Connector("x", ("a", "b"), 5), Connector("y", ("b", "c"), 5)))
    assert with_stand_ins(whole) is whole
    torn = replace(whole, connectors=whole.connectors[1:], sites=("a", "b", "c", "d"))
    stands_in = with_stand_ins(torn)
    assert [(each.sites, each.cost) for each in stands_in.connectors] == [(("b", "c"), 5), (("a", "b"), 100)]
    assert ways_from("c", stands_in.connectors).keys() == {"a", "b", "c"}, "nobody is in d"


def test_removed_stores_are_no_others() -> None:
    one, other, gone = (bytes([n]) * 16 for n in range(3))
    organisation = Organisation(
        {
            one: Server(one, "one", "a", 1),
            other: Server(other, "other", "a", 1),
            gone: Server(gone, "gone", "a", 1, is_removed=True),
        }
    )
    assert organisation.others(one) == (other,)
    assert organisation.is_removed(gone) and organisation.is_removed(b"x" * 16)
