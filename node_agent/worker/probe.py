"""The probe engine: presses on one shared resource instead of computing anything, and counts its own progress.

A probe is a worker like any other, so it stands behind the same walls, in the same kind of partition, as the models
whose neighbours it stands for. Only the profiler loads it: no manifest may name it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isolation.engine import Array, Artifact, check_options
from isolation.interference.probes import DEFAULT_LLC_BYTES, DutyCycle, make_load
from partywall.domain.fleet import DeviceKind
from partywall.domain.models import Signature, TensorSpec
from partywall.domain.profiles import ProbeSetting, Resource
from partywall.errors import InvalidInput

NAME = "probe"
PERIOD, UNITS, BUSY = "period_s", "units", "busy_s"
_OPTIONS = frozenset({"resource", "level", "llc_bytes"})
_LONGEST_S = 5.0


class ProbeModel:
    """Each `run` presses for `period_s` seconds, at the dial's level, and answers (units done, seconds on)."""

    signature = Signature(
        inputs=(TensorSpec(PERIOD, "FP64", (1,)),),
        outputs=(TensorSpec(UNITS, "INT64", (1,)), TensorSpec(BUSY, "FP64", (1,))),
    )
    memory_bytes = 0

    def __init__(self, cycle: DutyCycle) -> None:
        self._cycle = cycle
        # Buffers are touched and kernels compiled before anybody measures.
        cycle.run_for(0.0)

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        seconds = float(inputs[PERIOD][0])
        if not 0 <= seconds <= _LONGEST_S:
            raise InvalidInput(f"{PERIOD} must be 0 to {_LONGEST_S:g}, got {seconds}", fields={"field": PERIOD})
        progress = self._cycle.run_for(seconds)
        return {UNITS: np.array([progress.units], np.int64), BUSY: np.array([progress.busy_s], np.float64)}


class ProbeEngine:
    """Options: `resource`, `level` (share of time on, default 1), `llc_bytes` (CPU: size of the last-level cache)."""

    name = NAME

    def __init__(self, device_kind: DeviceKind) -> None:
        self._device_kind = device_kind

    def load(self, artifact: Artifact, options: Mapping[str, str], max_batch: int) -> ProbeModel:
        check_options(self.name, options, _OPTIONS)
        setting = _setting(options)
        if self._device_kind is DeviceKind.GPU:
            from isolation.interference.probes_cuda import make_cuda_load

            return ProbeModel(DutyCycle(make_cuda_load(setting.resource), setting.level))
        llc_bytes = int(options.get("llc_bytes", DEFAULT_LLC_BYTES))
        return ProbeModel(DutyCycle(make_load(setting.resource, llc_bytes), setting.level))


def _setting(options: Mapping[str, str]) -> ProbeSetting:
    try:
        return ProbeSetting(Resource(options.get("resource", "")), float(options.get("level", "1")))
    except ValueError as error:
        raise InvalidInput(
            f"options resource and level of a probe do not read: {dict(options)}", fields={"field": "options"}
        ) from error
