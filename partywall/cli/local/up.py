"""`partywall up`: router and agent on this machine, under one supervisor."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from partywall.cli.local import server_options as opt
from partywall.cli.local import servers
from partywall.cli.local.child import Timing
from partywall.cli.local.extras import extra
from partywall.cli.local.instance import LocalInstance
from partywall.cli.local.supervisor import Addresses, Plan, Supervisor
from partywall.cli.options import arguments_of, command
from partywall.cli.session import Session
from partywall.clock import SystemClock
from partywall.domain.names import check_name
from partywall.errors import Conflict, InvalidInput

_BY_THE_INSTANCE = frozenset({"listen", "admin_listen", "link_listen", "metrics_listen"})
"""What the router listens on: a router that is started anew takes the ports that the first one got."""


@command
def up(
    session: Session,
    router: opt.RouterOptions,
    agent: opt.AgentOptions,
    node: Annotated[str, typer.Option("--node", help="Name of this machine's node.")] = servers.LOCAL_NODE,
    router_processes: Annotated[
        int, typer.Option("--router-processes", min=1, max=64, help="Router processes that share the public port.")
    ] = 1,
) -> None:
    """Run router and agent on this machine until SIGTERM; prints one line `ready {json}`."""
    data_dir = servers.existing_data_dir(session)
    _check_extras()
    _both_or_neither(router)
    servers.checked_cores(agent.cores)
    agent = replace(agent, modules=[_absolute_module(file) for file in servers.checked_modules(agent.modules or ())])
    shared = ("--processes", str(router_processes)) if router_processes > 1 else ()
    instance = LocalInstance(
        data_dir=data_dir,
        node=check_name(node, "node"),
        listens={
            "public": router.listen,
            "admin": router.admin_listen,
            "link": router.link_listen,
            "metrics": router.metrics_listen,
        },
        router_options=(*arguments_of(router, _BY_THE_INSTANCE), *shared),
        agent_options=arguments_of(agent),
        tls_cert=router.tls_cert,
    )
    with _only_one(data_dir):
        raise typer.Exit(_supervise(instance, session, router.drain_s))


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


def _both_or_neither(router: opt.RouterOptions) -> None:
    if (router.tls_cert is None) != (router.tls_key is None):
        raise InvalidInput(
            "--tls-cert and --tls-key belong together: give both or neither", fields={"field": "--tls-cert"}
        )


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
        InvalidInput: The directory cannot be written.
    """
    run = data_dir / "run"
    try:
        run.mkdir(exist_ok=True)
        lock = (run / "up.lock").open("a+")
    except OSError as failure:
        raise InvalidInput(
            f"data_dir {str(data_dir)!r} cannot be written ({failure.strerror}); mount it writable, run as its owner",
            fields={"field": "data_dir", "path": str(failure.filename)},
        ) from failure
    with lock:
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
