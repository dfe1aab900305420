"""Shared by all tests: a clean environment, reproducible examples, and which tests may run beside which."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import fuzzing  # noqa: F401 - loads hypothesis's profile before any test is read
import pytest
from xdist.scheduler import LoadScopeScheduling


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    """A developer's own settings must not reach a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("PARTYWALL_"):
                patch.delenv(name)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)


class Apart(LoadScopeScheduling):
    """Under `-n`, one process has all of tests/e2e, and each other module stays in one process.

    Instances of real processes side by side would take each other's cores and time.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "e2e" if "tests/e2e/" in module else module


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Apart:
    return Apart(config, log)
