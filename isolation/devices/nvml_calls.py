"""Calls into NVML with its errors turned into typed ones, in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from isolation.devices.errors import NvmlCode, device_error

T = TypeVar("T")
_ENDS_A_WALK = (NvmlCode.NOT_FOUND, NvmlCode.INVALID_ARGUMENT, NvmlCode.NOT_SUPPORTED)


class NvmlCalls:
    """A binding with the functions of `pynvml`. No handle is kept between calls: a reset voids them all."""

    def __init__(self, binding: Any) -> None:
        self._nvml = binding

    def _call(self, verb: str, device_id: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except self._nvml.NVMLError as error:
            raise device_error(error.value, verb, device_id, str(error)) from error

    def _ask(self, verb: str, gpu_uuid: str, action: Callable[[Any], T]) -> T:
        handle = self._handle(gpu_uuid, verb)
        return self._call(verb, gpu_uuid, lambda: action(handle))

    def _handle(self, gpu_uuid: str, verb: str) -> Any:
        return self._call(verb, gpu_uuid, lambda: self._nvml.nvmlDeviceGetHandleByUUID(gpu_uuid))

    def _unless_absent(self, verb: str, device_id: str, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except self._nvml.NVMLError as error:
            if error.value in _ENDS_A_WALK:
                return None
            raise device_error(error.value, verb, device_id, str(error)) from error
