"""Logs must not tell secrets, whatever goes wrong while somebody holds one."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from partywall import logs

SECRET = "pw_abcdefgh_a-key-that-nobody-may-read"


@pytest.fixture(autouse=True)
def _structlog() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)
    structlog.contextvars.clear_contextvars()


def fail(data_key: str) -> None:
    held = {"under": data_key}
    raise ValueError(f"broken with {len(held)} thing held")


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_shows_no_local_variables(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    logs.configure("info", as_json, "router")
    try:
        fail(SECRET)
    except ValueError as failure:
        structlog.get_logger().error("call failed", exc_info=failure)
    text = capsys.readouterr().err
    assert "broken with 1 thing held" in text
    assert "in fail" in text or '"name": "fail"' in text
    assert SECRET not in text


def test_values_named_like_secrets_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", True, "agent")
    structlog.get_logger().info("joined", join_token=SECRET, Authorization=SECRET, node="n1")
    row = json.loads(capsys.readouterr().err)
    assert (row["join_token"], row["Authorization"], row["node"]) == ("[hidden]", "[hidden]", "n1")
    assert (row["service"], row["level"]) == ("agent", "info")
