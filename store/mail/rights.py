"""The one door for rights: every operation on mail asks here before it does anything else.

An operation names the right that it takes, in the words of DOMAIN.md "Access", and the folder, message or
mailbox that it is about. Every actor has every right for now; permissions of folders are to be looked up here
and nowhere else. A lookup of one record by its name or id asks nothing: the operation on the record does.
"""

from __future__ import annotations

from enum import Enum

from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import InvalidArgument


class Right(Enum):
    """A right on a folder and the messages in it, or on the whole store; the value is its name there.

    Of EditOwned and EditAll, and of the two for deletion, an operation asks for the wider one. The narrower
    one will do for a message that the actor owns.
    """

    FOLDER_VISIBLE = "FolderVisible"
    READ_ITEMS = "ReadItems"
    CREATE_ITEMS = "CreateItems"
    CREATE_SUBFOLDERS = "CreateSubfolders"
    EDIT_OWNED = "EditOwned"
    EDIT_ALL = "EditAll"
    DELETE_OWNED = "DeleteOwned"
    DELETE_ALL = "DeleteAll"
    FOLDER_OWNER = "FolderOwner"
    FOLDER_CONTACT = "FolderContact"
    MANAGE_STORE = "an administrator's: mailboxes and trees as a whole, no content"


STORE = b""
"""The object of an operation on the database as a whole."""


def require(reader: Reader, right: Right, target: int | bytes | str) -> None:
    """Let the actor of `reader` read `target`: the id of a folder or message, or a mailbox by GUID or name.

    Raises InvalidArgument when `reader` is no transaction.
    """
    check_reader(reader)


def check_reader(reader: Reader) -> None:
    """Raises InvalidArgument when `reader` is no transaction, in lookups that ask for no right."""
    if not isinstance(reader, Reader):
        raise InvalidArgument(
            f"a {type(reader).__name__} is no transaction",
            argument="reader",
            hint="give the read of `with database.read(actor) as read`, or a transaction",
        )


def require_change(txn: WriteTransaction, right: Right, target: int | bytes | str) -> None:
    """Let the actor of `txn` change `target`, as `require`.

    Raises InvalidArgument when `txn` is a read, or no transaction at all.
    """
    if not isinstance(txn, WriteTransaction):
        raise InvalidArgument(
            f"a {type(txn).__name__} changes nothing",
            argument="txn",
            hint="give the transaction of `with database.transaction(actor) as txn`",
        )
