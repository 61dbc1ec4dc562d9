"""Files that a person gives to a command."""

from __future__ import annotations

from pathlib import Path

from pillarbox.store.errors import InvalidSetting, NotFound


def read_given(path: Path) -> bytes:
    """The bytes of a file. Raises NotFound, NoPermission; InvalidSetting for what is no file."""
    from pillarbox.store.disk.stream import disk_error

    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{path}: no such file", hint="look at the path's spelling") from error
    except PermissionError as error:
        raise disk_error(error, str(path)) from error
    except OSError as error:
        raise InvalidSetting(
            f"{path} cannot be read: {error.strerror}", hint="name a file that you may read"
        ) from error


def read_given_text(path: Path) -> str:
    """The text of a file, its line ends made one character, without a byte order mark.

    Raises as `read_given`; InvalidSetting for what is no text.
    """
    try:
        text = read_given(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidSetting(
            f"{path} cannot be read: it is no text in UTF-8", hint="name a text file"
        ) from error
    return text.replace("\r\n", "\n")
