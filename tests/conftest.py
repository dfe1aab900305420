"""Shared by all tests: a clean environment and the printed seed."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own settings must not reach a test."""
    for name in list(os.environ):
        if name.startswith("PARTYWALL_"):
            monkeypatch.delenv(name)
