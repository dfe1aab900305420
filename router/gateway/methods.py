"""The protocol's methods: their names here, those that are not offered, parameters of the repository's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partywall.errors import InvalidInput

UNSUPPORTED: Mapping[str, str] = {
    "SystemSharedMemoryStatus": "shared memory of clients is not offered: tenants share no memory with the server",
    "SystemSharedMemoryRegister": "shared memory regions of clients are not offered: send tensors in the request",
    "SystemSharedMemoryUnregister": "shared memory regions of clients are not offered: nothing can be registered",
    "CudaSharedMemoryStatus": "CUDA shared memory of clients is not offered: tenants share no memory with the server",
    "CudaSharedMemoryRegister": "CUDA shared memory of clients is not offered: send tensors in the request",
    "CudaSharedMemoryUnregister": "CUDA shared memory of clients is not offered: nothing can be registered",
    "TraceSetting": "trace settings belong to the operator: start the router with the options of its telemetry",
    "LogSettings": "log settings belong to the operator: start the router with --log-level",
}
"""Why, by method."""


def python_name(name: str) -> str:
    """A method of the protocol as its coroutine is called: ModelReady is model_ready."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def version_parameter(request: Any) -> int:
    """`version` among the parameters of a load or unload; 0: the live one.

    Raises:
        InvalidInput: Not a whole number.
    """
    if "version" not in request.parameters:
        return 0
    value = request.parameters["version"]
    text = value.string_param or str(value.int64_param)
    if not (text.isascii() and text.isdigit()):
        raise InvalidInput(f"parameter version must be a whole number, got {text!r}", fields={"field": "version"})
    return int(text)
