"""What `doctor` says of the partitions that this machine's agent has given out, from its journal."""

from __future__ import annotations

from pathlib import Path

from partywall.cli.local.checks import Check, Status
from partywall.cli.local.extras import extra
from partywall.errors import DataLoss, Unsupported


def partitions(data_dir: Path | None) -> list[Check]:
    """One line for each partition in the journal of an agent under this data directory; it is only read."""
    if data_dir is None:
        return []
    try:
        with extra("agent"):
            from isolation.partition.assembly import JOURNAL
            from isolation.partition.journal import Journal
    except Unsupported:
        return []
    found: list[Check] = []
    # `up` keeps its agent's data in a folder of its own; `agent --data-dir` is one itself.
    for home in (data_dir / "node", data_dir):
        path = home / "partitions" / JOURNAL
        if not path.is_file():
            continue
        try:
            entries = Journal(path).entries.values()
        except (DataLoss, OSError) as error:
            found.append(Check("partitions", "journal", Status.FAIL, str(error), f"look at {path}"))
            continue
        for entry in entries:
            one = entry.partition
            cores = f", cores {','.join(map(str, one.cores))}" if one.cores else ""
            cap = f", {one.memory_bytes >> 20} MiB" if one.memory_bytes else ""
            text = f"{one.kind.value} of {one.device_id}, {one.share_percent} %{cores}{cap}: {entry.phase.value}"
            found.append(Check("partitions", one.id, Status.OK, text))
    return found
