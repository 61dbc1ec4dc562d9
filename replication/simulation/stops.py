"""Invariant of a stop: while content is stopped none leaves a store that knows of it."""

from __future__ import annotations

from collections.abc import Iterable

from pillarbox.replication.core.effects import Answer, Effect, Pass, Send
from pillarbox.replication.core.replica import Replica
from pillarbox.replication.simulation.history import Violation
from pillarbox.replication.wire.messages import Message, Status, StatusRequest


def check_stopped(replica: Replica, effects: Iterable[Effect]) -> None:
    """Raise Violation when content, a request or an answer leaves a store that knows of a stop."""
    if replica.organisation.content.is_stopped_at(replica.wall_ms):
        for effect in effects:
            is_answer = isinstance(effect, Answer) and effect.folder != replica.tree.hierarchy
            if is_answer or any(_is_content(replica, message) for message in _messages(effect)):
                raise Violation(f"content leaves although it is stopped: {effect}"[:300])


def _messages(effect: Effect) -> tuple[Message, ...]:
    if isinstance(effect, Send):
        return (effect.message,)
    return effect.bundle.messages if isinstance(effect, Pass) else ()


def _is_content(replica: Replica, message: Message) -> bool:
    return message.folder != replica.tree.hierarchy and not isinstance(message.body, Status | StatusRequest)
