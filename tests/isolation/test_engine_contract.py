"""The contract of `Engine`, for every engine that needs no framework."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from isolation.engine import Engine, MemoryArtifact, int_option
from isolation.engine_simulated import LatencyLaw, SimulatedEngine
from node_agent.worker.identity import IdentityEngine
from partywall.clock import VirtualClock
from partywall.errors import ArtifactRefused, InvalidInput, PartywallError

FILES = MemoryArtifact({"a.bin": b"123", "b.bin": b"4567"})


def simulated() -> Engine:
    return SimulatedEngine(VirtualClock().advance)


@pytest.fixture(params=[simulated, IdentityEngine], ids=["simulated", "identity"])
def engine(request: pytest.FixtureRequest) -> Engine:
    make: Callable[[], Engine] = request.param
    return make()


def test_memory_is_what_the_files_weigh(engine: Engine) -> None:
    assert engine.load(FILES, {}, 0).memory_bytes == 7


def test_unknown_option_is_named(engine: Engine) -> None:
    with pytest.raises(InvalidInput, match="'colour'") as refused:
        engine.load(FILES, {"colour": "red"}, 0)
    assert refused.value.fields == {"field": "options.colour"}


def test_rows_of_the_answer_are_rows_of_the_question(engine: Engine) -> None:
    model = engine.load(FILES, {}, 8)
    inputs = {"x": np.arange(12, dtype=np.float32).reshape(3, 4)}
    for array in model.run(inputs, 3).values():
        assert array.shape[0] == 3


def test_same_question_same_answer(engine: Engine) -> None:
    model = engine.load(FILES, {}, 8)
    inputs = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}
    first, second = model.run(inputs, 2), model.run(inputs, 2)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_batched_signature_bounds_its_rows(engine: Engine) -> None:
    signature = engine.load(FILES, {}, 8).signature
    assert signature.open or signature.max_batch == 8
    assert all(spec.shape[0] == -1 for spec in (*signature.inputs, *signature.outputs))


def test_simulated_time_follows_the_law() -> None:
    clock = VirtualClock()
    model = SimulatedEngine(clock.advance, LatencyLaw(fixed_ms=3, row_ms=2)).load(FILES, {"width": "2"}, 0)
    model.run({"x": np.ones((5, 2), np.float32)}, 5)
    assert clock.monotonic() == pytest.approx(0.013)


@pytest.mark.parametrize("law", [(-1.0, 1.0), (1.0, float("nan")), (float("inf"), 1.0)])
def test_a_law_that_is_no_law_is_refused(law: tuple[float, float]) -> None:
    with pytest.raises(InvalidInput):
        LatencyLaw(*law)


def test_missing_file_lists_what_is_there() -> None:
    with pytest.raises(ArtifactRefused, match=r"'c.bin'.*a.bin, b.bin"):
        FILES.read("c.bin")


def test_a_read_belongs_to_the_reader() -> None:
    view = FILES.read("a.bin")
    view[0] = 0
    assert bytes(FILES.read("a.bin")) == b"123"


@pytest.mark.parametrize("text", ["", "x", "0", "9", "1.5"])
def test_int_option_names_range_and_value(text: str) -> None:
    with pytest.raises(PartywallError, match=r"'n'.*1 to 8"):
        int_option({"n": text}, "n", 1, 1, 8)
