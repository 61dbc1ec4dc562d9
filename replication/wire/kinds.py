"""The type and flags in the header of a bundle, which follow from what its messages are."""

from __future__ import annotations

from pillarbox.replication.wire.frame import Flag
from pillarbox.replication.wire.messages import (
    BackfillRequest,
    Body,
    BucketDigests,
    BucketQuestion,
    Changes,
    Fetching,
    Hello,
    HelloAnswer,
    LinkReport,
    MessageType,
    ReconcileAnswer,
    ReconcileQuestion,
    RestPoll,
    RestSums,
    Status,
    StatusRequest,
)


def kind_of(is_hierarchy: bool, body: Body) -> tuple[MessageType, Flag]:
    """The type and the flags of a message with this body."""
    changes = MessageType.HIERARCHY if is_hierarchy else MessageType.CONTENT
    match body:
        case Changes(answer=None):
            return changes, Flag.NONE
        case Changes():
            return changes, Flag.BACKFILL
        case ReconcileAnswer():
            return changes, Flag.BACKFILL | Flag.RECONCILE
        case BackfillRequest():
            return MessageType.BACKFILL_REQUEST, Flag.NONE
        case ReconcileQuestion():
            return MessageType.BACKFILL_REQUEST, Flag.RECONCILE
        case Status(acknowledgement=None):
            return MessageType.STATUS, Flag.NONE
        case Status():
            return MessageType.STATUS, Flag.DELETE_PENDING | Flag.ACKNOWLEDGEMENT
        case StatusRequest(leaving=None):
            return MessageType.STATUS_REQUEST, Flag.NONE
        case StatusRequest():
            return MessageType.STATUS_REQUEST, Flag.DELETE_PENDING
        case Hello():
            return MessageType.HELLO, Flag.NONE
        case HelloAnswer():
            return MessageType.HELLO, Flag.ACKNOWLEDGEMENT
        case Fetching():
            return MessageType.BACKFILL_REQUEST, Flag.FETCHING
        case LinkReport():
            return MessageType.LINK_STATE, Flag.NONE
        case RestPoll():
            return MessageType.STATUS_REQUEST, Flag.REST
        case RestSums():
            return MessageType.STATUS, Flag.REST
        case BucketQuestion():
            return MessageType.STATUS_REQUEST, Flag.REST | Flag.FOLDERS
        case BucketDigests():
            return MessageType.STATUS, Flag.REST | Flag.FOLDERS
