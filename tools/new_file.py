"""Files that a command writes for a person: new ones, which only their owner may read."""

from __future__ import annotations

import os
from pathlib import Path

from pillarbox.store.errors import InvalidSetting


def write_new_file(path: Path, data: bytes) -> None:
    """Write a file that was not there, durably. Raises InvalidSetting where it cannot be made."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InvalidSetting(
            f"no file can be made at {path}: {error.strerror}",
            hint="name one that is not there yet, in a directory that you may write to",
        ) from error
