"""From the rounds' requests to figures, the table, and whether the picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from noise import Arm, Calibration, Round
from rich import box
from rich.table import Table
from slowdown import SlowdownRow, slowdown_rows
from tour import ACME, GLOBEX

from loadgen.report import ClientReport, client_report, in_time_mask, number, percent
from loadgen.results import Fate, Requests, concatenate

WITH_AT_LEAST = 0.99
WITHOUT_BELOW = 0.80
QUOTA_AT_LEAST = 0.40
QUOTA_SERVED_AT_LEAST = 0.95
_OTHERS_DISTURB = 0.10
_LEAST_REQUESTS = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One tenant in one arm over all rounds. Latencies are of served requests, from the intended send time.

    `attainment` is in time / sent (refused and failed are misses), each round against its own objective.
    """

    tenant: str
    arm: Arm
    sent: int
    served: int
    refused: int
    failed: int
    unsent: int
    p50_ms: float | None
    p99_ms: float | None
    attainment: float | None
    goodput_per_s: float
    served_per_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """All figures of one demo run."""

    plan: Calibration
    rounds: int
    objectives_ms: tuple[float, ...]
    rows: tuple[Row, ...]
    others: float
    """Share of the machine that other programs used during the arms, mean."""
    client: ClientReport
    """How late the load generator itself was in the arms."""
    requests: dict[str, Requests]
    """Acme's requests of all rounds, by arm: what the curves show."""
    slowdowns: tuple[SlowdownRow, ...] = ()
    """What each tenant's model lost beside the other behind the walls: predicted from profiles, and measured."""

    def row(self, tenant: str, arm: Arm) -> Row:
        """The row of a tenant in an arm."""
        return next(r for r in self.rows if (r.tenant, r.arm) == (tenant, arm))

    @property
    def quota_share(self) -> float:
        """Globex's quota as a share of its measured capacity."""
        return self.plan.quota_per_s / self.plan.globex_capacity_per_s

    @property
    def quota_served(self) -> float:
        """Share of globex's quota that was served behind the wall."""
        return self.row(GLOBEX, Arm.WITH).served_per_s / self.plan.quota_per_s


def summarise(plan: Calibration, rounds: Sequence[Round], solo_s: float) -> Outcome:
    """Pools the rounds; each request is judged by its own round's objective."""
    rows = [_row(ACME, Arm.SOLO, [r.solo for r in rounds], solo_s, objective=False)]
    rows += [
        _row(tenant, arm, [r.arms[arm][tenant] for r in rounds], plan.arm_s)
        for tenant in (ACME, GLOBEX)
        for arm in (Arm.WITHOUT, Arm.WITH)
    ]
    requests = {str(Arm.SOLO): concatenate([r.solo for r in rounds])}
    requests |= {str(arm): concatenate([r.arms[arm][ACME] for r in rounds]) for arm in (Arm.WITHOUT, Arm.WITH)}
    client = client_report([part for r in rounds for arm in r.arms.values() for part in arm.values()])
    others = float(np.mean([share for r in rounds for share in r.others.values()]))
    objectives = tuple(r.objective_ms for r in rounds)
    slowdowns = slowdown_rows([r.sights for r in rounds])
    return Outcome(plan, len(rounds), objectives, tuple(rows), others, client, requests, slowdowns)


def misses(outcome: Outcome) -> list[str]:
    """What of the promised picture this run did not show; empty: all of it."""
    walls, without = outcome.row(ACME, Arm.WITH), outcome.row(ACME, Arm.WITHOUT)
    found = []
    if min(walls.sent, without.sent) < _LEAST_REQUESTS:
        found.append(
            f"acme sent {min(walls.sent, without.sent)} requests in an arm; at least {_LEAST_REQUESTS} are wanted"
        )
    if (walls.attainment or 0.0) < WITH_AT_LEAST:
        found.append(f"with walls acme's attainment is {percent(walls.attainment)}, not {WITH_AT_LEAST:.0%} or more")
    if (without.attainment or 0.0) >= WITHOUT_BELOW:
        found.append(f"without walls acme's attainment is {percent(without.attainment)}, not below {WITHOUT_BELOW:.0%}")
    if outcome.quota_share < QUOTA_AT_LEAST:
        found.append(
            f"globex's quota is {percent(outcome.quota_share)} of its capacity, not {QUOTA_AT_LEAST:.0%} or more"
        )
    if outcome.quota_served < QUOTA_SERVED_AT_LEAST:
        found.append(
            f"globex was served {percent(outcome.quota_served)} of its quota, not {QUOTA_SERVED_AT_LEAST:.0%} or more"
        )
    if found and outcome.others >= _OTHERS_DISTURB:
        found.append(f"other programs used {outcome.others:.0%} of the machine meanwhile: try again when it is quiet")
    unsent = sum(r.unsent for r in outcome.rows)
    if unsent:
        found.append(f"the load generator could not send {unsent} requests: the machine was too busy")
    return found


_TEXT_COLUMNS = 2
HEADER = ("tenant", "arm", "sent", "served", "refused", "failed", "p50 ms", "p99 ms", "in time", "good/s")


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, in the order of `HEADER`."""
    counts = (f"{row.sent:,}", f"{row.served:,}", f"{row.refused:,}", f"{row.failed:,}")
    tail = (number(row.p50_ms), number(row.p99_ms), percent(row.attainment), f"{row.goodput_per_s:.1f}")
    return (row.tenant, str(row.arm), *counts, *tail)


def table(outcome: Outcome) -> Table:
    """The figures for a terminal of 80 columns; the page has the rest."""
    caption = "in time: of all sent; refused and failed are misses"
    out = Table(title="The noisy neighbour", caption=caption, box=box.SIMPLE_HEAD, pad_edge=False)
    shown = [i for i, name in enumerate(HEADER) if name not in ("refused", "failed")]
    for i in shown:
        out.add_column(HEADER[i], justify="left" if i < _TEXT_COLUMNS else "right", no_wrap=True)
    for row in outcome.rows:
        style = {Arm.WITH: "green", Arm.WITHOUT: "red"}.get(row.arm) if row.tenant == ACME else None
        last_of_tenant = row.tenant == ACME and row.arm is Arm.WITH
        out.add_row(*(cells(row)[i] for i in shown), style=style, end_section=last_of_tenant)
    return out


SLOWDOWN_HEADER = ("model of", "beside", "predicted", "measured", "bound", "samples")


def slowdown_cells(outcome: Outcome) -> list[tuple[str, ...]]:
    """Rows of text in the order of `SLOWDOWN_HEADER`; slowdowns are service time beside the other / alone."""
    other = {ACME: GLOBEX, GLOBEX: ACME}
    return [
        (r.tenant, other[r.tenant], f"{r.predicted:.2f}", f"{r.observed:.2f}", f"{r.bound:.2f}", str(r.samples))
        for r in outcome.slowdowns
    ]


def slowdown_table(outcome: Outcome) -> Table:
    """Predicted and measured side by side."""
    caption = "service time beside the other / alone; predicted from profiles, measured from replies; medians"
    out = Table(title="Slowdown behind the walls", caption=caption, box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(SLOWDOWN_HEADER):
        out.add_column(name, justify="left" if i < _TEXT_COLUMNS else "right", no_wrap=True)
    for row in slowdown_cells(outcome):
        out.add_row(*row)
    return out


def objective_line(outcome: Outcome) -> str:
    """Acme's objectives in one sentence."""
    objectives = ", ".join(f"{o:.1f}" for o in outcome.objectives_ms)
    return f"acme's objective is 3 x its solo p50, measured around the arms of each round: {objectives} ms"


def quota_line(outcome: Outcome) -> str:
    """Globex's side in one sentence."""
    plan, walls = outcome.plan, outcome.row(GLOBEX, Arm.WITH)
    return (
        f"globex alone {plan.globex_capacity_per_s:.1f}/s; offered {plan.flood_per_s:.1f}/s; "
        f"quota {plan.quota_per_s:.2f}/s ({percent(outcome.quota_share)} of its capacity); "
        f"served behind its wall {walls.served_per_s:.2f}/s ({percent(outcome.quota_served)} of the quota)"
    )


def _row(tenant: str, arm: Arm, parts: list[Requests], seconds: float, *, objective: bool = True) -> Row:
    pooled = concatenate(parts)
    fate = {f: int((pooled.fate == f).sum()) for f in Fate}
    sent = len(pooled) - fate[Fate.UNSENT]
    in_time = sum(int(in_time_mask(p).sum()) for p in parts)
    latency_ms = pooled.latency_s[pooled.fate == Fate.SERVED] * 1e3
    p50, p99 = (float(q) for q in np.quantile(latency_ms, (0.5, 0.99))) if len(latency_ms) else (None, None)
    total_s = seconds * len(parts)
    return Row(
        tenant=tenant,
        arm=arm,
        sent=sent,
        served=fate[Fate.SERVED],
        refused=fate[Fate.REFUSED],
        failed=fate[Fate.FAILED],
        unsent=fate[Fate.UNSENT],
        p50_ms=p50,
        p99_ms=p99,
        attainment=in_time / sent if objective and sent else None,
        goodput_per_s=in_time / total_s,
        served_per_s=fate[Fate.SERVED] / total_s,
    )
