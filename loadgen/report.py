"""What a run says: figures per tenant, and how far the generator itself can be trusted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich import box
from rich.table import Table

from loadgen.arrivals import FloatArray
from loadgen.results import Fate, Requests

QUANTILES: tuple[tuple[str, float], ...] = (("p50", 0.50), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999))
_LATE_FLOOR_MS = 1.0
_LATE_CEILING_MS = 5.0


@dataclass(frozen=True, slots=True)
class TenantReport:
    """Figures of one tenant.

    Attributes:
        planned: Requests whose time came up in the arrivals.
        sent: Planned minus what the client could not send.
        latency_ms: Of served requests, from the intended send time; a quantile that too few requests support is None.
        in_time: Served within the objective; without an objective, served.
        attainment: in_time / sent, so that a refused or failed request is a miss; None: no objective, or nothing sent.
        attainment_of_served: in_time / served.
        goodput_per_s: in_time per second of the measured window.
        reasons: Count by reason of everything that was not served.
    """

    name: str
    objective_ms: float | None
    planned: int
    sent: int
    served: int
    refused: int
    failed: int
    unsent: int
    in_time: int
    latency_ms: Mapping[str, float | None]
    attainment: float | None
    attainment_of_served: float | None
    goodput_per_s: float
    offered_per_s: float
    served_per_s: float
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ClientReport:
    """How well the generator kept its own times: milliseconds from intended to real sending."""

    lateness_p50_ms: float
    lateness_p99_ms: float
    lateness_max_ms: float
    unsent: int


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run. `settings` is what it takes to repeat it (seed, arrivals, address)."""

    duration_s: float
    tenants: tuple[TenantReport, ...]
    client: ClientReport
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> str:
        """The report as one JSON object; NaN never occurs in it."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)


def make_report(
    requests: Sequence[Requests], duration_s: float, settings: Mapping[str, object] | None = None
) -> Report:
    """Reports on a run of `duration_s` seconds of intended times."""
    tenants = tuple(tenant_report(r, duration_s) for r in requests)
    client = client_report(requests)
    return Report(duration_s, tenants, client, tuple(_warnings(tenants, client)), dict(settings or {}))


def tenant_report(requests: Requests, duration_s: float) -> TenantReport:
    """Figures of one tenant over `duration_s` seconds."""
    served = requests.fate == Fate.SERVED
    counts = {fate: int((requests.fate == fate).sum()) for fate in Fate}
    sent = len(requests) - counts[Fate.UNSENT]
    in_time = int(in_time_mask(requests).sum())
    promised = requests.objective_ms is not None
    return TenantReport(
        name=requests.name,
        objective_ms=requests.objective_ms,
        planned=len(requests),
        sent=sent,
        served=counts[Fate.SERVED],
        refused=counts[Fate.REFUSED],
        failed=counts[Fate.FAILED],
        unsent=counts[Fate.UNSENT],
        in_time=in_time,
        latency_ms=quantiles_ms(requests.latency_s[served]),
        attainment=in_time / sent if promised and sent else None,
        attainment_of_served=in_time / counts[Fate.SERVED] if promised and counts[Fate.SERVED] else None,
        goodput_per_s=in_time / duration_s,
        offered_per_s=len(requests) / duration_s,
        served_per_s=counts[Fate.SERVED] / duration_s,
        reasons=_reasons(requests),
    )


def in_time_mask(requests: Requests) -> npt.NDArray[np.bool_]:
    """Which requests were served within the objective; shape [n]."""
    served: npt.NDArray[np.bool_] = requests.fate == Fate.SERVED
    if requests.objective_ms is None:
        return served
    fast: npt.NDArray[np.bool_] = np.nan_to_num(requests.latency_s, nan=math.inf) * 1e3 <= requests.objective_ms
    return served & fast


def quantiles_ms(latency_s: FloatArray) -> dict[str, float | None]:
    """Latency quantiles; None where fewer than 1/(1-q) requests stand behind one (p99.9 needs 1,000)."""
    count = len(latency_s)
    return {
        name: float(np.quantile(latency_s, q)) * 1e3 if count and count * (1 - q) >= 1 - 1e-9 else None
        for name, q in QUANTILES
    }


def client_report(requests: Sequence[Requests]) -> ClientReport:
    """The generator's own lateness over all tenants."""
    late_s = np.concatenate([r.lateness_s for r in requests]) if requests else np.empty(0)
    late_ms = late_s[~np.isnan(late_s)] * 1e3
    p50, p99, highest = (float(v) for v in np.quantile(late_ms, (0.5, 0.99, 1.0))) if len(late_ms) else (0.0, 0.0, 0.0)
    return ClientReport(p50, p99, highest, sum(int((r.fate == Fate.UNSENT).sum()) for r in requests))


def tables(report: Report) -> list[Table]:
    """The report for a terminal of 80 columns: counts, latencies, and what was not served and why."""
    counts = _table("requests", ("tenant", "planned", "sent", "served", "refused", "failed", "unsent", "goodput/s"))
    latencies = _table(
        "latency of served requests from the intended send time, ms",
        ("tenant", *(name for name, _ in QUANTILES), "objective", "in time", "of served"),
    )
    for t in report.tenants:
        numbers = (t.planned, t.sent, t.served, t.refused, t.failed, t.unsent)
        counts.add_row(t.name, *(f"{n:,}" for n in numbers), f"{t.goodput_per_s:.1f}")
        quantiles = (number(t.latency_ms[name]) for name, _ in QUANTILES)
        shares = (percent(t.attainment), percent(t.attainment_of_served))
        latencies.add_row(t.name, *quantiles, number(t.objective_ms), *shares)
    reasons = [(t.name, reason, f"{count:,}") for t in report.tenants for reason, count in t.reasons.items()]
    if not reasons:
        return [counts, latencies]
    unserved = _table("not served", ("tenant", "requests", "reason"))
    for tenant, reason, count in reasons:
        unserved.add_row(tenant, count, reason)
    return [counts, latencies, unserved]


def _table(title: str, columns: Sequence[str]) -> Table:
    out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        out.add_column(name, justify="left" if name in ("tenant", "reason") else "right", overflow="fold")
    return out


def number(value: float | None) -> str:
    """Three significant digits or a whole number; a dash for None."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(value: float | None) -> str:
    """A share as percent, rounded down, so that 99.99 never reads as 100; a dash for None."""
    if value is None:
        return "-"
    return f"{math.floor(value * 1000 + 1e-9) / 10:.1f} %"


def write_json(report: Report, path: Path) -> None:
    """Writes the report as JSON."""
    path.write_text(report.to_json() + "\n", encoding="utf-8")


def write_columns(requests: Sequence[Requests], path: Path) -> None:
    """Every request's columns as one .npz: `TENANT.intended_s`, `.lateness_s`, `.latency_s`, `.fate`, `.reason`."""
    columns: dict[str, npt.NDArray[np.generic]] = {}
    for r in requests:
        for name in ("intended_s", "lateness_s", "latency_s", "fate", "reason"):
            columns[f"{r.name}.{name}"] = getattr(r, name)
        columns[f"{r.name}.reasons"] = np.array(r.reasons)
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **columns)


def _reasons(requests: Requests) -> dict[str, int]:
    missed = requests.reason[requests.fate != Fate.SERVED]
    counts = np.bincount(missed, minlength=len(requests.reasons))
    named = [(str(name), int(count)) for name, count in zip(requests.reasons, counts, strict=True) if count]
    return dict(sorted(named, key=lambda pair: -pair[1]))


def _warnings(tenants: Sequence[TenantReport], client: ClientReport) -> list[str]:
    tightest_ms = min((t.objective_ms for t in tenants if t.objective_ms is not None), default=math.inf)
    limit_ms = max(_LATE_FLOOR_MS, min(_LATE_CEILING_MS, tightest_ms / 10))
    found = []
    if client.lateness_p99_ms > limit_ms:
        found.append(
            f"the generator itself was late (p99 {client.lateness_p99_ms:.1f} ms, more than {limit_ms:.1f} ms): "
            "latencies include that; lower the rate, or give it a core or a machine of its own"
        )
    if client.unsent:
        found.append(
            f"the client did not send {client.unsent} requests (see CLIENT_* reasons); attainment is over what was sent"
        )
    found += [f"tenant {t.name}: nothing was served" for t in tenants if t.sent and not t.served]
    return found
