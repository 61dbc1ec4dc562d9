"""The machine that this is: the same at each start, and another on a copy of its files elsewhere."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Final

_FILES: Final = ("/etc/machine-id", "/var/lib/dbus/machine-id")
MACHINE_BYTES: Final = 16


def machine_id(files: tuple[str, ...] = _FILES) -> bytes:
    """The id of the machine (machine-id(5)), hashed, since it is to be shown to nobody; zeros where it has
    none."""
    for file in files:
        try:
            text = Path(file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text:
            return blake2b(text.encode(), digest_size=MACHINE_BYTES, person=b"pillarbox").digest()
    return bytes(MACHINE_BYTES)
