"""Figures, warnings, JSON, and the page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from loadgen.arrivals import rng_for
from loadgen.html import render
from loadgen.report import Report, make_report, number, percent, quantiles_ms, tables, write_columns
from loadgen.results import Fate, Recorder, Requests, concatenate

HOSTILE = '<script>alert("x")</script>&'


def columns(
    latencies_ms: list[float],
    fates: list[Fate],
    reasons: list[str],
    objective_ms: float | None = 50,
    name: str = "acme",
) -> Requests:
    """One request per second, each 0.1 ms late, with the given ends."""
    recorder = Recorder(np.arange(len(fates), dtype=np.float64))
    for i, (latency, fate, reason) in enumerate(zip(latencies_ms, fates, reasons, strict=True)):
        if fate is not Fate.UNSENT:
            recorder.sending(i, 1e-4)
            recorder.settled(i, fate, reason, latency / 1e3)
    return recorder.columns(name, objective_ms)


def mixed(name: str = "acme", objective_ms: float | None = 50) -> Requests:
    fates = [Fate.SERVED, Fate.SERVED, Fate.REFUSED, Fate.FAILED, Fate.UNSENT]
    return columns(
        [10, 90, 1, 2000, 0], fates, ["OK", "OK", "RATE_LIMITED", "DEADLINE_EXCEEDED", ""], objective_ms, name
    )


def many(name: str = "acme", count: int = 2000, objective_ms: float | None = 50) -> Requests:
    latencies = rng_for(1, name).gamma(4, 5, count)
    return columns(latencies.tolist(), [Fate.SERVED] * count, ["OK"] * count, objective_ms, name)


def test_refused_and_failed_are_misses_and_unsent_is_apart() -> None:
    (tenant,) = make_report([mixed()], 10.0).tenants
    assert (tenant.planned, tenant.sent, tenant.served) == (5, 4, 2)
    assert (tenant.refused, tenant.failed, tenant.unsent, tenant.in_time) == (1, 1, 1, 1)
    assert tenant.attainment == pytest.approx(0.25)
    assert tenant.attainment_of_served == pytest.approx(0.5)
    assert tenant.goodput_per_s == pytest.approx(0.1)
    assert dict(tenant.reasons) == {"RATE_LIMITED": 1, "DEADLINE_EXCEEDED": 1, "CLIENT_STOPPED": 1}


def test_without_an_objective_goodput_is_what_was_served() -> None:
    (tenant,) = make_report([mixed(objective_ms=None)], 10.0).tenants
    assert tenant.attainment is None
    assert tenant.goodput_per_s == pytest.approx(0.2)


def test_a_quantile_needs_requests_behind_it() -> None:
    assert quantiles_ms(np.arange(99) / 1e3)["p99"] is None
    assert quantiles_ms(np.arange(101) / 1e3)["p99"] == pytest.approx(99)
    assert quantiles_ms(np.full(1000, 0.004))["p99.9"] == pytest.approx(4)
    assert set(quantiles_ms(np.empty(0)).values()) == {None}


def test_a_late_generator_and_unsent_requests_are_warned_about() -> None:
    late = many()
    late.lateness_s[:] = 0.02
    (warning,) = make_report([late], 10.0).warnings
    assert "generator itself was late (p99 20.0 ms" in warning
    assert any("did not send 1" in w for w in make_report([mixed()], 10.0).warnings)
    assert make_report([many()], 10.0).warnings == ()


def test_nothing_served_is_warned_about() -> None:
    refused = columns([1], [Fate.REFUSED], ["BAD_CREDENTIAL"])
    assert make_report([refused], 1.0).warnings == ("tenant acme: nothing was served",)


def test_json_is_plain_and_complete() -> None:
    report = make_report([mixed(), many("globex")], 10.0, {"seed": 3})
    data = json.loads(report.to_json())
    assert [t["name"] for t in data["tenants"]] == ["acme", "globex"]
    assert data["settings"] == {"seed": 3}
    assert data["tenants"][0]["latency_ms"]["p99.9"] is None


def test_columns_can_be_read_back(tmp_path: Path) -> None:
    write_columns([mixed()], tmp_path / "r.npz")
    with np.load(tmp_path / "r.npz", allow_pickle=False) as read:
        assert read["acme.fate"].tolist() == [0, 0, 1, 2, 3]
        assert read["acme.reasons"][read["acme.reason"]].tolist()[2] == "RATE_LIMITED"


def test_warmup_is_cut_and_runs_are_joined() -> None:
    cut = mixed().after(2.0)
    assert cut.intended_s.tolist() == [0.0, 1.0, 2.0]
    other = columns([5], [Fate.FAILED], ["WORKER_DIED"])
    joined = concatenate([cut, other])
    assert [joined.reasons[i] for i in joined.reason] == [
        "RATE_LIMITED", "DEADLINE_EXCEEDED", "CLIENT_STOPPED", "WORKER_DIED",
    ]  # fmt: skip
    assert (np.diff(joined.intended_s) >= 0).all()


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (0.99999, "99.9 %"), (1.0, "100.0 %"), (0.29, "29.0 %")])
def test_percent_never_rounds_up(value: float | None, shown: str) -> None:
    assert percent(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (float("nan"), "-"), (1234.5, "1,234"), (0.5, "0.5")])
def test_numbers(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_tables_fit_80_columns_and_show_the_figures() -> None:
    console = Console(width=80)
    with console.capture() as captured:
        for table in tables(make_report([mixed(), many("globex")], 10.0)):
            console.print(table)
    text = captured.get()
    assert re.search(r"acme +5 +4 +2 +1 +1 +1 +0\.1", text)
    assert re.search(r"acme .* 25\.0 % +50\.0 %", text)
    assert re.search(r"globex +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +50", text)
    assert re.search(r"acme +1 +RATE_LIMITED", text)
    assert len(tables(make_report([many()], 1.0))) == 2


class Page(HTMLParser):
    """Collects tags, attributes and text; checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.urls: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "path", "use", "line"):
            self.open.append(tag)
        self.urls += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action")]
        self.ids += [v or "" for k, v in attrs if k == "id"]

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


def page_of(report: Report, requests: list[Requests]) -> tuple[str, Page]:
    html = render(report, requests)
    page = Page()
    page.feed(html)
    return html, page


def test_the_page_stands_alone() -> None:
    requests = [many(), many("globex", objective_ms=None), mixed("third")]
    html, page = page_of(make_report(requests, 2000.0), requests)
    assert page.tags.count("svg") == 2 + len(requests)
    assert page.open == []
    assert "script" not in page.tags
    assert all(url.startswith("#") for url in page.urls)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert not re.search(r"#0102\d\d", html), "no stand-in colour is left"
    assert len(html) < 250_000


def test_names_are_escaped_everywhere() -> None:
    requests = [mixed(HOSTILE), many()]
    html, page = page_of(make_report(requests, 5.0, {"address": HOSTILE}), requests)
    assert "script" not in page.tags
    assert HOSTILE not in html
    assert page.open == []


def test_an_empty_tenant_still_makes_a_page() -> None:
    requests = [columns([], [], [])]
    html, _ = page_of(make_report(requests, 5.0), requests)
    assert "acme" in html
