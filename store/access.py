"""The actor who asks. Each call that touches mail carries an `Actor`: events name it, what was read of public
folders is kept for it, and a recovered database is read by administrators and the server's tasks only.
"""

from __future__ import annotations

from enum import Enum, IntFlag
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


class FolderRights(IntFlag):
    """The rights of a subject on a public folder (DOMAIN.md "Access"); the bits are those of MAPI.

    `NOT_LISTED` marks a subject that was taken out of a folder's permissions: it has what Default has, and
    its entry stays, so that stores which missed the change learn of it.
    """

    READ_ITEMS = 0x1
    CREATE_ITEMS = 0x2
    EDIT_OWNED = 0x8
    DELETE_OWNED = 0x10
    EDIT_ALL = 0x20
    DELETE_ALL = 0x40
    CREATE_SUBFOLDERS = 0x80
    FOLDER_OWNER = 0x100
    FOLDER_CONTACT = 0x200
    FOLDER_VISIBLE = 0x400
    NOT_LISTED = 1 << 31


DEFAULT_SUBJECT = "Default"
"""The subject whose rights all have who are signed in and are not listed themselves."""

ANONYMOUS_SUBJECT = "Anonymous"
"""The subject of those who are not signed in."""

AUTHOR = (
    FolderRights.READ_ITEMS
    | FolderRights.CREATE_ITEMS
    | FolderRights.EDIT_OWNED
    | FolderRights.DELETE_OWNED
    | FolderRights.FOLDER_VISIBLE
)
"""The rights of the role Author, which Default has where a folder says nothing of it."""
