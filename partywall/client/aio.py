"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from partywall.client.artifact import inspect_folder
from partywall.client.endpoint import open_endpoint
from partywall.client.flow import Caller
from partywall.client.operations import Operations, check_deadline, manifest
from partywall.client.push import PushRequest
from partywall.client.retry import RetryPolicy
from partywall.client.tensors import TensorInput
from partywall.client.transport import AsyncTransport
from partywall.client.uploading import OnProgress
from partywall.client.views import InferResult, ModelInfo, ModelMetadata
from partywall.clock import SystemClock
from partywall.domain.names import check_model_name


class AsyncClient:
    """A tenant's way to its models, for asyncio; made inside the running loop, and best kept for long.

    Args:
        address: `host:port` of a router's public port; `https://` or `grpcs://` before it means TLS.
        api_key: As `partywall keys issue` showed it. Never sent in plaintext to another machine.
        tls_ca: PEM certificates to trust; means TLS.
        timeout_s: Deadline of calls that bring none, in seconds, all tries together.
        insecure: Send the key in plaintext to another machine all the same.
        retry: How failed calls that were not executed are repeated.

    Raises:
        InvalidInput: The address, the certificates or the key are malformed.
        PermissionDenied: The key would leave this machine in plaintext.
    """

    def __init__(
        self,
        address: str,
        *,
        api_key: str | None = None,
        tls_ca: Path | str | None = None,
        timeout_s: float = 30.0,
        insecure: bool = False,
        retry: RetryPolicy | None = None,
    ) -> None:
        check_deadline(timeout_s, "timeout_s")
        ca = Path(tls_ca) if tls_ca is not None else None
        endpoint = open_endpoint(address, credential=api_key, tls_ca=ca, insecure=insecure)
        self._operations = Operations(Caller(SystemClock(), timeout_s=timeout_s, policy=retry))
        self._transport = AsyncTransport(endpoint)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, TensorInput],
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        deadline_s: float | None = None,
        request_id: str | None = None,
    ) -> InferResult:
        """Runs a model.

        Args:
            model: The tenant's own name for it.
            inputs: Tensors by name: numpy arrays, or lists of str or bytes for BYTES.
            version: A version's number as text; empty: the live one.
            outputs: Only these outputs; None: all.
            deadline_s: Until when an answer is of use, in seconds from now; the router refuses at once what cannot
                meet it.
            request_id: Comes back in the result and stands in the router's logs.

        Raises:
            PartywallError: Typed, with `reason`, `retryable` and `retry_after_s`.
        """
        flow = self._operations.infer(
            model, inputs, version=version, outputs=outputs, deadline_s=deadline_s, request_id=request_id
        )
        return await self._transport.run(flow)

    async def ready(self, model: str | None = None, *, version: str = "") -> bool:
        """Whether the server, or a model of it, takes requests."""
        return await self._transport.run(self._operations.ready(model, version))

    async def metadata(self, model: str, *, version: str = "") -> ModelMetadata:
        """What a model takes and gives."""
        return await self._transport.run(self._operations.metadata(model, version))

    async def models(self) -> tuple[ModelInfo, ...]:
        """The tenant's models with all their versions."""
        return await self._transport.run(self._operations.models())

    async def push(
        self,
        model: str,
        folder: Path | str,
        *,
        engine: str,
        slo_ms: int,
        options: Mapping[str, str] | None = None,
        share_percent: int = 0,
        memory_bytes: int = 0,
        max_batch: int = 0,
        side_effects: bool = False,
        cold_start: bool = False,
        promote: bool = False,
        wait_s: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> tuple[ModelInfo, int]:
        """Checks, seals and uploads a model folder as a new version; plaintext does not leave this machine.

        Args:
            folder: Its plain files are pushed; hidden files and folders inside it are not.
            engine: `transformers`, `module` or `identity`.
            slo_ms: The latency objective in milliseconds.
            options: The engine's own (docs/engines.md).
            share_percent: Share of a device's compute; 0: the planner chooses.
            memory_bytes: What the model needs; 0: estimated from the files.
            max_batch: Rows in one batch; 0: the engine's own limit.
            side_effects: A request must never run twice: it is not retried and not hedged.
            cold_start: A request wakes the version when it is not resident.
            promote: Make it live as soon as it is ready.
            wait_s: Wait this long for it to be ready; None: return as soon as it is committed.
            on_progress: Called after each sent chunk, from another thread.

        Returns:
            The model, and the number of the new version.

        Raises:
            ArtifactRefused: A file is not taken; nothing was sent.
            PartywallError: The push failed; nothing of it is visible.
        """
        described = manifest(
            engine,
            slo_ms=slo_ms,
            options=options,
            share_percent=share_percent,
            memory_bytes=memory_bytes,
            max_batch=max_batch,
            side_effects=side_effects,
            cold_start=cold_start,
        )
        check_model_name(model)
        artifact = await asyncio.to_thread(inspect_folder, Path(folder), engine, described.options)
        request = PushRequest(model, artifact, described, promote, on_progress)
        return await self._transport.run(self._operations.push(request, wait_s=wait_s))

    async def close(self) -> None:
        """Closes the connection."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
