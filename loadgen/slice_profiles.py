"""Reads profiles of models on MIG slices and demands, for offline fleet planning.

A profile folder holds one CSV per model with the columns of the ParvaGPU artifact (SC'24): `Mig instance` (1, 2,
3, 4 or 7), `Batch size`, `Workload Number` (processes), `Throughput` (requests/s of each process), `Latency` (s, of a
batch). Rows of zeros mean that a setting does not run. A folder of such folders describes several kinds of device.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from loadgen.spec_values import finite
from partywall.errors import InvalidInput
from router.policy.geometry import SliceSize
from router.policy.slicing import SliceDemand, SliceSetting

NOT_PROFILES = "SLO_"
"""Files of the artifact with this prefix are scenarios."""


def read_profile(path: Path) -> list[SliceSetting]:
    """The settings of one model that run.

    Raises:
        InvalidInput: Names the file and the line.
    """
    settings = []
    for line, row in _rows(path, "profiles"):
        try:
            processes = int(row["Workload Number"])
            setting = SliceSetting(
                SliceSize(int(row["Mig instance"])),
                int(row["Batch size"]),
                processes,
                processes * finite(row["Throughput"]),
                1000 * finite(row["Latency"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"profiles: {path.name} line {line}: {error!r}", fields={"field": "profiles", "line": str(line)}
            ) from error
        if setting.capacity_per_s > 0:
            settings.append(setting)
    return settings


def read_profiles(folder: Path) -> dict[str, list[SliceSetting]]:
    """Settings per model, named by file."""
    files = sorted(path for path in folder.glob("*.csv") if not path.name.startswith(NOT_PROFILES))
    return {path.stem: read_profile(path) for path in files}


def read_kinds(folder: Path) -> dict[str, dict[str, list[SliceSetting]]]:
    """Profiles per kind of device: the folder itself, or its folders.

    Raises:
        InvalidInput: There is no profile.
    """
    kinds = {path.name: read_profiles(path) for path in [folder, *sorted(folder.glob("*/"))]}
    found = {name: profiles for name, profiles in kinds.items() if profiles}
    if not found:
        raise InvalidInput(f"profiles: no CSV profiles in {folder}", fields={"field": "profiles"})
    return found


def read_demand(path: Path) -> list[SliceDemand]:
    """Demands from CSV `model,rate_per_s,objective_ms`.

    Raises:
        InvalidInput: Names the file and the line.
    """
    demands = []
    for line, row in _rows(path, "demand"):
        try:
            demand = SliceDemand(row["model"], finite(row["rate_per_s"]), finite(row["objective_ms"]))
            if demand.rate_per_s < 0:
                raise ValueError("rate_per_s is below zero")
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"demand: {path.name} line {line} is not model,rate_per_s,objective_ms: {error!r}",
                fields={"field": "demand", "line": str(line)},
            ) from error
        demands.append(demand)
    if not demands:
        raise InvalidInput(f"demand: {path} has no rows", fields={"field": "demand"})
    return demands


def _rows(path: Path, field: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a CSV file with a header."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            yield from enumerate(csv.DictReader(file), 2)
    except OSError as error:
        raise InvalidInput(f"{field}: cannot read {path}: {error.strerror}", fields={"field": field}) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{field}: {path} is not a CSV text file: {error}", fields={"field": field}) from error
