"""Options of the commands that run servers, each declared once: `up` has those of `router` and `agent` together."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from partywall.cli.settings import DEFAULT_ADMIN, DEFAULT_PUBLIC
from partywall.cli.values import parse_message_size, parse_size

ADMIN_LISTEN, LISTEN = DEFAULT_ADMIN, DEFAULT_PUBLIC
METRICS_LISTEN = "127.0.0.1:8002"
LINK_LISTEN = "127.0.0.1:8004"


class QueueOrder(enum.StrEnum):
    EDF = "edf"
    FIFO = "fifo"


class FrontKind(enum.StrEnum):
    CORE = "core"
    AIO = "aio"


class PlacingRule(enum.StrEnum):
    BEST_EFFORT = "best-effort"
    STRICT = "strict"


class Level(enum.StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


PublicListen = Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Public port; port 0: a free one.")]
AdminListen = Annotated[str, typer.Option("--admin-listen", metavar="HOST:PORT", help="Operator's port.")]
LinkListen = Annotated[str, typer.Option("--link-listen", metavar="HOST:PORT", help="Where agents dial (mTLS).")]
FramesListen = Annotated[
    str,
    typer.Option("--frames-listen", metavar="HOST:PORT", help="For requests to agents (mTLS); empty: a free port."),
]
MetricsListen = Annotated[str, typer.Option("--metrics-listen", metavar="HOST:PORT", help="HTTP /metrics.")]
TlsCert = Annotated[Path | None, typer.Option("--tls-cert", help="PEM chain; needed for any address but loopback.")]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", help="PEM key of --tls-cert.")]
Reflection = Annotated[bool, typer.Option("--reflection", help="gRPC reflection on the public port too.")]
NoAdmission = Annotated[bool, typer.Option("--no-admission", help="Queue what cannot meet its deadline.")]
NoRetries = Annotated[bool, typer.Option("--no-retries", help="Try no request on a second replica after a failure.")]
NoHedging = Annotated[bool, typer.Option("--no-hedging", help="Ask no second replica when a request is late.")]
NoPlanner = Annotated[bool, typer.Option("--no-planner", help="Leave the number of replicas alone.")]
NoRegroup = Annotated[bool, typer.Option("--no-regroup", help="Models stay on the devices where they stand.")]
NoReshare = Annotated[bool, typer.Option("--no-reshare", help="Shares stay as large as they are.")]
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
MaxMessageBytes = Annotated[
    int,
    typer.Option(
        "--max-message-bytes", parser=parse_message_size, metavar="SIZE", help="Largest request; 4 KiB to 512 MiB."
    ),
]
FrontServer = Annotated[
    FrontKind,
    typer.Option("--front", help="The public port's gRPC server; aio: grpc.aio, at twice the CPU and more."),
]
NoMetrics = Annotated[bool, typer.Option("--no-metrics", help="Count no requests.")]
NoCoalescing = Annotated[bool, typer.Option("--no-coalescing", help="One message a frame on the agent link.")]
NoThrottle = Annotated[bool, typer.Option("--no-throttle", help="Ignore the tenants' rates.")]
Modules = Annotated[
    list[str] | None, typer.Option("--modules", metavar="FILE", help="Registers architectures; repeatable.")
]
Queue = Annotated[QueueOrder, typer.Option("--queue", help="Order of requests in the agent.")]
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
    PlacingRule,
    typer.Option(
        "--placement",
        help="Where no place keeps everybody's objective: the least harm, or the model waits.",
    ),
]
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
ObserveOnly = Annotated[
    bool,
    typer.Option("--observe-only", help="Change nothing on a GPU (no MPS daemon, no MIG): serve within what stands."),
]
NoOvercommit = Annotated[bool, typer.Option("--no-overcommit", help="Models wait when no core is free.")]
SandboxRequired = Annotated[
    bool, typer.Option("--sandbox-required", help="Start no worker when a sandbox layer is missing.")
]
ParentPid = Annotated[int, typer.Option("--parent-pid", hidden=True, min=0)]


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """Of `router`, and of `up` for the router it starts."""

    listen: PublicListen = LISTEN
    admin_listen: AdminListen = ADMIN_LISTEN
    link_listen: LinkListen = LINK_LISTEN
    frames_listen: FramesListen = ""
    metrics_listen: MetricsListen = METRICS_LISTEN
    tls_cert: TlsCert = None
    tls_key: TlsKey = None
    reflection: Reflection = False
    max_message_bytes: MaxMessageBytes = 32 << 20
    front: FrontServer = FrontKind.CORE
    no_admission: NoAdmission = False
    no_throttle: NoThrottle = False
    no_metrics: NoMetrics = False
    no_coalescing: NoCoalescing = False
    no_retries: NoRetries = False
    no_hedging: NoHedging = False
    no_planner: NoPlanner = False
    no_regroup: NoRegroup = False
    no_reshare: NoReshare = False
    placement: PlacementRule = PlacingRule.BEST_EFFORT
    max_replicas: MaxReplicas = 4
    merge_after_s: MergeAfterS = 120.0
    swap_bytes: SwapBytes = 0
    idle_s: IdleS = 0.0
    no_overcommit: NoOvercommit = False
    connection_age_s: ConnectionAge = None
    drain_s: DrainS = 10.0
    log_level: LogLevel = Level.INFO


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """Of `agent`, and of `up` for the agent it starts."""

    modules: Modules = None
    queue: Queue = QueueOrder.EDF
    cores: Cores = ""
    sandbox_required: SandboxRequired = False
    no_coalescing: NoCoalescing = False
    sealed_memory: SealedMemory = 0
    simulate_devices: SimulateDevices = ""
    observe_only: ObserveOnly = False
    watchdog_s: WatchdogS = 30.0
    drain_s: DrainS = 10.0
    log_level: LogLevel = Level.INFO
