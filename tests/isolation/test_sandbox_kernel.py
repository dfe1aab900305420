"""The sandbox on the running kernel, tried from a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from isolation.sandbox import LinuxKernel

# Runs walled in; prints what it could do.
PROBE = """
import json, os, socket, subprocess, sys
from pathlib import Path
from isolation.sandbox import LinuxKernel, SandboxPolicy, apply, system_policy
from partywall.domain.fleet import DeviceKind

readable, forbidden, parent = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
base = system_policy(DeviceKind.CPU, {})
listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen()
reads = (*base.read_paths, readable)
states = apply(SandboxPolicy(reads, base.write_paths), LinuxKernel())

def outcome(action):
    try:
        action()
    except OSError as failure:
        return type(failure).__name__
    return "allowed"

def bind():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))

def connect():
    with socket.socket() as s:
        s.connect(listener.getsockname())

print(json.dumps({
    "states": {s.layer.value: s.active for s in states},
    "read_own": outcome(lambda: (readable / "f").read_bytes()),
    "read_other": outcome(lambda: (forbidden / "f").read_bytes()),
    "write_own": outcome(lambda: (readable / "g").write_bytes(b"x")),
    "write_tmp": outcome(lambda: Path("/tmp/partywall-probe").write_bytes(b"x")),
    "write_shm": outcome(lambda: Path("/dev/shm/partywall-probe").write_bytes(b"x")),
    "execute": outcome(lambda: subprocess.run(["/bin/true"])),
    "bind": outcome(bind),
    "connect": outcome(connect),
    "signal": outcome(lambda: os.kill(parent, 0)),
    "environ_of_parent": outcome(lambda: Path(f"/proc/{parent}/environ").read_bytes()),
    "null": outcome(lambda: Path("/dev/null").write_bytes(b"x")),
}))
"""


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    own, other = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("other")
    for folder in (own, other):
        (folder / "f").write_bytes(b"content")
    bystander = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, str(own), str(other), str(bystander.pid)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        bystander.communicate(timeout=10)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_layers_stand(probed: dict[str, object]) -> None:
    states = probed["states"]
    assert isinstance(states, dict)
    assert all(active for layer, active in states.items() if layer != "landlock")
    assert states["landlock"] == (LinuxKernel().landlock_abi() > 0)


@pytest.mark.parametrize(
    ("action", "abi", "expected"),
    [
        ("read_own", 1, "allowed"),
        ("null", 1, "allowed"),
        ("read_other", 1, "PermissionError"),
        ("write_own", 1, "PermissionError"),
        ("write_tmp", 1, "PermissionError"),
        ("write_shm", 1, "PermissionError"),
        ("execute", 1, "PermissionError"),
        ("environ_of_parent", 1, "PermissionError"),
        ("bind", 4, "PermissionError"),
        ("connect", 4, "PermissionError"),
        ("signal", 6, "PermissionError"),
    ],
)
def test_what_a_walled_process_can_do(probed: dict[str, object], action: str, abi: int, expected: str) -> None:
    if LinuxKernel().landlock_abi() < abi:
        pytest.skip(f"this kernel's Landlock is older than ABI {abi}")
    assert probed[action] == expected
    assert not Path("/tmp/partywall-probe").exists()  # noqa: S108 - the place it must not reach
