"""What a soak found, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def page(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    account, machine_ = found["account"], found["machine"]
    rows = [
        ("requests sent", account["sent"]),
        *((f"callers saw {name}", count) for name, count in account["seen"].items()),
        ("executed by the worker", account["executed"]),
        ("executed twice", account["executed_twice"]),
        ("answered, not executed", account["answered_unexecuted"]),
        ("refused, yet executed", account["refused_executed"]),
        ("left open in the router", found["left_open_in_router"]),
        ("connections reset", found["connection_resets"]),
        ("answers read slowly", found["slow_reader_answers"]),
    ]
    made = (
        f"Made by `python benchmarks/soak.py --minutes {found['minutes']:g} --load {found['load']:g} --processes "
        f"{found['router_processes']}` on {found['made'][:10]}, seed {found['seed']}; what it does: "
        "[performance](../performance.md)."
    )
    where = (
        f"Machine: {machine_['cpu']}, {machine_['cores']} cores, Linux {machine_['kernel']}. Load and servers share "
        f"it: {_range(found['sent_per_s'])} requests/s sent, by the minute; {_range(found['capacity_per_s'])} is what "
        f"the same client got at most just before each. p50 {found['p50_ms']} ms, p99 {found['p99_ms']} ms."
    )
    lines = [
        "# Soak",
        "",
        made,
        "",
        where,
        "",
        f"Verdict: **{'nothing lost, nothing twice' if found['ok'] else 'FAILED'}**.",
        "",
        "| count | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        "Errors that callers saw: " + ", ".join(f"{name} {count}" for name, count in found["errors"].items()) + ".",
        "",
        "| process | own memory, floor at half time, MiB | at the end, MiB | slope of the floor, MiB/min | flat |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {one['role']} | {one['middle_mib']:.1f} | {one['end_mib']:.1f} | {one['slope_mib_per_min']:+.2f} |"
            f" {'yes' if one['flat'] else 'NO'} |"
            for one in found["memory"]
        ),
        "",
    ]
    return "\n".join(lines)


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f}"
