"""Partywall: many tenants' models on shared accelerators, with the neighbours' noise kept out.

import partywall

with partywall.Client("127.0.0.1:8001", api_key=key) as client:
    result = client.infer("minilm", {"text": ["hello"]}, deadline_s=0.2)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from partywall.client import (
        AsyncClient,
        Client,
        InferResult,
        ModelInfo,
        ModelMetadata,
        PushProgress,
        RetryPolicy,
        VersionInfo,
    )
    from partywall.errors import PartywallError, Reason

__version__ = "0.1.0"

__all__ = [
    "Client",
    "AsyncClient",
    "InferResult",
    "ModelInfo",
    "ModelMetadata",
    "VersionInfo",
    "PushProgress",
    "RetryPolicy",
    "PartywallError",
    "Reason",
    "errors",
    "__version__",
]

_FROM_ERRORS = frozenset({"PartywallError", "Reason"})


def __getattr__(name: str) -> Any:
    # Servers import this package for its vocabulary and must not pay for the client.
    if name == "errors":
        return importlib.import_module("partywall.errors")
    if name in _FROM_ERRORS:
        return getattr(importlib.import_module("partywall.errors"), name)
    if name in __all__:
        return getattr(importlib.import_module("partywall.client"), name)
    raise AttributeError(f"module 'partywall' has no attribute {name!r}")
