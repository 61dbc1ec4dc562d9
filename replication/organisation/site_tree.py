"""The tree of sites along which a maker's changes go, one copy over each link.

The maker computes it and puts it into the message; forwarders follow it and compute none, since two of them
that see different links would send a site two copies, or none.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from pillarbox.replication.organisation.topology import Connector


@dataclass(frozen=True)
class SiteTree:
    """The parent of each site but the root, on the cheapest path from there."""

    root: str
    parents: Mapping[str, str]

    @cached_property
    def _children(self) -> Mapping[str, tuple[str, ...]]:
        children: dict[str, list[str]] = {}
        for site, parent in sorted(self.parents.items()):
            children.setdefault(parent, []).append(site)
        return {parent: tuple(sites) for parent, sites in children.items()}

    def children(self, site: str) -> tuple[str, ...]:
        """The sites to which a site hands its copy on."""
        return self._children.get(site, ())

    def below(self, site: str) -> Iterator[str]:
        """A site, and all that get their copies through it."""
        yield site
        for child in self.children(site):
            yield from self.below(child)

    def path(self, site: str) -> tuple[str, ...]:
        """The sites from the root to this one, both included; none when no way leads there."""
        if site == self.root:
            return (site,)
        parent = self.parents.get(site)
        return (*self.path(parent), site) if parent is not None else ()

    def pruned(self, wanted: Collection[str]) -> SiteTree:
        """The tree with the sites that are wanted, and those on the way to them."""
        kept = {site for each in wanted for site in self.path(each)}
        return SiteTree(self.root, {site: self.parents[site] for site in kept if site != self.root})

    @classmethod
    def of_pairs(cls, root: str, pairs: Iterable[tuple[str, str]]) -> SiteTree:
        """The tree that `pairs` told; a site that is named twice keeps its first parent."""
        parents: dict[str, str] = {}
        for parent, site in pairs:
            parents.setdefault(site, parent)
        return cls(root, parents)

    def among(self, sites: Collection[str]) -> SiteTree:
        """The tree of these sites alone: who stands between two of them is passed through."""
        parents = {}
        for site in sites:
            above = [each for each in self.path(site)[:-1] if each in sites or each == self.root]
            if above:
                parents[site] = above[-1]
        return SiteTree(self.root, parents)

    def branch(self, child: str) -> SiteTree:
        """The part of the tree that one neighbour of the root needs to know."""
        return SiteTree(self.root, {site: self.parents[site] for site in self.below(child)})

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The tree as (parent, child), each parent before its children."""
        return tuple((self.parents[site], site) for site in self.below(self.root) if site != self.root)


def site_tree(root: str, connectors: Collection[Connector], down: Collection[str] = ()) -> SiteTree:
    """The cheapest paths from `root`; of equal cost the one with fewer hops, then the lower site names.

    Connectors named in `down` are left out; sites that nothing else reaches stay on them, and their mail
    waits.
    """
    up = [connector for connector in connectors if connector.name not in down]
    parents = dict(_parents(root, up))
    for site, parent in _parents(root, connectors).items():
        parents.setdefault(site, parent)
    return SiteTree(root, parents)


def _parents(root: str, connectors: Collection[Connector]) -> Mapping[str, str]:
    """The parent of each site that can be reached from `root` (Dijkstra)."""
    links: dict[str, list[tuple[str, int]]] = {}
    for connector in connectors:
        one, other = connector.sites
        links.setdefault(one, []).append((other, connector.cost))
        links.setdefault(other, []).append((one, connector.cost))
    paths: dict[str, tuple[str, ...]] = {}
    reached: list[tuple[int, int, tuple[str, ...]]] = [(0, 0, (root,))]
    while reached:
        cost, hops, path = heapq.heappop(reached)
        if path[-1] in paths:
            continue
        paths[path[-1]] = path
        for neighbour, step in links.get(path[-1], ()):
            if neighbour not in paths:
                heapq.heappush(reached, (cost + step, hops + 1, (*path, neighbour)))
    return {site: path[-2] for site, path in paths.items() if site != root}
