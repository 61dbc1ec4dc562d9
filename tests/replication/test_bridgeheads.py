"""Bridgeheads by rendezvous hash: all agree, load is spread, and who goes moves only its own share."""

from __future__ import annotations

from collections import Counter

from pillarbox.replication.ground.records import ObjectId
from pillarbox.replication.organisation.bridgeheads import BUCKETS_COUNT, bucket_of, in_order, rank

SERVERS = [bytes([65 + k]) * 16 for k in range(4)]


def test_all_agree_whatever_order_they_list_the_servers_in() -> None:
    for bucket in range(BUCKETS_COUNT):
        assert in_order(SERVERS, bucket) == in_order(SERVERS[::-1], bucket)


def test_buckets_are_spread_and_a_server_that_goes_moves_only_its_own() -> None:
    first = [in_order(SERVERS, bucket)[0] for bucket in range(BUCKETS_COUNT)]
    assert min(Counter(first).values()) >= BUCKETS_COUNT // 4 // 3
    without = [in_order(SERVERS[1:], bucket)[0] for bucket in range(BUCKETS_COUNT)]
    assert all(before in (after, SERVERS[0]) for before, after in zip(first, without, strict=True))


def test_servers_that_are_late_are_tried_last() -> None:
    for bucket in range(BUCKETS_COUNT):
        order = in_order(SERVERS, bucket, late=SERVERS[:2])
        assert set(order[2:]) == set(SERVERS[:2])
        assert order[:2] == in_order(SERVERS[2:], bucket)


def test_each_replica_of_a_site_has_a_rank_of_its_own_and_folders_differ_in_it() -> None:
    firsts = set()
    for counter in range(1, 40):
        folder = ObjectId(b"f" * 16, counter)
        ranks = [rank(server, SERVERS, folder) for server in SERVERS]
        assert sorted(ranks) == [0, 1, 2, 3]
        firsts.add(ranks.index(0))
    assert len(firsts) == 4


def test_folders_fall_into_sixty_four_buckets() -> None:
    buckets = {bucket_of(ObjectId(b"f" * 16, counter)) for counter in range(1, 2000)}
    assert buckets == set(range(BUCKETS_COUNT))
