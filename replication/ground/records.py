"""Versions of messages and folders, and how concurrent ones are read as one.

Flags and other properties, names, parents, replica lists and permissions are *entries* with a stamp each; of
two entries the later stamp wins, so two stores that change different things of one object do not disturb each
other. Only the content of a message, changed in two places, is a conflict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Final, Generic, NamedTuple, TypeVar

from pillarbox.replication.ground.versions import Versions
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.hybrid_clock import Stamp

T = TypeVar("T")

ObjectId = ChangeNumber  # of the change that made the object; equal in all stores

REMOVED: Final = "\0"
"""The value of a property that was removed. Its entry stays, for an older one must not bring it back."""


class Entry(NamedTuple, Generic[T]):
    """One property of an object, and when it was set."""

    stamp: Stamp
    value: T


class ReplicaState(IntEnum):
    """The state of a store in a replica list."""

    REMOVED = 0
    DELETE_PENDING = 1
    ACTIVE = 2


@dataclass(frozen=True, slots=True)
class MessageVersion:
    """A version of a message; a tombstone has no content. `content` is the digest of its raw bytes."""

    changed: Stamp
    actor: str
    content: bytes = b""
    size_bytes: int = 0
    properties: Mapping[str, Entry[str]] = field(default_factory=dict)
    gone: bool = False

    def stamps(self) -> tuple[Stamp, ...]:
        """All stamps in this version."""
        return (self.changed, *(entry.stamp for entry in self.properties.values()))

    @property
    def latest_stamp(self) -> Stamp:
        """The latest stamp in this version."""
        return max(self.stamps()) if self.properties else self.changed


@dataclass(frozen=True)
class FolderVersion:
    """A version of a folder of the public folder tree, a tombstone too.

    `cleared` are the numbers of content that deletions of this folder saw. It only grows.
    """

    changed: Stamp
    actor: str
    name: Entry[str]
    parent: Entry[ObjectId]
    replicas: Mapping[bytes, Entry[ReplicaState]]
    properties: Mapping[str, Entry[str]] = field(default_factory=dict)
    cleared: CNSet = field(default_factory=CNSet)
    gone: bool = False

    def stamps(self) -> tuple[Stamp, ...]:
        """All stamps in this version."""
        single = (self.changed, self.name.stamp, self.parent.stamp)
        replicas = [entry.stamp for entry in self.replicas.values()]
        return (*single, *replicas, *[entry.stamp for entry in self.properties.values()])

    @cached_property
    def latest_stamp(self) -> Stamp:
        """The latest stamp in this version."""
        return max(self.stamps())


@dataclass(frozen=True)
class Tree:
    """The public folder tree: its GUID, and the ids that are the same in every store of it."""

    guid: bytes

    @cached_property
    def hierarchy(self) -> ObjectId:
        """The folder whose items are folders."""
        return ChangeNumber(self.guid, 0)

    @cached_property
    def root(self) -> ObjectId:
        """The root of the folders that users see."""
        return ChangeNumber(self.guid, 1)

    @cached_property
    def system_root(self) -> ObjectId:
        """The root of the system folders."""
        return ChangeNumber(self.guid, 2)

    @cached_property
    def lost_and_found(self) -> ObjectId:
        """The folder of those that have no other place."""
        return ChangeNumber(self.guid, 3)

    @property
    def organisation(self) -> ObjectId:
        """The system folder whose entries are the servers, sites and connectors of the tree."""
        return ChangeNumber(self.guid, 4)


def latest(entries: Iterable[Entry[T]], now_ms: int) -> Entry[T]:
    """The entry of the last writer. Raises ValueError when there are none."""
    return max(entries, key=lambda entry: entry.stamp.weight(now_ms))


def merged_entries(maps: Iterable[Mapping[str, Entry[T]]], now_ms: int) -> dict[str, Entry[T]]:
    """Of each property the entry of its last writer."""
    return _merged(maps, now_ms)


K = TypeVar("K")


def _merged(maps: Iterable[Mapping[K, Entry[T]]], now_ms: int) -> dict[K, Entry[T]]:
    merged: dict[K, Entry[T]] = {}
    for entries in maps:
        for name, entry in entries.items():
            merged[name] = latest((entry, merged[name]), now_ms) if name in merged else entry
    return merged


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder as it is read from its siblings, entry by entry: alike in all stores that hold the same."""

    is_live: bool
    name: Entry[str]
    parent: Entry[ObjectId]
    replicas: Mapping[bytes, Entry[ReplicaState]]
    properties: Mapping[str, Entry[str]]
    cleared: CNSet

    @classmethod
    def read(cls, versions: Versions[FolderVersion], now_ms: int) -> Folder:
        """Read a folder; of one that is deleted, its tombstones. It has at least one sibling."""
        if len(versions.siblings) == 1:  # as nearly always: what the version holds is not built anew
            (one,) = versions.siblings.values()
            return cls(not one.gone, one.name, one.parent, one.replicas, one.properties, one.cleared)
        shown = versions.live() or tuple(versions.siblings.values())
        cleared = CNSet()
        for version in versions.siblings.values():
            cleared |= version.cleared
        return cls(
            is_live=bool(versions.live()),
            name=latest((version.name for version in shown), now_ms),
            parent=latest((version.parent for version in shown), now_ms),
            replicas=_merged((version.replicas for version in shown), now_ms),
            properties=_merged((version.properties for version in shown), now_ms),
            cleared=cleared,
        )


@dataclass(frozen=True, slots=True)
class MessageView:
    """A message as it is read from its siblings: its contents, more than one in a conflict, and its
    properties."""

    contents: tuple[bytes, ...]
    properties: Mapping[str, Entry[str]]

    @property
    def is_conflict(self) -> bool:
        """True when the content was changed in two places at once, and nobody has resolved that."""
        return len(self.contents) > 1

    @classmethod
    def read(cls, versions: Versions[MessageVersion], now_ms: int) -> MessageView:
        """Read a message; one that is deleted has no contents."""
        live = versions.live()
        contents = tuple(dict.fromkeys(version.content for version in live))
        return cls(contents, merged_entries((version.properties for version in live), now_ms))
