"""The simulated side of the engine's seam: no model, a law for its time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from isolation.engine import Array, Artifact, LoadedModel, check_options, int_option
from partywall.domain.models import Signature, TensorSpec
from partywall.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class LatencyLaw:
    """Service time of a batch: `fixed_ms + row_ms * rows`, the affine law most accelerators follow when not saturated
    (Shen et al., Nexus, SOSP 2019, section 2)."""

    fixed_ms: float = 2.0
    row_ms: float = 0.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fixed_ms) and math.isfinite(self.row_ms) and min(self.fixed_ms, self.row_ms) >= 0):
            raise InvalidInput(f"fixed_ms and row_ms must be finite and not negative, got {self}")

    def seconds(self, rows: int) -> float:
        return (self.fixed_ms + self.row_ms * rows) / 1e3


class SimulatedEngine:
    """An engine without a model: waits as long as its law says, answers the mean of each row.

    Deterministic: the answer depends on the input alone, the time on the rows alone. `sleep` decides which clock moves
    (`VirtualClock.advance` in a simulation, `time.sleep` beside real processes).
    """

    name = "simulated"

    def __init__(self, sleep: Callable[[float], None], law: LatencyLaw | None = None) -> None:
        self._sleep = sleep
        self._law = law or LatencyLaw()

    def load(self, artifact: Artifact, options: Mapping[str, str], max_batch: int) -> LoadedModel:
        """Options: `width`, the features a row has (default 4); `fitting_rows`, the most rows of a batch that fit into
        memory (default: any number)."""
        check_options(self.name, options, frozenset({"width", "fitting_rows"}))
        width = int_option(options, "width", 4, 1, 1 << 20)
        fitting_rows = int_option(options, "fitting_rows", 1 << 20, 0, 1 << 20)
        memory_bytes = sum(artifact.size_bytes(name) for name in artifact.names)
        return _SimulatedModel(self._sleep, self._law, width, max_batch or 64, memory_bytes, fitting_rows)


class _SimulatedModel:
    def __init__(
        self,
        sleep: Callable[[float], None],
        law: LatencyLaw,
        width: int,
        max_batch: int,
        memory_bytes: int,
        fitting_rows: int,
    ) -> None:
        self._sleep = sleep
        self._law = law
        self._fitting_rows = fitting_rows
        self.memory_bytes = memory_bytes
        self.signature = Signature(
            inputs=(TensorSpec("x", "FP32", (-1, width)),),
            outputs=(TensorSpec("y", "FP32", (-1,)),),
            max_batch=max_batch,
        )

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        if rows > self._fitting_rows:
            # As torch words it.
            raise RuntimeError(f"CUDA out of memory. Tried to allocate room for {rows} rows")
        self._sleep(self._law.seconds(rows))
        return {"y": inputs["x"].mean(axis=1, dtype=np.float32)}
