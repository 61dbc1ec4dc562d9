"""HTTP of a serving process: who may ask, and what the answers hold."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="starlette (the extra `serve`) is not installed")
pytest.importorskip("uvicorn", reason="uvicorn (the extra `serve`) is not installed")
pytest.importorskip("prometheus_client", reason="prometheus-client (the extra `serve`) is not installed")

from prometheus_client.openmetrics.parser import text_string_to_metric_families

import pillarbox
from pillarbox.store.errors import InvalidSetting, NotFound, Refused
from pillarbox.tools.serving.due import Standing, Task, Work
from pillarbox.tools.serving.metrics import Metrics
from pillarbox.tools.serving.status import complaints, server_status
from pillarbox.tools.serving.web import Address, answering, read_address

TOKEN = "correct-horse-battery"
STORE = "Mailbox Store"
NOW = 1_700_000_000_000
Ask = Callable[..., http.client.HTTPResponse]
Status = Callable[[], dict[str, Any]]
STANDINGS = {
    Task(Work.BACKUP, "Staff"): Standing(NOW + 7_200_000, NOW, failure="<the repository> is locked"),
    Task(Work.MAINTENANCE): Standing(is_running=True),
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[pillarbox.Server]:
    """A server whose name is no harmless HTML."""
    with pillarbox.Server.create(tmp_path / "<i>mail") as opened:
        yield opened


@contextmanager
def asked(
    server: pillarbox.Server, token_file: Path | None = None, status: Status | None = None
) -> Iterator[tuple[Ask, Metrics]]:
    """Asks a process that answers for a server, and its metrics."""
    status = status or partial(server_status, server, STANDINGS, (), NOW)

    metrics, wrong = Metrics(status), partial(complaints, server, ())
    address = read_address("127.0.0.1:0", token_file, ("mail.example",))
    with answering(address, wrong, status, metrics) as (host, port):

        def ask(path: str, **headers: str) -> http.client.HTTPResponse:
            connection = http.client.HTTPConnection(host, port, timeout=20)
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            response.text = response.read().decode()  # type: ignore[attr-defined]
            connection.close()
            return response

        yield ask, metrics


def text_of(response: http.client.HTTPResponse) -> str:
    assert response.status == 200
    text: str = response.text  # type: ignore[attr-defined]
    return text


def test_health_is_ok_until_a_database_is_not_mounted_that_should_be(server: pillarbox.Server) -> None:
    with asked(server) as (ask, _):
        assert text_of(ask("/healthz")) == "ok\n"
        server.dismount(STORE)
        assert text_of(ask("/healthz")) == "ok\n", "an administrator wants it so"
        server.not_mounted[STORE] = pillarbox.errors.Corrupt("a page is bent")
        assert ask("/healthz").status == 503
        state = json.loads(text_of(ask("/status")))["databases"][0]
        assert (state["state"], state["reason"]) == ("not mounted", "a page is bent")


def test_who_asks_for_the_health_does_not_wait_for_the_status(server: pillarbox.Server) -> None:
    def status() -> dict[str, Any]:
        pytest.fail("what replicates may be busy for seconds, and has many folders")

    with asked(server, status=status) as (ask, _):
        assert text_of(ask("/healthz")) == "ok\n"


def test_the_status_has_databases_and_work(server: pillarbox.Server) -> None:
    with asked(server) as (ask, _):
        found = json.loads(text_of(ask("/status")))
    mail, public = found["databases"]
    assert (mail["database"], mail["state"], public["kind"]) == (STORE, "mounted", "public folder store")
    assert 0 < mail["logical_size_bytes"] <= mail["physical_size_bytes"] < mail["limit_bytes"]
    assert [(each["work"], each["is_running"]) for each in found["work"]] == [
        ("backup", False),
        ("maintenance", True),
    ]


def test_the_metrics_are_openmetrics(server: pillarbox.Server) -> None:
    with asked(server) as (ask, metrics):
        metrics.count("message.deliver", 0.003, "")
        metrics.count("message.deliver", 0.1, "OverLimit")
        response = ask("/metrics")
        assert str(response.getheader("content-type")).startswith("application/openmetrics-text")
        families = {each.name: each for each in text_string_to_metric_families(text_of(response))}
    labels = {"group": "First Storage Group", "database": STORE}
    samples = [
        (sample.name, sample.labels, sample.value) for each in families.values() for sample in each.samples
    ]
    assert ("pillarbox_database_mounted", labels, 1) in samples
    assert ("pillarbox_database_waiting", labels, 0) in samples
    assert ("pillarbox_database_limit_bytes", labels, server.database(STORE).limits.limit_bytes) in samples
    assert ("pillarbox_operation_seconds_count", {"operation": "message.deliver"}, 2) in samples
    refused = {"operation": "message.deliver", "error": "OverLimit"}
    assert ("pillarbox_operation_errors_total", refused, 1) in samples
    assert ("pillarbox_work_failing", {"work": "backup", "subject": "Staff"}, 1) in samples


def test_the_page_shows_what_it_was_given_as_text_and_loads_nothing(server: pillarbox.Server) -> None:
    with asked(server) as (ask, _):
        response = ask("/")
        text = text_of(response)
    assert "&lt;i&gt;mail" in text and "<i>mail" not in text
    assert "&lt;the repository&gt; is locked" in text and "in 2 h" in text and "runs now" in text
    assert "default-src 'none'" in str(response.getheader("content-security-policy"))
    assert not any(word in text for word in ("<script", "src=", "href=", "url(", "@import"))


def test_only_a_known_name_of_the_host_is_answered(server: pillarbox.Server) -> None:
    with asked(server) as (ask, _):
        for known in ("localhost", "127.0.0.1:80", "[::1]:80", "mail.example:1", "MAIL.example"):
            assert ask("/status", Host=known).status == 200, known
        for other in ("evil.example", "localhost.evil.example", "evil.example:80", ""):
            assert ask("/status", Host=other).status in (400, 421), other


def test_with_a_token_all_but_health_asks_for_it(server: pillarbox.Server, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with asked(server, tmp_path / "token") as (ask, _):
        assert ask("/healthz").status == 200
        for path in ("/", "/status", "/metrics"):
            assert ask(path).status == 401
        assert ask("/status", Authorization=f"Bearer {TOKEN}").status == 200
        password = b64encode(f"anyone:{TOKEN}".encode()).decode()
        assert ask("/", Authorization=f"Basic {password}").status == 200
        for wrong in (f"Bearer {TOKEN}x", "Bearer ", "Basic !!", "Basic YQ==", f"Digest {TOKEN}", "\xe9"):
            assert ask("/", Authorization=wrong).status == 401, wrong


@pytest.mark.parametrize("text", ["8025", ":8025", "localhost:", "localhost:x", "localhost:70000"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting):
        read_address(text, None, ())


@pytest.mark.parametrize("text", ["0.0.0.0:80", "mail.example:80", "[::]:80", "192.0.2.1:80"])
def test_others_may_reach_it_only_with_a_token(text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="without a token"):
        read_address(text, None, ())
    (tmp_path / "token").write_text(TOKEN)
    address = read_address(text, tmp_path / "token", ("status.example",))
    assert address.token == TOKEN and "status.example" in address.names


def answers_to(address: Address, *hosts: str) -> list[int]:
    """The statuses of the answers to who names the host so. It listens on this machine all the same."""
    here = address._replace(host="127.0.0.1", port=0)
    found = []
    with answering(here, list, dict, Metrics(dict)) as listening:
        for host in hosts:
            connection = http.client.HTTPConnection(*listening, timeout=20)
            connection.request("GET", "/healthz", headers={"Host": host})
            found.append(connection.getresponse().status)
            connection.close()
    return found


def test_one_that_others_reach_is_asked_by_addresses_and_names_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `localhost` was refused here once, and nothing but the address in --http was answered. No name by which
    # a page of another site leads a browser here is an IP address, or `localhost`: refusing them protected
    # nothing.
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr("socket.gethostname", lambda: "B1.example.org")
    address = read_address("0.0.0.0:80", tmp_path / "token", ("status.example",))
    addresses = ("0.0.0.0", "localhost:80", "127.0.0.1", "192.0.2.7:80", "[2001:db8::7]:80", "[::1]")
    assert answers_to(address, *addresses) == [200] * len(addresses)
    assert answers_to(address, "b1.example.org:80", "b1", "Status.example:80") == [200] * 3
    others = ("evil.example", "b1.evil.example", "192.0.2.7.evil.example:80", "[evil]", "[192.0.2.7]", "::1")
    assert answers_to(address, *others) == [421] * len(others)


def test_without_a_token_the_name_of_the_machine_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "b1")
    address = read_address("127.0.0.1:80", None, ())
    assert answers_to(address, "192.0.2.7:80", "b1:80") == [200, 421]  # no page has an address for its name


def test_a_token_that_is_short_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("short")
    with pytest.raises(InvalidSetting, match="could be guessed"):
        read_address("127.0.0.1:80", tmp_path / "token", ())
    with pytest.raises(NotFound):
        read_address("127.0.0.1:80", tmp_path / "none", ())


def test_an_address_that_is_taken_is_told(server: pillarbox.Server) -> None:
    with answering(read_address("127.0.0.1:0", None, ()), list, dict, Metrics(dict)) as (_, port):
        address = read_address(f"127.0.0.1:{port}", None, ())
        with pytest.raises(Refused) as told, answering(address, list, dict, Metrics(dict)):
            pytest.fail("two listen at one address")
    assert "another process listens there" in told.value.hint


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium (of Debian) is not installed")
def test_a_browser_shows_the_page(server: pillarbox.Server, tmp_path: Path) -> None:
    status = partial(server_status, server, STANDINGS, (), NOW)
    with answering(read_address("127.0.0.1:0", None, ()), list, status, Metrics(status)) as (host, port):
        shown = subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=1000", "--dump-dom",
             f"http://{host}:{port}/"],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    assert shown.stdout.count("<table") == 3 and "Mailbox Store" in shown.stdout
    assert shown.stdout.count("<tr") == 3 + 2 + 2 + 2
