"""A plan judged by playing it: never worse than its start, within memory, the same every time."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from router.policy.catalog import ServedModel, Traffic, batch_times_s
from router.policy.rehearsal import Effort, drawn, improved, play
from router.policy.replication import first_plan

EFFORT = Effort(requests=1500, plays=40)


def model(name: str, gb: float, ms: float, scale: float = 3.0) -> ServedModel:
    return ServedModel(name, gb, batch_times_s(ms), scale * ms / 1000)


def test_what_is_drawn_has_the_rates_asked_for_and_is_the_same_every_time() -> None:
    traffic = [Traffic(30.0, 1.0), Traffic(10.0, 3.0), Traffic(0.0)]
    found = drawn(traffic, Effort(requests=20_000))
    assert found == drawn(traffic, Effort(requests=20_000)) == sorted(found)
    counts = [sum(owner == m for _, owner in found) for m in range(3)]
    assert counts[0] == pytest.approx(15_000, rel=0.05)
    assert counts[1] == pytest.approx(5_000, rel=0.2)
    assert counts[2] == 0
    assert drawn([Traffic(0.0)], EFFORT) == []


def test_a_play_takes_the_replica_that_is_free_first_and_refuses_what_would_be_late() -> None:
    models = [model("a", 1.0, 100.0, scale=2.0), model("b", 1.0, 100.0, scale=2.0)]
    arrivals = [(0.0, 0), (0.0, 0), (0.0, 0), (0.0, 0), (0.0, 0), (0.0, 1)]
    played = play(models, arrivals, [[0], [0, 1]])
    assert played.missed == [1, 1]  # two devices clear two each within 200 ms, the second one's are the first model's
    assert played.served == [[2, 0], [2, 0]]
    assert played.misses == 2


def test_a_popular_model_takes_the_place_of_replicas_that_serve_little() -> None:
    """Two of the three devices hold a model that nearly nobody asks for."""
    models = [model("popular", 2.0, 50.0), model("rare", 2.0, 50.0)]
    traffic = [Traffic(40.0, 2.0), Traffic(0.5, 1.0)]
    start = [[0], [1], [1]]
    arrivals = drawn(traffic, EFFORT)
    plan = improved(models, traffic, start, 2.0, EFFORT)
    assert play(models, arrivals, plan).misses < 0.5 * play(models, arrivals, start).misses
    assert sum(0 in held for held in plan) == 2
    assert sum(1 in held for held in plan) == 1


def test_too_many_models_for_the_play_keep_their_plan() -> None:
    models, traffic = [model("popular", 2.0, 50.0), model("rare", 2.0, 50.0)], [Traffic(40.0, 2.0), Traffic(0.5, 1.0)]
    assert improved(models, traffic, [[0], [1], [1]], 2.0, Effort(requests=199)) == [[0], [1], [1]]


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[ServedModel], list[Traffic], int, float]:
    rng = random.Random(draw(st.integers(0, 10**6)))
    devices, memory_gb = rng.randrange(1, 5), rng.choice([3.0, 6.0, 12.0])
    models = [
        model(f"m{i}", rng.choice([0.5, 2.0, 4.0, 7.0]), rng.choice([10.0, 80.0]), rng.choice([1.0, 2.0, 8.0]))
        for i in range(rng.randrange(1, 8))
    ]
    traffic = [Traffic(rng.choice([0.0, 0.3, 0.9]) / m.service_s[0], rng.choice([0.5, 1.0, 4.0])) for m in models]
    return models, traffic, devices, memory_gb


@examples(40)
@given(pools())
def test_it_keeps_memory_never_gets_worse_and_repeats(
    pool: tuple[list[ServedModel], list[Traffic], int, float],
) -> None:
    models, traffic, devices, memory_gb = pool
    start = first_plan(models, traffic, devices, memory_gb)
    kept = [list(held) for held in start]
    plan = improved(models, traffic, start, memory_gb, EFFORT)
    assert start == kept
    assert plan == improved(models, traffic, start, memory_gb, EFFORT)
    assert len(plan) == devices
    for held in plan:
        assert len(set(held)) == len(held)
        assert sum(models[m].weights_gb for m in held) <= memory_gb + 1e-6
    assert {m for held in plan for m in held} >= {m for held in start for m in held}
    fresh = drawn(traffic, replace(EFFORT, seed=EFFORT.seed + 2))
    assert play(models, fresh, plan).misses <= play(models, fresh, start).misses
