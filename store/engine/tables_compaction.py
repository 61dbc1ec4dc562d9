"""Compacting the property file at a mount for writing: LMDB's file never becomes shorter by itself.

The tables and the checkpoint are two files, and the checkpoint has meta pages of the tables. So they are
exchanged under a clean checkpoint only, of which a mount needs no meta pages (docs/format.md, "Compaction of
the property file").
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from pillarbox.store.clock import Clock
from pillarbox.store.disk.checkpoint import Checkpoint, boot_identity, read_checkpoint, write_checkpoint
from pillarbox.store.disk.env import DATA_FILE, Env, meta_pages_of, refuse_other_processes
from pillarbox.store.disk.file_lock import Opening
from pillarbox.store.disk.stream import disk_error, flush_directory, flush_file
from pillarbox.store.disk.tables_process import copy_compacted, verify_tables
from pillarbox.store.engine.checkpointer import FlushedState, flush_tables
from pillarbox.store.engine.tables_proof import refuse_bent_pages
from pillarbox.store.errors import Corrupt, PillarboxError, Retryable
from pillarbox.store.events import EventId

_NEW: Final = "compact.new"

Report = Callable[..., None]


def end_interrupted_compaction(directory: Path, properties: Path) -> None:
    """Remove what an interrupted one has left, before the tables are opened for writing. Raises OSError."""
    new = directory / _NEW
    if not new.exists():
        return
    checkpoint = read_checkpoint(directory)
    if checkpoint.clean:
        # The tables may have been exchanged after it was written.
        pages = meta_pages_of(properties)
        write_checkpoint(directory, checkpoint._replace(meta_pages=pages))
    shutil.rmtree(new)


class Compaction(NamedTuple):
    """Compacts the tables of a database that is being mounted for writing, whose lock the caller holds.

    `properties` is the directory of the tables within `directory`; `guid` the database's.
    """

    directory: Path
    properties: Path
    guid: bytes
    clock: Clock
    report: Report

    def __call__(self, env: Env, state: FlushedState) -> Env:
        """Give back the free pages of tables that are as `state` says; the environment, opened anew.

        The tables stay as they are when another process reads them, or the disk has no room for a copy of
        what is in use (event 1025). Raises Corrupt when the copy shows bent pages.
        """
        began_ms, before_bytes = self.clock.monotonic_ms(), env.file_bytes()
        flush_tables(self.directory, env)
        pin = env.pin()
        clean = Checkpoint(self.guid, True, boot_identity(), state.sequence, state.position, pin.meta_pages)
        write_checkpoint(self.directory, clean)
        pin.transaction.abort()
        env.close()
        with Opening(self.properties, self.clock, alone=True):
            try:
                refuse_other_processes(self.properties)
            except Retryable:
                return Env(self.properties)  # `status` names who reads, where that costs much
            try:
                self._exchange(clean)
                self.report(
                    EventId.TABLES_COMPACTED,
                    before_bytes=before_bytes,
                    after_bytes=(self.properties / DATA_FILE).stat().st_size,
                    milliseconds=self.clock.monotonic_ms() - began_ms,
                )
            except PillarboxError as error:
                if isinstance(error, Corrupt):
                    refuse_bent_pages(self.properties, self.clock, self.report)
                self.report(EventId.REQUEST_FAILED, request="compaction of the tables", error=str(error))
            return Env(self.properties)

    def _exchange(self, clean: Checkpoint) -> None:
        new = self.directory / _NEW
        try:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            copy_compacted(self.properties, new)
            problems = verify_tables(new)
            if problems:
                raise Corrupt(f"{new / DATA_FILE}: {problems[0]}", file=str(new / DATA_FILE))
            flush_file(new / DATA_FILE)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            raise disk_error(error, str(new)) from error
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        # From here on its directory tells the next mount that the checkpoint may be that of other tables.
        try:
            (new / DATA_FILE).rename(self.properties / DATA_FILE)
            flush_directory(self.properties)
        except OSError as error:
            raise disk_error(error, str(new)) from error
        write_checkpoint(self.directory, clean._replace(meta_pages=meta_pages_of(self.properties)))
        shutil.rmtree(new, ignore_errors=True)
