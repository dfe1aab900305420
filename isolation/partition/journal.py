"""What the authority gave out, on disk: one small file, replaced as a whole, readable after a kill at any point."""

from __future__ import annotations

import enum
import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from partywall.domain.fleet import Partition, PartitionKind
from partywall.errors import DataLoss

_FORMAT = 1


class Phase(enum.StrEnum):
    """How far a partition is. The phase is on disk before the work is begun."""

    PREPARING = "preparing"
    STANDING = "standing"
    RELEASING = "releasing"


@dataclass(frozen=True, slots=True)
class Entry:
    partition: Partition
    phase: Phase


class Journal:
    """Entries by partition id, and the hardware instances that are ours to destroy. Safe from several threads.

    Every change is on the disk when the call returns: written beside, synced, renamed, directory synced.

    Raises:
        DataLoss: The file is there and is not a journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._owned: set[str] = set()
        if path.exists():
            self._read()

    @property
    def entries(self) -> dict[str, Entry]:
        with self._lock:
            return dict(self._entries)

    def put(self, partition: Partition, phase: Phase) -> None:
        entry = Entry(partition, phase)
        with self._lock:
            if self._entries.get(partition.id) != entry:
                self._entries[partition.id] = entry
                self._write()

    def remove(self, partition_id: str) -> None:
        with self._lock:
            if self._entries.pop(partition_id, None) is not None:
                self._write()

    def claim(self, name: str) -> None:
        """From now on the instance of that name is ours, whether it stands yet or not."""
        with self._lock:
            if name not in self._owned:
                self._owned.add(name)
                self._write()

    def disclaim(self, name: str) -> None:
        with self._lock:
            if name in self._owned:
                self._owned.remove(name)
                self._write()

    def owns(self, name: str) -> bool:
        return name in self._owned

    def _read(self) -> None:
        try:
            document = json.loads(self._path.read_text())
            if document["format"] != _FORMAT:
                raise ValueError(f"format {document['format']}")
            for raw in document["entries"]:
                fields = raw["partition"]
                kind, cores = PartitionKind(fields.pop("kind")), tuple(fields.pop("cores"))
                partition = Partition(kind=kind, cores=cores, **fields)
                self._entries[partition.id] = Entry(partition, Phase(raw["phase"]))
            self._owned = set(document["owned"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataLoss(
                f"{self._path} is not a journal of partitions ({error}); move it away to start with an empty one, "
                "and destroy leftover MIG instances by hand",
                fields={"path": str(self._path)},
            ) from error

    def _write(self) -> None:
        document = {
            "format": _FORMAT,
            "entries": [{"partition": asdict(e.partition), "phase": e.phase} for e in self._entries.values()],
            "owned": sorted(self._owned),
        }
        beside = self._path.with_suffix(".new")
        with beside.open("w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
