"""The table `nats` of node.toml: where the servers of NATS are, and by what this store logs in there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pillarbox.replication.organisation.addresses import split_address
from pillarbox.store.errors import InvalidSetting

STREAM_BYTES_MAX: Final = 256 << 20


class NatsSettings(NamedTuple):
    """Servers of NATS by their addresses, and the way to log in: a user with a password, a credentials file
    (JWT and nkey) or an nkey, or none. Files are named, and read at each connection. `ca_file` names the
    authorities of the servers' certificates, without it the system's are good; it asks for TLS as `tls` does.
    `stream_bytes_max` bounds a stream that this store makes."""

    servers: tuple[str, ...]
    user: str = ""
    password_file: str = ""
    credentials_file: str = ""
    nkey_file: str = ""
    tls: bool = False
    ca_file: str = ""
    stream_bytes_max: int = STREAM_BYTES_MAX

    @property
    def wants_tls(self) -> bool:
        """True when a server without TLS is refused."""
        return self.tls or bool(self.ca_file)


def parse_nats_settings(table: object) -> NatsSettings:
    """The settings in a table. Raises InvalidSetting."""
    if not isinstance(table, Mapping):
        raise InvalidSetting("nats is to be a table")
    if unknown := [key for key in table if key not in NatsSettings._fields]:
        raise InvalidSetting(
            f"{unknown[0]} is not known in the table nats; there are {', '.join(NatsSettings._fields)}"
        )
    servers = table.get("servers", [])
    if not isinstance(servers, list) or not servers or not all(isinstance(each, str) for each in servers):
        raise InvalidSetting("servers of the table nats is to be a list of addresses")
    for address in servers:
        split_address(address)
    settings = NatsSettings(**{**table, "servers": tuple(servers)})
    texts = (settings.user, settings.password_file, settings.credentials_file, settings.nkey_file)
    if not all(isinstance(text, str) for text in (*texts, settings.ca_file)):
        raise InvalidSetting("user, and the names of files in the table nats, are to be texts")
    if not isinstance(settings.tls, bool):
        raise InvalidSetting("tls of the table nats is to be true or false")
    if type(settings.stream_bytes_max) is not int or settings.stream_bytes_max < 1:
        raise InvalidSetting("stream_bytes_max of the table nats is to be a number of bytes")
    if bool(settings.user) is not bool(settings.password_file):
        raise InvalidSetting("user and password_file of the table nats belong together")
    ways = (settings.user, settings.credentials_file, settings.nkey_file)
    if sum(map(bool, ways)) > 1:
        raise InvalidSetting("the table nats says more than one way to log in", hint="keep one of them")
    return settings


def nats_table(settings: NatsSettings) -> dict[str, Any]:
    """Settings as a table, without what goes without saying."""
    default = NatsSettings(settings.servers)
    said = {key: value for key, value in settings._asdict().items() if value != getattr(default, key)}
    return {"servers": list(settings.servers), **said}
