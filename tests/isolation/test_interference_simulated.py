"""The simulated device: fair sharing, a power cap, launch waits; and recorded runs played back."""

from pathlib import Path

import numpy as np
import pytest

from isolation.interference import dataset
from isolation.interference.simulated import DeviceLaw, Phase, RecordedTruth, ResourceTruth, max_min
from partywall.domain.profiles import Resident
from partywall.errors import InvalidInput, NotFound

DATA = Path(__file__).parents[2] / "benchmarks" / "data" / "h100-colocation.json"
STREAM = (Phase(2e-5, dram_bytes=6e7, watts=300, width=0.5),)
COMPUTE = (Phase(1e-4, dram_bytes=1e6, watts=600),)
LAUNCHES = (Phase(5e-6, watts=60, width=0.1), Phase(2e-5, gap=True))


def truth(**models: tuple[Phase, ...]) -> ResourceTruth:
    return ResourceTruth(models, batches=20)


@pytest.mark.parametrize(
    ("demands", "capacity", "granted"),
    [
        ([1.0, 1.0], 4.0, [1.0, 1.0]),
        ([1.0, 5.0], 4.0, [1.0, 3.0]),
        ([5.0, 5.0, 1.0], 7.0, [3.0, 3.0, 1.0]),
        ([], 1.0, []),
    ],
)
def test_max_min(demands: list[float], capacity: float, granted: list[float]) -> None:
    assert max_min(np.array(demands), capacity).tolist() == pytest.approx(granted)


def test_alone_is_not_slowed() -> None:
    assert truth(stream=STREAM).slowdowns([Resident("stream", 50)]) == (1.0,)


def test_two_streams_share_the_bandwidth() -> None:
    both = truth(a=STREAM, b=STREAM).slowdowns([Resident("a", 50), Resident("b", 50)])
    assert both[0] == pytest.approx(both[1])
    assert both[0] > 1.5


def test_compute_beside_compute_meets_the_power_cap() -> None:
    pair = [Resident("a", 50), Resident("b", 50)]
    capped = truth(a=COMPUTE, b=COMPUTE).slowdowns(pair)[0]
    free = ResourceTruth({"a": COMPUTE, "b": COMPUTE}, DeviceLaw(power_cap_watts=5000), 20).slowdowns(pair)[0]
    assert capped > free == pytest.approx(1.0, abs=0.02)


def test_launches_wait_longer_in_company() -> None:
    found = truth(small=LAUNCHES, big=COMPUTE).slowdowns([Resident("small", 25), Resident("big", 50)])
    assert found[0] > 1.05


def test_more_neighbours_cost_more() -> None:
    device = truth(a=STREAM, b=STREAM, c=STREAM)
    two = device.slowdowns([Resident("a", 25), Resident("b", 25)])[0]
    three = device.slowdowns([Resident("a", 25), Resident("b", 25), Resident("c", 25)])[0]
    assert three > two


def test_same_runs_same_answer() -> None:
    residents = [Resident("a", 25), Resident("b", 50)]
    assert truth(a=STREAM, b=LAUNCHES).slowdowns(residents) == truth(a=STREAM, b=LAUNCHES).slowdowns(residents)


def test_unknown_model_is_not_found() -> None:
    with pytest.raises(NotFound, match="ghost"):
        truth(a=STREAM).slowdowns([Resident("ghost", 50)])


def test_impossible_phase_is_refused() -> None:
    with pytest.raises(InvalidInput, match="positive seconds"):
        Phase(0.0)


def test_recorded_truth_plays_back_in_any_order() -> None:
    data = dataset.load(DATA)
    recorded = RecordedTruth.of(data)
    run = next(r for r in data.runs if not r.has_probe and len(r.partners) == 2)
    straight = recorded.slowdowns(run.partners)
    assert straight[0] == pytest.approx(max(run.latency_ms[0] / data.solo_ms[run.partners[0]], 1.0))
    assert recorded.slowdowns(run.partners[::-1]) == straight[::-1]
    assert recorded.slowdowns(run.partners[:1]) == (1.0,)


def test_recorded_truth_takes_the_nearest_shares() -> None:
    recorded = RecordedTruth.of(dataset.load(DATA))
    near = recorded.slowdowns([Resident("bert", 48), Resident("decode", 52)])
    assert near == recorded.slowdowns([Resident("bert", 50), Resident("decode", 50)])
    with pytest.raises(NotFound, match="ghost"):
        recorded.slowdowns([Resident("bert", 50), Resident("ghost", 50)])
