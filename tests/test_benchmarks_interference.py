"""The interference benchmarks' own parts: what they say where they cannot measure, and the oracle's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import gpu_profile, interference_live, probe_repeatability, served_profile
from benchmarks.gpu_profile import Finding
from partywall.errors import Unsupported


def test_a_check_that_fails_does_not_end_the_others() -> None:
    def broken() -> Finding:
        raise RuntimeError("no such kernel")

    (found,) = gpu_profile.guarded("dram alone", broken)
    assert (found.ok, found.name) == (False, "dram alone")
    assert "no such kernel" in found.seen


@pytest.mark.e2e
def test_a_served_network_is_profiled_by_one_command() -> None:
    record = served_profile.profile(hidden=256)
    assert record["complete"]
    assert record["input_bytes"] == 4 * served_profile.INPUTS


def test_repeatability_wants_two_cores() -> None:
    with pytest.raises(Unsupported, match="two cores"):
        probe_repeatability.measure(1, [0], 1)
    row = probe_repeatability.Steadiness("probe:llc:1.0", 1.0, 0.01, 0.02, 1.5, 0.03, 0.04)
    assert "| probe:llc:1.0 | 1.000 | 1.0% (2.0%) | 1.500 | 3.0% (4.0%) |" in probe_repeatability.page([row], 3)


def test_an_oracle_leaves_what_observations_do_not_hold() -> None:
    rng = np.random.default_rng(3)
    common = rng.normal(0, 0.05, (400, 1)) + rng.normal(0, 0.001, (400, 6))
    alone = rng.normal(0, 0.05, (400, 6))
    assert interference_live.oracle_p90(common) < 0.005
    assert interference_live.oracle_p90(alone) == pytest.approx(0.05 * 1.645, rel=0.1)


def test_repeats_are_read_from_the_data() -> None:
    noise = interference_live.repeat_noise(interference_live.DATA)
    assert len(noise) > 20
    assert np.abs(noise).max() < 0.2
