"""The organisation as a TOML file that people edit.

    format = "pillarbox-organisation"
    version = 1
    name = "Example"                      # of the organisation
    preset = "prompt"                     # or "classic"
    content = "running"                   # or "stopped": what the commands stop and resume say

    [[sites]]
    name = "berlin"
    transport = "direct"                  # of links within the site; or "spool", "nats"

    [[connectors]]
    name = "berlin-paris"
    sites = ["berlin", "paris"]
    cost = 10                             # 1 to 100
    schedule = "weekly Europe/Berlin mon-fri 20:00-06:00"
    bytes_per_second = 500_000            # in each direction; without it as many as there can be
    allow_referrals = false
    transport = "spool"                   # or "nats"; without it "direct"

    [[servers]]
    name = "b1"
    guid = "..."
    site = "berlin"
    addresses = ["b1.example.org:7337"]   # where others reach it; without one it dials them
    schedule = "every 30 min"             # of folders that have none of their own
    preferred_sources = ["b2"]            # asked for what is missing before all others
    referrals = { b1 = 1, b2 = 10 }       # refers clients to these alone, the cheapest first

What the file does not name is taken out: a server that it does not list is removed from the tree, for ever.
Only `content` and `name` stay as they are where the file says nothing of them. Certificates are not in the
file, and stay. A file is refused whole, with all that is wrong in it and the lines. `organisation_export`
writes it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from pillarbox.replication.organisation.addresses import split_address
from pillarbox.replication.organisation.schedules import ALWAYS, Schedule, parse_schedule
from pillarbox.replication.organisation.sources import check_sources
from pillarbox.replication.organisation.toml_lines import KeyPath, line_at, lines_of
from pillarbox.replication.organisation.topology import (
    COST_MAX,
    COST_MIN,
    FIRST_READ,
    Connector,
    ContentFlow,
    Organisation,
    PresetName,
    Server,
    TransportName,
    ways_from,
)
from pillarbox.store.errors import InvalidName, InvalidSetting, UnsupportedVersion
from pillarbox.store.ids import parse_guid
from pillarbox.store.names import check_held_name, name_key

FORMAT: Final = "pillarbox-organisation"
VERSION: Final = 1
RATE_BYTES_MAX: Final = 1 << 40

_TOP_KEYS: Final = ("format", "version", "name", "preset", "content", "sites", "connectors", "servers")
_SITE_KEYS: Final = ("name", "transport")
_CONNECTOR_KEYS: Final = (
    *("name", "sites", "cost", "schedule", "bytes_per_second", "allow_referrals", "transport"),
)
_SERVER_KEYS: Final = ("name", "guid", "site", "addresses", "schedule", "preferred_sources", "referrals")
_CONTENT: Final = {"running": False, "stopped": True}
_WANTED: Final = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    list: "a list of texts",
    dict: "a table of costs",
}
T = TypeVar("T")


class Finding(NamedTuple):
    """Something in the file that is wrong, and its line."""

    line: int
    text: str


def parse_organisation(text: str, present: Organisation, file: str = "the organisation file") -> Organisation:
    """The organisation that a file says, where `present` is that of now: it knows versions and who was
    removed.

    Raises InvalidSetting with all that is wrong, a line each, and UnsupportedVersion.
    """
    file = " ".join(file.split())  # each fault is told in a line of its own
    organisation, findings = check_organisation(text, present, file)
    if findings:
        lines = (
            f"{file}, line {finding.line}: {' '.join(finding.text.splitlines())}"
            for finding in sorted(findings)
        )
        raise InvalidSetting("\n".join(lines), hint="nothing was changed; mend these lines, and apply again")
    return organisation


def check_organisation(
    text: str, present: Organisation, file: str = "the organisation file"
) -> tuple[Organisation, tuple[Finding, ...]]:
    """The organisation as far as it makes sense, and all that does not. Raises UnsupportedVersion."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        found = re.search(r"line (\d+)", str(error))
        return present, (Finding(int(found[1]) if found else text.count("\n") + 1, str(error)),)
    lines = lines_of(text)
    version = table.get("version")
    if isinstance(version, int) and version > VERSION:
        raise UnsupportedVersion(
            f"{file}, line {line_at(lines, ('version',))}: it is of version {version}",
            hint=f"this program reads version {VERSION}; use a newer one",
        )
    return _Check(table, lines, present).run()


class _Check:
    """One reading of a file."""

    def __init__(self, table: dict[str, Any], lines: Mapping[KeyPath, int], present: Organisation) -> None:
        self._table = table
        self._lines = lines
        self._present = present
        self._findings: list[Finding] = []
        self._sites: dict[bytes, str] = {}
        self._transports: dict[str, TransportName] = {}

    def run(self) -> tuple[Organisation, tuple[Finding, ...]]:
        if self._table.get("format") != FORMAT:
            self._find(("format",), f'it does not say format = "{FORMAT}"')
        version = self._value((), self._table, "version", int, 0)
        if version != VERSION:
            self._find(("version",), f"it does not say version = {VERSION}")
        self._known((), self._table, _TOP_KEYS)
        sites = tuple(self._read_sites())
        connectors = tuple(self._read_connectors())
        if not self._findings:  # a connector that is wrong leaves a site alone
            self._find_unreached(sites, connectors)
        servers = dict(self._read_servers())
        organisation = Organisation(
            servers={**servers, **self._removed(servers)},
            connectors=tuple(sorted(connectors, key=lambda connector: connector.name)),
            preferred=self._preferred(servers),
            sites=tuple(sorted(sites)),
            referrals=self._referrals(servers),
            preset=self._preset(),
            content=self._content(),
            transports=self._transports,
            authorities=self._present.authorities,
            authority_holder=self._present.authority_holder,
            name=self._own_name(),
        )
        return organisation, tuple(self._findings)

    # --- pieces ---------------------------------------------------------------------------------------------

    def _find(self, path: KeyPath, text: str) -> None:
        self._findings.append(Finding(line_at(self._lines, path), text))

    def _known(self, path: KeyPath, table: Mapping[str, Any], keys: Iterable[str]) -> None:
        for key in table:
            if key not in keys:
                self._find((*path, key), f"{key} is not known here; there are {', '.join(keys)}")

    def _value(self, path: KeyPath, table: Mapping[str, Any], key: str, kind: type[T], default: T) -> T:
        """The value of a key where it is of its type, else `default`."""
        value = table.get(key, default)
        if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
            return value
        self._find((*path, key), f"{key} is to be {_WANTED[kind]}, not {value!r}")
        return default

    def _need(self, path: KeyPath, table: Mapping[str, Any], key: str) -> str | None:
        """The text of a key, None where it is missing or no text, which is found here. It may be empty."""
        if key not in table:
            self._find(path, f"{key} is missing")
            return None
        value = self._value(path, table, key, str, "")
        return value if value == table[key] else None

    def _tables(self, key: str, keys: Iterable[str]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
        """The tables of a list, those that are none left out."""
        value = self._table.get(key, [])
        if not isinstance(value, list):
            self._find((key,), f"{key} is to be a list of tables: write [[{key}]]")
            return
        for number, table in enumerate(value):
            path = (key, number)
            if isinstance(table, dict):
                self._known(path, table, keys)
                yield path, table
            else:
                self._find(path, f"{key} is to be a list of tables: write [[{key}]]")

    def _name(
        self, path: KeyPath, table: Mapping[str, Any], kind: str, taken: dict[bytes, str]
    ) -> str | None:
        """The name of a thing, which no other of its kind may have; None where it says none."""
        name = self._need(path, table, "name")
        if name is None:
            return None
        if self._is_name((*path, "name"), name) and name_key(name) in taken:
            self._find((*path, "name"), f"there are two {kind}s called {name}")
        taken[name_key(name)] = name
        return name

    def _is_name(self, path: KeyPath, name: str) -> bool:
        """True for a text that can be a name; any other is found, the empty one too."""
        try:
            check_held_name(name)
        except InvalidName as error:
            self._find(path, f"{error}; {error.hint}")
            return False
        return True

    def _schedule(self, path: KeyPath, table: Mapping[str, Any]) -> Schedule:
        text = self._value(path, table, "schedule", str, "always")
        try:
            return parse_schedule(text)
        except InvalidSetting as error:
            self._find((*path, "schedule"), f"{error}: {error.hint}")
            return ALWAYS

    def _transport(self, path: KeyPath, table: Mapping[str, Any]) -> TransportName:
        text = self._value(path, table, "transport", str, TransportName.DIRECT)
        if text in list(TransportName):
            return TransportName(text)
        self._find((*path, "transport"), f"transport is to be {' or '.join(TransportName)}, not {text!r}")
        return TransportName.DIRECT

    def _number(self, path: KeyPath, key: str, value: Any, least: int, most: int) -> int:
        """A whole number within bounds."""
        if not isinstance(value, int) or isinstance(value, bool):
            self._find((*path, key), f"{key} is to be a whole number, not {value!r}")
        elif not least <= value <= most:
            self._find((*path, key), f"{key} is to be {least} to {most}, not {value}")
        else:
            return value
        return least

    # --- sites and connectors -------------------------------------------------------------------------------

    def _read_sites(self) -> Iterator[str]:
        for path, table in self._tables("sites", _SITE_KEYS):
            transport = self._transport(path, table)
            name = self._name(path, table, "site", self._sites)
            if name is not None:
                if transport is not TransportName.DIRECT:
                    self._transports[name] = transport
                yield name

    def _read_connectors(self) -> Iterator[Connector]:
        present = {connector.name: connector for connector in self._present.connectors}
        taken: dict[bytes, str] = {}
        for path, table in self._tables("connectors", _CONNECTOR_KEYS):
            name = self._name(path, table, "connector", taken) or ""
            sites = self._ends(path, table)
            if name in present and sorted(sites) == sorted(present[name].sites):
                sites = present[name].sites  # one that is written the other way round is no change
            rate_bytes = table.get("bytes_per_second", 0)
            if "bytes_per_second" in table:
                rate_bytes = self._number(path, "bytes_per_second", rate_bytes, 1, RATE_BYTES_MAX)
            if "cost" not in table:
                self._find(path, "cost is missing")
            cost = self._number(path, "cost", table.get("cost", COST_MIN), COST_MIN, COST_MAX)
            allows_referrals = self._value(path, table, "allow_referrals", bool, True)
            schedule, transport = self._schedule(path, table), self._transport(path, table)
            yield Connector(name, sites, cost, schedule, rate_bytes, allows_referrals, transport)

    def _ends(self, path: KeyPath, table: Mapping[str, Any]) -> tuple[str, str]:
        names = self._texts(path, table, "sites")
        if "sites" not in table:
            self._find(path, "sites is missing")
        elif len(names) != 2 or names[0] == names[1]:
            self._find((*path, "sites"), "a connector joins two sites")
        for name in names:
            if name not in self._sites.values():
                self._find((*path, "sites"), f"there is no site {_shown(name)}")
        return (names[0], names[1]) if len(names) == 2 else ("", "")

    def _texts(self, path: KeyPath, table: Mapping[str, Any], key: str) -> list[str]:
        value = self._value(path, table, key, list, [])
        if all(isinstance(name, str) for name in value):
            return value
        self._find((*path, key), f"{key} is to be a list of texts, not {value!r}")
        return []

    def _find_unreached(self, sites: tuple[str, ...], connectors: tuple[Connector, ...]) -> None:
        ways = ways_from(sites[0], connectors) if sites else {}
        for number, site in enumerate(sites):
            if site not in ways:
                self._find(("sites", number), f"no connector leads from site {sites[0]} to site {site}")

    # --- servers --------------------------------------------------------------------------------------------

    def _read_servers(self) -> Iterator[tuple[bytes, Server]]:
        names: dict[bytes, str] = {}
        guids: set[bytes] = set()
        for path, table in self._tables("servers", _SERVER_KEYS):
            name = self._name(path, table, "server", names) or ""
            site = self._need(path, table, "site")
            if site is not None and site not in self._sites.values():
                self._find((*path, "site"), f"there is no site {_shown(site)}")
            database = self._database(path, table, guids)
            if database is not None:
                guids.add(database)
                present = self._present.servers.get(database)
                yield (
                    database,
                    Server(
                        database,
                        name,
                        site or "",
                        present.version if present else 0,
                        False,
                        self._schedule(path, table),
                        self._addresses(path, table),
                        present.certificates if present else (),
                        present.reads if present else FIRST_READ,
                    ),
                )
        if not self._table.get("servers"):
            self._find((), "it lists no server: every server of the tree would be removed")

    def _addresses(self, path: KeyPath, table: Mapping[str, Any]) -> tuple[str, ...]:
        texts = self._texts(path, table, "addresses")
        for text in texts:
            try:
                split_address(text)
            except InvalidSetting as error:
                self._find((*path, "addresses"), str(error))
        return tuple(texts)

    def _database(self, path: KeyPath, table: Mapping[str, Any], taken: set[bytes]) -> bytes | None:
        text = self._need(path, table, "guid")
        if text is None:
            return None
        try:
            database = parse_guid(text)
        except ValueError:
            self._find((*path, "guid"), f"{text!r} is no GUID")
            return None
        present = self._present.servers.get(database)
        if database in taken:
            self._find((*path, "guid"), f"there are two servers of the guid {text}")
        elif present is not None and present.is_removed:
            self._find(
                (*path, "guid"), f"server {text} was removed, for ever: let it join anew as another one"
            )
        return database

    def _removed(self, servers: Mapping[bytes, Server]) -> dict[bytes, Server]:
        """The servers of now that the file does not list."""
        return {
            database: server._replace(is_removed=True)
            for database, server in self._present.servers.items()
            if database not in servers
        }

    def _preferred(self, servers: Mapping[bytes, Server]) -> dict[bytes, tuple[bytes, ...]]:
        found: dict[bytes, tuple[bytes, ...]] = {}
        for path, table in self._of_servers():
            names = self._texts(path, table, "preferred_sources")
            chosen = self._databases((*path, "preferred_sources"), names, servers)
            database = guid_of(table)
            if database not in servers or database is None or not chosen:
                continue
            try:
                check_sources(database, chosen, str(table.get("name")))
            except InvalidSetting as error:
                self._find((*path, "preferred_sources"), str(error))
            found[database] = tuple(sorted(chosen))
        return found

    def _referrals(self, servers: Mapping[bytes, Server]) -> dict[bytes, dict[bytes, int]]:
        found: dict[bytes, dict[bytes, int]] = {}
        for path, table in self._of_servers():
            costs = self._value(path, table, "referrals", dict, {})
            inner = (*path, "referrals")
            for name, cost in costs.items():
                self._number(inner, name, cost, COST_MIN, COST_MAX)
            by_name = self._databases(inner, list(costs), servers)
            database = guid_of(table)
            if database in servers and database is not None and costs:
                found[database] = {target: costs[name] for target, name in by_name.items()}
        return found

    def _of_servers(self) -> list[tuple[KeyPath, dict[str, Any]]]:
        """The tables of servers once more, now that all of them are known."""
        value = self._table.get("servers", [])
        tables = enumerate(value) if isinstance(value, list) else ()
        return [(("servers", number), table) for number, table in tables if isinstance(table, dict)]

    def _databases(
        self, path: KeyPath, names: Iterable[str], servers: Mapping[bytes, Server]
    ) -> dict[bytes, str]:
        by_name = {server.name: database for database, server in servers.items()}
        for name in names:
            if name not in by_name:
                self._find((*path, name), f"there is no server {_shown(name)}")
        return {by_name[name]: name for name in names if name in by_name}

    # --- settings -------------------------------------------------------------------------------------------

    def _own_name(self) -> str:
        """The name of the organisation."""
        if "name" not in self._table:
            return self._present.name
        name = self._need((), self._table, "name")
        if name is not None:
            self._is_name(("name",), name)
        return name or ""

    def _preset(self) -> PresetName:
        text = self._value((), self._table, "preset", str, PresetName.PROMPT)
        if text in list(PresetName):
            return PresetName(text)
        self._find(("preset",), f"preset is to be {' or '.join(PresetName)}, not {text!r}")
        return PresetName.PROMPT

    def _content(self) -> ContentFlow:
        present = self._present.content
        text = self._value((), self._table, "content", str, content_name(present))
        if text not in _CONTENT:
            self._find(("content",), f"content is to be {' or '.join(_CONTENT)}, not {text!r}")
        elif _CONTENT[text] != present.is_stopped:
            return ContentFlow(is_stopped=_CONTENT[text])
        return present


def _shown(name: str) -> str:
    """A name as a person can tell it from the words around it."""
    return name if name and name == name.strip() and name.isprintable() else repr(name)


def content_name(flow: ContentFlow) -> str:
    """The word of the file for replication of content."""
    return "stopped" if flow.is_stopped else "running"


def guid_of(table: Mapping[str, Any]) -> bytes | None:
    """The GUID of a server's table, None when it has none."""
    try:
        return parse_guid(str(table.get("guid")))
    except ValueError:
        return None
