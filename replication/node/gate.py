"""The gate of a store: frames of other stores are opened, or refused by name, counted and reported."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, NamedTuple

from pillarbox.replication.ground.records import Tree
from pillarbox.replication.node.opening import Batch, Taken, open_frame, prepared_mail
from pillarbox.replication.node.stored_objects import OF_THE_STORE
from pillarbox.replication.transports.transport import nothing
from pillarbox.replication.wire.frame import VERSIONS_READ
from pillarbox.replication.wire.parts import Assembly, is_part
from pillarbox.replication.wire.seal import Peer, Reason, Refusal, refusal_of
from pillarbox.store.engine.database import Database
from pillarbox.store.errors import PillarboxError
from pillarbox.store.events import EventId
from pillarbox.store.ids import guid_text
from pillarbox.store.mail.messages import PreparedMessage

REPORT_EVERY_MS: Final = 600_000


class Frame(NamedTuple):
    """Bytes that a transport delivered, the store that gave them, and the call for when they are settled."""

    hop: bytes
    data: bytes
    settled: Callable[[], None] = nothing


class Gate:
    """Opens what arrives at a store, from any number of neighbours. One thread at a time calls it.

    `peers` tells the stores of the tree by certificate fingerprint, also those that were removed from it.
    `refused_counts` counts refusals by reason since this object was made. Each is reported too: of one hop
    and reason the first at once, then every ten minutes how many there were. `tell_fault` is given the
    traceback of a fault of the program, as often as its refusals are reported. `reads` are the versions
    of the wire that are read.
    """

    def __init__(
        self,
        database: Database,
        tree: Tree,
        peers: Callable[[], Mapping[bytes, Peer]],
        tell_fault: Callable[[str], None],
        reads: Collection[int] = VERSIONS_READ,
    ) -> None:
        self.refused_counts: Counter[Reason] = Counter()
        self._database = database
        self._tree = tree
        self._peers = peers
        self._tell_fault = tell_fault
        self._reads = reads
        self._assemblies: dict[bytes, Assembly] = {}
        self._unreported: Counter[tuple[bytes, Reason]] = Counter()
        self._reported_ms: dict[tuple[bytes, Reason], int] = {}

    def open(self, frames: Iterable[Frame]) -> Batch:
        """Open frames and make the mail in them ready, outside of any transaction. Raises Dismounted.

        What is refused, and parts of frames that are not whole yet, are not in the batch.
        """
        files = self._database.files
        batch: list[Taken] = []
        prepared: dict[bytes, PreparedMessage] = {}
        settled = self._forget_removed()
        for frame in frames:
            hop = frame.hop
            try:
                taken = self._open(frame, settled)
                if taken is not None:
                    prepared |= prepared_mail(taken, files)
                    batch.append(taken)
            except OF_THE_STORE:
                raise
            except Exception as error:  # told, and all others go on
                self.refuse_fault(hop, error)
        return Batch(tuple(batch), prepared, tuple(settled))

    def refuse_fault(self, hop: bytes, error: Exception) -> None:
        """Refuse what a neighbour gave, since the program itself failed at it with `error`."""
        said = PillarboxError(
            f"a fault of the program: {error!r}", hint="report it, with the traceback in the log"
        )
        if self._refuse(hop, Refusal(Reason.FAULT, said)):
            self._tell_fault("".join(traceback.format_exception(error)))

    def _forget_removed(self) -> list[Callable[[], None]]:
        """Let the parts go that stores sent which are gone for good; the calls that came with them."""
        settled: list[Callable[[], None]] = []
        if self._assemblies:
            removed = {peer.database for peer in self._peers().values() if peer.is_removed}
            for hop in self._assemblies.keys() & removed:
                settled += self._assemblies.pop(hop).forget()
        return settled

    def _open(self, frame: Frame, settled: list[Callable[[], None]]) -> Taken | None:
        found: Taken | Refusal
        hop = frame.hop
        try:
            whole = self._whole(frame, settled)
        except PillarboxError as error:
            found = refusal_of(error, Reason.FORM)
        else:
            if whole is None:
                return None
            found = open_frame(whole, hop, self._tree, self._peers(), self._reads)
        if isinstance(found, Refusal):
            self._refuse(hop, found)
            return None
        return found

    def _whole(self, frame: Frame, settled: list[Callable[[], None]]) -> bytes | None:
        """The frame that is whole with this one, which may be a part; parts are settled with their frame."""
        if not is_part(frame.data):
            settled.append(frame.settled)
            return frame.data
        assembly = self._assemblies.setdefault(frame.hop, Assembly())
        try:
            return assembly.take(frame.data, frame.settled)
        finally:
            settled += assembly.settled()

    def _refuse(self, hop: bytes, refusal: Refusal) -> bool:
        """Count a refusal; True when it was reported."""
        self.refused_counts[refusal.reason] += 1
        kind = hop, refusal.reason
        self._unreported[kind] += 1
        now_ms = self._database.clock.monotonic_ms()
        if now_ms - self._reported_ms.get(kind, -REPORT_EVERY_MS) < REPORT_EVERY_MS:
            return False
        self._reported_ms[kind] = now_ms
        self._database.report(
            EventId.REPLICATION_REFUSED,
            hop=guid_text(hop),
            count=self._unreported.pop(kind),
            reason=str(refusal.reason),
            error=str(refusal.error),
        )
        return True
