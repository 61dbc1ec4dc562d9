"""The NATS transport with a cluster, whose streams have replicas: one server of it dies at a time."""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Empty

import pytest

pytest.importorskip("nats", reason="nats-py (the extra `nats`) is not installed")

from arrivals import RecordedArrivals
from free_ports import free_ports
from nats.aio.client import Client
from nats.js.api import DiscardPolicy, RetentionPolicy, StreamConfig
from nats.js.errors import APIError, ServiceUnavailableError
from nats_server import NatsServer, require_nats

from pillarbox.replication.transports.nats import NatsTransport
from pillarbox.replication.transports.nats_settings import NatsSettings
from pillarbox.replication.transports.nats_streams import Names
from pillarbox.replication.transports.transport import Member

pytestmark = pytest.mark.slow

A, B, TREE = b"\1" * 16, b"\2" * 16, b"\t" * 16
SITES = {A: "berlin", B: "paris"}
NAMES = Names(TREE)
WAIT_S = 120
DEATHS = 1 if os.environ.get("PILLARBOX_CAMPAIGN") == "short" else 3


@pytest.fixture
def cluster(tmp_path: Path) -> list[NatsServer]:
    """Three servers of one cluster, not started."""
    require_nats()
    ports = free_ports(3)
    routes = ", ".join(f"nats-route://127.0.0.1:{port}" for port in ports)
    return [
        NatsServer(
            tmp_path / f"server{number}",
            f"server_name: s{number}\n"
            f'cluster {{ name: C, listen: "127.0.0.1:{port}", routes: [{routes}] }}\n',
        )
        for number, port in enumerate(ports)
    ]


async def make_streams(addresses: list[str]) -> None:
    """Make the streams of both sites, with a replica at each server, once the cluster has a leader."""
    connection = Client()
    await connection.connect(servers=[f"nats://{address}" for address in addresses])
    until_s = time.monotonic() + WAIT_S
    for site in SITES.values():
        config = StreamConfig(
            name=NAMES.stream(site),
            subjects=[NAMES.subjects(site)],
            retention=RetentionPolicy.WORK_QUEUE,
            discard=DiscardPolicy.NEW,
            num_replicas=3,
        )
        while True:
            try:
                await connection.jetstream().add_stream(config)
                break
            except (APIError, ServiceUnavailableError, TimeoutError):
                assert time.monotonic() < until_s, "the cluster has no leader"
                await asyncio.sleep(0.2)
    await connection.close()


def comes(transport: NatsTransport, to: bytes, frame: bytes, told: RecordedArrivals) -> None:
    """Give a frame until it has come: what was taken for a link that went down may be lost."""
    until_s = time.monotonic() + WAIT_S
    while True:
        transport.give(to, frame)
        with suppress(Empty):
            while told.frames.get(timeout=1)[1] != frame:
                pass
            return
        assert time.monotonic() < until_s, f"{frame!r} has not come"


def test_whichever_server_of_a_cluster_dies_frames_come_again(cluster: list[NatsServer]) -> None:
    addresses = [server.address for server in cluster]
    with ExitStack() as stack:
        for server in cluster:
            stack.callback(server.kill)
            server.start()
        asyncio.run(make_streams(addresses))
        told = {A: RecordedArrivals(), B: RecordedArrivals()}
        transports = {
            each: NatsTransport(each, TREE, NatsSettings(tuple(addresses)), random.Random(each))
            for each in SITES
        }
        for each, transport in transports.items():
            stack.callback(transport.close)
            transport.start(told[each])
            other = B if each == A else A
            transport.members_changed({other: Member(other, "other", sites=(SITES[each], SITES[other]))})
        for number, server in enumerate(cluster[:DEATHS]):
            for moment in (b"before", b"while one is away", b"when it is back"):
                for each, other in ((A, B), (B, A)):
                    comes(transports[each], other, b"%d %s" % (number, moment), told[other])
                if moment == b"before":
                    server.kill()
                elif moment == b"while one is away":
                    server.start()
