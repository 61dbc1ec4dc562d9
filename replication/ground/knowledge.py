"""The knowledge of one replica of a folder: numbers that it holds, has expired, or may not have back.

A message gives its receiver the numbers of what it carries, and gaps on condition only. A store keeps the
last version of an object alone, so a number that a source does not carry is either another folder's or a
version that was replaced since; a receiver that takes it for had, and never gets the object that replaced it,
believes to be in sync and is not. So a source states a pair: the gaps, and the numbers of all its objects
that the receiver lacks. Gaps are taken when these are held. The pair is kept for each origin, since an object
that replaced a version of an origin is found by a later number of the same origin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from pillarbox.store.change_number import ChangeNumber, CNSet

NOTHING = CNSet()


class Pair(NamedTuple):
    """Gaps that may be taken as had once all of `required` is held."""

    gaps: CNSet
    required: CNSet

    def __or__(self, other: object) -> Pair:
        """Both pairs as one, which holds when both hold."""
        if not isinstance(other, Pair):
            return NotImplemented
        return Pair(self.gaps | other.gaps, self.required | other.required)

    def of_origin(self, origin: bytes) -> Pair:
        """The part of the pair about one origin."""
        return Pair(self.gaps.of_origin(origin), self.required.of_origin(origin))


class Knowledge:
    """The numbers of one folder at one replica.

    `known` is what it holds or saw replaced, and offers to others; `expired` what it let go by its own age
    limit, which counts as had here and is never offered; `purged` the numbers of tombstones that were purged:
    a store that lacks one of them reconciles before it believes any gap. `retried` are those of the expired
    numbers that are asked for once more: had as before, until it is known what became of them.
    """

    def __init__(self, known: CNSet = NOTHING, expired: CNSet = NOTHING, purged: CNSet = NOTHING) -> None:
        self.known = known
        self.expired = expired
        self.purged = purged
        self.retried = NOTHING
        self._pairs: dict[tuple[bytes, bytes], Pair] = {}
        self._had = NOTHING, NOTHING, NOTHING  # known, expired, and both together

    def copy(self) -> Knowledge:
        """A copy that does not change with this one."""
        copied = Knowledge(self.known, self.expired, self.purged)
        copied.retried = self.retried
        copied._pairs = dict(self._pairs)
        copied._had = self._had
        return copied

    @property
    def had(self) -> CNSet:
        """The numbers that this replica need not be sent."""
        if not self.expired:
            return self.known
        known, expired, had = self._had
        if known is not self.known or expired is not self.expired:
            had = self.known | self.expired
            self._had = self.known, self.expired, had
        return had

    @property
    def settled(self) -> CNSet:
        """The numbers that are had and not asked for."""
        return self.had - self.retried if self.retried else self.had

    @property
    def pairs_count(self) -> int:
        """Count the pairs, by source and origin, that wait for required numbers."""
        return len(self._pairs)

    def claim(self, numbers: CNSet) -> None:
        """Take these numbers as known, whether they were expired or not."""
        self.known |= numbers
        self._expect_no_more(numbers)

    def claim_each(self, numbers: Iterable[ChangeNumber]) -> None:
        """Take a few numbers as known; cheap when they are the highest of their origins."""
        for number in numbers:
            self.known = self.known.with_number(number)
        if self.expired:
            self._expect_no_more(CNSet.of(numbers))

    def _expect_no_more(self, numbers: CNSet) -> None:
        if self.expired:
            self.expired -= numbers
            self.retried -= numbers

    def expire(self, numbers: CNSet) -> None:
        """Let these numbers go by age: had, and no longer offered."""
        self.known -= numbers
        self.expired |= numbers
        self.retried -= numbers

    def tell(self, source: bytes, pair: Pair, assumed: CNSet = NOTHING) -> None:
        """Take the gaps of a pair that `source` stated, now or when what they require is held.

        `assumed` are numbers that every living replica which had them states as expired.
        """
        for origin in pair.gaps.origins():
            told, key = pair.of_origin(origin), (source, origin)
            if not self._open(told, assumed):
                waiting = self._pairs.get(key)
                self._pairs[key] = waiting | told if waiting else told
        self.settle(assumed)

    def settle(self, assumed: CNSet = NOTHING) -> None:
        """Take every gap whose condition holds by now. A gap that is taken may fulfil another's condition."""
        opened = True
        while opened:
            opened = False
            for key, pair in list(self._pairs.items()):
                if self._open(pair, assumed):
                    del self._pairs[key]
                    opened = True

    def _open(self, pair: Pair, assumed: CNSet) -> bool:
        settled = self.settled
        if settled.covers(pair.gaps):
            return True
        # What is tried again counts as lacking only where its source has it, and so may still give it: else
        # all other gaps would wait for what nobody gives any more.
        again = self.retried - pair.gaps
        if not (settled | assumed | again).covers(pair.required):
            return False
        # What is assumed is not claimed: some replica may hold it again, and it would never be asked for.
        self.claim(pair.gaps - (self.expired - self.retried) - assumed)
        return True

    def digest(self, folder: ChangeNumber) -> bytes:
        """16 bytes that are equal where the known numbers of the folder are."""
        name = folder.origin + folder.counter.to_bytes(8, "big")
        return hashlib.blake2b(name + self.known.encode(), digest_size=16).digest()
