"""Engines: load a version's files, run batches. The worker, the profiler and the simulator see only this.

Tensors are numpy arrays. Two datatypes of the Open Inference Protocol have no numpy equal: BYTES is an object array of
`bytes`, BF16 is the two-byte void `V2` (its bits, untouched).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy.typing as npt

from partywall.domain.models import Signature
from partywall.errors import ArtifactRefused, InvalidInput, Reason

Array: TypeAlias = npt.NDArray[Any]


class Artifact(Protocol):
    """The plain files of one version, readable only inside the process that asks."""

    @property
    def names(self) -> tuple[str, ...]:
        """File names, sorted."""
        ...

    def size_bytes(self, name: str) -> int:
        """Plain size. Raises ArtifactRefused for a name that is not there."""
        ...

    def read(self, name: str) -> memoryview:
        """The whole file in fresh anonymous memory that belongs to the caller; writable, C-contiguous bytes.

        Raises:
            ArtifactRefused: No such file.
            DataLoss: The sealed bytes do not authenticate.
        """
        ...


class LoadedModel(Protocol):
    """One version in memory. Not thread-safe: one `run` at a time."""

    @property
    def signature(self) -> Signature: ...

    @property
    def memory_bytes(self) -> int:
        """Bytes of weights and buffers, on the host or on the device."""
        ...

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        """Runs one batch; blocks.

        Args:
            inputs: By name; with `signature.max_batch > 0` every first dimension is `rows`. Read-only.
            rows: Rows of the batch, 1 <= rows <= max_batch where the signature is batched.

        Returns:
            By name; with a batched signature every first dimension is `rows`.

        Raises:
            InvalidInput: The values of this batch can never be computed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Moved:
    """What parking or waking moved between a device and host memory.

    Attributes:
        size_bytes: What was copied; 0 where the weights lie in host memory anyway.
        seconds: From the first copy to the moment when the last one was done.
        pinned: Whether the host memory is page-locked, so that copies run at the link's own rate.
        left_bytes: Device memory that this process still has by its allocator.
    """

    size_bytes: int = 0
    seconds: float = 0.0
    pinned: bool = False
    left_bytes: int = 0


@runtime_checkable
class Parkable(Protocol):
    """What a `LoadedModel` is besides where its weights can leave the device and come back. One that lies in host
    memory anyway need not be."""

    def park(self) -> Moved:
        """Moves all weights into host memory and gives the device memory back to the driver; blocks. `run` is not
        called until `wake`.

        Raises:
            MemoryError: There is no host memory for them; the model is as it was.
            Unsupported: Something of it cannot be moved; the model is as it was.
        """
        ...

    def wake(self) -> Moved:
        """Brings them back; blocks.

        Raises:
            RuntimeError: The device has no room ("out of memory"); the weights stay parked.
        """
        ...

    def discard(self) -> None:
        """Gives parked weights up, and the host memory they hold; the model is of no use afterwards."""
        ...


class Engine(Protocol):
    """Makes a `LoadedModel` of an artifact."""

    @property
    def name(self) -> str:
        """What a manifest calls it."""
        ...

    def load(self, artifact: Artifact, options: Mapping[str, str], max_batch: int) -> LoadedModel:
        """Loads; blocks. Leaves nothing on a disk.

        Args:
            artifact: The files.
            options: The engine's own (docs/engines.md).
            max_batch: The manifest's limit; 0 leaves it to the engine.

        Raises:
            ArtifactRefused: A file is missing, malformed or of a kind that is not loaded.
            InvalidInput: An option is unknown or out of range.
        """
        ...


@dataclass(frozen=True, slots=True)
class MemoryArtifact:
    """Files already in memory: for tests, the profiler and the simulator."""

    files: Mapping[str, bytes]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.files))

    def size_bytes(self, name: str) -> int:
        return len(self._file(name))

    def read(self, name: str) -> memoryview:
        return memoryview(bytearray(self._file(name)))

    def _file(self, name: str) -> bytes:
        if name not in self.files:
            raise missing_file(name, self.names)
        return self.files[name]


def missing_file(name: str, present: tuple[str, ...]) -> ArtifactRefused:
    """The error for a file that an engine needs and the artifact does not hold."""
    return ArtifactRefused(
        f"file {name!r} is missing from the artifact (it holds: {', '.join(present) or 'nothing'}); push it too",
        reason=Reason.BAD_ARTIFACT,
        fields={"file": name},
    )


def check_options(engine: str, options: Mapping[str, str], known: frozenset[str]) -> None:
    """Refuses options that the engine does not know.

    Raises:
        InvalidInput: Names the first unknown option and the known ones.
    """
    for name in sorted(set(options) - known):
        raise InvalidInput(
            f"option {name!r} is unknown to the engine {engine!r}; it takes: {', '.join(sorted(known)) or 'none'}",
            fields={"field": f"options.{name}"},
        )


def int_option(options: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """An option that is a whole number from `low` to `high`.

    Raises:
        InvalidInput: Names the option, what was given and the range.
    """
    text = options.get(name, str(default))
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise InvalidInput(
            f"option {name!r} must be a whole number from {low} to {high}, got {text!r}",
            fields={"field": f"options.{name}", "value": text[:80]},
        )
    return value
