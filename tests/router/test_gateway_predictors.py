"""Who speaks for a device: a fit where there is one, profiles alone otherwise, and never a wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from isolation.interference import dataset, fits
from isolation.interference.activity import mean_prediction
from isolation.interference.fits import Fit
from isolation.interference.model import Basis
from partywall.domain.fleet import PartitionKind
from partywall.domain.profiles import ProbePoint, Profile, Resident
from partywall.errors import NotFound
from router.control.fits import FitBook, FitCollector
from router.gateway.predictors import FILES_EVERY, Predictors, no_fit
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


def test_a_book_takes_in_what_changes_and_keeps_what_was_usable(tmp_path: Path, fit: Fit) -> None:
    registry = CollectorRegistry()
    book = FitBook.open(tmp_path)
    registry.register(FitCollector(book))
    shipped = book(fit.device_type)
    assert book.look() == {}
    own = tmp_path / "own.json"
    own.write_text(fits.text(replace(fit, device_type="my GPU")))
    assert book.look() == {"my GPU": True}
    first = book("my GPU")
    assert book.look() == {}, "only what changed is read again"
    own.write_text(own.read_text()[:500])
    assert book.look() == {}
    assert book("my GPU") is first, "half a file"
    assert list(book.problems) == [str(own)]
    assert registry.get_sample_value("partywall_fit_files_unusable") == 1
    own.write_text(fits.text(fit))
    assert book.look() == {"my GPU": False, fit.device_type: True}
    assert not book.problems
    assert book(fit.device_type) is not shipped
    own.unlink()
    assert book.look() == {fit.device_type: True}
    assert book(fit.device_type) is shipped


async def test_another_fit_answers_once_it_is_open_and_the_one_before_until_then(fit: Fit) -> None:
    fits_now, changes = {fit.device_type: fit}, list[dict[str, bool]]()

    def look() -> dict[str, bool]:
        return changes.pop() if changes else {}

    def opened(device_type: str) -> Fit:
        return fits_now.get(device_type) or no_fit(device_type)

    predictors = Predictors(opened, frozenset(fits_now), look)
    assert predictors.fitted(fit.device_type) is None
    await predictors.catch_up(at_once)
    first = predictors.fitted(fit.device_type)
    assert first is not None
    generation = predictors.generation
    changes.append({fit.device_type: True})
    for _ in range(FILES_EVERY - 1):
        await predictors.catch_up(at_once)
        assert predictors.fitted(fit.device_type) is first, "files are looked at now and then"
    await predictors.catch_up(at_once)
    assert predictors.fitted(fit.device_type) is not first
    assert predictors.generation > generation, "answers may be others now"

    generation, second = predictors.generation, predictors.fitted(fit.device_type)
    fits_now.clear()
    changes.append({fit.device_type: True})
    for _ in range(FILES_EVERY):
        await predictors.catch_up(at_once)
    assert predictors.fitted(fit.device_type) is second, "what cannot be opened takes nobody's place"

    changes.append({fit.device_type: False})
    for _ in range(FILES_EVERY):
        await predictors.catch_up(at_once)
    assert predictors.fitted(fit.device_type) is None
    assert fit.device_type not in predictors.types
    assert predictors.generation > generation
