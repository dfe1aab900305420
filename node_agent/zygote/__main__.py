"""`python -m node_agent.zygote --control FD --parent PID [--preload MODULE ...]`; the agent starts it."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import socket
import sys
import time

from isolation.sandbox import LinuxKernel
from node_agent.zygote import preload
from partywall.memory import trim


def main() -> int:
    """Imports, reports ready, forks on request; ends with the agent."""
    parser = argparse.ArgumentParser(prog="node_agent.zygote", description="Forks Partywall workers for the agent.")
    parser.add_argument("--control", type=int, required=True, help="descriptor of the socket to the agent")
    parser.add_argument("--parent", type=int, required=True, help="process id of the agent")
    parser.add_argument("--preload", nargs="*", default=[], help="modules to import before the first fork")
    arguments = parser.parse_args()
    LinuxKernel().set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != arguments.parent:
        return 0
    # A terminal's Ctrl-C is for the agent, which drains first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    preload.limit_threads(os.environ)
    started = time.monotonic()
    preload.import_all([*preload.ALWAYS, *arguments.preload])
    # What is imported stays shared with the children: the collector must not touch its pages.
    gc.collect()
    trim()
    gc.freeze()
    from node_agent.zygote.server import Zygote

    control = socket.socket(fileno=arguments.control)
    return Zygote(control, os.getpid()).serve(import_seconds=time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(main())
