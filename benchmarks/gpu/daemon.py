"""An MPS daemon of one's own for a while, in a private folder; it is gone afterwards, whatever happened."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from isolation.partition.mps_daemon import BINARY, NvidiaMpsControl
from partywall.errors import PartywallError


@contextmanager
def own_daemon(gpu_uuid: str, folder: Path, command: Sequence[str] = (BINARY,)) -> Iterator[NvidiaMpsControl]:
    """The control; nothing runs until somebody starts it."""
    control = NvidiaMpsControl(gpu_uuid, folder, command)
    try:
        yield control
    finally:
        end(control)


def end(control: NvidiaMpsControl) -> None:
    """Asks the daemon to quit. One that does not is ended by signals, its servers first: it is ours alone."""
    pids: list[int] = []
    with suppress(PartywallError):
        if (server := control.server_pid()) is not None:
            pids.append(server)
    with suppress(OSError, ValueError):
        pids.append(int((control.pipe_directory / f"{BINARY}.pid").read_text()))
    try:
        control.stop()
    except PartywallError as error:
        print(f"{error.message}; ending it by signals", file=sys.stderr)
        for how in (signal.SIGTERM, signal.SIGKILL):
            for pid in pids:
                if _is_mps(pid):
                    with suppress(OSError):
                        os.kill(pid, how)
            time.sleep(1.0)


def _is_mps(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("nvidia-cuda-mps")
    except OSError:
        return False
