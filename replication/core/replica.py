"""One store of the tree: its numbering, its clock, its state table, and the effects of the call under way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pillarbox.replication.core.effects import Answer, AnswerKey, Effect, Notice, Report, Send
from pillarbox.replication.core.line import Line
from pillarbox.replication.core.objects import ObjectStore
from pillarbox.replication.core.preset import Preset
from pillarbox.replication.core.rounds import Rounds
from pillarbox.replication.core.state import NEVER_MS, FolderState, Passing, TooLarge, expired_by_all
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import (
    Folder,
    FolderVersion,
    MessageVersion,
    ObjectId,
    ReplicaState,
    Tree,
)
from pillarbox.replication.ground.versions import Versions
from pillarbox.replication.organisation.link_state import LinkWatch, StatedLinks
from pillarbox.replication.organisation.site_tree import SiteTree, site_tree
from pillarbox.replication.organisation.topology import Organisation
from pillarbox.replication.wire.messages import (
    BackfillRequest,
    Body,
    BundleKey,
    Life,
    LinkReport,
    Message,
    Numberings,
    Sender,
    Statement,
)
from pillarbox.store.change_number import ChangeNumber, CNSet
from pillarbox.store.hybrid_clock import AHEAD_MS_MAX, HybridClock, Stamp


class Moment(NamedTuple):
    """Now, by two clocks: one that never jumps and may begin anew with each start, and the wall clock.

    Waiting is by the first, so that a wrong wall clock that is put right leaves nothing due in 2099.
    """

    steady_ms: int
    wall_ms: int


@dataclass
class ReplicaRecord:
    """The record of a store, beside its objects: all of it changes in the call's transaction.

    `counter` is the last number given, `bundles` that of bundles, `passing` the copies that were taken for
    other sites, by the neighbour that is next. `owners` and `left_out` are what is known of all stores'
    numberings, `unsure` numbers below `counter` that are left out unless others know some of them,
    `quarantined` the replica GUIDs under which numbers were given twice. `once_heard` reaches for each
    replica GUID as high as what was heard and is not kept: of stores that left, of replicas that were
    dropped or began anew, of folders that are not held.
    """

    sender: Sender
    counter: int = 0
    clock: HybridClock = field(default_factory=HybridClock)
    owners: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    left_out: CNSet = field(default_factory=CNSet)
    unsure: CNSet = field(default_factory=CNSet)
    quarantined: frozenset[bytes] = frozenset()
    once_heard: CNSet = field(default_factory=CNSet)
    folders: dict[ObjectId, FolderState] = field(default_factory=dict)
    bundles: int = 0
    passing: dict[str, dict[BundleKey, Passing]] = field(default_factory=dict)

    def copy(self) -> ReplicaRecord:
        """A copy that does not change with this one."""
        return self.copy_with({folder: state.copy() for folder, state in self.folders.items()})

    def copy_with(self, folders: dict[ObjectId, FolderState]) -> ReplicaRecord:
        """A copy that does not change with this one, with these states of the folders."""
        copied = ReplicaRecord.__new__(ReplicaRecord)
        copied.__dict__.update(self.__dict__)
        copied.owners = dict(self.owners)
        copied.passing = {site: dict(copies) for site, copies in self.passing.items()}
        copied.folders = folders
        return copied

    def remember_reach(self, numbers: CNSet) -> None:
        """Keep how high a set reaches that is kept no more, or not at all: a store that goes back in time
        asks for that, and this one may be the last that heard of it."""
        for origin in numbers.origins():
            highest = numbers.highest(origin)
            if highest > self.once_heard.highest(origin):
                self.once_heard |= CNSet.full(origin, highest)

    def number_anew(self, origin: bytes) -> None:
        """Begin an incarnation above all that are known, under a new replica GUID; the counter goes on."""
        mine = (known for database, known in self.owners.values() if database == self.sender.database)
        incarnation = 1 + max(self.sender.incarnation, *mine, 0)
        self.begin(Sender(self.sender.database, incarnation, origin))

    def begin(self, sender: Sender) -> None:
        """Go on as an incarnation that has just begun.

        What the store knows stays known, its own changes of before as anybody's; its objects keep their
        numbers.
        """
        self.sender, self.unsure = sender, NOTHING
        self.owners[sender.origin] = (sender.database, sender.incarnation)
        for state in self.folders.values():
            state.own_last = state.broadcast_to = 0


@dataclass
class Waiting:
    """The hello of a start that is not complete (`hello`).

    `origin` is the replica GUID that is asked about, `last` the last number that the store remembers to have
    given under it. Once `is_anew`, numbers are given under a new one.
    """

    start: bytes
    origin: bytes
    last: int
    began_ms: int
    due_ms: int
    first_answer_ms: int = NEVER_MS
    answered: set[bytes] = field(default_factory=set)
    is_anew: bool = False
    went_back: bool = False


class Page(NamedTuple):
    """The pages of an answer that were made in one second and are on their way: the numbers in them, when the
    first was made, until when that is believed, and the bytes of the last one's content before it was
    packed."""

    numbers: CNSet
    made_ms: int
    until_ms: int
    content_bytes: int


class Asked(NamedTuple):
    """A request of another store that was taken on, and until when one like it may come late."""

    life: Life
    request: BackfillRequest
    until_ms: int


class Reading(NamedTuple):
    """A folder as it is read from its versions between two times: stamps too far ahead do not count."""

    versions: Versions[Any]
    since_ms: int
    until_ms: int
    folder: Folder


class Replica:
    """A store in the middle of a call: what all modules of the core work on."""

    def __init__(
        self,
        record: ReplicaRecord,
        tree: Tree,
        organisation: Organisation,
        preset: Preset,
        objects: ObjectStore,
        new_guid: Callable[[], bytes],
    ) -> None:
        self.record = record
        self.tree = tree
        self.organisation = organisation
        self.preset = preset
        self.objects = objects
        self.new_guid = new_guid
        self.waiting: Waiting | None = None
        self.is_doubtful = False  # others that did not answer the hello may know more of the numbering
        self.kept_back: list[Effect] = []
        self.withheld = NOTHING  # own numbers of changes that cannot be seen yet
        self.now_ms = 0
        self.wall_ms = 0
        self.effects: list[Effect] = []
        self.touched: set[ObjectId] = set()
        self.written: set[ObjectId] = set()  # folders whose record this call wrote
        self.fired: Counter[str] = Counter()
        self.down: frozenset[str] = frozenset()
        self.is_flowing = True  # whether content flowed, and was stopped, when that was last looked at
        self.is_stopped = False
        self.awaited_hierarchy: dict[bytes, Statement] = {}
        self.hierarchy_due_ms = 0
        self.lines: dict[str, Line] = {}
        self.cut: frozenset[str] = frozenset()  # the sites whose lines were, when they were last seen
        self.answers: dict[AnswerKey, Answer] = {}  # that are under way, with what is left of each
        self.pages: dict[AnswerKey, list[Page]] = {}  # of answers, that may be on their way
        self.asked_of_me: dict[AnswerKey, Asked] = {}  # of late, over links
        self.seen: dict[BundleKey, bool] = {}  # bundles, and whether one was taken for the site
        self.heard: dict[bytes, int] = {}
        self.rounds = Rounds()
        self.unanswered: Counter[bytes] = Counter()
        self.postponed: dict[bytes, dict[ObjectId, None]] = {}  # by store, to be asked when it is up
        self.links = StatedLinks()
        self.watches: dict[str, LinkWatch] = {}
        self.stated_ms: dict[str, int] = {}
        self.reports: dict[str, LinkReport] = {}
        self.status_asked_ms: dict[ObjectId, int] = {}  # by operators
        self.last_kept: set[ObjectId] = set()  # folders whose replica stays, though it was to leave
        self.unreachable: set[bytes] = set()  # as the transport of this store says
        self.too_large: dict[tuple[ObjectId, ObjectId], TooLarge] = {}  # by folder and object
        self.started_ms = 0
        self.traffic: dict[str, tuple[int, int]] = {}
        self.followed: SiteTree | None = None  # the tree by which marks were made
        self._sites: tuple[Organisation, frozenset[str], SiteTree] | None = None
        self.transit_ms: dict[tuple[ObjectId, bytes], int] = {}
        self._latest: tuple[Mapping[bytes, tuple[bytes, int]], int, dict[bytes, int]] = {}, 0, {}
        self._read: dict[ObjectId, Reading] = {}
        self._turned: dict[ObjectId, None] = {}  # that were read otherwise since, but for what changed
        self._reads_hold = -NEVER_MS, NEVER_MS  # between these times, for all folders that were read
        self._peers: dict[ObjectId, tuple[Mapping[bytes, ReplicaState], Mapping[bytes, ReplicaState]]] = {}
        self._lists: dict[ObjectId, tuple[Folder | None, Organisation, Mapping[bytes, ReplicaState]]] = {}
        record.owners[self.me.origin] = (self.me.database, self.me.incarnation)

    @property
    def me(self) -> Sender:
        """The identity with which the store signs its messages."""
        return self.record.sender

    @property
    def site(self) -> str:
        """The site of this store."""
        return self.organisation.servers[self.record.sender.database].site

    def site_tree(self) -> SiteTree:
        """The tree of the sites that have servers, from this store's site."""
        if self._sites is None or self._sites[0] is not self.organisation or self._sites[1] != self.down:
            servers = self.organisation.servers.values()
            sites = {server.site for server in servers if not server.is_removed} - {self.site}
            tree = site_tree(self.site, self.organisation.connectors, self.down).among(sites)
            self._sites = self.organisation, self.down, tree
        return self._sites[2]

    def state(self, folder: ObjectId) -> FolderState:
        """The state of a folder, made when there is none. Its due times are looked at again after this
        call."""
        self.touched.add(folder)
        state = self.record.folders.get(folder)
        if state is None:
            state = self.record.folders[folder] = FolderState()
        return state

    def held(self, folder: ObjectId) -> FolderState | None:
        """The state of a folder of which this store holds a replica."""
        state = self.record.folders.get(folder)
        return self.state(folder) if state and state.is_held else None

    def life(self, folder: ObjectId) -> Life:
        """The life of this store's replica of a folder."""
        return Life(self.me.incarnation, self.state(folder).life)

    def number(self, folder: ObjectId) -> ChangeNumber:
        """Give the next number to a change in `folder`; the numbers of other folders before it are gaps
        here.

        Before the hello is complete, and after one that left it in doubt, the old numbering may be one that
        went back in time: a new one begins.
        """
        self._begin_safe_numbering()
        self.record.counter = self.objects.next_number(self.record.counter)
        self.note_given(folder, self.record.counter)
        return ChangeNumber(self.me.origin, self.record.counter)

    def note_given(self, folder: ObjectId, last: int) -> None:
        """Note that the last own number in a folder is `last`: all below it that can be seen are had here."""
        state = self.state(folder)
        given = CNSet.of_range(self.me.origin, state.own_last + 1, last)
        state.knowledge.claim(given - self.record.left_out - self.withheld)
        self.fired["gaps_filled"] += last > state.own_last + 1
        state.own_last = max(state.own_last, last)
        if state.unsent_since_ms == NEVER_MS:
            state.unsent_since_ms = self.now_ms
        if self.now_ms - state.changed_ms > self.preset.broadcast_quiet_ms:
            state.burst_since_ms = self.now_ms
        state.changed_ms = self.now_ms
        state.look_for_tombstones(self.now_ms, self.preset.purge_interval_ms)

    def _begin_safe_numbering(self) -> None:
        if self.is_numbering_unsure:
            self.number_anew()

    @property
    def is_numbering_unsure(self) -> bool:
        """True while no number may be given under the replica GUID of now: it may have been given before."""
        return self.is_doubtful or (self.waiting is not None and not self.waiting.is_anew)

    def number_anew(self) -> None:
        """Begin an incarnation; what was to be sent in the name of the one before is not."""
        self.record.number_anew(self.new_guid())
        self._begun()

    def begin(self, sender: Sender) -> None:
        """Go on as an incarnation that the store itself began for its own changes."""
        self.record.begin(sender)
        self._begun()

    def _begun(self) -> None:
        self.touched.update(self.record.folders)
        self.kept_back.clear()
        self.fired["numbered_anew"] += 1
        self.is_doubtful = False
        if self.waiting is not None:
            self.waiting.is_anew = True

    def stamp(self) -> Stamp:
        """The stamp of a write of this store, later than all that it has seen."""
        self._begin_safe_numbering()
        self.record.clock = self.record.clock.next(self.wall_ms)
        return self.record.clock.stamp(self.me.origin)

    def witness(self, folder: ObjectId, version: MessageVersion | FolderVersion) -> None:
        """See the stamps of a write that arrived."""
        latest = version.latest_stamp
        if not latest.is_ahead(self.wall_ms):  # so none is, and all others are before it
            self.record.clock = self.record.clock.witnessed(latest, self.wall_ms)
            return
        for stamp in version.stamps():
            self.record.clock = self.record.clock.witnessed(stamp, self.wall_ms)
        self.report(Notice.STAMP_AHEAD, folder)

    def note_news(self, state: FolderState) -> None:
        """Something was applied or made in a folder: a status is due some time after the last of it."""
        state.news_ms = self.now_ms
        state.look_for_tombstones(self.now_ms, self.preset.purge_interval_ms)
        if state.unstated_since_ms == NEVER_MS:
            state.unstated_since_ms = self.now_ms

    def folder(self, folder: ObjectId) -> Folder | None:
        """The folder as it is read from the hierarchy; None when it is unknown or no version of it is
        left."""
        versions = self.objects.get(self.tree.hierarchy, folder)
        if versions is None or not versions.siblings:
            return None
        before = self._read.get(folder)
        if before and before.versions is versions and before.since_ms <= self.wall_ms < before.until_ms:
            return before.folder
        if before and before.versions is versions:
            self._turned[folder] = None
        read = Folder.read(versions, self.wall_ms)
        since_ms, until_ms = self._holds(versions)
        self._read[folder] = Reading(versions, since_ms, until_ms, read)
        self._reads_hold = max(self._reads_hold[0], since_ms), min(self._reads_hold[1], until_ms)
        return read

    def _holds(self, versions: Versions[Any]) -> tuple[int, int]:
        """The times between which the same stamps count as now."""
        latest_ms = max([version.latest_stamp for version in versions.siblings.values()]).time_ms
        if latest_ms - AHEAD_MS_MAX <= self.wall_ms:
            return latest_ms - AHEAD_MS_MAX, NEVER_MS
        stamps = (stamp for version in versions.siblings.values() for stamp in version.stamps())
        turns = [stamp.time_ms - AHEAD_MS_MAX for stamp in stamps]
        since_ms = max((turn_ms for turn_ms in turns if turn_ms <= self.wall_ms), default=-NEVER_MS)
        until_ms = min((turn_ms for turn_ms in turns if turn_ms > self.wall_ms), default=NEVER_MS)
        return since_ms, until_ms

    def read_otherwise(self) -> list[ObjectId]:
        """The folders that were read when other stamps were too far ahead to count: the clock was put right,
        or their time has come."""
        otherwise, self._turned = list(self._turned), {}
        if self._reads_hold[0] <= self.wall_ms < self._reads_hold[1]:
            return otherwise
        # What was read is read again at once; what was read before that does not narrow the times any more.
        self._reads_hold = -NEVER_MS, NEVER_MS
        for folder, reading in self._read.items():
            if reading.since_ms <= self.wall_ms < reading.until_ms:
                since_ms, until_ms = self._reads_hold
                self._reads_hold = max(since_ms, reading.since_ms), min(until_ms, reading.until_ms)
            else:
                otherwise.append(folder)
        return otherwise

    def content_flows(self) -> bool:
        """True unless content is stopped in the organisation, or may be, for all that this store knows."""
        return not (self.is_content_stopped() or self.lacks_hierarchy())

    def is_content_stopped(self) -> bool:
        """True while an operator's stop of content stands, as far as this store has heard."""
        return self.organisation.content.is_stopped_at(self.wall_ms)

    def lacks_hierarchy(self) -> bool:
        """True while stores that answered the hello of the start hold changes of the hierarchy that are
        missing here; for a day at most, since nobody may have them any more.

        One that went back in time since holds what it says in its later life.
        """
        if not self.awaited_hierarchy:
            return False
        state = self.record.folders.get(self.tree.hierarchy) or FolderState()
        if self.now_ms < self.hierarchy_due_ms and any(
            not self.organisation.is_removed(database) and _is_behind(state, database, said)
            for database, said in self.awaited_hierarchy.items()
        ):
            return True
        self.awaited_hierarchy.clear()
        return False

    def is_held_back(self, folder: ObjectId) -> bool:
        """True when nothing of a folder's content may leave this store now."""
        return folder != self.tree.hierarchy and not self.content_flows()

    def is_live(self, folder: ObjectId) -> bool:
        """True when the folder is not deleted.

        Of one that is, stores of the list may never have begun a replica, and nothing is asked for: a store
        with content that its deletion had not seen brings it back.
        """
        read = None if folder == self.tree.hierarchy else self.folder(folder)
        return folder == self.tree.hierarchy or (read is not None and read.is_live)

    def replica_states(self, folder: ObjectId, read: Folder | None = None) -> Mapping[bytes, ReplicaState]:
        """Read the replica list: the state of each store that was not removed from the tree.

        Where it names no active store, the one with the highest database GUID among those that are delete
        pending is active again: alike everywhere, so it is computed and never written.
        """
        if folder != self.tree.hierarchy:
            read = read or self.folder(folder)
        before = self._lists.get(folder)
        if before and before[0] is read and before[1] is self.organisation:
            return before[2]
        listed = self._list(read) if folder != self.tree.hierarchy else self._everywhere()
        self._lists[folder] = read, self.organisation, listed
        return listed

    def _everywhere(self) -> dict[bytes, ReplicaState]:
        stores = (self.me.database, *self.organisation.others(self.me.database))
        return dict.fromkeys(stores, ReplicaState.ACTIVE)

    def _list(self, read: Folder | None) -> dict[bytes, ReplicaState]:
        listed = {
            database: entry.value
            for database, entry in (read.replicas if read else {}).items()
            if not self.organisation.is_removed(database)
        }
        if listed and ReplicaState.ACTIVE not in listed.values():
            pending = [store for store, state in listed.items() if state is ReplicaState.DELETE_PENDING]
            listed[max(pending or listed)] = ReplicaState.ACTIVE
            self.fired["last_copy_kept"] += 1
        return listed

    def peers(self, folder: ObjectId) -> Mapping[bytes, ReplicaState]:
        """The other stores that hold a replica of the folder, delete pending ones too, by GUID."""
        states = self.replica_states(folder)
        before = self._peers.get(folder)
        if before and before[0] is states:
            return before[1]
        peers = {
            database: states[database]
            for database in sorted(states)
            if database != self.me.database and states[database] is not ReplicaState.REMOVED
        }
        self._peers[folder] = states, peers
        return peers

    def mates(self, folder: ObjectId) -> list[bytes]:
        """The other stores of this site that hold a replica of the folder."""
        servers = self.organisation.servers
        return [peer for peer in self.peers(folder) if servers[peer].site == self.site]

    def my_state(self, folder: ObjectId, read: Folder | None = None) -> ReplicaState:
        """The state of this store in the replica list."""
        return self.replica_states(folder, read).get(self.me.database, ReplicaState.REMOVED)

    def assumed(self, folder: ObjectId) -> CNSet:
        """Numbers that every other replica which had them states as expired: nobody can give them."""
        state = self.state(folder)
        expired = expired_by_all(state.rows)
        assumed = expired - state.knowledge.had if expired else expired
        if assumed:
            self.fired["assumed_expired"] += 1
        return assumed

    def send(self, to: bytes, folder: ObjectId, body: Body) -> None:
        """Send a message about a folder, with what this store has of it."""
        self.effects.append(Send(self.message(to, folder, body)))

    def send_at_rest(self, to: bytes, body: Body) -> None:
        """Send a message about all folders: it states nothing of any."""
        self.effects.append(Send(self.message_at_rest(to, body)))

    def message_at_rest(self, to: bytes, body: Body) -> Message:
        """A message about all folders, in the name of the hierarchy."""
        hierarchy = self.tree.hierarchy
        return Message(self.me, to, hierarchy, Statement(self.life(hierarchy), NOTHING, NOTHING), body)

    def message(self, to: bytes, folder: ObjectId, body: Body) -> Message:
        """A message about a folder, with what this store has of it."""
        return Message(self.me, to, folder, self.statement(folder), body)

    def statement(self, folder: ObjectId) -> Statement:
        """All that this store has of a folder.

        In the hierarchy nothing is let go by age, and what is set aside is not said to be: others would take
        it for gone, and for a gap what it had replaced, though that may live at some of them.
        """
        state = self.state(folder)
        expired = state.knowledge.expired
        if folder == self.tree.hierarchy:
            expired -= state.aside()
        return Statement(self.life(folder), state.knowledge.known, expired)

    def report(
        self,
        notice: Notice,
        folder: ObjectId,
        numbers: CNSet = NOTHING,
        object_id: ObjectId | None = None,
        accounts: Iterable[str] = (),
    ) -> None:
        """Tell the administrator, and people who have an account."""
        self.fired[notice.name.lower()] += 1
        self.effects.append(Report(notice, folder, numbers, object_id, tuple(accounts)))

    def has_ended(self, store: bytes, incarnation: int) -> bool:
        """True when a store is known to have begun a later numbering than that of an incarnation."""
        owners, (looked_at, count, latest) = self.record.owners, self._latest
        if looked_at is not owners or count != len(owners):  # what is known of an owner never changes
            latest = {}
            for owner, later in owners.values():
                latest[owner] = max(later, latest.get(owner, 0))
            self._latest = owners, len(owners), latest
        return latest.get(store, 0) > incarnation

    def numberings(self) -> Numberings:
        """All stores' numberings, as far as this store knows them."""
        return Numberings(dict(self.record.owners), self.record.left_out)

    def learn_numberings(self, numberings: Numberings) -> None:
        """Add what another store knows of numberings."""
        self.record.owners = {**numberings.owners, **self.record.owners}
        self.record.left_out |= numberings.left_out


def _is_behind(state: FolderState, store: bytes, said: Statement) -> bool:
    """True when numbers are missing here that a store stated, and has not lost since."""
    had, row = state.knowledge.had, state.rows.get(store)
    if had.covers(said.known):
        return False
    return row is None or row.life <= said.life or not had.covers(said.known & row.known)
