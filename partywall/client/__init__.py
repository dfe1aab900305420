"""The client SDK: `Client` for threads, `AsyncClient` for asyncio; numpy in, numpy out."""

from partywall.client.aio import AsyncClient
from partywall.client.retry import RetryBudget, RetryPolicy
from partywall.client.sync import Client
from partywall.client.uploading import PushProgress
from partywall.client.views import InferResult, ModelInfo, ModelMetadata, VersionInfo

__all__ = [
    "Client",
    "AsyncClient",
    "InferResult",
    "ModelInfo",
    "ModelMetadata",
    "VersionInfo",
    "PushProgress",
    "RetryBudget",
    "RetryPolicy",
]
