"""`partywall init`, `router` and `agent`: one part of an installation, in this process."""

from __future__ import annotations

import enum
import os
import signal
import socket
from pathlib import Path
from typing import Annotated

import typer

from partywall.cli.local.extras import extra
from partywall.cli.options import command
from partywall.cli.session import Session
from partywall.cli.values import parse_cores, parse_size
from partywall.domain.names import check_name
from partywall.errors import InvalidInput

LOCAL_NODE = "local"

PublicListen = Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Public port; port 0: a free one.")]
AdminListen = Annotated[str, typer.Option("--admin-listen", metavar="HOST:PORT", help="Operator's port.")]
LinkListen = Annotated[str, typer.Option("--link-listen", metavar="HOST:PORT", help="Where agents dial (mTLS).")]
MetricsListen = Annotated[str, typer.Option("--metrics-listen", metavar="HOST:PORT", help="HTTP /metrics.")]
TlsCert = Annotated[Path | None, typer.Option("--tls-cert", help="PEM chain; needed for any address but loopback.")]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", help="PEM key of --tls-cert.")]
Reflection = Annotated[bool, typer.Option("--reflection", help="gRPC reflection on the public port too.")]
NoAdmission = Annotated[bool, typer.Option("--no-admission", help="Queue what cannot meet its deadline.")]
NoRetries = Annotated[bool, typer.Option("--no-retries", help="Try no request on a second replica after a failure.")]
NoHedging = Annotated[bool, typer.Option("--no-hedging", help="Ask no second replica when a request is late.")]
NoPlanner = Annotated[bool, typer.Option("--no-planner", help="Leave the number of replicas alone.")]
MaxReplicas = Annotated[int, typer.Option("--max-replicas", min=1, max=16, help="Of one model.")]
MergeAfterS = Annotated[
    float, typer.Option("--merge-after-s", min=1, help="How long a replica is superfluous before it goes.")
]
SwapBytes = Annotated[
    int,
    typer.Option(
        "--swap-bytes", parser=parse_size, metavar="SIZE", help="Per node, for weights of released versions; 0: none."
    ),
]
IdleS = Annotated[
    float, typer.Option("--idle-s", min=0, help="Until a --cold-start version without requests is released; 0: never.")
]
SealedMemory = Annotated[
    int,
    typer.Option(
        "--sealed-memory", parser=parse_size, metavar="SIZE", help="Holds released versions' sealed files; 0: none."
    ),
]
NoMetrics = Annotated[bool, typer.Option("--no-metrics", help="Count no requests.")]
NoCoalescing = Annotated[bool, typer.Option("--no-coalescing", help="One message a frame on the agent link.")]
NoThrottle = Annotated[bool, typer.Option("--no-throttle", help="Ignore the tenants' rates.")]
Modules = Annotated[
    list[str] | None, typer.Option("--modules", metavar="FILE", help="Registers architectures; repeatable.")
]
Queue = Annotated[str, typer.Option("--queue", metavar="edf|fifo", help="Order of requests in the agent.")]
Cores = Annotated[str, typer.Option("--cores", metavar="0,1", help="Cores to give out; empty: all.")]
DrainS = Annotated[float, typer.Option("--drain-s", min=0, help="How long accepted requests may finish.")]
Processes = Annotated[
    int, typer.Option("--processes", min=1, max=64, help="Router processes that share the public port.")
]
ConnectionAge = Annotated[
    float | None,
    typer.Option(
        "--connection-age-s", min=0, help="Callers reconnect after so long; 0: never. Default: 300 if shared."
    ),
]
PlacementRule = Annotated[
    str,
    typer.Option(
        "--placement",
        metavar="best-effort|strict",
        help="Where no place keeps everybody's objective: the least harm, or the model waits.",
    ),
]


class Level(enum.StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


LogLevel = Annotated[Level, typer.Option("--log-level", help="debug, info, warning or error.")]
WatchdogS = Annotated[
    float,
    typer.Option("--watchdog-s", min=0.05, help="A batch is stuck after 3 x its predicted time, never before this."),
]
SimulateDevices = Annotated[
    str,
    typer.Option(
        "--simulate-devices",
        metavar="MODELS",
        help="For development: GPUs that are not there (h100,h200,a100-80,a100-40); models run on the CPU behind them.",
    ),
]
ParentPid = Annotated[int, typer.Option("--parent-pid", hidden=True, min=0)]

DEFAULT_LISTEN = "127.0.0.1:8001"
DEFAULT_METRICS = "127.0.0.1:8002"
DEFAULT_ADMIN = "127.0.0.1:8003"
DEFAULT_LINK = "127.0.0.1:8004"


@command
def init(
    session: Session,
    host: Annotated[
        list[str] | None, typer.Option("--host", help="Name or address that agents dial; repeatable.")
    ] = None,
) -> None:
    """Make a data directory: admin key, root key, certificate authority, empty state."""
    data_dir = required_data_dir(session)
    with extra("router"):
        from router.control.setup import initialise
    initialise(data_dir, tuple(host or ()))
    session.printer.record({"data_dir": str(data_dir), "admin_key_file": str(data_dir / "admin.key")})
    session.printer.note(f"next: partywall up --data-dir {data_dir}")


@command
def router(
    session: Session,
    listen: PublicListen = DEFAULT_LISTEN,
    admin_listen: AdminListen = DEFAULT_ADMIN,
    link_listen: LinkListen = DEFAULT_LINK,
    metrics_listen: MetricsListen = DEFAULT_METRICS,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    reflection: Reflection = False,
    no_admission: NoAdmission = False,
    no_throttle: NoThrottle = False,
    no_metrics: NoMetrics = False,
    no_coalescing: NoCoalescing = False,
    no_retries: NoRetries = False,
    no_hedging: NoHedging = False,
    no_planner: NoPlanner = False,
    placement: PlacementRule = "best-effort",
    max_replicas: MaxReplicas = 4,
    merge_after_s: MergeAfterS = 120.0,
    swap_bytes: SwapBytes = 0,
    idle_s: IdleS = 0.0,
    no_overcommit: Annotated[bool, typer.Option("--no-overcommit", help="Models wait when no core is free.")] = False,
    processes: Processes = 1,
    connection_age_s: ConnectionAge = None,
    drain_s: DrainS = 10.0,
    log_level: LogLevel = Level.INFO,
    parent_pid: ParentPid = 0,
) -> None:
    """Run a router until SIGTERM."""
    data_dir = existing_data_dir(session)
    with extra("router"):
        from router.policy.wants import Placing
        from router.settings import RouterSettings

        if processes > 1:
            from router.processes.parent import run
        else:
            from router.app import run
    die_with_parent(parent_pid)
    settings = RouterSettings(
        data_dir=data_dir,
        listen=listen,
        admin_listen=admin_listen,
        link_listen=link_listen,
        metrics_listen=metrics_listen,
        tls_cert=tls_cert,
        tls_key=tls_key,
        reflection=reflection,
        admission=not no_admission,
        throttle=not no_throttle,
        retries=not no_retries,
        hedging=not no_hedging,
        placing=Placing(check_placing(placement)),
        planner=not no_planner,
        max_replicas=max_replicas,
        merge_after_s=merge_after_s,
        swap_bytes=swap_bytes,
        idle_s=idle_s,
        metrics=not no_metrics,
        coalescing=not no_coalescing,
        overcommit=not no_overcommit,
        processes=processes,
        connection_age_s=connection_age_s,
        drain_s=drain_s,
        log_level=log_level.value,
    )
    raise typer.Exit(run(settings))


@command
def agent(
    session: Session,
    router: Annotated[str, typer.Option("--router", metavar="HOST:PORT", help="The router's link address.")],
    node: Annotated[str | None, typer.Option("--node", help="This node's name; default: the host's.")] = None,
    join: Annotated[
        str, typer.Option("--join", help="What `fleet token` printed; better in PARTYWALL_AGENT_JOIN.")
    ] = "",
    blob_dir: Annotated[
        Path | None, typer.Option("--blob-dir", help="The router's blobs, where they are here.")
    ] = None,
    modules: Modules = None,
    queue: Queue = "edf",
    cores: Cores = "",
    sandbox_required: Annotated[
        bool, typer.Option("--sandbox-required", help="Start no worker when a sandbox layer is missing.")
    ] = False,
    no_coalescing: NoCoalescing = False,
    sealed_memory: SealedMemory = 0,
    simulate_devices: SimulateDevices = "",
    watchdog_s: WatchdogS = 30.0,
    drain_s: DrainS = 10.0,
    log_level: LogLevel = Level.INFO,
    parent_pid: ParentPid = 0,
) -> None:
    """Run an agent until SIGTERM. Its data directory holds its own certificate and cached artifacts."""
    data_dir = required_data_dir(session)
    name = check_name(node or socket.gethostname().lower(), "node")
    with extra("agent"):
        from node_agent.app import run
        from node_agent.settings import AgentSettings, QueueDiscipline
    die_with_parent(parent_pid)
    settings = AgentSettings(
        data_dir=data_dir,
        node=name,
        router=router,
        join_bundle=join,
        blob_dir=blob_dir,
        modules=tuple(modules or ()),
        queue=QueueDiscipline(check_queue(queue)),
        cores=checked_cores(cores),
        sandbox_required=sandbox_required,
        sealed_memory_bytes=sealed_memory,
        watchdog_s=watchdog_s,
        simulate_devices=tuple(filter(None, simulate_devices.split(","))),
        coalescing=not no_coalescing,
        drain_s=drain_s,
        log_level=log_level.value,
    )
    raise typer.Exit(run(settings))


def required_data_dir(session: Session) -> Path:
    """The data directory, made absolute: children may run elsewhere.

    Raises:
        InvalidInput: None was given.
    """
    data_dir = session.settings.data_dir
    if data_dir is None:
        raise InvalidInput("data_dir is missing: give --data-dir D or PARTYWALL_DATA_DIR", fields={"field": "data_dir"})
    return data_dir.absolute()


def existing_data_dir(session: Session) -> Path:
    """A data directory that `init` made.

    Raises:
        InvalidInput: It is not there; names `partywall init`.
    """
    data_dir = required_data_dir(session)
    if not (data_dir / "admin.key").is_file():
        what = "is not initialised (it has no admin.key)" if data_dir.is_dir() else "does not exist"
        raise InvalidInput(
            f"data_dir {str(data_dir)!r} {what}; make it with `partywall init --data-dir {data_dir}`",
            fields={"field": "data_dir", "hint": f"partywall init --data-dir {data_dir}"},
        )
    return data_dir


def checked_cores(text: str) -> tuple[int, ...]:
    """Cores to give out, all of them this process's own; empty: all it has.

    Raises:
        InvalidInput: One of them is not there; names those that are.
    """
    cores = parse_cores(text) if text else ()
    allowed = os.sched_getaffinity(0)
    missing = sorted(set(cores) - allowed)
    if missing:
        raise InvalidInput(
            f"--cores {text!r}: core {missing[0]} is not one this process may use; it has "
            f"{','.join(map(str, sorted(allowed)))}",
            fields={"field": "cores"},
        )
    return cores


def check_queue(text: str) -> str:
    """`edf` or `fifo`."""
    if text not in ("edf", "fifo"):
        raise typer.BadParameter(f"--queue {text!r} is not edf or fifo")
    return text


def check_placing(text: str) -> str:
    """`best-effort` or `strict`."""
    if text not in ("best-effort", "strict"):
        raise typer.BadParameter(f"--placement {text!r} is not best-effort or strict")
    return text


def die_with_parent(parent_pid: int) -> None:
    """Asks the kernel for SIGTERM when the supervisor dies, and ends at once if it died already."""
    if not parent_pid:
        return
    with extra("agent"):
        from isolation.sandbox.kernel import LinuxKernel
    LinuxKernel().set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != parent_pid:
        raise typer.Exit(1)
