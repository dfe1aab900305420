from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from worker_support import infer_request, response_arrays

from isolation.engine import Array, MemoryArtifact
from isolation.engine_simulated import LatencyLaw, SimulatedEngine
from node_agent.worker.batch import DeviceLost, Item, Outcome, Replica, classify
from node_agent.worker.identity import IdentityModel
from partywall.clock import VirtualClock
from partywall.domain.models import Signature, TensorSpec
from partywall.errors import DeadlineExceeded, InternalError, InvalidInput, PartywallError, QuotaExceeded, Reason
from partywall.wire.inference import ModelInferRequest


class Recorder:
    """A model that remembers the rows of its calls and fails on negative numbers as told."""

    memory_bytes = 0

    def __init__(self, failure: Exception | None = None, max_batch: int = 4) -> None:
        self.signature = Signature(
            (TensorSpec("x", "FP32", (-1, -1)),), (TensorSpec("y", "FP32", (-1,)),), max_batch=max_batch
        )
        self.calls: list[int] = []
        self._failure = failure

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        self.calls.append(rows)
        if self._failure is not None and inputs["x"].min() < 0:
            raise self._failure
        return {"y": inputs["x"].sum(axis=1)}


def items(*values: Sequence[float] | bytes, deadline_us: int = 0) -> list[Item]:
    data = [
        v if isinstance(v, bytes) else infer_request({"x": np.array([v], np.float32)}, str(i))
        for i, v in enumerate(values)
    ]
    return [Item(i, d, deadline_us) for i, d in enumerate(data)]


def answers(outcomes: Sequence[Outcome]) -> list[float | type[PartywallError]]:
    return [
        type(o.error) if o.error is not None else float(response_arrays(b"".join(o.parts))["y"][0]) for o in outcomes
    ]


def test_items_that_fit_run_as_one_batch() -> None:
    model = Recorder()
    assert answers(Replica(model, "m", "1").run(items([1, 2], [3, 4], [5, 6]), 0)) == [3.0, 7.0, 11.0]
    assert model.calls == [3]


def test_a_batch_never_exceeds_max_batch() -> None:
    model = Recorder(max_batch=2)
    assert answers(Replica(model, "m", "1").run(items([1], [2], [3], [4], [5]), 0)) == [1, 2, 3, 4, 5]
    assert model.calls == [2, 2, 1]


def test_different_shapes_run_apart() -> None:
    model = Recorder()
    assert answers(Replica(model, "m", "1").run(items([1], [2, 2], [3]), 0)) == [1, 4, 3]
    assert sorted(model.calls) == [1, 2]


def test_without_a_batch_dimension_each_runs_alone() -> None:
    model = Recorder(max_batch=0)
    assert answers(Replica(model, "m", "1").run(items([1], [2]), 0)) == [1, 2]
    assert model.calls == [0, 0]


def test_an_undecodable_item_spoils_only_itself() -> None:
    model = Recorder()
    assert answers(Replica(model, "m", "1").run(items([1], b"\xff\xff", [3]), 0)) == [1, InvalidInput, 3]
    assert model.calls == [2]


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (ValueError("index out of range"), InvalidInput),
        (MemoryError(), QuotaExceeded),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), QuotaExceeded),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), QuotaExceeded),
        (ZeroDivisionError("division by zero"), InternalError),
    ],
)
def test_an_item_that_the_model_cannot_run_spoils_only_itself(failure: Exception, error: type[PartywallError]) -> None:
    model = Recorder(failure)
    assert answers(Replica(model, "m", "1").run(items([1], [-2], [3]), 0)) == [1, error, 3]
    assert model.calls == [3, 1, 1, 1]


def test_expired_items_are_not_executed() -> None:
    model = Recorder()
    replica = Replica(model, "m", "1")
    assert answers(replica.run(items([1], deadline_us=99), now_us=100)) == [DeadlineExceeded]
    assert model.calls == []
    assert answers(replica.run(items([1], deadline_us=101), now_us=100)) == [1]


def test_a_broken_device_ends_the_worker() -> None:
    with pytest.raises(DeviceLost):
        Replica(Recorder(RuntimeError("CUDA error: device-side assert triggered")), "m", "1").run(items([-1]), 0)


def test_out_of_memory_has_its_reason() -> None:
    assert classify(MemoryError()).reason is Reason.OUT_OF_MEMORY


def test_identity_takes_requested_names_in_order() -> None:
    data = infer_request({"a": np.zeros((2, 1), np.uint8), "b": np.ones((2, 1), np.uint8)}, outputs=("p", "q"))
    (outcome,) = Replica(IdentityModel(0), "m", "1").run([Item(1, data, 0)], 0)
    arrays = response_arrays(b"".join(outcome.parts))
    assert list(arrays) == ["p", "q"]
    assert arrays["q"].all()


def test_requested_outputs_are_honoured() -> None:
    data = infer_request({"x": np.ones((1, 4), np.float32)}, outputs=("y",))
    clock = VirtualClock()
    model = SimulatedEngine(clock.advance, LatencyLaw(1, 1)).load(MemoryArtifact({}), {}, 2)
    (outcome,) = Replica(model, "m", "1").run([Item(1, data, 0)], 0)
    assert response_arrays(b"".join(outcome.parts))["y"].tolist() == [1.0]
    assert clock.monotonic() == pytest.approx(0.002)


def test_a_shape_that_numpy_cannot_hold_spoils_only_itself() -> None:
    message = ModelInferRequest.FromString(infer_request({"x": np.zeros((1, 0), np.float32)}))
    message.inputs[0].shape[:] = [1 << 62, 1 << 62, 0]
    (outcome,) = Replica(IdentityModel(0), "m", "1").run([Item(1, message.SerializeToString(), 0)], 0)
    assert isinstance(outcome.error, InvalidInput)
