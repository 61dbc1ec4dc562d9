"""What every backend promises: one suite, run on each of them.

S3 twice: moto in the quick suite, and SeaweedFS, a real server, in the slow one where it is installed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any

import pytest
from free_ports import free_ports

from pillarbox.backup.repository.backend import Backend, FileInfo, FileKind
from pillarbox.backup.repository.backend_directory import DirectoryBackend
from pillarbox.backup.repository.backend_memory import MemoryBackend
from pillarbox.backup.repository.backend_retry import RetryBackend
from pillarbox.backup.repository.check import check_repository
from pillarbox.backup.repository.crypto import Unencrypted
from pillarbox.backup.repository.pack import BlobKind, Child
from pillarbox.backup.repository.prune import prune
from pillarbox.backup.repository.repository import Repository
from pillarbox.store.clock import SystemClock, VirtualClock
from pillarbox.store.errors import AlreadyExists, Corrupt, InvalidName, NotFound

BUCKET = "backups"
S3_PAGE_KEYS = 5
A, B = "aa11", "bb22"


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    pytest.importorskip("boto3", reason="boto3 (the extra `s3`) is not installed")
    server_module = pytest.importorskip("moto.server", reason="moto[server], the S3 server, is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "id")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", str(S3_PAGE_KEYS))
        server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@pytest.fixture(scope="session")
def s3_client(s3_url: str) -> Any:
    import boto3

    client = boto3.client("s3", endpoint_url=s3_url)
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture
def s3_backend(s3_client: Any, tmp_path: Path) -> Backend:
    from pillarbox.backup.repository.backend_s3 import S3Backend

    return S3Backend(s3_client, BUCKET, f"/some/{tmp_path.name}/")


SEAWEEDFS_STARTS_S: int = 120
"""More than a busy machine needs: it is waited for no longer than it takes to say that it is there."""


@pytest.fixture(scope="session")
def seaweedfs_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    boto3 = pytest.importorskip("boto3", reason="boto3 (the extra `s3`) is not installed")
    server = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if server is None:
        pytest.skip("SeaweedFS, a real S3 server, is not installed: tests/contract/seaweedfs.txt")
    directory = tmp_path_factory.mktemp("seaweedfs")
    identity = {
        "name": "pillarbox",
        "credentials": [{"accessKey": "id", "secretKey": "secret"}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
    parts = ("master", "volume", "filer", "s3")
    ports = free_ports(2 * len(parts))
    used = set(map(str, ports))
    command = [server, "server", "-filer", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={directory}"]
    command += [f"-{part}.port={ports.pop()}" for part in parts[:-1]]
    command += [f"-{part}.port.grpc={ports.pop()}" for part in parts]
    (port,) = ports
    command += [f"-s3.port={port}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"]
    command += [f"-s3.config={directory / 's3.json'}", "-volume.max=20", "-master.volumeSizeLimitMB=64"]
    command += ["-master.telemetry=false"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            wait_until_said(process, "Start Seaweed S3 API Server")
            client = boto3.client(
                "s3",
                endpoint_url=f"http://127.0.0.1:{port}",
                aws_access_key_id="id",
                aws_secret_access_key="secret",
                region_name="us-east-1",
            )
            client.create_bucket(Bucket=BUCKET)
            yield client
        finally:
            process.kill()
            for each in Path("/tmp").glob("seaweedfs-*.sock"):
                if each.stem.rpartition("-")[2] in used:
                    each.unlink()


def wait_until_said(process: subprocess.Popen[str], text: str) -> None:
    """Read what a process says, until it ends; return once it has said `text`."""
    said = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if text in line:
                said.set()

    threading.Thread(target=read, daemon=True).start()
    assert said.wait(SEAWEEDFS_STARTS_S), "SeaweedFS did not start"


@pytest.fixture
def seaweedfs_backend(seaweedfs_client: Any, tmp_path: Path) -> Backend:
    from pillarbox.backup.repository.backend_s3 import S3Backend

    return S3Backend(seaweedfs_client, BUCKET, f"/some/{tmp_path.name}/")


@pytest.fixture(
    params=["memory", "directory", "retry", "s3", pytest.param("seaweedfs", marks=pytest.mark.slow)]
)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "directory":
        return DirectoryBackend(tmp_path / "not" / "there yet")
    if request.param == "retry":
        return RetryBackend(MemoryBackend(), VirtualClock(), Random(1))
    if request.param in ("s3", "seaweedfs"):
        found: Backend = request.getfixturevalue(f"{request.param}_backend")
        return found
    return MemoryBackend()


def test_what_was_put_is_there(backend: Backend) -> None:
    backend.put(FileKind.PACK, A, b"0123456789")
    assert backend.get(FileKind.PACK, A) == b"0123456789"
    assert backend.size(FileKind.PACK, A) == 10
    assert list(backend.list(FileKind.PACK)) == [FileInfo(A, 10)]


def test_put_replaces_in_one_step(backend: Backend) -> None:
    backend.put(FileKind.LOCK, A, b"long content")
    backend.put(FileKind.LOCK, A, b"short")
    assert backend.get(FileKind.LOCK, A) == b"short"


def test_put_of_what_must_not_exist(backend: Backend) -> None:
    backend.put(FileKind.CONFIG, A, b"first", must_not_exist=True)
    with pytest.raises(AlreadyExists):
        backend.put(FileKind.CONFIG, A, b"second", must_not_exist=True)
    assert backend.get(FileKind.CONFIG, A) == b"first"


def test_only_one_of_many_makes_a_file(backend: Backend, request: pytest.FixtureRequest) -> None:
    winners: list[int] = []
    # moto looks and stores in two steps, where S3 has one: two at once would both win there.
    is_moto = request.node.callspec.id == "s3"
    turn = threading.Lock() if is_moto else nullcontext()

    def make(number: int) -> None:
        try:
            with turn:
                backend.put(FileKind.CONFIG, A, bytes([number]), must_not_exist=True)
        except AlreadyExists:
            return
        winners.append(number)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert backend.get(FileKind.CONFIG, A) == bytes(winners)


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, None, b"0123456789"), (4, None, b"456789"), (0, 3, b"012"), (7, 3, b"789"), (3, 0, b"")],
)
def test_ranges(backend: Backend, offset: int, length: int | None, expected: bytes) -> None:
    backend.put(FileKind.PACK, A, b"0123456789")
    assert backend.get(FileKind.PACK, A, offset, length) == expected


@pytest.mark.parametrize(("offset", "length"), [(8, 3), (10, 1), (50, 5)])
def test_a_range_beyond_the_end_is_damage(backend: Backend, offset: int, length: int) -> None:
    backend.put(FileKind.PACK, A, b"0123456789")
    with pytest.raises(Corrupt):
        backend.get(FileKind.PACK, A, offset, length)


def test_what_is_not_there(backend: Backend) -> None:
    for kind in FileKind:
        assert list(backend.list(kind)) == []
    with pytest.raises(NotFound):
        backend.get(FileKind.PACK, A)
    with pytest.raises(NotFound):
        backend.get(FileKind.PACK, A, 3, 4)
    with pytest.raises(NotFound):
        backend.size(FileKind.PACK, A)


def test_delete_twice(backend: Backend) -> None:
    backend.put(FileKind.PACK, A, b"x")
    backend.put(FileKind.PACK, B, b"y")
    backend.delete(FileKind.PACK, A)
    backend.delete(FileKind.PACK, A)
    assert [each.name for each in backend.list(FileKind.PACK)] == [B]


def test_kinds_are_apart(backend: Backend) -> None:
    for kind in FileKind:
        backend.put(kind, A, kind.encode())
    backend.delete(FileKind.LOCK, A)
    for kind in FileKind:
        if kind is not FileKind.LOCK:
            assert backend.get(kind, A) == kind.encode()
            assert len(list(backend.list(kind))) == 1


def test_an_empty_file(backend: Backend) -> None:
    backend.put(FileKind.PACK, A, b"")
    assert backend.get(FileKind.PACK, A) == b""
    assert backend.size(FileKind.PACK, A) == 0


def test_more_files_than_one_page_of_a_listing(backend: Backend) -> None:
    names = {f"{number:05x}" for number in range(2 * S3_PAGE_KEYS + 1)}
    for name in names:
        backend.put(FileKind.SNAPSHOT, name, b"z")
    assert {each.name for each in backend.list(FileKind.SNAPSHOT)} == names


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", "a.b", "-a", "a\0", "é", "a" * 129, "a\n"])
def test_names_that_lead_elsewhere_are_refused(backend: Backend, name: str) -> None:
    with pytest.raises(InvalidName):
        backend.put(FileKind.PACK, name, b"x")
    with pytest.raises(InvalidName):
        backend.get(FileKind.PACK, name)
    with pytest.raises(InvalidName):
        backend.size(FileKind.PACK, name)
    with pytest.raises(InvalidName):
        backend.delete(FileKind.PACK, name)


def test_remove_leftovers_leaves_what_was_put(backend: Backend) -> None:
    backend.put(FileKind.PACK, A, b"x")
    backend.remove_leftovers()
    assert backend.get(FileKind.PACK, A) == b"x"


def test_an_s3_store_is_reached_by_its_address(s3_url: str, s3_client: Any) -> None:
    from pillarbox.backup.repository.backend_s3 import S3Backend

    backend = S3Backend.connect(BUCKET, "by address", endpoint_url=s3_url)
    backend.put(FileKind.PACK, A, b"x")
    listed = s3_client.list_objects_v2(Bucket=BUCKET, Prefix="by address/")["Contents"]
    assert [each["Key"] for each in listed] == ["by address/packs/aa11"]


def test_an_s3_bucket_that_is_not_there(s3_client: Any) -> None:
    from pillarbox.backup.repository.backend_s3 import S3Backend

    with pytest.raises(NotFound):
        list(S3Backend(s3_client, "no-such-bucket").list(FileKind.PACK))


@pytest.mark.slow
def test_a_repository_on_a_real_s3_server(seaweedfs_backend: Backend) -> None:
    """Made once, though two try; written, checked and pruned as in a directory."""
    clock = SystemClock()
    repository = Repository.create(seaweedfs_backend, Unencrypted(), clock=clock)
    with pytest.raises(AlreadyExists):
        Repository.create(seaweedfs_backend, Unencrypted(), clock=clock)
    content = Random(1).randbytes(3_000_000)
    with repository.writer() as writer:
        blob = writer.add(BlobKind.DATA, content).id
        root = writer.add_tree([Child(BlobKind.DATA, blob)], None).id
        snapshot = writer.save_snapshot({}, [root])
    again = Repository.open(seaweedfs_backend, Unencrypted(), clock=clock)
    assert (again.read(blob), [each.id for each in again.snapshots()]) == (content, [snapshot])
    assert check_repository(again, read_data=1).is_whole
    again.forget([snapshot])
    assert prune(again).bytes_after == 0
