"""Where a repository lies and what opens it, as words of a command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `backup`) is not installed")

from pillarbox.tools.repository_options import PASSPHRASE

if TYPE_CHECKING:
    from conftest import Pillarbox


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a real S3 server, which the environment names, as boto3 wants it."""
    boto3 = pytest.importorskip("boto3", reason="boto3 (the extra `s3`) is not installed")
    server_module = pytest.importorskip("moto.server", reason="moto[server], the S3 server, is not installed")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    boto3.client("s3").create_bucket(Bucket="mail")
    yield "s3://mail"
    server.stop()


@pytest.mark.slow  # the S3 server takes seconds to load
def test_a_mailbox_comes_back_from_an_object_store(
    pillarbox: Pillarbox, server: Path, bucket: str, tmp_path: Path
) -> None:
    repository, key = f"{bucket}/of/anna", ("--key-file", tmp_path / "key")
    pillarbox.answer("backup", "init", repository, *key)
    pillarbox.answer("backup", "create", server, repository, *key)
    assert pillarbox.answer("backup", "check", repository, "--read-data", *key)["clean"]
    pillarbox.answer("folder", "delete", server, "anna", "lists", "--with-contents", "--yes")
    pillarbox.answer("recovery", "mount", server, repository, "latest", *key)
    assert pillarbox.answer("recovery", "list", server)["databases"][0]["repository"] == repository
    assert pillarbox.answer("recovery", "merge", server, "anna", *key)[0]["merged"] == 24
    assert "no repository at" in pillarbox.refused(40, "backup", "list", f"{bucket}/of/nobody", *key)


def test_without_boto3_an_object_store_says_what_to_install(
    pillarbox: Pillarbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "pillarbox.backup.repository.backend_s3", raising=False)
    assert "extra `s3`" in pillarbox.refused(27, "backup", "list", "s3://mail/of/anna")


def test_an_object_store_needs_a_bucket(pillarbox: Pillarbox) -> None:
    assert "s3://BUCKET" in pillarbox.refused(27, "backup", "list", "s3://")


def test_a_passphrase_file_ends_without_its_line_end(
    pillarbox: Pillarbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    pillarbox.answer("backup", "init", tmp_path / "repo")
    monkeypatch.delenv(PASSPHRASE)
    (tmp_path / "phrase").write_bytes(b"correct horse\r\n")
    words = ("backup", "list", tmp_path / "repo", "--passphrase-file")
    assert pillarbox.answer(*words, tmp_path / "phrase") == []
    assert "no such file" in pillarbox.refused(40, *words, tmp_path / "missing")
    (tmp_path / "phrase").write_bytes(b"\xff\xfe")
    assert "cannot be read" in pillarbox.refused(27, *words, tmp_path / "phrase")
