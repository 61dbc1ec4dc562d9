"""The differences between two organisations, in words for a person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pillarbox.replication.organisation.entries import fingerprint_of
from pillarbox.replication.organisation.topology import (
    Connector,
    ContentFlow,
    Organisation,
    Server,
    TransportName,
)
from pillarbox.store.ids import guid_text


def differences(before: Organisation, after: Organisation) -> tuple[str, ...]:
    """Each difference as a line, in the order preset, content, sites, connectors, servers; none where they
    say the same."""
    return tuple(_lines(before, after))


def _lines(before: Organisation, after: Organisation) -> Iterator[str]:
    yield from _changed("the organisation's name", before.name or "none", after.name or "none")
    yield from _changed("preset", before.preset, after.preset)
    yield from _changed("replication of content", _flow(before.content), _flow(after.content))
    for site in sorted({*before.sites, *after.sites}):
        if site not in after.sites:
            yield f"site {site}: is taken out"
        elif site not in before.sites:
            yield f"site {site}: is new"
        if site in after.sites:
            old, new = (each.transports.get(site, TransportName.DIRECT) for each in (before, after))
            yield from _transport(f"site {site}", old, new)
    yield from _connectors(before, after)
    yield from _certificates("the organisation", "authority", before.authorities, after.authorities)
    holders = (_holder(before, after, each.authority_holder) for each in (before, after))
    yield from _changed("the key of the authority: held by", *holders)
    for database in sorted({*before.servers, *after.servers}, key=lambda each: _name(before, after, each)):
        yield from _server(before, after, database)


def _changed(thing: str, old: object, new: object) -> Iterator[str]:
    if old != new:
        yield f"{thing}: {old} becomes {new}"


def _flow(flow: ContentFlow) -> str:
    if flow.is_stopped:
        return "stopped"
    rate = f", at {flow.rate_bytes} bytes a second" if flow.rate_bytes else ""
    return f"running{rate}"


def _connectors(before: Organisation, after: Organisation) -> Iterator[str]:
    old = {connector.name: connector for connector in before.connectors}
    new = {connector.name: connector for connector in after.connectors}
    for name in sorted({*old, *new}):
        if name not in new:
            yield f"connector {name}: is taken out"
        elif name not in old:
            one, other = new[name].sites
            yield f"connector {name}: is new, joins {one} and {other} at a cost of {new[name].cost}"
        if name in new:
            # A new one is held against one that has nothing but its sites and cost.
            base = old.get(name, Connector(name, new[name].sites, new[name].cost))
            yield from _connector(base, new[name])
            yield from _transport(f"connector {name}", base.transport, new[name].transport)


def _connector(old: Connector, new: Connector) -> Iterator[str]:
    name = f"connector {new.name}"
    if sorted(old.sites) != sorted(new.sites):
        yield f"{name}: joins {' and '.join(new.sites)}, no longer {' and '.join(old.sites)}"
    yield from _changed(f"{name}: cost", old.cost, new.cost)
    yield from _changed(f"{name}: schedule", old.schedule, new.schedule)
    yield from _changed(f"{name}: bytes a second", old.rate_bytes or "any", new.rate_bytes or "any")
    if old.allows_referrals != new.allows_referrals:
        yield f"{name}: allows {'' if new.allows_referrals else 'no '}referrals"


def _transport(thing: str, old: TransportName, new: TransportName) -> Iterator[str]:
    """A changed transport, and what it needs: a server that does not have it hears nothing by it."""
    for line in _changed(f"{thing}: transport", old, new):
        needs = "" if new is TransportName.DIRECT else "; node.toml of each server at its ends has to name it"
        yield line + needs


def _server(before: Organisation, after: Organisation, database: bytes) -> Iterator[str]:
    old, new = before.servers.get(database), after.servers.get(database)
    label = f"server {_name(before, after, database)}"
    if new is None or new.is_removed:
        if old is not None and not old.is_removed:
            yield f"{label}: is removed, for ever"
        return
    if old is None:
        yield f"{label}: is new, in site {new.site}"
        old = Server(database, new.name, new.site, new.version)
    if old.name != new.name:
        yield f"{label}: is called {new.name}"
    if old.site != new.site:
        yield f"{label}: moves from site {old.site} to {new.site}"
    texts = (" ".join(each.addresses) or "none" for each in (old, new))
    yield from _changed(f"{label}: addresses", *texts)
    yield from _changed(f"{label}: schedule", old.schedule, new.schedule)
    yield from _certificates(label, "certificate", old.certificates, new.certificates)
    lists = (before.preferred.get(database, ()), after.preferred.get(database, ()))
    yield from _changed(
        f"{label}: preferred sources", *(_names(before, after, dict.fromkeys(each, 0)) for each in lists)
    )
    costs = (before.referrals.get(database, {}), after.referrals.get(database, {}))
    yield from _changed(f"{label}: refers to", *(_names(before, after, each) for each in costs))


def _certificates(thing: str, kind: str, old: Iterable[bytes], new: Iterable[bytes]) -> Iterator[str]:
    for text, found in (("goes", {*old} - {*new}), ("is new", {*new} - {*old})):
        for der in sorted(found):
            yield f"{thing}: {kind} {fingerprint_of(der).hex()[:16]} {text}"


def _holder(before: Organisation, after: Organisation, database: bytes) -> str:
    return _name(before, after, database) if database else "nobody"


def _name(before: Organisation, after: Organisation, database: bytes) -> str:
    server = before.servers.get(database) or after.servers.get(database)
    return server.name if server else guid_text(database)


def _names(before: Organisation, after: Organisation, chosen: Mapping[bytes, int]) -> str:
    """The servers of a list by name, with their costs where it has costs."""
    texts = sorted(
        f"{_name(before, after, database)}{f' ({cost})' if cost else ''}" for database, cost in chosen.items()
    )
    return ", ".join(texts) or "any"
