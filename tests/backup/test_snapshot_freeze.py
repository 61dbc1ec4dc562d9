"""What a freeze promises to those that write meanwhile."""

from __future__ import annotations

import threading

from pillarbox.store.access import Actor
from pillarbox.store.errors import Retryable


def test_a_transaction_that_stays_open_in_one_database_holds_no_other_beyond_the_time_out(group):
    first, second = sorted(group.databases, key=lambda database: database.guid)
    failed: list[Exception] = []

    def take() -> None:
        try:
            group.snapshot(freeze_timeout_ms=20)
        except Retryable as error:
            failed.append(error)

    with second.transaction(Actor.task("test")):
        thread = threading.Thread(target=take)
        thread.start()
        thread.join(10)
        assert len(failed) == 1
        group.deliver(first, group.corpus()[:1])
    assert len(group.contents(first)) == 1
