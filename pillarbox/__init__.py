"""The public face of Pillarbox: the names that an embedding program needs, and nothing else.

`Server` opens a directory of databases, `Actor` says who asks, `deliver` takes mail in, `copy_folder` copies
folders of any size; `connect` asks the process that serves a server. The modules
`folders`, `messages`, `mailboxes`, `public_folders`, `views` and `change_feed` hold the operations:
functions over a transaction of a `Database`. `errors` holds every error that is raised. Modules below
`pillarbox.store`, `pillarbox.backup` and `pillarbox.tools` are internal where these names do not lead to
them: they change without notice.

A name is loaded when it is first used, so that a command line that prints its help does not load the
engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pillarbox.store import errors
    from pillarbox.store.access import Actor
    from pillarbox.store.aio import AsyncDatabase
    from pillarbox.store.engine import change_feed
    from pillarbox.store.engine.database import Database
    from pillarbox.store.mail import folders, mailboxes, messages, public_folders, views
    from pillarbox.store.mail.copying import copy_folder
    from pillarbox.store.mail.delivery import deliver
    from pillarbox.store.server import Server
    from pillarbox.tools.serving.client import Connected, connect

    __version__: str

__all__ = [
    "Actor",
    "AsyncDatabase",
    "Connected",
    "Database",
    "Server",
    "__version__",
    "change_feed",
    "connect",
    "copy_folder",
    "deliver",
    "errors",
    "folders",
    "mailboxes",
    "messages",
    "public_folders",
    "views",
]

# Where each name is defined: in the module, or as the module's own name.
_HOMES: Final = {
    "Actor": "pillarbox.store.access",
    "AsyncDatabase": "pillarbox.store.aio",
    "Connected": "pillarbox.tools.serving.client",
    "Database": "pillarbox.store.engine.database",
    "Server": "pillarbox.store.server",
    "change_feed": "pillarbox.store.engine",
    "connect": "pillarbox.tools.serving.client",
    "copy_folder": "pillarbox.store.mail.copying",
    "deliver": "pillarbox.store.mail.delivery",
    "errors": "pillarbox.store",
    "folders": "pillarbox.store.mail",
    "mailboxes": "pillarbox.store.mail",
    "messages": "pillarbox.store.mail",
    "public_folders": "pillarbox.store.mail",
    "views": "pillarbox.store.mail",
}


def __getattr__(name: str) -> Any:
    """Load a name of the face on first use. Raises AttributeError for any other name."""
    if name == "__version__":
        from importlib.metadata import version

        found: Any = version("pillarbox")
    elif name in _HOMES:
        home = import_module(_HOMES[name])
        try:
            found = getattr(home, name)
        except AttributeError:
            found = import_module(f"{_HOMES[name]}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
