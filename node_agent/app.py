"""The agent process: zygote first, then everything that knows gRPC."""

from __future__ import annotations

import os

import structlog

from node_agent.settings import AgentSettings
from node_agent.zygote.client import ZygoteClient
from partywall import logs
from partywall.errors import PartywallError
from partywall.memory import share_heap

log = structlog.get_logger(__name__)


def run(settings: AgentSettings) -> int:
    """Runs an agent until SIGTERM or SIGINT; answers the exit code. Blocks."""
    logs.configure(settings.log_level, settings.log_json, "agent")
    if settings.cores:
        # Inherited by the zygote and every worker: what is not given out is not used.
        os.sched_setaffinity(0, settings.cores)
    # Forking with a live gRPC runtime crashes or hangs children: the zygote exists before gRPC is imported.
    zygote = ZygoteClient()
    zygote.launch()
    share_heap()
    import uvloop

    from node_agent.service import serve

    try:
        return uvloop.run(serve(settings, zygote))
    except PartywallError as error:
        log.critical(error.message, reason=error.reason.value)
        return 1
