"""The tree of sites: the cheapest paths, alike for all who compute it, and one copy for each site."""

from __future__ import annotations

from itertools import pairwise, permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.replication.organisation.site_tree import SiteTree, site_tree
from pillarbox.replication.organisation.topology import Connector

SITES = "abcdef"

connectors_of_six = st.lists(
    st.tuples(st.sampled_from(SITES), st.sampled_from(SITES), st.integers(1, 5)).filter(
        lambda link: link[0] != link[1]
    ),
    max_size=9,
).map(lambda links: [Connector(f"c{k}", (one, other), cost) for k, (one, other, cost) in enumerate(links)])


def best_path(target: str, connectors: list[Connector]) -> tuple[str, ...]:
    """Of all paths from "a" the cheapest, then the one with fewer hops, then the lower names."""
    step: dict[tuple[str, str], int] = {}
    for connector in connectors:
        for sites in (connector.sites, connector.sites[::-1]):
            step[sites] = min(step.get(sites, connector.cost), connector.cost)
    paths = []
    for length in range(len(SITES) - 1):
        for between in permutations(sorted(set(SITES) - {"a", target}), length):
            path = ("a", *between, target)
            hops = list(pairwise(path))
            if all(hop in step for hop in hops):
                paths.append((sum(step[hop] for hop in hops), len(hops), path))
    return min(paths)[2] if paths else ()


@settings(deadline=None, max_examples=60)
@given(connectors_of_six, st.randoms(use_true_random=False))
def test_paths_are_the_cheapest_with_ties_alike_everywhere(connectors: list[Connector], rng: object) -> None:
    tree = site_tree("a", connectors)
    for target in SITES[1:]:
        assert tree.path(target) == best_path(target, connectors)
    assert site_tree("a", connectors[::-1]) == tree


def test_of_equal_paths_fewer_hops_win_and_then_the_lower_names() -> None:
    square = [
        Connector("1", ("a", "c"), 10),
        Connector("2", ("a", "b"), 10),
        Connector("3", ("c", "d"), 10),
        Connector("4", ("b", "d"), 10),
    ]
    assert site_tree("a", square).path("d") == ("a", "b", "d")
    direct = [*square, Connector("5", ("a", "d"), 20)]
    assert site_tree("a", direct).path("d") == ("a", "d")


def test_a_connector_that_is_down_is_left_out_unless_no_way_is_left() -> None:
    chain = [Connector("ab", ("a", "b"), 1), Connector("bc", ("b", "c"), 1), Connector("ac", ("a", "c"), 9)]
    assert site_tree("a", chain, {"bc"}).path("c") == ("a", "c")
    assert site_tree("a", chain, {"ab"}).path("b") == ("a", "c", "b")
    assert site_tree("a", chain[:2], {"ab"}).path("c") == ("a", "b", "c"), "its mail waits"


def test_a_branch_holds_what_its_first_site_hands_on_and_no_site_without_a_replica() -> None:
    tree = SiteTree("a", {"b": "a", "c": "b", "d": "b", "e": "a", "f": "e"}).pruned({"a", "c", "f"})
    assert tree.parents == {"b": "a", "c": "b", "e": "a", "f": "e"}
    branch = tree.branch("b")
    assert branch.pairs() == (("a", "b"), ("b", "c"))
    assert branch.children("b") == ("c",) and branch.children("c") == ()
