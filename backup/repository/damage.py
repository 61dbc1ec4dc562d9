"""Damage of a repository, told with the commands that help there."""

from __future__ import annotations

from pillarbox.store.errors import Corrupt


def damaged_file(message: str, file: str = "", offset: int = -1) -> Corrupt:
    """The error for damage of a repository, with what a person can do about it there."""
    return Corrupt(
        message,
        file=file,
        offset=offset,
        hint="see all of the damage with `pillarbox backup check REPO --read-data`, and use another snapshot"
        " or a copy of the repository",
    )
