"""The walk through replication of README.md: three served servers, cut apart, healed, equal, one retired."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="cryptography (the extra `replication`) is not installed")

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("pillarbox")
IS_SHORT = os.environ.get("PILLARBOX_CAMPAIGN") == "short"


@pytest.mark.slow
@pytest.mark.skipif(not COMMAND.exists(), reason="pillarbox is not installed as a command")
@pytest.mark.skipif(IS_SHORT, reason="the walk waits minutes, as its servers do")
def test_three_servers_become_equal_after_a_cut_and_one_is_retired(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = min(listener.getsockname()[1], 65_000)
    given = {**os.environ, "PILLARBOX": str(COMMAND), "PORT": str(port)}
    done = subprocess.run(
        [ROOT / "tools" / "demo-replication", tmp_path],
        env=given, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "All three hold the same" in done.stdout and "Nothing was lost." in done.stdout
