"""Interference's ground: its truths, what may be known of them, and that loads are found. Short runs only."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.ground.pages import markdown
from benchmarks.ground.policies import GPULET, ONE_AT_A_TIME, ONE_MODEL, OURS, PLAYERS, Player
from benchmarks.ground.predictor import from_table
from benchmarks.ground.scenario import TENANTS, Scenario
from benchmarks.ground.truths import GroundPace, RecordedGround, hidden_truth, rounded
from benchmarks.interference_ground import DATA, Ground, play, sliced_pairs, victims
from isolation.interference import dataset
from partywall.domain.profiles import Resident


@pytest.fixture(scope="module")
def ground() -> Ground:
    data = dataset.load(DATA)
    return Ground(data, from_table(data, 0), RecordedGround(data))


def test_hidden_phases_have_the_solo_times_they_were_made_from() -> None:
    data = dataset.load(DATA)
    truth = hidden_truth(data, 3)
    for name in data.models:
        solo = {share: truth.latencies_s([Resident(name, share)])[0].mean() for share in (25, 50, 100)}
        assert solo[25] >= solo[50] >= solo[100]
        assert 1000 * solo[100] == pytest.approx(data.solo_ms[Resident(name, 100)], rel=0.6)
    assert truth.models != hidden_truth(data, 4).models


def test_recorded_pairs_play_back_and_sets_are_products(ground: Ground) -> None:
    data, truth = ground.data, RecordedGround(ground.data)
    run = next(r for r in data.runs if not r.has_probe and [p.share_percent for p in r.partners] == [50, 50])
    first, second = truth.slowdowns(run.partners)
    assert first == pytest.approx(max(run.latency_ms[0] / data.solo_ms[run.partners[0]], 1.0))
    alone = truth.slowdowns(run.partners[:1])
    assert alone == (1.0,)
    twins = truth.slowdowns([Resident("bert", 50), Resident("bert", 50)])
    assert twins[0] == twins[1] > 1.0
    three = truth.slowdowns([*run.partners, Resident("swin", 50)])
    assert three[0] >= first
    assert three[1] >= second


def test_slices_take_turns(ground: Ground) -> None:
    pairs = sliced_pairs(DATA)
    truth = RecordedGround(ground.data, sliced=pairs)
    found = truth.slowdowns([Resident("bert", 100), Resident("decode", 100), Resident("unet", 100)])
    assert found[0] == pytest.approx(pairs["bert", "decode"] + float(np.median(list(pairs.values()))) - 1)


def test_a_pace_answers_in_the_order_it_was_asked(ground: Ground) -> None:
    pace = GroundPace(ground.truth, ("bert", "decode"), ground.known.solo_s, {})
    assert pace.slowdowns([(0, 0.5), (1, 0.5)]) == list(reversed(pace.slowdowns([(1, 0.5), (0, 0.5)])))
    assert rounded(0.34) == 35
    assert pace.service_s(0, 1.0, 1) < pace.service_s(0, 0.6, 1) < pace.service_s(0, 0.5, 1)


def test_loads_are_found_and_ours_is_above_the_bars(ground: Ground) -> None:
    result = play(ground, [0], 300)
    loads = {name: held[0] for name, held in result["load_in_devices"].items()}
    assert set(loads) == set(PLAYERS)
    assert loads[OURS] >= 1.5 * max(loads[ONE_MODEL], loads[ONE_AT_A_TIME])
    assert loads[OURS] >= 1.2 * loads[GPULET]
    page = markdown({"seeds": 1, "truths": {"recorded": result}, "victims": victims(
        ground.data, sliced_pairs(DATA), [0], 60)})  # fmt: skip
    assert "time slices, no MPS" in page


def test_a_scenario_repeats_and_scales(ground: Ground) -> None:
    one, two = (Scenario.draw(5, ground.data.models, ground.known.solo_s, 400) for _ in range(2))
    assert one == two
    assert sum(t.rate_per_s * m.service_s[0] for t, m in zip(one.traffic(1.5), one.models, strict=True)) == (
        pytest.approx(1.5)
    )
    assert one.arrivals(2.0).seconds[-1] == pytest.approx(one.arrivals(1.0).seconds[-1] / 2)
    homes = Player(one, ground.known).homes()
    assert sorted(t for held in homes for t in held) == list(range(TENANTS))
