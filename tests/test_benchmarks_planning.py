"""Drawn mixes, forecast and preemption: what they draw repeats, and how figures are judged."""

from __future__ import annotations

import pytest

from benchmarks import forecast, held_out, placing, preemption
from loadgen.simulate import PolicyName


def test_a_drawn_mix_repeats_and_fits_its_fleet() -> None:
    one, two = held_out.drawn(5), held_out.drawn(5)
    assert one == two
    models, traffic, hardware, arrivals = one
    assert sum(m.weights_gb for m in models) <= hardware.devices * hardware.memory_gb
    assert len(models) == len(traffic)
    load = sum(t.rate_per_s * m.service_s[0] for m, t in zip(models, traffic, strict=True)) / hardware.devices
    assert 0.2 < load < 0.8
    assert arrivals.seconds[-1] < held_out.UNTIL_S


def test_swaps_are_not_made_where_waiting_does_as_well() -> None:
    """A mix with a loose objective on which eager swaps fell behind."""
    mix, switches = held_out.drawn(7000), held_out.SETTINGS["no batching, swaps"]
    ours = held_out.attainment(mix, PolicyName.PARTYWALL, switches)
    assert ours >= held_out.attainment(mix, PolicyName.CLOCKWORK, switches) - 0.04


@pytest.mark.parametrize("quantile", forecast.QUANTILES)
@pytest.mark.parametrize("shape", sorted(forecast.SHAPES))
def test_the_forecast_beats_the_last_value_on_every_shape(shape: str, quantile: float) -> None:
    counts = forecast.counts_of(forecast.SHAPES[shape], 3)
    losses = forecast.relative([forecast.judge(counts, forecast.SEASON, quantile)])
    assert losses["ours"] < 1.0, losses


def test_without_a_season_it_is_not_made_up() -> None:
    losses = forecast.judge([float(at % 7) for at in range(400)], 1, 0.5)
    assert losses["ours"] <= losses["naive"] * 1.05
    assert "season ago" not in losses


def test_the_fleet_that_placements_are_timed_on_has_room() -> None:
    found = placing.measure(5)
    assert (found["devices"], found["standing"]) == (5, 5 * placing.EACH)
    assert found["place_ms"] > 0
    nodes, standing = placing.fleet(5, seed=1)
    assert (nodes, standing) == placing.fleet(5, seed=1), "a seed repeats it"


def test_a_batch_that_is_given_up_saves_a_burst_and_recalling_hardly_does() -> None:
    small = {arm: preemption.play(arm, 4.0, 5.0, 0.6, 20.0, 0) for arm in preemption.ARMS}
    assert small == {arm: preemption.play(arm, 4.0, 5.0, 0.6, 20.0, 0) for arm in preemption.ARMS}
    assert small["abandoned"][0] > small["ahead"][0] + 0.1
    assert abs(small["recalled"][0] - small["ahead"][0]) < 0.03
    assert all(large > 0.9 for _, large in small.values())
