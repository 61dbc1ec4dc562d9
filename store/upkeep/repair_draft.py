"""New tables in the making, beside those of a database that is repaired."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pillarbox.store.access import Actor
from pillarbox.store.content.blocks import Dictionaries
from pillarbox.store.disk.env import Env
from pillarbox.store.disk.tables import Record, Table, encode_record
from pillarbox.store.engine.database import Database
from pillarbox.store.engine.transaction import DatabaseFiles, ReadTransaction

_ROWS_PER_APPLY: Final = 20_000


class Draft:
    """Tables that are filled and put right, and `changed`: the rows in which they differ from the stream."""

    def __init__(self, database: Database, env: Env) -> None:
        self.env = env
        self.stream = database.stream
        self.files = DatabaseFiles(database.guid, env, database.stream, Dictionaries(), database.rng)
        self.changed: set[tuple[Table, bytes]] = set()
        self._changes: dict[Table, dict[bytes, bytes | None]] = {}
        self._rows = 0

    @contextmanager
    def reading(self) -> Iterator[ReadTransaction]:
        """A read of all that was put before; what is put meanwhile shows in the next one."""
        self.flush()
        with ReadTransaction(self.files, self.env.view(), Actor.task("repair")) as reader:
            yield reader
        self.flush()

    def put(self, table: Table, key: bytes, record: Record | None) -> None:
        """Put a record that the stream does not tell of, or delete one that it tells of."""
        self.changed.add((table, key))
        self.put_value(table, key, None if record is None else encode_record(table, key, record))

    def put_value(self, table: Table, key: bytes, value: bytes | None) -> None:
        """Put a row as it is stored."""
        self._changes.setdefault(table, {})[key] = value
        self._rows += 1
        if self._rows >= _ROWS_PER_APPLY:
            self.flush()

    def get(self, table: Table, key: bytes) -> Any:
        """The stored value of a row as it was last put, or None."""
        rows = self._changes.get(table, {})
        if key in rows:
            return rows[key]
        with self.env.view() as view:
            return view.get(table, key)

    def flush(self) -> None:
        """Bring what was put into the tables."""
        if self._rows:
            self.env.apply(self._changes)
            self._changes, self._rows = {}, 0
