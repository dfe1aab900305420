"""What an operator can set on a router. Flags, environment and the TOML file all end here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from router.policy.wants import Placing

MIB = 1 << 20
SHARED_CONNECTION_AGE_S = 300.0


class Front(StrEnum):
    """The public port's gRPC server: `router.front`, or `grpc.aio`, with more than twice the CPU per request."""

    CORE = "core"
    AIO = "aio"


@dataclass(frozen=True, slots=True)
class Rank:
    """Which of the processes of one router this is. Process 0 leads: it alone commands agents and serves operators."""

    index: int = 0
    count: int = 1
    links: tuple[str, ...] = ()
    """Link ports of all processes, host:port, by index; empty where there is one."""
    folder: Path | None = None
    """Where the processes' private sockets and shared quota books lie; None where there is one process."""

    @property
    def leads(self) -> bool:
        return self.index == 0

    @property
    def alone(self) -> bool:
        return self.count == 1


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """One router process. Addresses are `host:port`; port 0 takes a free one."""

    data_dir: Path
    listen: str = "127.0.0.1:8001"
    admin_listen: str = "127.0.0.1:8003"
    link_listen: str = "127.0.0.1:8004"
    frames_listen: str = ""
    """Where agents open the connections for the link's frames; empty: a free port of `link_listen`'s host."""
    metrics_listen: str = "127.0.0.1:8002"
    tls_cert: Path | None = None
    """PEM chain for the public and admin ports; needed for any address but loopback."""
    tls_key: Path | None = None
    reflection: bool = False
    """Reflection on the public port too (the admin port always has it)."""
    front: Front = Front.CORE
    """What serves the public port."""
    max_message_bytes: int = 32 * MIB
    default_deadline_s: float = 30.0
    """For calls that bring no deadline."""
    max_deadline_s: float = 600.0
    max_in_flight_bytes: int = 1024 * MIB
    """Bytes of all requests without an answer yet, over all processes; QUEUE_FULL above."""
    max_queued_per_replica: int = 2000
    """Requests waiting or running at one replica before QUEUE_FULL."""
    admission: bool = True
    """Refuse at once what cannot meet its deadline."""
    retries: bool = True
    """Try a request on another replica when its replica failed, within a budget."""
    hedging: bool = True
    """Ask a second replica when a request is late, within the same budget; only where there are several."""
    throttle: bool = True
    metrics: bool = True
    """Count requests for `/metrics` and ModelStatistics."""
    coalescing: bool = True
    """Gather the link's messages under load; off: each is a frame of its own."""
    overcommit: bool = True
    """Time-share cores between partitions when none is free; off: such a model waits (NO_PLACE)."""
    placing: Placing = Placing.BEST_EFFORT
    """What becomes of a model for which no place keeps everybody's objective: least harm, or it waits."""
    planner: bool = True
    """Give models more replicas when they need them, and take them away again."""
    regroup: bool = True
    """Move models apart that cost each other their objectives, and together where that frees a device."""
    reshare: bool = True
    """Give replicas larger shares when theirs are too small, and smaller ones when somebody can use the rest."""
    max_replicas: int = 4
    """Of one model."""
    merge_after_s: float = 120.0
    """How long a replica must have been superfluous before it goes."""
    idle_s: float = 0.0
    """How long a version pushed with `--cold-start` may be without a request before it is released; 0: for ever."""
    swap_bytes: int = 0
    """Memory per node in which workers keep weights of released versions; 0: none."""
    heartbeat_s: float = 1.0
    dead_after_s: float = 2.6
    """Silence after which an agent is taken as dead; with the watch period this stays below 3 s."""
    drain_s: float = 10.0
    """How long SIGTERM lets accepted requests finish."""
    processes: int = 1
    """Processes that share the public port."""
    connection_age_s: float | None = None
    """Age at which a caller's connection is asked to come anew, so that connections spread over the processes, gRPC's
    10 % more or less; 0: never. None: never where there is one process, else five minutes."""
    rank: Rank = field(default_factory=Rank)
    log_level: str = "info"
    log_json: bool | None = None
    """None: JSON unless standard error is a terminal."""

    @property
    def public_connection_age_s(self) -> float:
        """Seconds, 0: connections stay for ever."""
        if self.connection_age_s is not None:
            return self.connection_age_s
        return 0.0 if self.rank.alone else SHARED_CONNECTION_AGE_S
