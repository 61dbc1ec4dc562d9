"""What an S3 store answers when it is busy, down, full or closed to us: said plainly, and waited for.

The answers are put in below boto3, where they come from the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from random import Random
from typing import Any

import pytest

from pillarbox.backup.repository.backend import Backend, FileKind
from pillarbox.backup.repository.backend_retry import RetryBackend
from pillarbox.backup.repository.check import check_repository
from pillarbox.backup.repository.crypto import KeyFile
from pillarbox.backup.repository.pack import BlobKind, Child
from pillarbox.backup.repository.repository import Repository
from pillarbox.store.clock import VirtualClock
from pillarbox.store.errors import NoPermission, NotFound, PeerUnreachable, PillarboxError, Refused

pytest.importorskip("boto3", reason="boto3 (the extra `s3`) is not installed")
import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError

from pillarbox.backup.repository.backend_s3 import S3Backend

KEY = KeyFile(bytes(range(32)))


class Raw(BytesIO):
    """A body as urllib3 gives it."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()


def answer(request: Any, status: int, body: bytes = b"", **headers: str) -> Any:
    return AWSResponse(request.url, status, headers, Raw(body))


def refusal(status: int, code: str) -> Callable[..., Any]:
    body = f"<Error><Code>{code}</Code><Message>so it is</Message></Error>".encode()
    return lambda request, **_: answer(request, status, body)


def backend_that(respond: Callable[..., Any]) -> S3Backend:
    """A backend every request of which `respond` answers."""
    client = boto3.client(
        "s3",
        endpoint_url="http://127.0.0.1:1",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}),
    )
    client.meta.events.register("before-send.s3", respond)
    return S3Backend(client, "backups", "here")


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (503, "SlowDown", PeerUnreachable),
        (500, "InternalError", PeerUnreachable),
        (502, "BadGateway", PeerUnreachable),
        (429, "TooManyRequests", PeerUnreachable),
        (400, "RequestTimeout", PeerUnreachable),
        (400, "ThrottlingException", PeerUnreachable),
        (409, "ConditionalRequestConflict", PeerUnreachable),
        (403, "AccessDenied", NoPermission),
        (404, "NoSuchBucket", NotFound),
        (400, "InvalidArgument", Refused),
        (501, "NotImplemented", Refused),
    ],
)
def test_each_answer_is_one_of_our_errors_and_names_the_object(
    status: int, code: str, error: type[PillarboxError]
) -> None:
    backend = backend_that(refusal(status, code))
    with pytest.raises(error) as raised:
        backend.put(FileKind.PACK, "aa11", b"x")
    assert type(raised.value) is error
    assert "here/packs/aa11" in str(raised.value)
    for call in (lambda: backend.get(FileKind.PACK, "aa11"), lambda: list(backend.list(FileKind.PACK))):
        with pytest.raises(error):
            call()


def test_a_connection_that_breaks_is_worth_another_try() -> None:
    def break_off(request: Any, **_: Any) -> Any:
        raise ConnectionClosedError(endpoint_url=request.url)

    with pytest.raises(PeerUnreachable):
        backend_that(break_off).get(FileKind.PACK, "aa11")


class Store:
    """A small S3 store that throttles: of its answers, every `every`-th is SlowDown, before or after the
    request was carried out.
    """

    def __init__(self, every: int) -> None:
        self.objects: dict[str, bytes] = {}
        self.every = every
        self.requests = 0
        self.throttled = 0

    def __call__(self, request: Any, **_: Any) -> Any:
        self.requests += 1
        is_throttled = self.requests % self.every == 0
        self.throttled += is_throttled
        if is_throttled and self.throttled % 2:
            return refusal(503, "SlowDown")(request)
        done = self.carry_out(request)
        return refusal(503, "SlowDown")(request) if is_throttled else done

    def carry_out(self, request: Any) -> Any:
        path, _, query = request.url.split("/", 3)[3].partition("?")
        key = path.removeprefix("backups").lstrip("/")
        if request.method == "PUT":
            body = request.body if isinstance(request.body, bytes) else request.body.read()
            if key in self.objects and b"*" in (request.headers.get("If-None-Match") or b""):
                return refusal(412, "PreconditionFailed")(request)
            self.objects[key] = body
            return answer(request, 200)
        if request.method == "DELETE":
            self.objects.pop(key, None)
            return answer(request, 204)
        if "list-type=2" in query:
            return self.listing(request, query)
        if key not in self.objects:
            return refusal(404, "NoSuchKey")(request)
        data = self.objects[key]
        if request.method == "HEAD":
            return answer(request, 200, **{"Content-Length": str(len(data))})
        return self.part(request, data)

    def listing(self, request: Any, query: str) -> Any:
        prefix = next(part[7:] for part in query.split("&") if part.startswith("prefix=")).replace("%2F", "/")
        found = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(data)}</Size></Contents>"
            for key, data in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
        return answer(request, 200, body.encode())

    @staticmethod
    def part(request: Any, data: bytes) -> Any:
        wanted = request.headers.get("Range")
        if not wanted:
            return answer(request, 200, data)
        text = wanted.decode() if isinstance(wanted, bytes) else wanted
        first, _, last = text.removeprefix("bytes=").partition("-")
        return answer(request, 206, data[int(first) : int(last) + 1 if last else None])


def throttled(store: Store) -> Backend:
    return RetryBackend(backend_that(store), VirtualClock(), Random(1))


def test_a_store_that_throttles_every_third_request_loses_nothing() -> None:
    store = Store(every=3)
    content = [Random(number).randbytes(3000) for number in range(20)]
    repository = Repository.create(throttled(store), KEY, clock=VirtualClock())
    with repository.writer(pack_bytes=10_000) as writer:
        blobs = [writer.add(BlobKind.DATA, each).id for each in content]
        root = writer.add_tree([Child(BlobKind.DATA, each) for each in blobs], None).id
        writer.save_snapshot({}, [root])
    again = Repository.open(throttled(store), KEY, clock=VirtualClock())
    assert check_repository(again, read_data=1).is_whole
    assert [again.read(each) for each in blobs] == content
    assert store.throttled > 10
    assert not [key for key in store.objects if key.startswith("here/locks/")]


def test_a_store_that_goes_down_in_a_backup_ends_it_with_an_error_and_the_next_goes_on() -> None:
    content = [Random(number).randbytes(3000) for number in range(20)]

    def back_up(backend: Backend) -> None:
        repository = Repository.open(backend, KEY, clock=VirtualClock())
        with repository.writer(pack_bytes=10_000, uploads=0) as writer:
            blobs = [writer.add(BlobKind.DATA, each).id for each in content]
            root = writer.add_tree([Child(BlobKind.DATA, each) for each in blobs], None).id
            writer.save_snapshot({}, [root])

    for answered in range(6, 30, 6):
        store = Store(every=10**9)
        repository = Repository.create(throttled(store), KEY, clock=VirtualClock())
        with pytest.raises(PeerUnreachable, match="ServiceUnavailable"):
            back_up(backend_down_after(store, answered))
        assert check_repository(repository, read_data=1).is_whole
        made = len(repository.snapshots())
        back_up(throttled(store))
        assert check_repository(repository, read_data=1).is_whole
        assert len(repository.snapshots()) == made + 1


def backend_down_after(store: Store, answered: int) -> Backend:
    """The same store; it answers so many requests more, then none."""
    left = answered

    def respond(request: Any, **_: Any) -> Any:
        nonlocal left
        left -= 1
        return store.carry_out(request) if left >= 0 else refusal(503, "ServiceUnavailable")(request)

    return RetryBackend(backend_that(respond), VirtualClock(), Random(1))


# --- conditional writes -----------------------------------------------------------------------------------


class Careless(Store):
    """A store that takes the condition of a write, and ignores it."""

    def carry_out(self, request: Any) -> Any:
        if request.method == "PUT":
            request.headers["If-None-Match"] = b""
        return super().carry_out(request)


def test_a_store_that_ignores_conditions_takes_no_repository() -> None:
    store = Careless(every=10**9)
    with pytest.raises(Refused, match="does not keep writers of a repository apart"):
        Repository.create(backend_that(store), KEY, clock=VirtualClock())
    assert not any(name.startswith("here/config/") for name in store.objects), "there is no repository"


def test_a_store_that_stops_keeping_conditions_is_found_out_before_a_lock_is_taken() -> None:
    store = Store(every=10**9)
    Repository.create(backend_that(store), KEY, clock=VirtualClock())
    careless = Careless(every=10**9)
    careless.objects = store.objects
    repository = Repository.open(backend_that(careless), KEY, clock=VirtualClock())
    before = set(careless.objects)
    with pytest.raises(Refused, match="apart"), repository.writer():
        pytest.fail("it is not written to")
    assert set(careless.objects) == before


def test_a_store_without_conditional_writes_is_refused_for_good_and_not_tried_again() -> None:
    store, asked = Store(every=10**9), 0

    def without(request: Any, **_: Any) -> Any:
        nonlocal asked
        asked += 1
        if request.method == "PUT" and request.headers.get("If-None-Match"):
            return refusal(501, "NotImplemented")(request)
        return store(request)

    backend = RetryBackend(backend_that(without), VirtualClock(), Random(1))
    with pytest.raises(Refused, match="NotImplemented"):
        backend.put(FileKind.CONFIG, "config", b"x", must_not_exist=True)
    assert asked == 1


def test_what_an_interrupted_probe_left_stands_in_nobodys_way() -> None:
    store = Store(every=10**9)
    store.objects["here/probe/conditional-write"] = b""
    repository = Repository.create(backend_that(store), KEY, clock=VirtualClock())
    with repository.writer():
        pass
