"""The organisation as entries: texts by key, of which each merges by itself between stores.

| key | value |
|---|---|
| `site/NAME/state` | `active` |
| `site/NAME/transport` | of links within the site; without it direct |
| `connector/NAME/sites` | `SITE/SITE`; without it there is no connector |
| `connector/NAME/cost`, `/schedule`, `/rate_bytes`, `/referrals` | `never` for one that allows no referrals |
| `connector/NAME/transport` | without it direct |
| `server/GUID/name`, `/site`, `/version`, `/schedule` | the version is written by the server itself |
| `server/GUID/reads` | the versions of replication messages that it reads, written by itself; without it 2 |
| `server/GUID/state` | `removed`: for ever |
| `server/GUID/addresses` | `HOST:PORT HOST:PORT`: where others reach it |
| `server/GUID/certificate/SHA-256` | a certificate that the server may show (DER, base64) |
| `server/GUID/preferred/GUID` | `yes`: a backfill source that is asked first |
| `server/GUID/referral/GUID` | a cost: this server refers to those on its list alone |
| `authority/SHA-256/certificate` | the certificate (DER, base64) of who signs those of the servers |
| `name` | of the organisation |
| `authority-holder` | the GUID of the store whose server has the key of the one that signs now |
| `preset` | `prompt` or `classic` |
| `content` | `stopped`, or `from MS at BYTES` a second: when replication of content was resumed |

An empty value is as good as none. What two administrators wrote in two places may, merged, name a site that
the other one took out: such things are left out when the entries are read, and found (`Reading.findings`).
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Final, NamedTuple

from pillarbox.replication.organisation.schedules import ALWAYS, Schedule, parse_schedule
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
    with_stand_ins,
)
from pillarbox.store.errors import InvalidSetting
from pillarbox.store.ids import guid_text, parse_guid

PRESET: Final = "preset"
NAME: Final = "name"
AUTHORITY_HOLDER: Final = "authority-holder"
CONTENT: Final = "content"
_REMOVED: Final = "removed"
_YES: Final = "yes"
_NO_REFERRALS: Final = "never"
_CERTIFICATE: Final = "certificate/"
_RESUMED: Final = re.compile(r"from (\d{1,16}) at (\d{1,16})")
_KNOWN: Final = re.compile(
    r"name|preset|content|authority-holder|authority/[^/]+/certificate|site/[^/]+/(?:state|transport)"
    r"|connector/[^/]+/(?:sites|cost|schedule|rate_bytes|referrals|transport)"
    r"|server/[^/]+/(?:name|site|version|reads|schedule|state|addresses)"
    r"|server/[^/]+/(?:preferred|referral|certificate)/[^/]+"
)


class Reading(NamedTuple):
    """An organisation as its entries say it, and what of them makes no sense together, in words."""

    organisation: Organisation
    findings: tuple[str, ...]


def entries_of(organisation: Organisation) -> dict[str, str]:
    """All entries of an organisation; what is as it is without an entry has none."""
    found = {
        NAME: organisation.name,
        PRESET: str(organisation.preset),
        CONTENT: content_text(organisation.content),
    }
    for site in organisation.sites:
        found[f"site/{site}/state"] = "active"
        found[f"site/{site}/transport"] = _transport_text(organisation.transports.get(site))
    for certificate in organisation.authorities:
        found[f"authority/{fingerprint_of(certificate).hex()}/certificate"] = _certificate_text(certificate)
    if organisation.authority_holder:
        found[AUTHORITY_HOLDER] = guid_text(organisation.authority_holder)
    for connector in organisation.connectors:
        found |= _connector_entries(connector)
    for database, server in organisation.servers.items():
        found |= _server_entries(server)
        for source in organisation.preferred.get(database, ()):
            found[f"{_server_key(database)}/preferred/{guid_text(source)}"] = _YES
        for target, cost in organisation.referrals.get(database, {}).items():
            found[f"{_server_key(database)}/referral/{guid_text(target)}"] = str(cost)
    return {key: value for key, value in sorted(found.items()) if value}


def version_entries(database: bytes, version: int, reads: Collection[int]) -> dict[str, str]:
    """The entries by which a server says which version of the program it runs, and which versions of
    messages that reads."""
    key = _server_key(database)
    return {f"{key}/version": str(version), f"{key}/reads": _reads_text(reads)}


def content_text(flow: ContentFlow) -> str:
    """The value of the entry `content`."""
    if flow.is_stopped:
        return "stopped"
    return f"from {flow.resumes_ms} at {flow.rate_bytes}" if flow != ContentFlow() else ""


def changed_entries(before: Mapping[str, str], organisation: Organisation) -> dict[str, str]:
    """The entries to write so that `before` says `organisation`: only those that differ, empty for one that
    goes. Entries of a newer program are left alone."""
    wanted = entries_of(organisation)
    known = [key for key in before if _KNOWN.fullmatch(key)]
    return {
        key: wanted.get(key, "")
        for key in sorted({*known, *wanted})
        if before.get(key, "") != wanted.get(key, "")
    }


def read_organisation(entries: Mapping[str, str]) -> Reading:
    """The organisation that entries say, whatever two administrators made of it."""
    return _Reader(entries).read()


class _Reader:
    """One reading of entries."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        self._findings: list[str] = []
        self._things: dict[str, dict[str, dict[str, str]]] = {}
        self._settings: dict[str, str] = {}
        for key, value in sorted(entries.items()):
            kind, _, rest = key.partition("/")
            name, _, field = rest.partition("/")
            if value and field:
                self._things.setdefault(kind, {}).setdefault(name, {})[field] = value
            elif value:
                self._settings[kind] = value

    def read(self) -> Reading:
        sites = tuple(site for site, fields in self._of("site") if "state" in fields)
        servers = dict(self._servers())
        lists = {kind: dict(self._lists(kind, servers)) for kind in ("preferred", "referral")}
        organisation = Organisation(
            servers=servers,
            connectors=tuple(self._connectors(sites)),
            preferred={database: tuple(chosen) for database, chosen in lists["preferred"].items()},
            sites=sites,
            referrals=lists["referral"],
            preset=self._preset(),
            content=self._content(),
            transports=dict(self._transports()),
            authorities=self._certificates(
                "an authority", {name: each.get("certificate", "") for name, each in self._of("authority")}
            ),
            authority_holder=self._guid(self._settings.get(AUTHORITY_HOLDER, "")) or b"",
            name=self._settings.get(NAME, ""),
        )
        for server in servers.values():
            if server.site not in sites and not server.is_removed:
                self._find(f"server {server.name} is in site {server.site}, which is not there")
        for stand_in in with_stand_ins(organisation).connectors[len(organisation.connectors) :]:
            one, other = stand_in.sites
            self._find(
                f"no connector leads from site {one} to site {other}: one of cost {COST_MAX} stands in"
            )
        return Reading(organisation, tuple(self._findings))

    def _find(self, text: str) -> None:
        self._findings.append(text)

    def _of(self, kind: str) -> Iterable[tuple[str, dict[str, str]]]:
        return self._things.get(kind, {}).items()

    def _transports(self) -> Iterator[tuple[str, TransportName]]:
        for site, fields in self._of("site"):
            if "state" in fields and "transport" in fields:
                yield site, self._transport(f"site {site}", fields["transport"])

    def _transport(self, thing: str, text: str) -> TransportName:
        if text in list(TransportName):
            return TransportName(text)
        self._find(f"the transport of {thing} is {text[:40]!r}, which is not known")
        return TransportName.DIRECT

    def _certificates(self, thing: str, texts: Mapping[str, str]) -> tuple[bytes, ...]:
        """Certificates by the fingerprints under which they stand; what is under another one is none."""
        found = []
        for name, text in sorted(texts.items()):
            try:
                der = b64decode(text, validate=True)
            except ValueError:
                der = b""
            if fingerprint_of(der).hex() == name:
                found.append(der)
            else:
                self._find(f"a certificate of {thing} is left out: it is not what its name says")
        return tuple(found)

    def _servers(self) -> Iterator[tuple[bytes, Server]]:
        for text, fields in self._things.get("server", {}).items():
            database = self._guid(text)
            if database is None or "name" not in fields or "site" not in fields:
                self._find(f"server {text} is left out: its name or site is not known")
                continue
            name = fields["name"]
            yield (
                database,
                Server(
                    database,
                    name,
                    fields["site"],
                    self._number(f"the version of server {name}", fields.get("version", "0")),
                    fields.get("state") == _REMOVED,
                    self._schedule(f"server {name}", fields.get("schedule")),
                    tuple(fields.get("addresses", "").split()),
                    self._certificates(
                        f"server {name}",
                        {
                            field.removeprefix(_CERTIFICATE): value
                            for field, value in fields.items()
                            if field.startswith(_CERTIFICATE)
                        },
                    ),
                    self._reads(name, fields.get("reads", "")),
                ),
            )

    def _reads(self, name: str, text: str) -> frozenset[int]:
        read = [self._number(f"a version that server {name} reads", each) for each in text.split()]
        return frozenset(read) or FIRST_READ

    def _lists(self, kind: str, servers: Mapping[bytes, Server]) -> Iterator[tuple[bytes, dict[bytes, int]]]:
        """Of each server the others that a list of its own names, with their costs."""
        for text, fields in self._things.get("server", {}).items():
            database, chosen = self._guid(text), {}
            for field, value in fields.items():
                found, _, other = field.partition("/")
                target = self._guid(other) if found == kind else None
                if target in servers and target is not None and not servers[target].is_removed:
                    chosen[target] = 0 if kind == "preferred" else self._number(f"a cost of {kind}", value)
            if database in servers and database is not None and chosen:
                yield database, chosen

    def _connectors(self, sites: tuple[str, ...]) -> Iterator[Connector]:
        for name, fields in self._things.get("connector", {}).items():
            ends = fields.get("sites", "").split("/")
            cost = self._number(f"the cost of connector {name}", fields.get("cost", "0"))
            if ends == [""]:  # it was taken out; somebody else changed it meanwhile
                continue
            if len(ends) != 2 or ends[0] == ends[1] or not set(ends) <= set(sites):
                self._find(f"connector {name} is left out: it does not join two sites that are there")
            elif not COST_MIN <= cost <= COST_MAX:
                self._find(f"connector {name} is left out: its cost is {cost}")
            else:
                yield Connector(
                    name,
                    (ends[0], ends[1]),
                    cost,
                    self._schedule(f"connector {name}", fields.get("schedule")),
                    self._number(f"the rate of connector {name}", fields.get("rate_bytes", "0")),
                    fields.get("referrals") != _NO_REFERRALS,
                    self._transport(f"connector {name}", fields.get("transport", TransportName.DIRECT)),
                )

    def _preset(self) -> PresetName:
        value = self._settings.get(PRESET, PresetName.PROMPT)
        if value in list(PresetName):
            return PresetName(value)
        self._find(f"the preset {value!r} is not known")
        return PresetName.PROMPT

    def _content(self) -> ContentFlow:
        value = self._settings.get(CONTENT, "")
        if found := _RESUMED.fullmatch(value):
            return ContentFlow(False, int(found[1]), int(found[2]))
        return ContentFlow(is_stopped=bool(value))  # what a newer program says is no leave to send

    def _schedule(self, thing: str, text: str | None) -> Schedule:
        try:
            return parse_schedule(text) if text else ALWAYS
        except InvalidSetting as error:
            self._find(f"{thing} has no schedule that can be read: {error}")
            return ALWAYS

    def _number(self, thing: str, text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) <= 16:
            return int(text)
        self._find(f"{thing} is {text[:40]!r}, which is no number")
        return 0

    def _guid(self, text: str) -> bytes | None:
        try:
            return parse_guid(text)
        except ValueError:
            return None


def _server_key(database: bytes) -> str:
    return f"server/{guid_text(database)}"


def _server_entries(server: Server) -> dict[str, str]:
    key = _server_key(server.database)
    return {
        f"{key}/name": server.name,
        f"{key}/site": server.site,
        f"{key}/version": str(server.version) if server.version else "",
        f"{key}/reads": "" if server.reads == FIRST_READ else _reads_text(server.reads),
        f"{key}/schedule": "" if server.schedule == ALWAYS else str(server.schedule),
        f"{key}/state": _REMOVED if server.is_removed else "",
        f"{key}/addresses": " ".join(server.addresses),
        **{
            f"{key}/{_CERTIFICATE}{fingerprint_of(der).hex()}": _certificate_text(der)
            for der in server.certificates
        },
    }


def _reads_text(reads: Collection[int]) -> str:
    return " ".join(map(str, sorted(reads)))


def _connector_entries(connector: Connector) -> dict[str, str]:
    key = f"connector/{connector.name}"
    return {
        f"{key}/sites": "/".join(connector.sites),
        f"{key}/cost": str(connector.cost),
        f"{key}/schedule": "" if connector.schedule == ALWAYS else str(connector.schedule),
        f"{key}/rate_bytes": str(connector.rate_bytes) if connector.rate_bytes else "",
        f"{key}/referrals": "" if connector.allows_referrals else _NO_REFERRALS,
        f"{key}/transport": _transport_text(connector.transport),
    }


def _transport_text(transport: TransportName | None) -> str:
    return "" if transport in (None, TransportName.DIRECT) else str(transport)


def fingerprint_of(der: bytes) -> bytes:
    """The fingerprint of a certificate (DER): its SHA-256."""
    return sha256(der).digest()


def _certificate_text(der: bytes) -> str:
    return b64encode(der).decode()
