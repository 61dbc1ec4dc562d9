"""The `with` blocks of a database: a transaction, a pause of all changes, a turn at preparing much."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

from pillarbox.store.access import Actor
from pillarbox.store.engine.checkpointer import FlushedState
from pillarbox.store.engine.transaction import NamedMailboxes, WriteTransaction
from pillarbox.store.engine.turns import TurnBlock
from pillarbox.store.engine.writer import Writer


class Owner(Protocol):
    """The database, which is told of its transactions."""

    def before_commit(self, txn: WriteTransaction) -> NamedMailboxes:
        """Return what `committed` is to be told. An error undoes the transaction."""
        ...

    def committed(self, txn: WriteTransaction, lost: NamedMailboxes) -> None:
        """The transaction is durable and visible."""
        ...

    def failed(self, writer: Writer, error: BaseException) -> None:
        """The transaction was undone, or could not be made, by `error`."""
        ...


class TransactionBlock(TurnBlock[WriteTransaction]):
    """A transaction that is committed at the end of the block; an error in the block undoes it."""

    def __init__(self, writer: Writer, actor: Actor, owner: Owner) -> None:
        super().__init__(writer.new_turn())
        self._writer = writer
        self._actor = actor
        self._owner = owner
        self._transaction: WriteTransaction | None = None

    def enter(self) -> WriteTransaction:
        try:
            self._transaction = self._writer.begin(self.turn, self._actor)
        except BaseException as error:
            self.turn.end()
            self._owner.failed(self._writer, error)
            raise
        return self._transaction

    def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        transaction = self._transaction
        if error is not None or transaction is None:
            self.turn.end()
            if error is not None:
                self._owner.failed(self._writer, error)
            return
        try:
            lost = self._owner.before_commit(transaction)
            self._writer.commit(self.turn, transaction)
        except BaseException as failed:
            self.turn.end()
            self._owner.failed(self._writer, failed)
            raise
        self._owner.committed(transaction, lost)


class PauseBlock(TurnBlock[FlushedState]):
    """All changes wait for the end of the block."""

    def __init__(self, writer: Writer, timeout_ms: int | None) -> None:
        super().__init__(writer.new_turn())
        self._writer = writer
        self._timeout_ms = timeout_ms

    def enter(self) -> FlushedState:
        return self._writer.pause(self.turn, self._timeout_ms)


class PreparingBlock(TurnBlock[Any]):
    """A turn at preparing much: blocks of this kind at the same time take a bounded amount of memory."""

    def __init__(self, writer: Writer, length: int) -> None:
        super().__init__(writer.preparing_turn(length))
        self._writer = writer

    def enter(self) -> None:
        self._writer.take_preparing_turn(self.turn)
