"""`partywall up`: router and agent on this machine, under one supervisor."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from partywall.cli.local import server_options as opt
from partywall.cli.local import servers
from partywall.cli.local.extras import extra
from partywall.cli.local.instance import LocalInstance
from partywall.cli.local.supervisor import Addresses, Plan, Supervisor, Timing
from partywall.cli.options import command
from partywall.cli.session import Session
from partywall.clock import SystemClock
from partywall.domain.names import check_name
from partywall.errors import Conflict, InvalidInput


@command
def up(
    session: Session,
    listen: opt.PublicListen = opt.LISTEN,
    admin_listen: opt.AdminListen = opt.ADMIN_LISTEN,
    link_listen: opt.LinkListen = opt.LINK_LISTEN,
    frames_listen: opt.FramesListen = "",
    metrics_listen: opt.MetricsListen = opt.METRICS_LISTEN,
    tls_cert: opt.TlsCert = None,
    tls_key: opt.TlsKey = None,
    reflection: opt.Reflection = False,
    no_admission: opt.NoAdmission = False,
    no_throttle: opt.NoThrottle = False,
    no_metrics: opt.NoMetrics = False,
    no_coalescing: opt.NoCoalescing = False,
    no_retries: opt.NoRetries = False,
    no_hedging: opt.NoHedging = False,
    no_planner: opt.NoPlanner = False,
    no_regroup: opt.NoRegroup = False,
    no_reshare: opt.NoReshare = False,
    placement: opt.PlacementRule = opt.PlacingRule.BEST_EFFORT,
    max_replicas: opt.MaxReplicas = 4,
    merge_after_s: opt.MergeAfterS = 120.0,
    swap_bytes: opt.SwapBytes = 0,
    idle_s: opt.IdleS = 0.0,
    sealed_memory: opt.SealedMemory = 0,
    no_overcommit: opt.NoOvercommit = False,
    queue: opt.Queue = opt.QueueOrder.EDF,
    modules: opt.Modules = None,
    cores: opt.Cores = "",
    sandbox_required: opt.SandboxRequired = False,
    simulate_devices: opt.SimulateDevices = "",
    observe_only: opt.ObserveOnly = False,
    watchdog_s: opt.WatchdogS = 30.0,
    node: Annotated[str, typer.Option("--node", help="Name of this machine's node.")] = servers.LOCAL_NODE,
    router_processes: Annotated[
        int, typer.Option("--router-processes", min=1, max=64, help="Router processes that share the public port.")
    ] = 1,
    connection_age_s: opt.ConnectionAge = None,
    drain_s: opt.DrainS = 10.0,
    log_level: opt.LogLevel = opt.Level.INFO,
) -> None:
    """Run router and agent on this machine until SIGTERM; prints one line `ready {json}`."""
    data_dir = servers.existing_data_dir(session)
    _check_extras()
    flags = {"--reflection": reflection, "--no-admission": no_admission, "--no-throttle": no_throttle}
    flags |= {"--no-overcommit": no_overcommit, "--no-metrics": no_metrics, "--no-coalescing": no_coalescing}
    flags |= {"--no-retries": no_retries, "--no-hedging": no_hedging, "--no-planner": no_planner}
    flags |= {"--no-regroup": no_regroup, "--no-reshare": no_reshare}
    common = ("--drain-s", str(drain_s), "--log-level", log_level.value)
    tls = _pair("--tls-cert", tls_cert, "--tls-key", tls_key)
    shared = ("--processes", str(router_processes)) if router_processes > 1 else ()
    framed = ("--frames-listen", frames_listen) if frames_listen else ()
    aged = ("--connection-age-s", str(connection_age_s)) if connection_age_s is not None else ()
    servers.checked_cores(cores)
    registered = servers.checked_modules(modules or ())
    instance = LocalInstance(
        data_dir=data_dir,
        node=check_name(node, "node"),
        listens={"public": listen, "admin": admin_listen, "link": link_listen, "metrics": metrics_listen},
        router_options=(
            *common,
            *tls,
            *shared,
            *framed,
            *aged,
            *(flag for flag, given in flags.items() if given),
            *("--max-replicas", str(max_replicas), "--merge-after-s", str(merge_after_s)),
            *("--placement", placement.value),
            *("--swap-bytes", str(swap_bytes), "--idle-s", str(idle_s)),
        ),
        agent_options=(
            *common,
            *("--queue", queue.value),
            *(part for file in registered for part in ("--modules", _absolute_module(file))),
            *(("--cores", cores) if cores else ()),
            *(("--sandbox-required",) if sandbox_required else ()),
            *(("--simulate-devices", simulate_devices) if simulate_devices else ()),
            *(("--observe-only",) if observe_only else ()),
            *("--watchdog-s", str(watchdog_s)),
            *(("--no-coalescing",) if no_coalescing else ()),
            *("--sealed-memory", str(sealed_memory)),
        ),
        tls_cert=tls_cert,
    )
    with _only_one(data_dir):
        raise typer.Exit(_supervise(instance, session, drain_s))


def _supervise(instance: LocalInstance, session: Session, drain_s: float) -> int:
    def on_ready(addresses: Addresses, router_pid: int, agent_pid: int) -> None:
        line = {
            "address": addresses["public"],
            "admin_address": addresses["admin"],
            "link_address": addresses["link"],
            "metrics_address": addresses["metrics"],
            "data_dir": str(instance.data_dir),
            "pid": os.getpid(),
            "router_pid": router_pid,
            "agent_pid": agent_pid,
        }
        print(f"ready {json.dumps(line)}", flush=True)

    plan = Plan(instance.data_dir, instance.router, instance.agent, instance.agent_online, on_ready)
    timing = Timing(stop_s=drain_s + 10.0)
    return Supervisor(plan, SystemClock(), timing, session.printer.note).run()


def _pair(first: str, first_path: Path | None, second: str, second_path: Path | None) -> tuple[str, ...]:
    if (first_path is None) != (second_path is None):
        raise InvalidInput(f"{first} and {second} belong together: give both or neither", fields={"field": first})
    if first_path is None:
        return ()
    return (first, str(Path(first_path).absolute()), second, str(Path(str(second_path)).absolute()))


def _absolute_module(file: str) -> str:
    return str(Path(file).absolute()) if file.endswith(".py") else file


def _check_extras() -> None:
    """Before anything is started: both parts can run here."""
    with extra("router"):
        import router.app  # noqa: F401
    with extra("agent"):
        import safetensors  # noqa: F401
        import uvloop  # noqa: F401


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """A lock on the data directory; the kernel lets go of it when this process ends, however it does.

    Raises:
        Conflict: Another `up` runs here.
    """
    run = data_dir / "run"
    run.mkdir(exist_ok=True)
    with (run / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Conflict(
                f"data_dir {str(data_dir)!r} is in use by `partywall up`, pid {lock.read().strip() or 'unknown'}",
                fields={"field": "data_dir", "hint": "stop that one first, or take another --data-dir"},
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
