"""What a device library can answer instead of doing it; each error keeps the driver's own code.

DeviceError                the root, carries `code` and `verb`
├── DeviceInUse            NVML 19: a client or an open handle holds the instance
├── DeviceFull             NVML 23: no free legal placement
├── DeviceUnsupported      NVML 3, 13: the card or its mode cannot do this (a capability, not a failure)
├── DeviceForbidden        NVML 4: needs root or a MIG capability
├── DeviceGone             NVML 6, 28: the name does not exist (any more)
├── DeviceBadCall          NVML 2: a defect of ours, or a handle that went stale
└── DeviceLost             NVML 15, 16, 999: fence the device
"""

from __future__ import annotations

import enum

from partywall.errors import InternalError, NotFound, NotReady, PartywallError, PermissionDenied, Reason, Unsupported


class NvmlCode(enum.IntEnum):
    """Return codes of NVML that Partywall tells apart (nvml.h, `nvmlReturn_t`)."""

    SUCCESS = 0
    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    NOT_FOUND = 6
    INSUFFICIENT_SIZE = 7
    DRIVER_NOT_LOADED = 9
    TIMEOUT = 10
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    IN_USE = 19
    INSUFFICIENT_RESOURCES = 23
    GPU_NOT_FOUND = 28
    UNKNOWN = 999


class DeviceError(PartywallError):
    """A device library's refusal.

    Attributes:
        code: The driver's own number; `NvmlCode` names the ones that matter.
        verb: The verb of `GpuLibrary` that was refused.
    """

    def __init__(self, message: str, *, code: int, verb: str, device_id: str) -> None:
        super().__init__(message, fields={"code": str(code), "verb": verb, "device": device_id})
        self.code = code
        self.verb = verb


class DeviceInUse(DeviceError, NotReady):
    default_reason = Reason.WRONG_STATE
    retryable = True


class DeviceFull(DeviceError, NotReady):
    default_reason = Reason.NO_PLACE


class DeviceUnsupported(DeviceError, Unsupported):
    default_reason = Reason.UNSUPPORTED


class DeviceForbidden(DeviceError, PermissionDenied):
    default_reason = Reason.PERMISSION_DENIED


class DeviceGone(DeviceError, NotFound):
    default_reason = Reason.NOT_FOUND


class DeviceBadCall(DeviceError, InternalError):
    default_reason = Reason.INTERNAL


class DeviceLost(DeviceError, NotReady):
    default_reason = Reason.WRONG_STATE


_BY_CODE: dict[int, tuple[type[DeviceError], str]] = {
    NvmlCode.INVALID_ARGUMENT: (DeviceBadCall, "the driver does not know an argument; read the layout again"),
    NvmlCode.NOT_SUPPORTED: (DeviceUnsupported, "this device or its present mode cannot do it"),
    NvmlCode.FUNCTION_NOT_FOUND: (DeviceUnsupported, "this driver is too old for it"),
    NvmlCode.NO_PERMISSION: (DeviceForbidden, "run the agent as root or grant it the MIG capability"),
    NvmlCode.NOT_FOUND: (DeviceGone, "it does not exist any more; read the layout again"),
    NvmlCode.GPU_NOT_FOUND: (DeviceGone, "it does not exist any more; read the layout again"),
    NvmlCode.GPU_IS_LOST: (DeviceLost, "the GPU has fallen off the bus; drain the node and reset or replace it"),
    NvmlCode.RESET_REQUIRED: (DeviceLost, "the GPU needs a reset, which is the operator's decision"),
    NvmlCode.UNKNOWN: (DeviceLost, "the driver lost track of the GPU; drain it and look at the kernel log"),
    NvmlCode.IN_USE: (DeviceInUse, "a process or a leaked handle holds it; end the holders and retry"),
    NvmlCode.INSUFFICIENT_RESOURCES: (DeviceFull, "no free legal placement is left"),
}


def device_error(code: int, verb: str, device_id: str, detail: str = "") -> DeviceError:
    """The typed error for a driver's return code; a code nobody planned for is a defect (`DeviceBadCall`)."""
    cls, next_step = _BY_CODE.get(
        code, (DeviceBadCall, "nobody planned for this answer; report it with the kernel log")
    )
    tail = f" ({detail})" if detail else ""
    return cls(
        f"{verb} on device {device_id}: NVML {code}: {next_step}{tail}", code=code, verb=verb, device_id=device_id
    )
