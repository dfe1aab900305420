"""Whether the machine's cores are cores of their own: a virtual machine may be given two threads of one, or a share.

What several processes do at once then takes more CPU time than the same work done by one, and a server of three
processes looks dearer beside a server of one than it is.
"""

from __future__ import annotations

import os
import subprocess
import sys

_SPIN = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
end, done, held = time.perf_counter() + float(sys.argv[2]), 0, {}
while time.perf_counter() < end:
    for number in range(500):
        held[number * 7919 % 4096] = (number, str(number))
    done += 1
print(done)
"""
_SECONDS = 0.3


def together() -> float:
    """What all cores do at once, over the sum of what each does alone; 1.0: they do not disturb each other.

    Raises:
        subprocess.SubprocessError: A process failed or did not end.
    """
    cores = sorted(os.sched_getaffinity(0))
    alone = sum(sum(_spin([core])) for core in cores)
    return sum(_spin(cores)) / alone


def _spin(cores: list[int]) -> list[int]:
    """Rounds done on each of the cores at the same time."""
    command = [sys.executable, "-c", _SPIN]
    running = [
        subprocess.Popen([*command, str(core), str(_SECONDS)], stdout=subprocess.PIPE, text=True) for core in cores
    ]
    return [int(process.communicate(timeout=30)[0]) for process in running]
