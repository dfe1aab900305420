"""A neighbour that *is* a probe, or twice one, must be believed to act like it."""

import numpy as np

from isolation.interference.mixtures import BLENDS, believe, fit_blends

RNG_SEED = 7


def table() -> np.ndarray:
    """Three probes at one pair of shares: each slows itself most."""
    return np.array([[[0.6, 0.2, 0.05]], [[0.1, 0.5, 0.05]], [[0.05, 0.1, 0.3]]])


def test_neighbour_like_a_probe_acts_like_it() -> None:
    pressure = np.transpose(table(), (2, 1, 0))
    blends = fit_blends(table(), pressure, [50])
    victim = np.array([0.4, 0.3, 0.1])
    for n in range(3):
        believed = believe(blends[:, n], victim[None])
        assert abs(believed[0] - victim[n]) < 0.4 * victim[n]


def test_blends_are_never_negative() -> None:
    rng = np.random.default_rng(RNG_SEED)
    blends = fit_blends(table(), rng.uniform(0, 1, (5, 1, 3)), [50])
    assert blends.shape == (len(BLENDS), 5, 1, 3)
    assert (blends >= 0).all()


def test_more_pressure_is_never_believed_milder() -> None:
    rng = np.random.default_rng(RNG_SEED)
    base = rng.uniform(0.05, 0.3, (6, 1, 3))
    victim = rng.uniform(0.05, 0.5, 3)
    low = believe(fit_blends(table(), base, [50])[:, :, 0], victim[None, :])
    high = believe(fit_blends(table(), 1.5 * base, [50])[:, :, 0], victim[None, :])
    assert (high >= low - 1e-9).all()


def test_no_pressure_no_slowdown() -> None:
    blends = fit_blends(table(), np.zeros((1, 1, 3)), [50])
    assert believe(blends[:, 0], np.ones((1, 3)))[0] == 0
