"""The actor who asks. Each call that touches mail carries an `Actor`: events name it, what was read of public
folders is kept for it, and a recovered database is read by administrators and the server's tasks only.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Role(Enum):
    """In which part someone asks (DOMAIN.md "Access")."""

    USER = "user"
    ADMINISTRATOR = "administrator"
    TRANSPORT = "transport"
    SERVER_TASK = "server task"


class Actor(NamedTuple):
    """An account that asks for something, the mailbox it acts from, and the part it plays."""

    role: Role
    account: str
    mailbox: str = ""

    @classmethod
    def user(cls, account: str) -> Actor:
        """A person at their own mailbox."""
        return cls(Role.USER, account, account)

    @classmethod
    def administrator(cls, account: str) -> Actor:
        """Someone who looks after stores."""
        return cls(Role.ADMINISTRATOR, account)

    @classmethod
    def transport(cls) -> Actor:
        """Mail delivery."""
        return cls(Role.TRANSPORT, "transport")

    @classmethod
    def task(cls, name: str) -> Actor:
        """Work of the server itself: maintenance, recovery."""
        return cls(Role.SERVER_TASK, name)
