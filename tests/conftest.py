"""Shared by all tests: a clean environment, reproducible examples, and which tests may run beside which."""

from __future__ import annotations

import os
from collections.abc import Iterator

import fuzzing  # noqa: F401 - loads hypothesis's profile before any test is read
import pytest


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    """A developer's own settings must not reach a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("PARTYWALL_"):
                patch.delenv(name)
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first; under `-n`, one process has all end-to-end tests, and a module stays in one process.

    Instances of real processes side by side would take each other's cores and time.
    """
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
    for item in items:
        folder = item.path.parent.name
        group = folder if folder == "e2e" else "benchmarks" if item.get_closest_marker("e2e") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
