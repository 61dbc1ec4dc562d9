"""Addresses at which a server is reached: "host:port", with a literal IPv6 address in brackets."""

from __future__ import annotations

import re
from typing import Final

from pillarbox.store.errors import InvalidSetting

DEFAULT_PORT: Final = 7337
PORT_MAX: Final = 65_535
ADDRESS_CHARACTERS_MAX: Final = 300
_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._-]+)):([0-9]{1,5})")


def split_address(text: str) -> tuple[str, int]:
    """The host and the port of an address. Raises InvalidSetting."""
    found = _ADDRESS.fullmatch(text) if len(text) <= ADDRESS_CHARACTERS_MAX else None
    if found is None or int(found[3]) > PORT_MAX:
        raise InvalidSetting(
            f"{text[:80]!r} is no address", hint="write HOST:PORT, an IPv6 address as [ADDRESS]:PORT"
        )
    return found[1] or found[2], int(found[3])
