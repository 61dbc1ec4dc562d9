"""A repository in an S3-compatible object store, through boto3 (the extra `s3`).

Objects are named `<prefix>/<kind>/<name>`; each is stored by one request, so it appears whole or not at all.
boto3's own retries are off: `RetryBackend` is the one place that waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pillarbox.backup.repository.backend import FileInfo, FileKind, check_name, check_range, is_name
from pillarbox.store.errors import (
    AlreadyExists,
    Corrupt,
    InvalidSetting,
    NoPermission,
    NotFound,
    PeerUnreachable,
    PillarboxError,
    Refused,
)

try:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
except ImportError as error:
    raise InvalidSetting(
        "a repository in an S3 object store needs boto3", hint="install pillarbox with its extra `s3`"
    ) from error

_TIMEOUT_S: Final = 60
_PROBE: Final = "probe/conditional-write"
_HINTS: Final[dict[type[PillarboxError], str]] = {
    NoPermission: "look at the credentials and at what the bucket allows them",
    NotFound: "look at the name of the bucket; it must be there already",
    PeerUnreachable: "look at the network, AWS_ENDPOINT_URL and the service, and run it again",
    Refused: "look at the bucket's settings, region and AWS_ENDPOINT_URL",
}
_ERRORS: Final[dict[int, type[PillarboxError]]] = {
    401: NoPermission,
    403: NoPermission,
    404: NotFound,
    409: PeerUnreachable,  # two conditional writes at once: the service asks for another try
    412: AlreadyExists,
    408: PeerUnreachable,
    416: Corrupt,
    429: PeerUnreachable,
    501: Refused,  # for good: the service does not know what it was asked for
}
_THROTTLING_CODES: Final = frozenset({"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException"})


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """boto3's errors as the project's: by HTTP status, and everything on the way there as unreachable."""
    try:
        yield
    except ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(error.response.get("Error", {}).get("Code", ""))
        default = PeerUnreachable if status >= 500 or code in _THROTTLING_CODES else Refused
        kind = _ERRORS.get(status, default)
        raise kind(f"{what}: {error}", hint=_HINTS.get(kind, "")) from error
    except NoCredentialsError as error:
        raise NoPermission(
            f"{what}: {error}", hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except (BotoCoreError, OSError) as error:
        raise PeerUnreachable(f"{what}: {error}", hint=_HINTS[PeerUnreachable]) from error


class S3Backend:
    """Files of a repository as objects of `bucket` below `prefix`; `client` is a boto3 S3 client."""

    def __init__(self, client: Any, bucket: str, prefix: str = "") -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._is_proven = False

    @classmethod
    def connect(cls, bucket: str, prefix: str = "", *, endpoint_url: str | None = None) -> S3Backend:
        """A backend with a client of its own; credentials and region from boto3's usual places."""
        config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=_TIMEOUT_S,
            read_timeout=_TIMEOUT_S,
        )
        with _translated(f"cannot use bucket {bucket}"):
            return cls(boto3.client("s3", endpoint_url=endpoint_url, config=config), bucket, prefix)

    def put(self, kind: FileKind, name: str, data: bytes, *, must_not_exist: bool = False) -> None:
        key = self._key(kind, name)
        if must_not_exist or kind is FileKind.LOCK:
            self._prove_conditional_writes()
        self._put(key, data, must_not_exist)

    def _put(self, key: str, data: bytes, must_not_exist: bool) -> None:
        condition = {"IfNoneMatch": "*"} if must_not_exist else {}
        with _translated(f"cannot write {key}"):
            self._client.put_object(Bucket=self._bucket, Key=key, Body=data, **condition)

    def _prove_conditional_writes(self) -> None:
        """Find out, once, whether the service leaves alone what is there when it is asked to.

        On one that takes the condition and ignores it two writers would overwrite each other's files. Raises
        Refused for such a service.
        """
        if self._is_proven:
            return
        key = f"{self._prefix}{_PROBE}"
        reason = "it overwrites what is there when it is asked not to (If-None-Match)"
        try:
            self._put(key, b"", True)  # what an interrupted probe left proves the same, by being refused
            try:
                self._put(key, b"again", True)
            finally:
                with _translated(f"cannot delete {key}"):
                    self._client.delete_object(Bucket=self._bucket, Key=key)
        except AlreadyExists:
            self._is_proven = True
            return
        except Refused as error:
            reason = str(error)
        raise Refused(
            f"bucket {self._bucket}: the service does not keep writers of a repository apart: {reason}",
            hint="use a service with conditional writes, or a directory",
        )

    def get(self, kind: FileKind, name: str, offset: int = 0, length: int | None = None) -> bytes:
        key = self._key(kind, name)
        if length == 0:
            self.size(kind, name)
            return b""
        last = "" if length is None else offset + length - 1
        wanted = {"Range": f"bytes={offset}-{last}"} if offset or length is not None else {}
        with _translated(f"cannot read {key}"):
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **wanted)
            data: bytes = answer["Body"].read()
        return check_range(kind, name, data, offset, length)

    def list(self, kind: FileKind) -> Iterator[FileInfo]:
        folder = f"{self._prefix}{kind}/"
        with _translated(f"cannot list {folder}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=folder)
            for page in pages:
                for item in page.get("Contents", ()):
                    name = item["Key"][len(folder) :]
                    if is_name(name):
                        yield FileInfo(name, item["Size"])

    def size(self, kind: FileKind, name: str) -> int:
        key = self._key(kind, name)
        with _translated(f"cannot read {key}"):
            return int(self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"])

    def delete(self, kind: FileKind, name: str) -> None:
        key = self._key(kind, name)
        with _translated(f"cannot delete {key}"):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def remove_leftovers(self) -> None:
        """Nothing to do: a file is one request, and a request that failed left nothing."""

    def _key(self, kind: FileKind, name: str) -> str:
        return f"{self._prefix}{kind}/{check_name(name)}"
