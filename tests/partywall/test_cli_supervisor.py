"""The supervisor of `partywall up` with small children of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from client_fakes import fake_server
from fakes_support import ADMIN_KEY

from partywall.cli.local.child import Launch, Timing
from partywall.cli.local.instance import LocalInstance
from partywall.cli.local.supervisor import Addresses, Plan, Supervisor
from partywall.clock import SystemClock
from partywall.errors import DeadlineExceeded, Unavailable
from router.control.pki import Authority

ROUTER = """
import json, os, pathlib, signal, sys
run = pathlib.Path(sys.argv[1]) / "run"
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
(run / "router.argv").write_text(sys.argv[2])
(run / "new").write_text(json.dumps({k: f"{k}:1" for k in ("public", "admin", "link", "metrics")}))
(run / "new").replace(run / "addresses.json")
while True: signal.pause()
"""
AGENT = """
import os, pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
path = pathlib.Path(sys.argv[1]) / "run" / "agents"
with open(path, "a") as log: log.write(f"{os.getpid()} {os.environ['SECRET']}\\n")
while True: signal.pause()
"""
TIMING = Timing(
    router_start_s=20, agent_start_s=20, stop_s=10, first_backoff_s=0.05, max_backoff_s=0.2, online_poll_s=0.02
)
LIMIT_S = 20.0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def agents(data_dir: Path) -> list[int]:
    path = data_dir / "run" / "agents"
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []


def make_plan(data_dir: Path, after_ready: Callable[[int, int], None]) -> Plan:
    (data_dir / "run").mkdir()
    (data_dir / "run" / "addresses.json").write_text('{"public": "stale:1"}')

    def router(addresses: Addresses | None) -> Launch:
        listen = "first" if addresses is None else addresses["public"]
        return Launch([sys.executable, "-c", ROUTER, str(data_dir), listen], {})

    def on_ready(_addresses: Addresses, router_pid: int, agent_pid: int) -> None:
        def act() -> None:
            try:
                after_ready(router_pid, agent_pid)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=act).start()

    agent = Launch([sys.executable, "-c", AGENT, str(data_dir)], {"SECRET": "s"})
    return Plan(data_dir, router, lambda _: agent, lambda _: bool(agents(data_dir)), on_ready)


def supervise(plan: Plan, timing: Timing = TIMING) -> tuple[int, list[str]]:
    notes: list[str] = []
    return Supervisor(plan, SystemClock(), timing, notes.append).run(), notes


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_starts_both_and_ends_both(tmp_path: Path) -> None:
    pids: list[int] = []
    code, notes = supervise(make_plan(tmp_path, lambda *found: pids.extend(found)))
    assert (code, notes) == (0, [])
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


def test_a_child_that_dies_comes_back_on_the_same_address(tmp_path: Path) -> None:
    def kill_both(router_pid: int, agent_pid: int) -> None:
        os.kill(agent_pid, signal.SIGKILL)
        wait_for(lambda: len(agents(tmp_path)) == 2)
        os.kill(router_pid, signal.SIGKILL)
        wait_for(lambda: (tmp_path / "run" / "router.argv").read_text() == "public:1")

    code, notes = supervise(make_plan(tmp_path, kill_both))
    assert code == 0
    assert [note.split(";")[0] for note in notes] == [
        "the agent ended with signal SIGKILL",
        "the router ended with signal SIGKILL",
    ]
    assert all(gone(pid) for pid in agents(tmp_path))


def test_a_router_that_ends_at_once_is_an_error(tmp_path: Path) -> None:
    plan = replace(
        make_plan(tmp_path, lambda *_: None), router=lambda _: Launch([sys.executable, "-c", "raise SystemExit(3)"], {})
    )
    with pytest.raises(Unavailable, match="router ended with exit code 3"):
        supervise(plan)


def test_an_agent_that_never_comes_online_is_an_error(tmp_path: Path) -> None:
    plan = replace(make_plan(tmp_path, lambda *_: None), agent_online=lambda _: False)
    with pytest.raises(DeadlineExceeded, match="agent was not ready"):
        supervise(plan, replace(TIMING, agent_start_s=0.5))
    assert all(gone(pid) for pid in agents(tmp_path))


def test_a_signal_before_ready_ends_everything(tmp_path: Path) -> None:
    def interrupted(_: Addresses) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return False

    code, _ = supervise(replace(make_plan(tmp_path, lambda *_: None), agent_online=interrupted))
    assert code == 130


def test_a_child_that_does_not_drain_is_killed(tmp_path: Path) -> None:
    stubborn = AGENT.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")
    launch = Launch([sys.executable, "-c", stubborn, str(tmp_path)], {"SECRET": "s"})
    plan = replace(make_plan(tmp_path, lambda *_: None), agent=lambda _: launch)
    code, _ = supervise(plan, replace(TIMING, stop_s=0.3))
    assert code == 1
    assert all(gone(pid) for pid in agents(tmp_path))


def test_children_die_with_a_supervisor_that_is_killed() -> None:
    child = "import os, time; from partywall.cli.local.servers import die_with_parent; die_with_parent(os.getppid()); "
    child += "print(os.getpid(), flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], LIMIT_S)[0]
        pid = int(process.stdout.readline())
        process.kill()
        wait_for(lambda: gone(pid))


def test_how_the_parts_of_an_instance_are_started(tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_text(ADMIN_KEY)
    now = SystemClock().now()
    listens = dict.fromkeys(("public", "admin", "link", "metrics"), "127.0.0.1:0")
    instance = LocalInstance(tmp_path, "local", listens, ("--reflection",), ("--queue", "fifo"))
    first = " ".join(instance.router(None).argv)
    assert "--listen 127.0.0.1:0" in first
    assert f"--parent-pid {os.getpid()}" in first
    with fake_server() as fake:
        addresses = dict.fromkeys(("public", "admin", "link", "metrics"), fake.address)
        assert f"--link-listen {fake.address}" in " ".join(instance.router(addresses).argv)
        launch = instance.agent(addresses)
        assert launch.environment == {"PARTYWALL_AGENT_JOIN": "bundle-local-900"}
        assert "bundle" not in " ".join(launch.argv)
        assert instance.agent_online(addresses)
        fake.fleet.nodes.clear()
        assert not instance.agent_online(addresses)
        (tmp_path / "node").mkdir()
        (tmp_path / "node" / "agent.pem").write_text("x")
        assert "PARTYWALL_AGENT_JOIN" in instance.agent(addresses).environment
        # What `init` made is of the node `local`, and of no other.
        (tmp_path / "node" / "agent.pem").write_bytes(Authority.create(now).agent("local", now).certificate_pem)
        assert instance.agent(addresses).environment == {}
        assert replace(instance, node="other").agent(addresses).environment == {
            "PARTYWALL_AGENT_JOIN": "bundle-other-900"
        }
    assert not instance.agent_online(addresses)


def test_up_without_a_data_directory_names_init(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "partywall.cli.main", "up", "--data-dir", str(tmp_path), "-o", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "partywall init" in json.loads(done.stderr)["error"]["hint"]
