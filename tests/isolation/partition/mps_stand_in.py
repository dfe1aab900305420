"""A stand-in for `nvidia-cuda-mps-control`: a daemon with a pipe directory and the command set that the real side uses.

State is a folder of files, so that tests can play clients: `client_PID` is one, `server` holds the server's number,
`state` its state; while `hang` exists no answer comes. With STAND_IN_STATIC=1 it has static SM partitions, 16 chunks of
them; with STAND_IN_BROKEN=1 it does not start; with STAND_IN_HOLDS=1 the daemon keeps its launcher's output open; with
STAND_IN_FRIENDLY=1 the usage that it prints instead of starting counts as success; with STAND_IN_FORBIDDEN=1 its user
may not start it.
"""

import os
import signal
import sys
import time
from pathlib import Path

NAME = "nvidia-cuda-mps-control"


def daemon(pipe: Path) -> int:
    if "-S" in sys.argv and "STAND_IN_STATIC" not in os.environ:
        print("usage: nvidia-cuda-mps-control [-d | -f | -v]")
        return 0 if "STAND_IN_FRIENDLY" in os.environ else 1
    if "STAND_IN_BROKEN" in os.environ:
        print("Failed to start MPS control daemon")
        return 1
    if "STAND_IN_FORBIDDEN" in os.environ:
        print("Cannot create the pipe directory: Permission denied")
        return 1
    child = os.fork()
    if child == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(1 if "STAND_IN_HOLDS" in os.environ else 3):
            os.dup2(null, stream)
        # /proc/PID/environ shows what a process was started with, so it is started anew.
        os.execv(sys.executable, [sys.executable, __file__, "serve"])  # noqa: S606
    (pipe / f"{NAME}.pid").write_text(str(child))
    while b"serve" not in Path(f"/proc/{child}/cmdline").read_bytes():
        time.sleep(0.005)
    return 0


def serve() -> None:
    signal.alarm(60)  # nothing of a test outlives it
    signal.pause()


def partition_sms(pipe: Path, words: list[str]) -> None:
    taken = sum(int(f.read_text()) for f in pipe.glob("chunks_*"))
    if words[0] == "rm":
        (pipe / f"chunks_{words[2].partition('/')[2]}").unlink()
    elif taken + int(words[2]) > 16:
        print("CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION")
    else:
        name = f"set{taken}"
        (pipe / f"chunks_{name}").write_text(words[2])
        print(f"{words[1]}/{name}")


def answer(pipe: Path, line: str) -> None:
    while (pipe / "hang").exists():
        time.sleep(0.01)
    words = line.split()
    clients = sorted(int(f.name.removeprefix("client_")) for f in pipe.glob("client_*"))
    if words[0] == "quit":
        pidfile = pipe / f"{NAME}.pid"
        os.kill(int(pidfile.read_text()), signal.SIGTERM)
        pidfile.unlink()
    elif words[0] == "sm_partition":
        partition_sms(pipe, words[1:])
    elif words[0] == "get_server_list" and (pipe / "server").exists():
        print((pipe / "server").read_text())
    elif words[0] == "get_server_status":
        print((pipe / "state").read_text())
    elif words[0] == "get_client_list":
        print("\n".join(str(pid) for pid in clients))
    elif words[0] == "terminate_client":
        (pipe / f"client_{words[2]}").unlink(missing_ok=True)


if __name__ == "__main__":
    directory = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
    if "serve" in sys.argv:
        serve()
    elif "-d" in sys.argv:
        sys.exit(daemon(directory))
    else:
        for entered in sys.stdin:
            answer(directory, entered)
