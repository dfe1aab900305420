"""A GPU's counters while a solo run lasts: how much of the device a model uses by itself.

Where the device has no GPM (before Hopper), or the driver refuses it, a profile simply has no counters: the predictor
takes them as typical.
"""

from __future__ import annotations

from collections.abc import Mapping

from isolation.devices.errors import DeviceError
from isolation.devices.facts import Counter
from isolation.devices.library import CounterSession, GpuLibrary

_NAMES = {
    Counter.SM_UTILISATION: "sm_util",
    Counter.SM_OCCUPANCY: "sm_occupancy",
    Counter.TENSOR_UTILISATION: "tensor",
    Counter.DRAM_BANDWIDTH: "dram_bw",
}


class SoloCounters:
    """`start`, run, `stop`; nothing here raises, because a counter that fails must not cost the run."""

    def __init__(self, library: GpuLibrary, gpu_uuid: str) -> None:
        self._library = library
        self._gpu_uuid = gpu_uuid
        self._session: CounterSession | None = None

    def start(self) -> None:
        """From here on it counts."""
        try:
            self._session = self._library.open_counters(self._gpu_uuid)
        except DeviceError:
            self._session = None

    def stop(self) -> Mapping[str, float]:
        """Percent of the device's peak since `start`, watts and MHz now, under the names of `domain.Counters`."""
        session, self._session = self._session, None
        if session is None:
            return {}
        try:
            power = self._library.power(self._gpu_uuid)
            values = session.read().values
        except DeviceError:
            return {}
        finally:
            session.close()
        found = {name: values.get(counter, 0.0) for counter, name in _NAMES.items()}
        return {**found, "watts": power.draw_mw / 1e3, "sm_mhz": float(power.sm_clock_mhz)}
