"""Crossings of links by each change when servers die or hang, links are cut or too slow, a site gets many
replicas at once, and content is resumed after a stop."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from pillarbox.replication.core import commands, writing
from pillarbox.replication.core.preset import DAY_MS, HOUR_MS, MINUTE_MS, PROMPT, SECOND_MS
from pillarbox.replication.ground.records import ObjectId, ReplicaState
from pillarbox.tools.bench.weighed import ACTOR, Weighed, show, star

FOLDERS: Final = 20
POST_BYTES: Final = 10_000  # which nothing packs
MANY_EVERY_MS: Final = 100
DRAIN_MS: Final = 30 * MINUTE_MS

Trouble = Callable[[Weighed], None]


class Case(NamedTuple):
    """A trouble that begins when a third of the posts were made, the time from one to the next, and from the
    last one to the end."""

    title: str
    trouble: Trouble
    wait_ms: int = 12 * HOUR_MS
    every_ms: int = SECOND_MS


def crossings(scale: float) -> None:
    """Crossings of a change when bridgeheads die or hang, a link is cut, and a site gets replicas at once."""
    for case in CASES:
        run(case, max(30, int(2_000 * scale)))
    resumed(max(30, int(2_000 * scale)))
    five_at_once(max(1_000, int(100_000 * scale)))


def run(case: Case, posts: int) -> None:
    """Run a case and print what crossed the links."""
    world = Weighed(*star(), PROMPT)
    folders, rng = world.folders(FOLDERS), random.Random(5)
    for number, raw in enumerate(_raws(rng, posts)):
        if number == posts // 3:
            case.trouble(world)
        able = [store for store in world.running() if store.deaf_until_ms <= world.now_ms]
        world.post(rng.choice(able), rng.choice(folders), raw)
        world.run_until(world.now_ms + case.every_ms)
    world.run_until(world.now_ms + case.wait_ms)
    _show(world, f"{case.title}, {posts:,} posts", folders)


def _raws(rng: random.Random, count: int) -> Iterator[bytes]:
    for number in range(count):
        yield b"Subject: %d\r\n\r\n" % number + rng.randbytes(POST_BYTES)


def _show(world: Weighed, title: str, folders: Sequence[ObjectId]) -> None:
    show(world, f"{title}; equal: {world.held(folders)}")
    mean, most = world.crossings()
    late = f"latest after {world.latest_ms / SECOND_MS:,.0f} s"
    print(f"  of a change: {mean:.3f} crossings as the mean of the worst link, {most} at most, {late}")


def _nothing(world: Weighed) -> None:
    """Nothing happens."""


def _dies(world: Weighed) -> None:
    for store in world.stores[2::3]:
        world.down.add(store.database)


def _hangs(world: Weighed) -> None:
    for store in world.stores[2::3]:
        store.deaf_until_ms = world.now_ms + DAY_MS


def _cut(world: Weighed) -> None:
    for pair in (("a", "c"), ("c", "a")):
        world.network.link(*pair).cut_until_ms = world.now_ms + 10 * HOUR_MS


def _slow(world: Weighed) -> None:
    world.slow_down(POST_BYTES / MANY_EVERY_MS / 10)


CASES: Final = (
    Case("nothing happens", _nothing),
    Case("a server of each site dies", _dies),
    Case("a server of each site hangs for a day", _hangs),
    Case("the link from a to c is cut for ten hours", _cut, DAY_MS),
    Case("links take a tenth of what comes", _slow, every_ms=MANY_EVERY_MS),
)


def resumed(posts: int) -> None:
    """Content is resumed after a day's stop, with a backlog that links need half an hour for."""
    world = Weighed(*star(), PROMPT)
    folders, rng = world.folders(FOLDERS), random.Random(6)
    world.make_data(world.stores[0])
    world.run_until(world.now_ms + HOUR_MS)
    world.local(world.stores[0], lambda replica: commands.stop_content(replica, ACTOR))
    world.run_until(world.now_ms + MINUTE_MS)
    world.forget()
    for raw in _raws(rng, posts):
        world.post(rng.choice(world.stores), rng.choice(folders), raw)
        world.run_until(world.now_ms + DAY_MS // posts)
    crossed = sum(link.crossings for hop, link in world.network.links.items() if hop[0] != hop[1])
    world.slow_down(posts * POST_BYTES / DRAIN_MS)
    world.local(world.stores[0], lambda replica: commands.resume_content(replica, ACTOR))
    world.run_until(world.now_ms + 12 * HOUR_MS)
    _show(world, f"resumed after a day's stop, {posts:,} posts, {crossed} crossings before", folders)


def five_at_once(messages: int) -> None:
    """All five stores of a site get a replica of a large folder at once."""
    world = Weighed("aaaaabbbbb", [("a", "b")], PROMPT)
    (folder,) = world.folders(1, world.stores[:5])
    for number in range(messages):
        world.post(world.stores[number % 5], folder, b"Subject: %d\r\n\r\n" % number * 20)
    world.run_until(world.now_ms + HOUR_MS)
    world.forget()
    added = {store.database: ReplicaState.ACTIVE for store in world.stores[5:]}
    world.local(
        world.stores[0], lambda replica: writing.change_folder(replica, folder, ACTOR, replicas=added)
    )
    world.run_until(world.now_ms + DAY_MS)
    _show(world, f"five replicas of {messages:,} messages added at once", [folder])
