"""The log of a serving process, and what libraries have to say in it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import warnings

import pytest

pytest.importorskip("click", reason="click (the extra `cli`) is not installed")

from pillarbox.store.clock import VirtualClock
from pillarbox.store.events import EventId, PythonLoggingSink, make_event
from pillarbox.tools.serving.log import Log, libraries_to


def lines(out: io.StringIO) -> list[dict[str, str]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.filterwarnings("always")
def test_what_libraries_warn_of_is_a_line_of_the_log() -> None:
    out = io.StringIO()
    with libraries_to(Log(VirtualClock(), True, out)):
        logging.getLogger("asyncio").warning("socket.%s() raised exception.", "send")
        logging.getLogger("asyncio").info("not worth a line")
        warnings.warn("a coroutine was never awaited", RuntimeWarning, stacklevel=1)
    warned, other = lines(out)
    assert (warned["severity"], warned["text"]) == ("warning", "asyncio: socket.send() raised exception.")
    assert other["text"].startswith("py.warnings: ") and "never awaited" in other["text"]
    logging.getLogger("asyncio").warning("after the end")
    assert len(lines(out)) == 2


def test_a_task_that_failed_is_told_with_its_traceback() -> None:
    async def fail() -> None:
        raise ValueError("what nobody looked at")

    async def forget() -> None:
        task = asyncio.ensure_future(fail())
        await asyncio.sleep(0)
        assert task.done()

    out = io.StringIO()
    with libraries_to(Log(VirtualClock(), True, out)):
        asyncio.run(forget())
    (told,) = lines(out)
    assert told["severity"] == "error" and "ValueError: what nobody looked at" in told["text"]


def test_an_event_of_the_store_is_no_second_line() -> None:
    out = io.StringIO()
    with libraries_to(Log(VirtualClock(), True, out)):
        PythonLoggingSink().report(make_event(EventId.DAMAGE_FOUND, 0, "a", error="b"))
    assert not out.getvalue()


def test_people_are_told_what_to_do_too() -> None:
    out = io.StringIO()
    Log(VirtualClock(), False, out).say("warning", "backup failed", hint="name a file", work="backup")
    Log(VirtualClock(), False, out).say("warning", "it failed", hint="", work="backup")
    first, second = out.getvalue().splitlines()
    assert first.endswith("  backup failed; name a file") and second.endswith("  it failed")
