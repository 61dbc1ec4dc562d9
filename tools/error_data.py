"""Errors as plain data, and back: for JSON on stderr, and for callers in other processes."""

from __future__ import annotations

from typing import Any

from pillarbox.store import errors
from pillarbox.store.errors import PillarboxError, Refused


def error_data(error: Exception, code: int | None = None) -> dict[str, Any]:
    """An error as its message, exit code, class and hint, and the folders that stand in the way where there
    are some; of another kind it has the code that is given."""
    folders = getattr(error, "folders", ())
    return {
        "error": str(error),
        "code": getattr(error, "exit_code", 1) if code is None else code,
        "class": type(error).__name__,
        "hint": getattr(error, "hint", ""),
        **({"folders": list(folders)} if folders else {}),
    }


def error_of(data: Any) -> PillarboxError | None:
    """The error that `error_data` made such data of; None for what is no error of Pillarbox."""
    if not isinstance(data, dict):
        return None
    kind = getattr(errors, str(data.get("class")), None)
    if not isinstance(kind, type) or not issubclass(kind, PillarboxError):
        return None
    error = kind(str(data.get("error", "")), hint=str(data.get("hint", "")))
    folders = data.get("folders")
    if isinstance(error, Refused) and isinstance(folders, list):
        error.folders = tuple(map(str, folders))
    return error
