"""A store as it was at an earlier time, which answers as it would have answered then: what seeds are of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pillarbox.replication.core import answering, deletion
from pillarbox.replication.core.effects import Answer, Send
from pillarbox.replication.core.preset import PROMPT
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.node.contents import contents_of
from pillarbox.replication.node.identifiers import KnownIdentifiers
from pillarbox.replication.node.object_reads import ObjectReads
from pillarbox.replication.node.stored_organisation import joined_tree, starting_organisation
from pillarbox.replication.node.stored_record import StoredRecord
from pillarbox.replication.wire import unsealed
from pillarbox.replication.wire.messages import BackfillRequest, Changes, Message, ReconcileQuestion, Status
from pillarbox.store.change_number import CNSet
from pillarbox.store.engine.transaction import Reader
from pillarbox.store.errors import InvalidContent, ReadOnly, Refused


class SnapshotSource:
    """Answers out of one state of a store that is in a tree. Nothing of it is changed, nothing of what came
    later is known to it. Messages go in and out as `unsealed` writes them.
    """

    def __init__(self, reader: Reader) -> None:
        """Raises Refused for a database that was in no tree; Corrupt, UnsupportedVersion."""
        tree = joined_tree(reader)
        if tree is None:
            raise Refused(
                "the public folders in the snapshot belonged to no organisation",
                hint="bring them back with `pillarbox recovery merge`",
            )
        ids = KnownIdentifiers(reader, tree)
        record = StoredRecord().load(reader, ids)
        if record is None:
            raise Refused(
                "the server of the snapshot had not begun to replicate", hint="name a later snapshot of it"
            )
        self._reader, self._tree = reader, tree
        organisation = starting_organisation(reader, tree)
        objects = _ReadOnlyObjects(reader, tree, ids)
        self._replica = Replica(record, tree, organisation, PROMPT, objects, _no_guid)

    @property
    def offer(self) -> bytes:
        """The message by which the store says who it is, and whose each numbering was."""
        replica = self._replica
        status = Status(numberings=replica.numberings())
        return self._encoded(replica.message(replica.me.database, self._tree.hierarchy, status))

    @property
    def held(self) -> CNSet:
        """The folders of which the store held a replica, by their ids."""
        folders, hierarchy = self._replica.record.folders, self._tree.hierarchy
        return CNSet.of(each for each, state in folders.items() if state.is_held and each != hierarchy)

    def answer(self, asked: bytes, progress: Callable[[int], None] = lambda done: None) -> Iterator[bytes]:
        """The messages that answer a request or a question about a folder, made as they are taken.

        `progress` is told how many objects of a request went. A folder of which the store held no replica is
        answered by a status alone. Raises InvalidContent, and as reads of the snapshot do.
        """
        message, _ = unsealed.decode(asked, self._tree)
        replica, folder = self._replica, message.folder
        state = replica.record.folders.get(folder)
        if state is None or not state.is_held:
            yield self._encoded(replica.message(message.sender.database, folder, Status()))
        elif isinstance(message.body, BackfillRequest):
            yield from self._pages(message, message.body, progress)
        elif isinstance(message.body, ReconcileQuestion):
            yield self._reconciled(message, message.body)
        else:
            raise InvalidContent("a snapshot answers requests and questions alone")

    def items_count(self, asked: bytes) -> int:
        """The number of objects that `answer` brings to a request."""
        message, _ = unsealed.decode(asked, self._tree)
        state = self._replica.record.folders.get(message.folder)
        if state is None or not state.is_held or not isinstance(message.body, BackfillRequest):
            return 0
        needed = state.knowledge.known - message.body.had
        return len(self._replica.objects.found(message.folder, needed))

    def _pages(
        self, asked: Message, request: BackfillRequest, progress: Callable[[int], None]
    ) -> Iterator[bytes]:
        needed = self._replica.state(asked.folder).knowledge.known - request.had
        life = asked.statement.life
        left: Answer | None = Answer(asked.sender.database, asked.folder, life, needed, request.had, needed)
        done = 0
        while left is not None:
            page, left = answering.next_page(self._replica, left)
            if page is not None:
                yield self._encoded(page)
                assert isinstance(page.body, Changes)
                done += len(page.body.objects)
                progress(done)

    def _reconciled(self, asked: Message, question: ReconcileQuestion) -> bytes:
        replica = self._replica
        replica.effects = []
        deletion.answer_reconcile(
            replica, asked.folder, asked.sender.database, asked.statement.life, question
        )
        (sent,) = replica.effects
        assert isinstance(sent, Send)
        return self._encoded(sent.message)

    def _encoded(self, message: Message) -> bytes:
        return unsealed.encode(message, self._tree, contents_of(self._reader, [message]))


class _ReadOnlyObjects(ObjectReads):
    """The objects of a store of which nothing can be changed."""

    def next_number(self, last: int) -> int:
        raise _read_only()

    def put(self, folder: ObjectId, object_id: ObjectId, versions: Versions[Any]) -> None:
        raise _read_only()

    def remove(self, folder: ObjectId, object_id: ObjectId) -> None:
        raise _read_only()

    def clear(self, folder: ObjectId) -> None:
        raise _read_only()


def _read_only() -> ReadOnly:
    return ReadOnly("a snapshot is never changed")


def _no_guid() -> bytes:
    raise _read_only()
