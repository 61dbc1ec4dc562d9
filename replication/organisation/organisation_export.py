"""The organisation written as a TOML file (`organisation_file`), over one that people have edited."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pillarbox.replication.organisation.organisation_file import FORMAT, VERSION, content_name, guid_of
from pillarbox.replication.organisation.schedules import ALWAYS, Schedule, parse_schedule
from pillarbox.replication.organisation.topology import Connector, Organisation, Server, TransportName
from pillarbox.store.errors import InvalidSetting
from pillarbox.store.ids import guid_text
from pillarbox.store.toml_text import format_toml

T = TypeVar("T")


def format_organisation(organisation: Organisation, before: str = "") -> str:
    """An organisation as a file. The comments, the order and the spelling of the text `before` stay.

    Raises InvalidSetting for one that is no TOML: what it says would be lost.
    """
    return format_toml(_Export(organisation, before).table(), before)


class _Export:
    """One writing of a file, by what stands in the file that it replaces."""

    def __init__(self, organisation: Organisation, before: str) -> None:
        self._organisation = organisation
        try:
            self._before = tomllib.loads(before)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InvalidSetting(
                f"what is to be written over is no TOML: {error}", hint="mend it, or leave out --over"
            ) from error

    def table(self) -> dict[str, Any]:
        organisation = self._organisation
        names = {database: server.name for database, server in organisation.servers.items()}
        servers = [server for server in organisation.servers.values() if not server.is_removed]
        return {
            "format": FORMAT,
            "version": VERSION,
            **({"name": organisation.name} if organisation.name else {}),
            "preset": str(organisation.preset),
            "content": content_name(organisation.content),
            "sites": self._in_order("sites", "name", map(self._site, organisation.sites)),
            **self._connectors(),
            "servers": self._in_order(
                "servers",
                "guid",
                (self._server(server, names) for server in sorted(servers, key=lambda server: server.name)),
            ),
        }

    def _site(self, site: str) -> dict[str, Any]:
        old = self._old("sites", lambda table: table.get("name") == site)
        transport = self._organisation.transports.get(site, TransportName.DIRECT)
        return {"name": site, **_unless(old, "transport", str(transport), str(TransportName.DIRECT))}

    def _connectors(self) -> dict[str, Any]:
        # An empty list would be in the way of who adds a table.
        connectors = map(self._connector, self._organisation.connectors)
        tables = self._in_order("connectors", "name", connectors)
        return {"connectors": tables} if tables or "connectors" in self._before else {}

    def _connector(self, connector: Connector) -> dict[str, Any]:
        old = self._old("connectors", lambda table: table.get("name") == connector.name)
        sites = old.get("sites")
        is_same = isinstance(sites, list) and set(map(str, sites)) == set(connector.sites)
        return {
            "name": connector.name,
            "sites": sites if is_same else list(connector.sites),
            "cost": connector.cost,
            **_schedule_of(connector.schedule, old),
            **_unless(old, "bytes_per_second", connector.rate_bytes, 0, may_say=False),
            **_unless(old, "allow_referrals", connector.allows_referrals, True),
            **_unless(old, "transport", str(connector.transport), str(TransportName.DIRECT)),
        }

    def _server(self, server: Server, names: Mapping[bytes, str]) -> dict[str, Any]:
        old = self._old("servers", lambda table: guid_of(table) == server.database)
        chosen = {names[source] for source in self._organisation.preferred.get(server.database, ())}
        said = old.get("preferred_sources")
        is_same = isinstance(said, list) and set(map(str, said)) == chosen
        costs = {
            names[target]: cost
            for target, cost in self._organisation.referrals.get(server.database, {}).items()
        }
        return {
            "name": server.name,
            "guid": old.get("guid", guid_text(server.database)),
            "site": server.site,
            **_unless(old, "addresses", list(server.addresses), []),
            **_schedule_of(server.schedule, old),
            **_unless(old, "preferred_sources", said if is_same else sorted(chosen), []),
            **_unless(old, "referrals", costs, {}),
        }

    def _old(self, key: str, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The table of a thing in the file that is replaced, empty when it has none."""
        return next(filter(is_it, self._old_tables(key)), {})

    def _old_tables(self, key: str) -> list[dict[str, Any]]:
        tables = self._before.get(key)
        return [each for each in tables if isinstance(each, dict)] if isinstance(tables, list) else []

    def _in_order(self, key: str, mark: str, tables: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Tables in the order that they have in the file, by the key that tells them apart; new ones behind.

        The file is written anew with its comments only where its lists are in the order of ours.
        """
        said = [str(each.get(mark)) for each in self._old_tables(key)]
        places = {name: place for place, name in reversed(list(enumerate(said)))}
        return sorted(tables, key=lambda table: places.get(table[mark], len(said)))


def _schedule_of(schedule: Schedule, old: Mapping[str, Any]) -> dict[str, str]:
    """The schedule as the file spells it, where that is the same."""
    said = old.get("schedule")
    try:
        if isinstance(said, str) and parse_schedule(said) == schedule:
            return {"schedule": said}
    except InvalidSetting:
        pass
    return _unless(old, "schedule", str(schedule), str(ALWAYS))


def _unless(old: Mapping[str, Any], key: str, value: T, default: T, *, may_say: bool = True) -> dict[str, T]:
    """A key with its value, unless it is the default and the file does not say it."""
    return {key: value} if value != default or (may_say and key in old) else {}
