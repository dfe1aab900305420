"""What is asked of NVML's binding exists in the true one, with the parameters that are given: a simulated binding would
hide a wrong name."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pynvml
import pytest

import isolation.devices
from isolation.devices.errors import NvmlCode
from isolation.devices.facts import Counter, MigActivation, ThrottleReason
from isolation.devices.simulated_nvml import _VERBS, SimulatedNvml

FOLDER = Path(isolation.devices.__file__).parent
USED = re.compile(r"\b(?:nvml|_nvml|binding)\.((?:nvml|NVML|c_nvml)\w+)")
NAMES = sorted({n for f in FOLDER.glob("*.py") if "simulated" not in f.name for n in USED.findall(f.read_text())})
CONSTANTS = [name for name in dir(SimulatedNvml) if isinstance(getattr(SimulatedNvml, name), int)]


def test_names_were_found() -> None:
    assert len(NAMES) > 50
    assert len(_VERBS) > 30
    assert len(CONSTANTS) > 5


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_the_product_uses_is_there(name: str) -> None:
    assert hasattr(pynvml, name)


@pytest.mark.parametrize("name", sorted(_VERBS))
def test_the_simulated_binding_takes_no_call_that_the_true_one_refuses(name: str) -> None:
    # The first parameter is the simulated driver's state; a default stands for what the true one fills in.
    taken = len(inspect.signature(_VERBS[name]).parameters) - 1
    true = inspect.signature(getattr(pynvml, name)).parameters.values()
    assert sum(p.default is p.empty for p in true) <= taken <= len(true)


@pytest.mark.parametrize("name", CONSTANTS)
def test_the_simulated_bindings_constants_are_the_true_ones(name: str) -> None:
    assert getattr(SimulatedNvml, name) == getattr(pynvml, name)


def test_numbers_are_the_bindings() -> None:
    names = {code: f"NVML_ERROR_{code.name}" for code in NvmlCode} | {NvmlCode.SUCCESS: "NVML_SUCCESS"}
    assert {code: getattr(pynvml, name) for code, name in names.items()} == {code: int(code) for code in NvmlCode}
    assert int(Counter.SM_UTILISATION) == pynvml.NVML_GPM_METRIC_SM_UTIL
    assert int(Counter.SM_OCCUPANCY) == pynvml.NVML_GPM_METRIC_SM_OCCUPANCY
    assert int(Counter.TENSOR_UTILISATION) == pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL
    assert int(Counter.DRAM_BANDWIDTH) == pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL
    assert int(Counter.PCIE_TX_MIB_S) == pynvml.NVML_GPM_METRIC_PCIE_TX_PER_SEC
    assert int(Counter.PCIE_RX_MIB_S) == pynvml.NVML_GPM_METRIC_PCIE_RX_PER_SEC
    assert MigActivation.IN_USE.value == pynvml.NVML_ERROR_IN_USE
    assert MigActivation.RESET_REQUIRED.value == pynvml.NVML_ERROR_RESET_REQUIRED
    assert pynvml.nvmlClocksEventReasonSwPowerCap == ThrottleReason.SW_POWER_CAP
    assert pynvml.nvmlClocksEventReasonHwSlowdown == ThrottleReason.HW_SLOWDOWN
    assert pynvml.nvmlClocksEventReasonSwThermalSlowdown == ThrottleReason.SW_THERMAL
    assert pynvml.nvmlClocksEventReasonHwThermalSlowdown == ThrottleReason.HW_THERMAL
    assert pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown == ThrottleReason.HW_POWER_BRAKE
