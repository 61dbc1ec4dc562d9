"""The versions of one object: concurrent ones are siblings, each under its own change number.

The *context* of an object says for each replica GUID the highest number of it that went into this state: the
predecessor change list of DOMAIN.md, and what makes the siblings a dotted version vector. Merging keeps what
both states hold; of what only one holds, it keeps what the other one had not seen. Nothing is numbered by
that: if replicas gave numbers to conflicts that they notice, each number would be news to all others, for
ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import starmap
from typing import Generic, NamedTuple, Protocol, TypeVar

from pillarbox.store.change_number import ChangeNumber, CNSet

Context = Mapping[bytes, int]


class Version(Protocol):
    """The face of every version of an object."""

    @property
    def gone(self) -> bool:
        """True when this version is a tombstone."""


V = TypeVar("V", bound=Version)


@dataclass(frozen=True, slots=True)
class Versions(Generic[V]):
    """The state of one object: its context and the versions that live beside each other. A value."""

    context: Context
    siblings: Mapping[ChangeNumber, V]

    @classmethod
    def first(cls, number: ChangeNumber, version: V) -> Versions[V]:
        """An object that was made by the change `number`."""
        return cls({number.origin: number.counter}, {number: version})

    def written(self, number: ChangeNumber, version: V) -> Versions[V]:
        """The state after a write that saw all siblings, and so replaces them."""
        return Versions({**self.context, number.origin: number.counter}, {number: version})

    def entries(self) -> frozenset[ChangeNumber]:
        """Every number by which this state is found: those of its context and of its siblings."""
        return frozenset([*starmap(ChangeNumber, self.context.items()), *self.siblings])

    def live(self) -> tuple[V, ...]:
        """The versions that are no tombstones, in the order in which all stores show them."""
        shown = sorted(self.siblings, key=lambda number: (number.counter, number.origin))
        return tuple(self.siblings[number] for number in shown if not self.siblings[number].gone)

    def has_seen(self, number: ChangeNumber) -> bool:
        """True when the context covers `number`."""
        return self.context.get(number.origin, 0) >= number.counter

    def received(self, had: CNSet) -> Versions[V]:
        """The state as it arrives where the object is absent and the numbers `had` are held.

        A version that was had and is not there any more is deleted there, and stays so.
        """
        return self._keeping(lambda number: number not in had)

    def merged(self, other: Versions[V], had: CNSet) -> Versions[V]:
        """The state merged with one that arrives where the numbers `had` are held.

        Of the same versions either one may be taken; a version that was had and is not here was replaced
        here.
        """
        context = {
            origin: max(self.context.get(origin, 0), other.context.get(origin, 0))
            for origin in {**self.context, **other.context}
        }
        mine = self._keeping(lambda number: number in other.siblings or not other.has_seen(number))
        theirs = other._keeping(
            lambda number: number in self.siblings or not (self.has_seen(number) or number in had)
        )
        return Versions(context, {**theirs.siblings, **mine.siblings})

    def without(self, numbers: CNSet) -> Versions[V]:
        """The state without the versions of these numbers; its context stays."""
        return self._keeping(lambda number: number not in numbers)

    def holes(self, had: CNSet) -> CNSet:
        """The numbers below the context that are not in `had`."""
        below = CNSet()
        for origin, counter in self.context.items():
            below |= CNSet.full(origin, counter)
        return below - had

    def _keeping(self, is_kept: Callable[[ChangeNumber], bool]) -> Versions[V]:
        kept = {number: version for number, version in self.siblings.items() if is_kept(number)}
        return Versions(self.context, kept) if len(kept) < len(self.siblings) else self


class Sight(NamedTuple):
    """An object as a store that reconciles names it: without its versions' content."""

    context: Context
    numbers: frozenset[ChangeNumber]

    @classmethod
    def of(cls, versions: Versions[V]) -> Sight:
        """The sight of an object's state."""
        return cls(versions.context, frozenset(versions.siblings))
