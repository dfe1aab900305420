"""`partywall init`, `router` and `agent`: one part of an installation, in this process."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from partywall.cli.local import server_options as opt
from partywall.cli.local.extras import extra
from partywall.cli.options import command
from partywall.cli.session import Session
from partywall.cli.values import parse_cores
from partywall.domain.names import check_name
from partywall.errors import InvalidInput

LOCAL_NODE = "local"


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
    given: opt.RouterOptions,
    processes: opt.Processes = 1,
    parent_pid: opt.ParentPid = 0,
) -> None:
    """Run a router until SIGTERM."""
    data_dir = existing_data_dir(session)
    with extra("router"):
        from router.policy.wants import Placing
        from router.settings import Front, RouterSettings

        if processes > 1:
            from router.processes.parent import run
        else:
            from router.app import run
    die_with_parent(parent_pid)
    no_core_dumps()
    settings = RouterSettings(
        data_dir=data_dir,
        listen=given.listen,
        admin_listen=given.admin_listen,
        link_listen=given.link_listen,
        frames_listen=given.frames_listen,
        metrics_listen=given.metrics_listen,
        tls_cert=given.tls_cert,
        tls_key=given.tls_key,
        reflection=given.reflection,
        max_message_bytes=given.max_message_bytes,
        front=Front(given.front.value),
        admission=not given.no_admission,
        throttle=not given.no_throttle,
        retries=not given.no_retries,
        hedging=not given.no_hedging,
        placing=Placing(given.placement.value),
        planner=not given.no_planner,
        regroup=not given.no_regroup,
        reshare=not given.no_reshare,
        max_replicas=given.max_replicas,
        merge_after_s=given.merge_after_s,
        swap_bytes=given.swap_bytes,
        idle_s=given.idle_s,
        metrics=not given.no_metrics,
        coalescing=not given.no_coalescing,
        overcommit=not given.no_overcommit,
        processes=processes,
        connection_age_s=given.connection_age_s,
        drain_s=given.drain_s,
        log_level=given.log_level.value,
    )
    raise typer.Exit(run(settings))


@command
def agent(
    session: Session,
    router: Annotated[str, typer.Option("--router", metavar="HOST:PORT", help="The router's link address.")],
    *,
    node: Annotated[str | None, typer.Option("--node", help="This node's name; default: the host's.")] = None,
    join: Annotated[
        str, typer.Option("--join", help="What `fleet token` printed; better in PARTYWALL_AGENT_JOIN.")
    ] = "",
    blob_dir: Annotated[
        Path | None, typer.Option("--blob-dir", help="The router's blobs, where they are here.")
    ] = None,
    given: opt.AgentOptions,
    parent_pid: opt.ParentPid = 0,
) -> None:
    """Run an agent until SIGTERM. Its data directory holds its own certificate and cached artifacts."""
    data_dir = required_data_dir(session)
    name = check_name(node or socket.gethostname().lower(), "node")
    with extra("agent"):
        from node_agent.app import run
        from node_agent.settings import AgentSettings, QueueDiscipline
    die_with_parent(parent_pid)
    no_core_dumps()
    settings = AgentSettings(
        data_dir=data_dir,
        node=name,
        router=router,
        join_bundle=join,
        blob_dir=blob_dir,
        modules=checked_modules(given.modules or ()),
        queue=QueueDiscipline(given.queue.value),
        cores=checked_cores(given.cores),
        sandbox_required=given.sandbox_required,
        sealed_memory_bytes=given.sealed_memory,
        watchdog_s=given.watchdog_s,
        simulate_devices=tuple(filter(None, given.simulate_devices.split(","))),
        observe_only=given.observe_only,
        coalescing=not given.no_coalescing,
        drain_s=given.drain_s,
        log_level=given.log_level.value,
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
    """opt.Cores to give out, all of them this process's own; empty: all it has.

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


def checked_modules(modules: Sequence[str]) -> tuple[str, ...]:
    """Files of architectures, all of them there; a name without `.py` is a module's and is imported by the workers.

    Raises:
        InvalidInput: A file is not there.
    """
    for file in modules:
        if file.endswith(".py") and not Path(file).is_file():
            raise InvalidInput(
                f"--modules {file!r} is not there: give the file that registers architectures",
                fields={"field": "modules"},
            )
    return tuple(modules)


def no_core_dumps() -> None:
    """A dump of a router or an agent would hold data keys. The hard limit stays: who wants dumps can raise it again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def die_with_parent(parent_pid: int) -> None:
    """Asks the kernel for SIGTERM when the supervisor dies, and ends at once if it died already."""
    if not parent_pid:
        return
    with extra("agent"):
        from isolation.sandbox.kernel import LinuxKernel
    LinuxKernel().set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != parent_pid:
        raise typer.Exit(1)
