"""Who speaks for a device: a fit where there is one, profiles alone otherwise, and never a wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from isolation.interference import dataset, fits
from isolation.interference.activity import mean_prediction
from isolation.interference.fits import Fit
from isolation.interference.model import Basis
from partywall.domain.fleet import PartitionKind
from partywall.domain.profiles import ProbePoint, Profile, Resident
from partywall.errors import NotFound
from router.control.fits import FitBook
from router.gateway.predictors import Predictors
from router.gateway.profiled_bounds import ProfiledBounds
from router.policy.neighbour_costs import Occupant

FEW = ("bert", "decode", "mobilenet", "swin")
T = TypeVar("T")
VICTIM, NEIGHBOUR = Resident("victim:1", 50), Resident("neighbour:1", 25)


async def at_once(call: Callable[[], T], /) -> T:
    return call()


@pytest.fixture(scope="module")
def fit() -> Fit:
    """The shipped one of four of its models."""
    ((name, content),) = fits.shipped()
    whole = fits.parse(content, name)
    runs = tuple(r for r in whole.data.runs if all(dataset.is_probe(n) or n in FEW for n in r.names))
    return replace(whole, data=replace(whole.data, runs=runs))


@pytest.fixture(scope="module")
def profiles(fit: Fit) -> dict[str, Profile]:
    ((name, content),) = fits.shipped()
    known = dataset.profiles(fits.parse(content, name).data)
    atlas = fit.model().atlas
    own = {
        ProbePoint(probe, *shares): float(np.exp(atlas.sensitivity[atlas.models + i, c, i]))
        for i, probe in enumerate(atlas.probes)
        for c, shares in enumerate(atlas.grid)
    }
    return {n: replace(known[m], probe_self=own) for n, m in (("victim:1", "resnet50"), ("neighbour:1", "unet"))}


def made(fit: Fit) -> Predictors:
    return Predictors(lambda device_type: fit, frozenset({fit.device_type}))


async def test_profiles_speak_until_the_fit_is_open_and_has_thought(fit: Fit, profiles: dict[str, Profile]) -> None:
    predictors = made(fit)
    assert predictors.basis(profiles["victim:1"]) == (Basis.PROFILES, "the fit is being opened")
    best = predictors(profiles)
    busy = {NEIGHBOUR: 0.5}
    first = mean_prediction(best, VICTIM, busy)
    assert first.basis is Basis.PROFILES
    await predictors.catch_up(at_once)
    assert mean_prediction(best, VICTIM, busy) == first, "open, and asked for the first time"
    await predictors.catch_up(at_once)
    second = mean_prediction(best, VICTIM, busy)
    assert second.basis is Basis.FIT
    assert second.slowdown != first.slowdown
    assert predictors.basis(profiles["victim:1"]) == (Basis.FIT, "")


async def test_a_bound_follows_the_fit(fit: Fit, profiles: dict[str, Profile]) -> None:
    class Book:
        def profile(self, model_id: str, version: int, device_type: str) -> Profile | None:
            return profiles.get(f"{model_id}:{version}")

    predictors = made(fit)
    bounds = ProfiledBounds(Book(), predictors, lambda: predictors.generation)
    ours, theirs = Occupant("victim", 1, 50), Occupant("neighbour", 1, 25)
    for _ in range(2):
        assert bounds.bound(fit.device_type, ours, (theirs,), PartitionKind.MPS).basis is Basis.PROFILES
        await predictors.catch_up(at_once)
    found = bounds.bound(fit.device_type, ours, (theirs,), PartitionKind.MPS)
    assert found.basis is Basis.FIT
    assert bounds.bound(fit.device_type, ours, (theirs,), PartitionKind.MPS) is found


async def test_who_cannot_join_is_predicted_from_profiles_and_told_why(fit: Fit, profiles: dict[str, Profile]) -> None:
    predictors = made(fit)
    bare = {n: replace(p, probe_self={}) for n, p in profiles.items()}
    best = predictors(bare)
    for _ in range(3):
        assert mean_prediction(best, VICTIM, {NEIGHBOUR: 1.0}).basis is Basis.PROFILES
        await predictors.catch_up(at_once)
    basis, why = predictors.basis(bare["victim:1"])
    assert basis is Basis.PROFILES
    assert "cannot join the fit" in why
    assert predictors.basis(replace(bare["victim:1"], sensitivity={}))[0] is Basis.CONSTANT
    elsewhere = replace(bare["victim:1"], device_type="another GPU")
    assert "no fit for this type" in predictors.basis(elsewhere)[1]


async def test_a_fit_that_cannot_be_used_is_tried_once(profiles: dict[str, Profile]) -> None:
    tried: list[str] = []

    def missing(device_type: str) -> Fit:
        tried.append(device_type)
        raise NotFound("it is gone")

    predictors = Predictors(missing, frozenset({profiles["victim:1"].device_type}))
    best = predictors(profiles)
    for _ in range(3):
        assert mean_prediction(best, VICTIM, {NEIGHBOUR: 1.0}).basis is Basis.PROFILES
        await predictors.catch_up(at_once)
    assert len(tried) == 1
    assert "it is gone" in predictors.basis(profiles["victim:1"])[1]


def test_a_book_holds_what_is_shipped_and_the_operators_before_it(tmp_path: Path, fit: Fit) -> None:
    assert FitBook.open(tmp_path / "none").types == {fit.device_type}
    (tmp_path / "own.json").write_text(fits.text(fit))
    (tmp_path / "other.json").write_text(fits.text(replace(fit, device_type="my GPU")))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "binary.json").write_bytes(b"\xf7\x00")
    book = FitBook.open(tmp_path)
    assert book.types == {fit.device_type, "my GPU"}
    assert len(book(fit.device_type).data.runs) == len(fit.data.runs)
    with pytest.raises(NotFound):
        book("unheard of")
