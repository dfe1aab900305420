"""One batch of requests through one model: decode, group, run, split, encode. A bad request spoils only itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from isolation.engine import Array, LoadedModel
from node_agent.worker import codec
from node_agent.worker.response import ResponseWriter
from partywall.domain.models import Signature
from partywall.errors import DeadlineExceeded, InternalError, InvalidInput, PartywallError, QuotaExceeded, Reason

Parts: TypeAlias = list[bytes | memoryview]


class DeviceLost(Exception):
    """The device's context is broken: no request of this process can succeed any more, and the process must end."""


@dataclass(frozen=True, slots=True)
class Item:
    """A request as it came. `deadline_us` is CLOCK_MONOTONIC, 0 for none."""

    id: int
    data: bytes | memoryview
    deadline_us: int


@dataclass(slots=True)
class Outcome:
    """The response's parts, or the error of this request alone."""

    id: int
    parts: Parts
    error: PartywallError | None = None


@dataclass(slots=True)
class _Entry:
    index: int
    request: codec.Request


class Replica:
    """One loaded version and how its requests are run."""

    def __init__(self, model: LoadedModel, model_name: str, model_version: str) -> None:
        self.model = model
        self._signature: Signature = model.signature
        self._decoder = codec.Decoder(self._signature)
        self._writer = ResponseWriter(model_name, model_version)
        self.exhausted_rows = 0
        """The fewest rows that ran out of memory in the last `run`; 0: none did."""

    def run(self, items: Sequence[Item], now_us: int) -> list[Outcome]:
        """Serves the items, in order; never raises for what a request can cause.

        Raises:
            DeviceLost: The process is beyond help.
        """
        self.exhausted_rows = 0
        outcomes = [Outcome(item.id, []) for item in items]
        entries: list[_Entry] = []
        for index, item in enumerate(items):
            try:
                if item.deadline_us and item.deadline_us <= now_us:
                    raise _expired(now_us - item.deadline_us)
                entries.append(_Entry(index, self._decoder.decode(item.data)))
            except Exception as failure:
                # No request, however strange, ends the worker.
                outcomes[index].error = classify(failure)
        for group in self._groups(entries):
            self._run_group(group, outcomes)
        return outcomes

    def _groups(self, entries: Sequence[_Entry]) -> Iterable[list[_Entry]]:
        """Requests that fit one call of the model: equal trailing dimensions, at most `max_batch` rows."""
        limit = self._signature.max_batch
        if not limit:
            yield from ([entry] for entry in entries)
            return
        open_groups: dict[tuple[tuple[str, tuple[int, ...]], ...], tuple[list[_Entry], int]] = {}
        for entry in entries:
            key = tuple(sorted((name, array.shape[1:]) for name, array in entry.request.inputs.items()))
            group, rows = open_groups.get(key, ([], 0))
            if group and rows + entry.request.rows > limit:
                yield group
                group, rows = [], 0
            group.append(entry)
            open_groups[key] = (group, rows + entry.request.rows)
        for group, _ in open_groups.values():
            yield group

    def _run_group(self, group: Sequence[_Entry], outcomes: list[Outcome]) -> None:
        try:
            self._serve(group, outcomes)
        except DeviceLost:
            raise
        except Exception as failure:
            if _out_of_memory(failure):
                rows = max(1, sum(entry.request.rows for entry in group))
                self.exhausted_rows = min(self.exhausted_rows or rows, rows)
            if len(group) == 1:
                outcomes[group[0].index].error = classify(failure)
                return
            # One of them is the culprit, or together they are too large: each gets its own chance.
            for entry in group:
                self._run_group([entry], outcomes)

    def _serve(self, group: Sequence[_Entry], outcomes: list[Outcome]) -> None:
        requests = [entry.request for entry in group]
        rows = sum(request.rows for request in requests)
        try:
            outputs = self.model.run(_merge(requests), rows)
        except RuntimeError as failure:
            raise device_error(failure) from failure
        start = 0
        for entry, request in zip(group, requests, strict=True):
            mine = outputs
            if len(group) > 1:
                mine = {name: array[start : start + request.rows] for name, array in outputs.items()}
            start += request.rows
            outcomes[entry.index].parts = self._writer.write(request.id, self._chosen(request, mine))

    def _chosen(self, request: codec.Request, outputs: Mapping[str, Array]) -> Mapping[str, Array]:
        if not request.outputs:
            return outputs
        if self._signature.open:
            # Any names are taken: they go to the tensors in order.
            return dict(zip(request.outputs, outputs.values(), strict=False))
        return {name: outputs[name] for name in request.outputs}


def classify(failure: Exception, subject: str = "the model") -> PartywallError:
    """The error a caller gets for whatever a model, or loading it, raised."""
    if isinstance(failure, PartywallError):
        return failure
    if _out_of_memory(failure):
        return QuotaExceeded(
            "the partition's memory is full; send fewer rows per request, or give the model a larger partition",
            reason=Reason.OUT_OF_MEMORY,
        )
    if isinstance(failure, IndexError | ValueError):
        return InvalidInput(f"{subject} refused these values: {_short(failure)}", reason=Reason.INVALID_TENSOR)
    return InternalError(f"{subject} failed: {type(failure).__name__}: {_short(failure)}")


def _out_of_memory(failure: Exception) -> bool:
    text = str(failure)
    return isinstance(failure, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def device_error(failure: RuntimeError) -> Exception:
    """What a failure of the framework is: itself, or the end of this process."""
    text = str(failure)
    if ("CUDA error" in text or "device-side assert" in text) and "out of memory" not in text:
        return DeviceLost(text)
    return failure


def _merge(requests: Sequence[codec.Request]) -> Mapping[str, Array]:
    if len(requests) == 1:
        return requests[0].inputs
    return {name: np.concatenate([r.inputs[name] for r in requests]) for name in requests[0].inputs}


def _short(failure: Exception) -> str:
    return str(failure).strip().split("\n", 1)[0][:300]


def _expired(late_us: int) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the deadline passed {late_us / 1e3:.1f} ms before the model could run; nothing was executed",
        fields={"executed": "false"},
    )
