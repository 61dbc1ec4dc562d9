"""Processes that look into tables end with the one that asked for them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from pillarbox.store.disk.env import DATA_FILE

ASKING = """
import sys
from pathlib import Path
from pillarbox.store.disk.tables_process import TableRows

list(TableRows(Path(sys.argv[1])))
"""


def test_a_process_that_looks_into_tables_dies_with_the_one_that_asked_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / DATA_FILE)
    asking = subprocess.Popen([sys.executable, "-c", ASKING, str(tmp_path)])
    with asking, (tmp_path / DATA_FILE).open("wb") as unread:  # once the other process has it open, too
        asking.kill()
        asking.wait()
        nobody_reads = select.poll()
        nobody_reads.register(unread, select.POLLERR)
        assert nobody_reads.poll(10_000)
