"""The journal under a real SIGKILL: whatever the moment, what was there before is readable afterwards."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isolation.partition.journal import Entry, Journal, Phase
from partywall.domain.fleet import Partition, PartitionKind

STANDING = 400
WRITER = """
import sys
from pathlib import Path
from isolation.partition.journal import Journal, Phase
from partywall.domain.fleet import Partition, PartitionKind
journal = Journal(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(1_000_000):
    journal.put(Partition(f"new-{number % 3}", PartitionKind.MPS, "GPU-1", (), 1 + number % 100), Phase.PREPARING)
"""


@pytest.mark.parametrize("seed", range(8))
def test_a_kill_in_the_middle_of_writing_loses_nothing(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "partitions.json"
    journal = Journal(path)
    for number in range(STANDING - 1):
        # One write at the end is enough: what counts is that the file is large.
        journal._entries[f"p{number}"] = Entry(_partition(number), Phase.STANDING)
    journal.put(_partition(STANDING - 1), Phase.STANDING)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"ready\n"
    time.sleep(random.Random(seed).uniform(0.0, 0.05))  # not to wait for anything: the moment of the kill
    writer.send_signal(signal.SIGKILL)
    writer.wait(30)
    writer.stdout.close()
    found = Journal(path).entries
    assert {f"p{number}" for number in range(STANDING)} <= found.keys()
    assert len(found) <= STANDING + 3


def _partition(number: int) -> Partition:
    return Partition(f"p{number}", PartitionKind.MPS, "GPU-1", (), 1)
