"""The outbox: one line to each neighbour site, with marks of what that site and those behind it still need.

It keeps which numbers are for which site, not messages: a bundle is made when a line has room for it. So a
backlog costs no memory, packs are full, and what was replaced meanwhile is not sent. Marks are part of the
store's record, and go with the receipt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import reduce
from operator import and_
from typing import Final

from pillarbox.replication.core import folder_settings, mates, too_large
from pillarbox.replication.core.effects import Answer, AnswerKey, GiveReceipt, Pass
from pillarbox.replication.core.folder_settings import Priority
from pillarbox.replication.core.line import Flight, Item, Kind, Line
from pillarbox.replication.core.packing import OBJECT_BYTES, PACK_BYTES_MAX, bytes_of, packs, pair_of
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import NEVER_MS, Row
from pillarbox.replication.ground.knowledge import NOTHING
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.replication.organisation import opening
from pillarbox.replication.organisation.bridgeheads import bucket_of, in_order
from pillarbox.replication.organisation.site_tree import SiteTree
from pillarbox.replication.wire.messages import (
    BUNDLE_MESSAGES_MAX,
    EVERYONE,
    Bundle,
    BundleKey,
    Changes,
    Class,
    Label,
    LinkReport,
    Message,
    Receipt,
    RestSums,
    Says,
)
from pillarbox.store.change_number import CNSet

_CLASSES: Final = {
    Priority.URGENT: Class.URGENT,
    Priority.NORMAL: Class.CHANGES,
    Priority.LOW: Class.ANSWERS,
}


def restart(replica: Replica) -> None:
    """Begin with empty lines, and with all that the record says still waits."""
    replica.lines.clear()
    replica.answers.clear()
    put_back(replica)


def take_back_content(replica: Replica) -> None:
    """Take back what is on its way of content and has no receipt: it goes again when content flows again.
    Changes of the hierarchy that were in one bundle with it take their turn again now."""
    for line in replica.lines.values():
        for key, flight in list(line.flights.items()):
            if is_held_back(replica, flight.bundle):
                del line.flights[key]
                for folder in flight.numbers:
                    if not replica.is_held_back(folder):
                        _wait(replica, line.site, folder)


def drop_answers(replica: Replica) -> None:
    """Drop the answers of content that are under way: who still lacks it asks again."""
    for answer in [each for each in replica.answers if replica.is_held_back(each.folder)]:
        del replica.answers[answer]
    for key in [key for key in replica.asked_of_me if replica.is_held_back(key.folder)]:
        del replica.asked_of_me[key]


def put_back(replica: Replica) -> None:
    """Let all that the record says still waits take its turn; what waits already keeps its place."""
    for folder, state in replica.record.folders.items():
        for site in state.marks:
            _wait(replica, site, folder)
    for site, copies in replica.record.passing.items():
        line = line_to(replica, site)
        for key, copy in copies.items():
            if key not in line.flights:
                line.turns.put(copy.bundle.of, Item(Kind.COPY, key))
    _put_back_answers(replica)


def _put_back_answers(replica: Replica) -> None:
    for key in replica.answers:
        if not any(key in line.pages for line in replica.lines.values()):
            _wait_for_page(replica, key)


def is_held_back(replica: Replica, bundle: Bundle) -> bool:
    """True when a bundle carries content, and none may leave this store now."""
    return any(
        isinstance(message.body, Changes) and replica.is_held_back(message.folder)
        for message in bundle.messages
    )


def is_open_to(replica: Replica, site: str) -> bool:
    """True unless the way to a site is down, as far as is seen here: no request is put into its queue."""
    path = replica.site_tree().path(site)
    line = replica.lines.get(path[1]) if len(path) > 1 else None
    return line is None or not line.is_cut()


def line_to(replica: Replica, site: str) -> Line:
    """The line to a site, made when there is none."""
    return replica.lines.setdefault(site, Line(site))


def mark(replica: Replica, folder: ObjectId, numbers: CNSet) -> None:
    """Note numbers of this store's own for each neighbour site that has replicas of the folder, or has sites
    behind it that do.
    """
    wanted, tree, state = sites_of(replica, folder), replica.site_tree(), replica.state(folder)
    for site in tree.children(tree.root):
        if wanted.intersection(tree.below(site)):
            state.marks[site] = state.marks.get(site, CNSet()) | numbers
            _wait(replica, site, folder)


def mark_status(replica: Replica, folder: ObjectId) -> None:
    """Note that the neighbour sites are to be told what this site has of a folder.

    A status that still waits is made when its turn comes, so an older one is replaced by that.
    """
    wanted, tree = sites_of(replica, folder), replica.site_tree()
    for site in tree.children(tree.root):
        if wanted.intersection(tree.below(site)):
            line_to(replica, site).turns.put(Class.URGENT, Item(Kind.STATUS, folder))


def mark_link(replica: Replica, report: LinkReport) -> None:
    """Note that all other sites are to be told the state of a connector; one that still waits is replaced."""
    replica.reports[report.connector] = report
    tree = replica.site_tree()
    for site in tree.children(tree.root):
        line_to(replica, site).turns.put(Class.URGENT, Item(Kind.LINK, report.connector))


def mark_rest(replica: Replica) -> None:
    """Note that all other sites are to be told the sums of this one; older ones that still wait are
    replaced."""
    tree = replica.site_tree()
    for site in tree.children(tree.root):
        line_to(replica, site).turns.put(Class.URGENT, Item(Kind.REST, ""))


def answer(replica: Replica, answer: Answer) -> None:
    """Take an answer on: its pages take their turns on the line to the asker's site, behind all that is new.

    One that is under way to the same asker is replaced. A page whose turn has come is an effect.
    """
    replica.answers[answer.key] = answer
    _wait_for_page(replica, answer.key)


def withdraw(replica: Replica, key: AnswerKey) -> None:
    """Send no more of an answer: who asked has got it all by other ways."""
    replica.answers.pop(key, None)


def page_taken(replica: Replica, key: AnswerKey) -> None:
    """The link has taken a page of an answer, or it goes nowhere: what is left waits for its next turn."""
    for line in replica.lines.values():
        line.pages.discard(key)
    if key in replica.answers:
        _wait_for_page(replica, key)


def _wait_for_page(replica: Replica, key: AnswerKey) -> None:
    line = line_of(replica, key)
    if key not in line.pages:
        line.turns.put(Class.ANSWERS, Item(Kind.PAGE, key))


def line_of(replica: Replica, key: AnswerKey) -> Line:
    """The line that leads to an asker; that of this site also for one to which no way leads."""
    server = replica.organisation.servers.get(key.asker)
    path = replica.site_tree().path(server.site) if server else ()
    return line_to(replica, path[1] if len(path) > 1 else replica.site)


def mark_again(replica: Replica, before: SiteTree) -> None:
    """The tree has changed: what sites behind a neighbour did not take goes by the one that leads to them
    now as well; to no other, which would get it again for nothing. Answers go by the lines of now."""
    _put_back_answers(replica)
    tree = replica.site_tree()
    for folder, state in replica.record.folders.items():
        marks, wanted = dict(state.marks), sites_of(replica, folder) if state.marks else set()
        for site in tree.children(tree.root) if marks else ():
            behind = wanted.intersection(tree.below(site))
            for other, numbers in marks.items():
                if behind.intersection(before.below(other)):
                    state.marks[site] = state.marks.get(site, CNSet()) | numbers
                    _wait(replica, site, folder)


def give_up(replica: Replica, site: str) -> None:
    """Forget all that waits for a site. What is behind it is sent by other ways, or asked for."""
    replica.lines.pop(site, None)
    replica.record.passing.pop(site, None)
    for folder, state in replica.record.folders.items():
        if state.marks.pop(site, None) is not None:
            replica.touched.add(folder)


def drop_removed(replica: Replica) -> None:
    """Drop the copies of stores that were removed from the tree: nobody takes what they say any more."""
    for site, copies in replica.record.passing.items():
        for key in [key for key in copies if replica.organisation.is_removed(key.database)]:
            del copies[key]
            if (line := replica.lines.get(site)) is not None:
                line.flights.pop(key, None)
            replica.fired["copy_of_removed"] += 1


def sites_of(replica: Replica, folder: ObjectId) -> set[str]:
    """The other sites that have a replica of the folder."""
    servers = replica.organisation.servers
    return {servers[peer].site for peer in replica.peers(folder)} - {replica.site}


def _wait(replica: Replica, site: str, folder: ObjectId) -> None:
    line_to(replica, site).turns.put(class_of(replica, folder), Item(Kind.CHANGES, folder))


def class_of(replica: Replica, folder: ObjectId) -> Class:
    """The class of a folder's changes by its priority; those of the hierarchy are urgent."""
    return _CLASSES[folder_settings.priority_of(replica, folder)]


# --- handing over -------------------------------------------------------------------------------------------


def open_lines(replica: Replica) -> list[Line]:
    """The lines over which something may go now; mail for the others waits for its connectors' schedules."""
    organisation, lines = replica.organisation, list(replica.lines.values())
    if not organisation.scheduled:
        return lines
    site, now_ms = replica.site, replica.wall_ms
    return [line for line in lines if not opening.is_shut(organisation, site, line.site, now_ms)]


def pump(replica: Replica) -> None:
    """Make bundles for every line that has room, and send them off."""
    for line in open_lines(replica):
        while (taken := _take(replica, line)) is not None:
            of, item = taken
            if isinstance(item.key, AnswerKey):
                _page(replica, line, item.key)
                continue
            is_beside = not line.has_room()
            flight = _flight(replica, line, of, item)
            if flight is not None:
                line.gives_receipts |= not line.flights
                flight.is_beside = is_beside
                line.flights[flight.bundle.key] = flight
                _launch(replica, line, flight)


def _take(replica: Replica, line: Line) -> tuple[Class, Item] | None:
    """Take what is to go over a line now; None where nothing waits for which there is room. Urgent changes
    have room when nothing else has."""
    if line.has_room():
        return line.turns.take()
    if line.has_urgent_room():
        for item in line.turns.waiting(Class.URGENT):
            if _is_of_changes(replica, line, item):
                line.turns.drop(item)
                return Class.URGENT, item
    return None


def _is_of_changes(replica: Replica, line: Line, item: Item) -> bool:
    if isinstance(item.key, BundleKey):
        copy = replica.record.passing.get(line.site, {}).get(item.key)
        return copy is not None and isinstance(copy.bundle.messages[0].body, Changes)
    return item.kind is Kind.CHANGES


def _page(replica: Replica, line: Line, key: AnswerKey) -> None:
    """Let the node send the next page of an answer, unless that is over, or goes by another line now. Of
    content none goes while that is held back: all take their turns again afterwards."""
    answer = None if replica.is_held_back(key.folder) else replica.answers.get(key)
    if answer is not None and line is line_of(replica, key):
        line.pages.add(key)
        replica.effects.append(answer)


def _launch(replica: Replica, line: Line, flight: Flight) -> None:
    """Give the copy to the first server of the site that can be reached and is not silent; wait while there
    is none.

    One that was given it before is asked whether it has it. A link that is cut, or takes nothing back, would
    carry all of it again and again. A copy that no server takes though it answers goes no more, or it would
    keep back all behind it: those who lack what is in it ask.
    """
    known = servers_of(replica, line.site, flight.bundle)
    servers = [server for server in known if server not in replica.unreachable]
    if line.aim(flight, servers, replica.now_ms):
        if flight.is_asking:
            _ask(replica, flight)
        else:
            _give(replica, line, flight)
    elif any(map(flight.is_refused_by, servers)):
        replica.fired["copy_given_up"] += 1
        _end(replica, line, flight.bundle.key)
    else:
        line.gives_receipts = False


def _give(replica: Replica, line: Line, flight: Flight) -> None:
    flight.given[flight.to] = replica.now_ms
    waits_ms = max(flight.behind_ms, int(len(line.turns) > 0))
    label = Label(flight.to, flight.hops + 1, True, waits_ms)
    replica.effects.append(Pass(label, flight.bundle))


def _ask(replica: Replica, flight: Flight) -> None:
    replica.fired["receipt_asked"] += 1
    asked = Receipt(flight.bundle.key, replica.me.database, Says.ASKS)
    replica.effects.append(GiveReceipt(flight.to, asked))


def servers_of(replica: Replica, site: str, bundle: Bundle) -> list[bytes]:
    """The servers of a site in the order in which they are tried; those that leave a folder of it last."""
    leaving = {
        store
        for message in bundle.messages[:1]
        for store, state in replica.peers(message.folder).items()
        if state is ReplicaState.DELETE_PENDING
    }
    return in_order(replica.organisation.at(site), bundle.bucket, late=leaving)


def receipt_came(replica: Replica, receipt: Receipt) -> None:
    """A server has taken a copy: its marks go. One that refuses it is passed over for a while; one that was
    given it before and says that it has not got it gets it again.

    A copy that is passed on to several sites has one key: the receipt counts for the site of its giver.
    """
    giver = replica.organisation.servers.get(receipt.by)
    for line in replica.lines.values():
        flight = line.flights.get(receipt.key)
        if flight is None or giver is None or giver.site != line.site:
            continue
        if receipt.says is Says.NOT_TAKEN:
            if flight.to == receipt.by:
                _denied(replica, line, flight)
            return
        if receipt.says is Says.REFUSED:
            line.refused(flight, receipt.by, replica.now_ms)
            _launch(replica, line, flight)
            return
        line.silent.pop(receipt.by, None)
        line.took(flight, receipt.by, replica.now_ms)
        _end(replica, line, receipt.key)
        _launch_stalled(replica, line)
        return


def _denied(replica: Replica, line: Line, flight: Flight) -> None:
    """The server that a copy is for has not got it. One that was asked first gets it now, unless all behind
    it have what is in it; one to which it is on its way yet is waited for."""
    if not flight.is_asking:
        if flight.sent_ms != NEVER_MS:  # else it answers a question of before
            flight.denied()
    elif is_had_behind(replica, line.site, flight.bundle):
        _end(replica, line, flight.bundle.key)
    else:
        flight.is_asking, flight.asks, flight.given_ms = False, 0, replica.now_ms
        _give(replica, line, flight)


def lost_link(replica: Replica, server: bytes) -> None:
    """A server cannot be reached: what was on its way there goes to the next one, or waits."""
    for line in replica.lines.values():
        for flight in [each for each in line.flights.values() if each.to == server]:
            _launch(replica, line, flight)


def try_again(replica: Replica, server: bytes) -> None:
    """A server can be reached again: what waits for one of its site goes."""
    for line in replica.lines.values():
        line.silent.pop(server, None)
        if server in replica.organisation.at(line.site):
            line.gives_receipts = True
            _launch_stalled(replica, line)


def try_all_again(replica: Replica) -> None:
    """Try what waits for silent servers: a connector is up again, as some store states, though this one did
    not see it. Else it would be asked for before the lines try again, and cross twice."""
    for line in replica.lines.values():
        if line.stalled():
            line.silent.clear()
            _launch_stalled(replica, line)


def _launch_stalled(replica: Replica, line: Line) -> None:
    for flight in line.stalled():
        _launch(replica, line, flight)


def _end(replica: Replica, line: Line, key: BundleKey) -> None:
    """A server has taken a bundle: for its site, and for those that its tree leads to from there, whatever
    other neighbour was to lead to them before."""
    flight = line.flights.pop(key)
    copies = replica.record.passing.get(line.site, {})
    copies.pop(key, None)
    tree, taken = replica.site_tree(), {site for pair in flight.bundle.tree for site in pair}
    for folder, numbers in flight.numbers.items():
        wanted = sites_of(replica, folder)
        for site in list(replica.state(folder).marks):
            if site == line.site or taken.issuperset(wanted.intersection(tree.below(site))):
                _unmark(replica, site, folder, numbers)


def _unmark(replica: Replica, site: str, folder: ObjectId, numbers: CNSet) -> None:
    state = replica.state(folder)
    left = state.marks.get(site, CNSet()) - numbers
    if left:
        state.marks[site] = left
    else:
        state.marks.pop(site, None)


def on_its_way(replica: Replica, folder: ObjectId, site: str) -> CNSet:
    """The numbers of a folder that go to a site by the lines, without being asked for; none while the line is
    shut, or nobody there gives receipts, and none of a copy that content holds back."""
    organisation, path = replica.organisation, replica.site_tree().path(site)
    line = replica.lines.get(path[1]) if len(path) > 1 else None
    if (
        line is None
        or line.is_cut()
        or opening.is_shut(organisation, replica.site, line.site, replica.wall_ms)
    ):
        return NOTHING
    numbers = replica.state(folder).marks.get(line.site, NOTHING)
    for copy in replica.record.passing.get(line.site, {}).values():
        if any(site in pair for pair in copy.bundle.tree) and not is_held_back(replica, copy.bundle):
            for message in copy.bundle.messages:
                if message.folder == folder and isinstance(message.body, Changes):
                    numbers |= CNSet.of(n for _, versions in message.body.objects for n in versions.entries())
    return numbers


def had_behind(replica: Replica, folder: ObjectId, sites: Iterable[str]) -> CNSet:
    """The numbers that all replicas of a folder in some sites have, as far as they said."""
    state, servers, among = replica.held(folder), replica.organisation.servers, {*sites}
    peers = [peer for peer in replica.peers(folder) if servers[peer].site in among]
    if state is None or not peers:
        return NOTHING
    rows = [state.rows.get(peer, Row()) for peer in peers]
    if any(row.is_doubted for row in rows):
        return NOTHING
    return reduce(and_, (row.had for row in rows))


def is_had_behind(replica: Replica, site: str, bundle: Bundle) -> bool:
    """True when all replicas behind a neighbour site have what a bundle carries, which came there by another
    way while it waited."""
    sites = tuple(SiteTree.of_pairs(replica.site, bundle.tree).below(site))
    for message in bundle.messages:
        if not isinstance(message.body, Changes):
            return False
        carried = CNSet.of(n for _, versions in message.body.objects for n in versions.entries())
        if not had_behind(replica, message.folder, sites).covers(carried | message.body.pair.gaps):
            return False
    return True


def take_back(replica: Replica, key: BundleKey) -> None:
    """Take back a bundle of this store that could not be sealed: what is in it takes its turn again."""
    for line in replica.lines.values():
        flight = line.flights.pop(key, None)
        for folder in flight.numbers if flight else ():
            _wait(replica, line.site, folder)


def sent(replica: Replica, key: BundleKey, to: bytes, packed_bytes: int) -> None:
    """The link has taken a bundle: its receipt is due."""
    for line in replica.lines.values():
        line.sent(key, to, packed_bytes, replica.now_ms)


def retry(replica: Replica) -> None:
    """Give copies whose receipts are overdue to the next servers; before that, ask for the receipts."""
    for line in open_lines(replica):
        for flight in line.overdue(replica.now_ms):
            replica.fired["receipt_overdue"] += bool(flight.to)
            _launch(replica, line, flight)
        for flight in line.to_ask(replica.now_ms):
            _ask(replica, flight)


def due_ms(replica: Replica) -> int:
    """The time at which a receipt is overdue, or a silent server is tried again."""
    return min([line.due_ms() for line in open_lines(replica) if line.flights], default=NEVER_MS)


# --- making bundles -----------------------------------------------------------------------------------------


def _flight(replica: Replica, line: Line, of: Class, item: Item) -> Flight | None:
    """The bundle that an item stands for; None when nothing of it is left to send."""
    if isinstance(item.key, BundleKey):
        copy = replica.record.passing.get(line.site, {}).get(item.key)
        if copy is None or is_held_back(replica, copy.bundle):
            return None
        if is_had_behind(replica, line.site, copy.bundle):
            del replica.record.passing[line.site][item.key]
            return None
        return Flight(copy.bundle, copy.hops, behind_ms=copy.behind_ms)
    if isinstance(item.key, str):
        said = replica.rounds.said if item.kind is Kind.REST else replica.reports[item.key]
        return _to_all(replica, line, said) if said else None
    assert not isinstance(item.key, AnswerKey)
    branch = _branch(replica, line.site, item.key)
    if branch is None or replica.held(item.key) is None:
        replica.state(item.key).marks.pop(line.site, None)
        return None
    if item.kind is Kind.STATUS:
        return _statuses(replica, line, of, item.key, branch)
    if replica.is_held_back(item.key):
        return None
    return _changes(replica, line, of, item.key, branch)


def _branch(replica: Replica, site: str, folder: ObjectId) -> SiteTree | None:
    """The part of the tree behind a neighbour that has replicas of a folder."""
    tree = replica.site_tree()
    if site not in tree.children(tree.root):
        return None
    wanted = sites_of(replica, folder).intersection(tree.below(site))
    return tree.pruned(wanted) if wanted else None


def _fellows(
    replica: Replica, line: Line, of: Class, kind: Kind, first: ObjectId, branch: SiteTree
) -> Iterator[ObjectId]:
    """The folder, then others that may go in one bundle with it: to the same server, and the same way.

    Those of its bucket are among them; with them alone a site's many buckets would leave packs half empty.
    """
    yield first
    takers = {bucket_of(first): _taker(replica, line, first)}
    for item in line.turns.waiting(of):
        folder = item.key
        if item.kind is not kind or isinstance(folder, BundleKey | AnswerKey | str):
            continue
        bucket = bucket_of(folder)
        if bucket not in takers:
            takers[bucket] = _taker(replica, line, folder)
        if takers[bucket] == takers[bucket_of(first)] and _branch(replica, line.site, folder) == branch:
            line.turns.drop(item)
            yield folder


def _taker(replica: Replica, line: Line, folder: ObjectId) -> bytes | None:
    """The server that is tried first for a folder now."""
    order = in_order(replica.organisation.at(line.site), bucket_of(folder))
    passed_over = replica.unreachable.union(line.silent)
    return next((server for server in order if server not in passed_over), None)


def _changes(replica: Replica, line: Line, of: Class, first: ObjectId, branch: SiteTree) -> Flight | None:
    """A bundle of changes: of one folder, and of others while there is room in it when it is packed."""
    messages: list[Message] = []
    numbers: dict[ObjectId, CNSet] = {}
    room = limit = int(PACK_BYTES_MAX / line.packed_part)
    for folder in _fellows(replica, line, of, Kind.CHANGES, first, branch):
        _unmark(replica, line.site, folder, had_behind(replica, folder, branch.below(line.site)))
        pending = replica.state(folder).marks.get(line.site, CNSet()) - line.in_flight(folder)
        if not pending:
            continue
        found = too_large.sendable(replica, folder, replica.objects.found(folder, pending))
        objects = next(packs(replica, folder, found, room))
        objects_bytes = sum(bytes_of(versions) for _, versions in objects)
        if messages and objects_bytes > room:
            _wait(replica, line.site, folder)
            break
        carried = pending
        if len(objects) < len(found):
            _wait(replica, line.site, folder)
            carried = pending & CNSet.of(n for _, versions in objects for n in versions.entries())
        messages.append(
            replica.message(EVERYONE, folder, Changes(objects, pair_of(replica, folder, pending)))
        )
        numbers[folder] = carried
        room -= OBJECT_BYTES + objects_bytes
        if room <= 0 or len(messages) >= BUNDLE_MESSAGES_MAX or carried != pending:
            break
    if not messages:
        return None
    bundle = _bundle(replica, of, first, branch, messages)
    return Flight(bundle, 0, numbers, content_bytes=limit - room)


def _statuses(replica: Replica, line: Line, of: Class, first: ObjectId, branch: SiteTree) -> Flight | None:
    """A bundle of statuses. One of a folder whose changes wait here comes behind them."""
    messages: list[Message] = []
    for folder in _fellows(replica, line, of, Kind.STATUS, first, branch):
        if replica.held(folder) is None:
            continue
        waits = replica.state(folder).marks.get(line.site, CNSet()) - line.in_flight(folder)
        if waits and not replica.is_held_back(folder):
            _wait(replica, line.site, folder)  # it would wait behind nothing for ever
            line.turns.put(Class.CHANGES, Item(Kind.STATUS, folder))
            continue
        messages.append(replica.message(EVERYONE, folder, mates.site_status(replica, folder)))
        if len(messages) >= BUNDLE_MESSAGES_MAX:
            break
    return Flight(_bundle(replica, Class.URGENT, first, branch, messages), 0) if messages else None


def _to_all(replica: Replica, line: Line, told: LinkReport | RestSums) -> Flight | None:
    """A bundle for all sites behind a neighbour."""
    tree, folder = replica.site_tree(), replica.tree.hierarchy
    if line.site not in tree.children(tree.root):
        return None
    is_at_rest = isinstance(told, RestSums)
    said = [
        replica.message_at_rest(EVERYONE, told) if is_at_rest else replica.message(EVERYONE, folder, told)
    ]
    return Flight(_bundle(replica, Class.URGENT, folder, tree.branch(line.site), said), 0)


def _bundle(
    replica: Replica, of: Class, folder: ObjectId, branch: SiteTree, messages: Collection[Message]
) -> Bundle:
    replica.record.bundles += 1
    return Bundle(replica.me, replica.record.bundles, of, bucket_of(folder), branch.pairs(), tuple(messages))
