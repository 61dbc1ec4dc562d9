"""Numbers and ids as all stores know them, and as one store keeps them.

A store keeps a u64, its own short number for a replica GUID and the counter. The roots of the tree are the
same everywhere to the core, and ordinary folders here.
"""

from __future__ import annotations

from collections.abc import Callable

from pillarbox.replication.ground.records import ObjectId, Tree
from pillarbox.replication.ground.versions import Context
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.disk.tables import HIERARCHY_SCOPE
from pillarbox.store.engine import numbering
from pillarbox.store.engine.transaction import Reader, WriteTransaction
from pillarbox.store.errors import NotFound
from pillarbox.store.hybrid_clock import Stamp
from pillarbox.store.ids import COUNTER_BITS, counter_of
from pillarbox.store.mail import public_folders

OwnerOf = Callable[[bytes], tuple[bytes, int]]
"""Of a replica GUID the database and the incarnation that number their changes under it."""


class KnownIdentifiers:
    """Translates within one read or transaction, by the replica GUIDs that the store knows."""

    def __init__(self, reader: Reader, tree: Tree) -> None:
        self._numbers = {record.origin: number for number, record in numbering.replicas(reader)}
        self._origins = {number: origin for origin, number in self._numbers.items()}
        self._fixed = {
            tree.hierarchy: HIERARCHY_SCOPE,
            tree.root: public_folders.root_id(reader, public_folders.IPM_SUBTREE),
            tree.system_root: public_folders.root_id(reader, public_folders.NON_IPM_SUBTREE),
            tree.lost_and_found: public_folders.root_id(reader, public_folders.LOST_AND_FOUND),
        }
        self._fixed_back = {number: object_id for object_id, number in self._fixed.items()}

    def replica(self, origin: bytes) -> int:
        """The replica number of a replica GUID. Raises NotFound where nothing here is of it."""
        if origin not in self._numbers:
            raise NotFound("the store knows nothing of a numbering", hint="look at its snapshots for a newer")
        return self._numbers[origin]

    def known_replica(self, origin: bytes) -> int | None:
        """The replica number of a replica GUID, None where nothing here is of it."""
        return self._numbers.get(origin)

    def number(self, number: ChangeNumber) -> int:
        """A change number as this store keeps it."""
        replica = self._numbers.get(number.origin) or self.replica(number.origin)
        return replica << COUNTER_BITS | number.counter

    def id(self, object_id: ObjectId) -> int:
        """An id as this store keeps it."""
        fixed = self._fixed.get(object_id)
        return self.number(object_id) if fixed is None else fixed

    def known_id(self, object_id: ObjectId) -> int | None:
        """An id as this store keeps it, None where nothing here is of its replica GUID."""
        is_known = object_id in self._fixed or object_id.origin in self._numbers
        return self.id(object_id) if is_known else None

    def change_number(self, number: int) -> ChangeNumber:
        """A number that this store keeps, as all know it."""
        return ChangeNumber(self._origins[number >> COUNTER_BITS], counter_of(number))

    def object_id(self, number: int) -> ObjectId:
        """An id that this store keeps, as all know it."""
        return self._fixed_back.get(number) or self.change_number(number)

    def context(self, context: Context) -> dict[int, int]:
        """A context as this store keeps it."""
        return {self.replica(origin): counter for origin, counter in context.items()}

    def context_of(self, context: Context | dict[int, int]) -> dict[bytes, int]:
        """A context that this store keeps, as all know it."""
        return {self._origins[int(number)]: counter for number, counter in context.items()}

    def stamp(self, time_ms: int, counter: int, replica: int) -> Stamp:
        """A stamp that this store keeps, as all know it."""
        return Stamp(time_ms, counter, self._origins[replica])

    def cnset(self, numbers: list[int]) -> CNSet:
        """Numbers that this store keeps, as a set that all know."""
        return CNSet.of(map(self.change_number, numbers))


class Identifiers(KnownIdentifiers):
    """Translates within one transaction. A replica GUID that is met for the first time gets a number."""

    def __init__(self, txn: WriteTransaction, tree: Tree, owner_of: OwnerOf) -> None:
        super().__init__(txn, tree)
        self._txn = txn
        self._tree = tree.guid
        self._owner_of = owner_of

    def replica(self, origin: bytes) -> int:
        """The replica number of a replica GUID. Raises OverLimit when no more can be told apart."""
        number = self._numbers.get(origin)
        if number is None:
            # Under the tree's own GUID there are ids that are the same in all stores, and no changes.
            owner = (origin, 0) if origin == self._tree else self._owner_of(origin)
            number = numbering.replica_number(self._txn, origin, *owner)
            self._numbers[origin], self._origins[number] = number, origin
        return number
