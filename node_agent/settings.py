"""What an operator can set on an agent."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path


class QueueDiscipline(enum.StrEnum):
    EDF = "edf"
    FIFO = "fifo"


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One agent process. `router` is the link address; `data_dir` holds its certificate, epoch and cached artifacts."""

    data_dir: Path
    node: str
    router: str
    join_bundle: str = ""
    """What `partywall fleet token` printed; needed once, until a certificate is there."""
    blob_dir: Path | None = None
    """Where sealed files lie when the router's blob store is on this machine; None: fetch them over the link."""
    modules: tuple[str, ...] = ()
    """Python files (or module names) the operator registers architectures from."""
    queue: QueueDiscipline = QueueDiscipline.EDF
    cores: tuple[int, ...] = ()
    """Cores the agent may give out; empty: all it may run on."""
    max_message_bytes: int = 32 << 20
    sandbox_required: bool = False
    """Refuse to start a worker when a sandbox layer is missing, instead of reporting it."""
    coalescing: bool = True
    """Gather the link's messages under load; off: each is a frame of its own."""
    sealed_memory_bytes: int = 0
    """Host memory that holds the sealed files of released versions, so that they are not read from disk again."""
    drain_s: float = 10.0
    watchdog_s: float = 30.0
    """A batch counts as stuck after three times its predicted time, and never before this."""
    simulate_devices: tuple[str, ...] = ()
    """For development: GPUs that are not there (h100, h200, a100-80, a100-40), with the whole road over them."""
    observe_only: bool = False
    """Make and destroy nothing on a GPU, neither instances nor MPS daemons: serve within what stands."""
    log_level: str = "info"
    log_json: bool | None = None
