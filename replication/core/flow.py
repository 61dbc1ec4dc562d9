"""The flow of content, which an operator stops and resumes in the whole organisation.

While it is stopped, changes are made and numbered, and the hierarchy goes on; nothing of content leaves a
store that knows of the stop: no changes, requests or answers, its own or somebody else's. A store that starts
holds content back until its hierarchy has what those hold who answered its hello: the stop may be in it.
"""

from __future__ import annotations

from pillarbox.replication.core import outbox
from pillarbox.replication.core.effects import Answer, Effect, Pass, Send
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.core.state import NEVER_MS
from pillarbox.replication.wire.messages import Message, Status, StatusRequest


def look(replica: Replica) -> None:
    """See whether content flows now, and plan all anew where that has changed.

    What was changed here goes as soon as it may. Of requests and answers a stop leaves nothing. Those that
    wait for the hierarchy alone are kept: who asked a store that has just started would ask again ever later.
    """
    is_stopped, flows = replica.is_content_stopped(), replica.content_flows()
    if is_stopped and not replica.is_stopped:
        outbox.drop_answers(replica)
    if replica.is_stopped and not is_stopped:
        _forget_dues(replica)
    replica.is_stopped = is_stopped
    if flows == replica.is_flowing:
        return
    replica.is_flowing = flows
    replica.fired["content_resumed" if flows else "content_stopped"] += 1
    if flows:
        outbox.put_back(replica)
    else:
        outbox.take_back_content(replica)
    replica.touched.update(replica.record.folders)


def _forget_dues(replica: Replica) -> None:
    """Forget all that was due: first delays count from now."""
    now_ms = replica.now_ms
    for folder, state in replica.record.folders.items():
        if folder == replica.tree.hierarchy or not state.is_held:
            continue
        state.entries, state.silent = (), frozenset()
        state.asked.clear()
        state.fetched_by.clear()
        state.unstated_since_ms = state.news_ms = now_ms


def due_ms(replica: Replica) -> int:
    """The time at which content flows again by itself: that of a resume in the future."""
    flow = replica.organisation.content
    if flow.is_stopped or replica.wall_ms >= flow.resumes_ms:
        return NEVER_MS
    return replica.now_ms + flow.resumes_ms - replica.wall_ms


def sendable(replica: Replica, effects: list[Effect]) -> list[Effect]:
    """The effects that may leave now. What does not is asked for or answered again after a resume."""
    if not effects or replica.content_flows():
        return effects
    return [effect for effect in effects if not _is_content(replica, effect)]


def _is_content(replica: Replica, effect: Effect) -> bool:
    if isinstance(effect, Answer):
        return effect.folder != replica.tree.hierarchy
    if isinstance(effect, Send):
        return _carries_content(replica, effect.message)
    return isinstance(effect, Pass) and any(
        _carries_content(replica, message) for message in effect.bundle.messages
    )


def _carries_content(replica: Replica, message: Message) -> bool:
    return message.folder != replica.tree.hierarchy and not isinstance(message.body, Status | StatusRequest)
