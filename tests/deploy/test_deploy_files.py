"""The files under deploy/ name only options, variables, metrics and reasons that exist."""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from partywall.cli.main import app
from partywall.errors import Reason
from router.gateway.statistics import Statistics
from router.metrics import FleetCollector
from router.public_tls import TlsCollector, TlsPair

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def _command(name: str) -> Any:
    group: Any = typer.main.get_command(app)
    return group.commands[name]


def _unit(path: Path) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path)
    return parser["Service"]


def _variables(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.stem)
def test_unit_starts_a_command_that_takes_its_options_and_environment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, name, *options = shlex.split(_unit(path)["ExecStart"])
    command = _command(name)
    variables = _variables(DEPLOY / "systemd" / f"{name}.env")
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    prefix = f"PARTYWALL_{name.upper()}"
    context = command.make_context(name, options, auto_envvar_prefix=prefix)
    assert program.endswith("/bin/partywall")
    taken = {f"{prefix}_{p.name.upper()}": context.params[p.name] for p in command.params}
    assert set(variables) <= set(taken)
    for variable, value in variables.items():
        assert str(taken[variable] or "").lower() == value.lower()


@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.stem)
def test_unit_stops_later_than_the_drain_ends_and_dumps_no_core(path: Path) -> None:
    unit = _unit(path)
    drain = next(p for p in _command(shlex.split(unit["ExecStart"])[1]).params if p.name == "drain_s")
    assert float(unit["TimeoutStopSec"]) > 2 * float(drain.default)
    assert unit["LimitCORE"] == "0"
    assert unit["KillMode"] == "mixed"


def _rules() -> Iterator[dict[str, str]]:
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]:
        yield from group["rules"]


class _NoFleet:
    def sessions(self) -> tuple[()]:
        return ()

    def replicas(self) -> tuple[()]:
        return ()


class _SomeTls:
    pair = TlsPair(b"", b"", datetime.now(UTC))
    problem = ""


def _known_metrics() -> dict[str, Metric]:
    registry = CollectorRegistry()
    Statistics(registry)
    registry.register(FleetCollector(_NoFleet()))  # type: ignore[arg-type]
    registry.register(TlsCollector(_SomeTls()))  # type: ignore[arg-type]
    return {m.name + ("_total" if m.type == "counter" else ""): m for m in registry.collect()}


def test_alerts_use_metrics_and_reasons_that_exist() -> None:
    known = _known_metrics()
    rules = list(_rules())
    assert len(rules) >= 4
    for rule in rules:
        used = set(re.findall(r"partywall_\w+", rule["expr"]))
        assert used <= set(known), rule["alert"]
        for reasons in re.findall(r'outcome=~?"([^"]+)"', rule["expr"]):
            assert set(reasons.split("|")) <= {r.value for r in Reason}, rule["alert"]
        assert rule["annotations"]["next"]  # type: ignore[index]
