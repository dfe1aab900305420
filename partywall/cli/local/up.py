"""`partywall up`: router and agent on this machine, under one supervisor."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from partywall.cli.local import server_options as opt
from partywall.cli.local import servers
from partywall.cli.local.extras import extra
from partywall.cli.local.supervisor import Addresses, Launch, Plan, Supervisor, Timing
from partywall.cli.options import command
from partywall.cli.session import Connection, Session
from partywall.cli.settings import local_address, read_secret
from partywall.client.endpoint import open_endpoint
from partywall.client.flow import FLEET
from partywall.clock import SystemClock
from partywall.domain.names import check_name
from partywall.errors import Conflict, InvalidInput, PartywallError
from partywall.v1 import fleet_pb2

_TOKEN_LIFETIME_S = 900
_PROBE_TIMEOUT_S = 5.0
_ROUTER_GRPC = "-event_engine_listener"
"""gRPC's older poller reads the router's ports with one thread hop less: a sixth of the CPU of a bare call (figures:
docs/performance.md). A release of gRPC that no longer has the choice says so on standard error and goes on."""


@dataclass(frozen=True, slots=True)
class LocalInstance:
    """One instance on this machine: how its parts are started and asked."""

    data_dir: Path
    node: str
    listens: Mapping[str, str]
    router_options: tuple[str, ...]
    agent_options: tuple[str, ...]
    tls_cert: Path | None = None

    def router(self, addresses: Addresses | None) -> Launch:
        listens = self.listens if addresses is None else addresses
        argv = [*_partywall("router", self.data_dir), *self.router_options]
        for option, key in (("--listen", "public"), ("--admin-listen", "admin"), ("--link-listen", "link")):
            argv += [option, listens[key]]
        chosen = "GRPC_EXPERIMENTS" in os.environ
        return Launch(
            [*argv, "--metrics-listen", listens["metrics"]], {} if chosen else {"GRPC_EXPERIMENTS": _ROUTER_GRPC}
        )

    def agent(self, addresses: Addresses) -> Launch:
        home = self.data_dir / "node"
        argv = [*_partywall("agent", home), "--node", self.node, "--router", local_address(addresses["link"])]
        argv += ["--blob-dir", str(self.data_dir / "blobs"), *self.agent_options]
        # The token is a secret: other users see command lines, not environments.
        joined = any(home.glob("*.pem")) or any(home.glob("*.crt"))
        return Launch(argv, {} if joined else {"PARTYWALL_AGENT_JOIN": self._join_bundle(addresses)})

    def agent_online(self, addresses: Addresses) -> bool:
        try:
            with self._operator(addresses) as connection:
                fleet = connection.call(FLEET["GetFleet"], fleet_pb2.GetFleetRequest(), idempotent=True)
        except PartywallError:
            return False
        return any(n.name == self.node and n.state == fleet_pb2.NODE_STATE_ONLINE for n in fleet.nodes)

    def _join_bundle(self, addresses: Addresses) -> str:
        request = fleet_pb2.CreateJoinTokenRequest(node=self.node, lifetime_s=_TOKEN_LIFETIME_S)
        with self._operator(addresses) as connection:
            bundle: str = connection.call(FLEET["CreateJoinToken"], request).bundle
            return bundle

    @contextmanager
    def _operator(self, addresses: Addresses) -> Iterator[Connection]:
        endpoint = open_endpoint(
            local_address(addresses["admin"]),
            credential=read_secret(self.data_dir / "admin.key", "admin_key_file"),
            tls_ca=self.tls_cert,
            server_name=_certificate_name(self.tls_cert) if self.tls_cert is not None else None,
        )
        connection = Connection(endpoint, _PROBE_TIMEOUT_S)
        try:
            yield connection
        finally:
            connection.close()


@command
def up(
    session: Session,
    listen: opt.PublicListen = opt.LISTEN,
    admin_listen: opt.AdminListen = opt.ADMIN_LISTEN,
    link_listen: opt.LinkListen = opt.LINK_LISTEN,
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
    flags |= {"--no-regroup": no_regroup}
    common = ("--drain-s", str(drain_s), "--log-level", log_level.value)
    tls = _pair("--tls-cert", tls_cert, "--tls-key", tls_key)
    shared = ("--processes", str(router_processes)) if router_processes > 1 else ()
    aged = ("--connection-age-s", str(connection_age_s)) if connection_age_s is not None else ()
    servers.checked_cores(cores)
    instance = LocalInstance(
        data_dir=data_dir,
        node=check_name(node, "node"),
        listens={"public": listen, "admin": admin_listen, "link": link_listen, "metrics": metrics_listen},
        router_options=(
            *common,
            *tls,
            *shared,
            *aged,
            *(flag for flag, given in flags.items() if given),
            *("--max-replicas", str(max_replicas), "--merge-after-s", str(merge_after_s)),
            *("--placement", placement.value),
            *("--swap-bytes", str(swap_bytes), "--idle-s", str(idle_s)),
        ),
        agent_options=(
            *common,
            *("--queue", queue.value),
            *(part for file in modules or () for part in ("--modules", _absolute_module(file))),
            *(("--cores", cores) if cores else ()),
            *(("--sandbox-required",) if sandbox_required else ()),
            *(("--simulate-devices", simulate_devices) if simulate_devices else ()),
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


def _partywall(verb: str, data_dir: Path) -> list[str]:
    base = [sys.executable, "-m", "partywall.cli.main", verb]
    return [*base, "--data-dir", str(data_dir), "--parent-pid", str(os.getpid())]


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


def _certificate_name(path: Path) -> str | None:
    """A DNS name out of the certificate, which the loopback address of the probe would not match."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return None
    return next(iter(names.get_values_for_type(x509.DNSName)), None)


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
