"""Streams of the NATS transport: one for the servers of each site, in it a subject for each two servers.

What waits for a store is what its durable consumer has not acknowledged: the stream keeps it until then. A
stream that is there is used as it is, so that an operator may make it with replicas or at a place of his own.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, NotFoundError

from pillarbox.replication.transports.nats_messages import MESSAGE_BYTES_MAX, PARTS_MAX
from pillarbox.store.errors import Refused
from pillarbox.store.ids import guid_text

MESSAGES_MAX: Final = PARTS_MAX
"""Messages that wait for one store from another, at most: one that is away fills no stream alone."""
AGE_S_MAX: Final = 7 * 24 * 60 * 60
DUPLICATES_S: Final = 120
_UNACKNOWLEDGED_MAX: Final = 16 * PARTS_MAX
_PLAIN: Final = re.compile(r"[^A-Za-z0-9]")


class Names:
    """Names of streams and subjects in a tree (docs/nodes.md, "The NATS transport")."""

    def __init__(self, tree: bytes) -> None:
        self._tree = guid_text(tree)

    def stream(self, site: str) -> str:
        """The stream of all that waits for the servers of a site."""
        return f"PILLARBOX-{self._tree}-{_escaped(site)}"

    def subjects(self, site: str) -> str:
        """The subjects of that stream."""
        return f"pillarbox.{self._tree}.{_escaped(site)}.>"

    def subjects_to(self, site: str, to: bytes) -> str:
        """The subjects of what is for one store."""
        return f"pillarbox.{self._tree}.{_escaped(site)}.{guid_text(to)}.*"

    def subject(self, site: str, to: bytes, sender: bytes) -> str:
        """The subject of what one store sends to another one."""
        return f"pillarbox.{self._tree}.{_escaped(site)}.{guid_text(to)}.{guid_text(sender)}"


def _escaped(site: str) -> str:
    """A site's name in letters, digits and `_`, by which no two become the same."""
    return _PLAIN.sub(lambda found: "".join(f"_{byte:02x}" for byte in found[0].encode()), site)


class StreamBounds(NamedTuple):
    """Bounds of the streams that are made here."""

    bytes_max: int
    messages_max: int = MESSAGES_MAX


async def require_stream(jetstream: JetStreamContext, names: Names, site: str, bounds: StreamBounds) -> None:
    """Make the stream of a site, if it is not there.

    Raises Refused for one that would lose what waits in it, or has other subjects.
    """
    try:
        info = await jetstream.stream_info(names.stream(site))
    except NotFoundError:
        try:
            info = await jetstream.add_stream(_stream_config(names, site, bounds))
        except APIError as error:  # another store may have made it a moment ago
            try:
                info = await jetstream.stream_info(names.stream(site))
            except NotFoundError:
                raise error from None
    found = info.config
    if (
        found.retention != RetentionPolicy.WORK_QUEUE
        or found.discard != DiscardPolicy.NEW
        or found.subjects != [names.subjects(site)]
    ):
        raise Refused(
            f"the stream {names.stream(site)} is not as this program makes it",
            hint="it has the retention workqueue, discards new messages, and has the subjects "
            f"{names.subjects(site)}; delete it, or make it so",
        )


def _stream_config(names: Names, site: str, bounds: StreamBounds) -> StreamConfig:
    return StreamConfig(
        name=names.stream(site),
        description=f"Pillarbox: replication to the servers of site {site}",
        subjects=[names.subjects(site)],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        discard_new_per_subject=True,
        max_msgs_per_subject=bounds.messages_max,
        max_bytes=bounds.bytes_max,
        max_msg_size=MESSAGE_BYTES_MAX,
        max_age=AGE_S_MAX,
        duplicate_window=DUPLICATES_S,
    )


async def require_consumer(
    jetstream: JetStreamContext, names: Names, site: str, database: bytes, ack_wait_s: float
) -> None:
    """Make the durable consumer of a store in the stream of its site, if it is not there."""
    try:
        await jetstream.consumer_info(names.stream(site), guid_text(database))
    except NotFoundError:
        config = ConsumerConfig(
            durable_name=guid_text(database),
            filter_subject=names.subjects_to(site, database),
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait_s,
            max_deliver=-1,
            max_ack_pending=_UNACKNOWLEDGED_MAX,
        )
        await jetstream.add_consumer(names.stream(site), config)
