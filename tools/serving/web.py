"""HTTP of a serving process: health, metrics, status, and the page. Off until it is asked for."""

from __future__ import annotations

import errno
import hmac
import json
import socket
import threading
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from pillarbox.store.errors import InvalidSetting, Refused
from pillarbox.tools.given_file import read_given_text
from pillarbox.tools.serving.metrics import CONTENT_TYPE, Metrics
from pillarbox.tools.serving.page import page

TOKEN_LENGTH_MIN: Final = 16
_REQUESTS_MAX: Final = 32
_LOCAL_NAME: Final = "localhost"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_LISTEN_HINTS: Final = {
    errno.EADDRINUSE: "another process listens there: end that one, or say another port",
    errno.EADDRNOTAVAIL: "no network of this machine has that address: say one that it has",
    errno.EACCES: "ports below 1024 are kept for who may use them: say a higher one",
}
Answer = Callable[[], Response]
Complaints = Callable[[], list[str]]
"""The reasons why a server is not well."""


class Address(NamedTuple):
    """Where to listen; `names` are those by which the process may be asked beside IP addresses, without
    ports; `token` opens it.
    """

    host: str
    port: int
    names: frozenset[str]
    token: str


def read_address(text: str, token_file: Path | None, names: tuple[str, ...]) -> Address:
    """The address that HOST:PORT says, with the token in a file.

    Raises InvalidSetting for what is none, and for one that others can reach without a token; NotFound.
    """
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise InvalidSetting(f"--http cannot be {text!r}", hint="say HOST:PORT, such as 127.0.0.1:8025")
    token = "" if token_file is None else _read_token(token_file)
    if not token and not _is_loopback(bare):
        raise InvalidSetting(
            f"others can reach {text}: without a token they would read all of it",
            hint="say --http-token-file FILE, or listen on 127.0.0.1",
        )
    # Whoever answers for names of the network could give this machine's to a page of his own, which would
    # then read what needs no token.
    of_machine = _machine_names() if token else ()
    known = {name.lower() for name in (bare, _LOCAL_NAME, *of_machine, *names)}
    return Address(bare, int(port), frozenset(known), token)


def _machine_names() -> tuple[str, ...]:
    """The machine's own name, as it is set and short. DNS is not asked for it: that may take long."""
    name = socket.gethostname()
    return name, name.partition(".")[0]


def _read_token(file: Path) -> str:
    token = read_given_text(file).strip()
    if len(token) < TOKEN_LENGTH_MIN:
        raise InvalidSetting(
            f"the token in {file} has {len(token)} letters, and could be guessed",
            hint=f"write at least {TOKEN_LENGTH_MIN} random letters into it",
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == _LOCAL_NAME


def application(
    address: Address, complaints: Complaints, status: Callable[[], Mapping[str, Any]], metrics: Metrics
) -> Callable[..., Awaitable[None]]:
    """The application that answers at an address. The health is by `complaints` alone: who asks for it, often
    and without a token, waits for nothing that may be busy."""

    def health() -> Response:
        wrong = complaints()
        return PlainTextResponse("\n".join(wrong) + "\n" if wrong else "ok\n", 503 if wrong else 200)

    def guarded(answer: Answer, *, is_open: bool = False) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            if not _is_known_name(request, address.names):
                response: Response = PlainTextResponse("this is not the name of this host\n", 421)
            elif not is_open and address.token and not _has_token(request, address.token):
                response = PlainTextResponse(
                    "a token is needed\n",
                    401,
                    {"WWW-Authenticate": 'Basic realm="Pillarbox", charset="UTF-8"'},
                )
            else:
                response = answer()
            response.headers.update(_HEADERS)
            return response

        return endpoint

    return Starlette(
        routes=[
            Route("/healthz", guarded(health, is_open=True)),
            Route("/metrics", guarded(lambda: Response(metrics.text(), media_type=CONTENT_TYPE))),
            Route(
                "/status",
                guarded(lambda: Response(json.dumps(status()), media_type="application/json")),
            ),
            Route("/", guarded(lambda: HTMLResponse(page(status())))),
        ]
    )


def _is_known_name(request: Request, names: frozenset[str]) -> bool:
    """True for a name by which this host may be asked, and for every IP address.

    A page of another site can make a browser ask this host only by having its own name lead here, and the
    browser then says that name. An address is nobody's name.
    """
    given = request.headers.get("host", "").lower()
    host = given if given.endswith("]") else given.rpartition(":")[0] or given
    return host in names or _is_ip_address(host)


def _is_ip_address(host: str) -> bool:
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        return is_bracketed == (ip_address(host[1:-1] if is_bracketed else host).version == 6)
    except ValueError:
        return False


def _has_token(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":  # a person's browser asks for a password
        try:
            given = b64decode(given, validate=True).decode().partition(":")[2]
        except ValueError:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.encode(), token.encode())


@contextmanager
def answering(
    address: Address, complaints: Complaints, status: Callable[[], Mapping[str, Any]], metrics: Metrics
) -> Iterator[tuple[str, int]]:
    """Answer at an address while the `with` block runs, by a thread; the host and port that it listens at.

    Raises InvalidSetting for a host that is none, Refused when the system refuses the address.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        if isinstance(error, socket.gaierror):
            raise InvalidSetting(
                f"{address.host} is no host: {error}", hint="say --http HOST:PORT"
            ) from error
        raise Refused(
            f"cannot listen at {address.host}:{address.port}: {error.strerror}",
            hint=_LISTEN_HINTS.get(error.errno or 0, "say another HOST:PORT"),
        ) from error
    config = uvicorn.Config(
        application(address, complaints, status, metrics),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        limit_concurrency=_REQUESTS_MAX,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="pillarbox-http", daemon=True
    )
    thread.start()
    try:
        host, port = listener.getsockname()[:2]
        yield host, port
    finally:
        server.should_exit = True
        thread.join(4)
        listener.close()
