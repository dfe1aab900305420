"""What to load, as a user writes it: `--tenant key=value,...`, or the same keys in a TOML file."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadgen.arrivals import ArrivalProcess, Constant, Gamma, OnOff, Poisson, Replay, rng_for
from loadgen.spec_values import as_number, bad_spec, duration_of, read_value
from loadgen.traces import Trace, read_trace
from partywall.domain.names import check_model_name
from partywall.errors import InvalidInput

MOST_PLANNED = 20_000_000
"""Requests of one tenant in one run; all of them are drawn before it begins."""
_SOURCES = ("text", "npy", "random")
_RANDOM = re.compile(r"([A-Z0-9]+)(?::(\d+(?:x\d+)*))?")


@dataclass(frozen=True, slots=True)
class TenantSpec:
    """One tenant's load. Field names are the keys with `-` as `_`; `where` is what errors call it."""

    where: str
    name: str
    model: str
    key: str = ""
    key_file: Path | None = None
    version: str = ""
    text: Path | None = None
    npy: Path | None = None
    random: str = ""
    input: str = ""
    batch: int = 1
    rate: float | None = None
    arrivals: str = "poisson"
    trace_model: str = ""
    trace_window: str = ""
    trace_speed: float = 1.0
    slo_ms: float | None = None
    deadline_ms: float = 30_000.0
    channels: int = 1

    def process(self) -> ArrivalProcess:
        """The arrival process.

        Raises:
            InvalidInput: Names the field.
        """
        kind, _, rest = self.arrivals.partition(":")
        if kind == "trace":
            return Replay(self._trace(Path(rest)).times_s)
        if self.rate is None:
            raise self.bad("rate", "is missing: requests per second, for example rate=20")
        if kind in ("poisson", "constant") and not rest:
            return Poisson(self.rate) if kind == "poisson" else Constant(self.rate)
        numbers = [as_number(part) for part in rest.split(":")]
        if kind == "gamma" and len(numbers) == 1 and numbers[0] > 0:
            return Gamma(self.rate, numbers[0])
        if kind == "onoff" and len(numbers) == 2 and min(numbers) > 0:
            return OnOff(self.rate, numbers[0], numbers[1])
        raise self.bad(
            "arrivals",
            f"must be poisson, constant, gamma:CV, onoff:ON_SECONDS:OFF_SECONDS or trace:FILE, got {self.arrivals!r}",
        )

    def random_tensor(self) -> tuple[str, tuple[int, ...]]:
        """Type and dimensions behind `random`; both empty for `random=auto` (as the server declares them)."""
        if self.random == "auto":
            return "", ()
        match = _RANDOM.fullmatch(self.random)
        if match is None:
            raise self.bad(
                "random", f"must be auto, TYPE or TYPE:DxDx..., for example FP32:8x1x8x8, got {self.random!r}"
            )
        return match[1], tuple(int(d) for d in match[2].split("x")) if match[2] else ()

    def api_key(self) -> str:
        """The tenant's key, from the spec or its file.

        Raises:
            InvalidInput: Neither is given, or the file cannot be read.
        """
        if self.key_file is None:
            return self.key
        try:
            return self.key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise self.bad("key-file", f"{self.key_file} cannot be read: {error}") from error

    def rng(self, seed: int, purpose: str) -> np.random.Generator:
        """This tenant's own generator for one purpose."""
        return rng_for(seed, f"{self.name}/{self.model}/{purpose}")

    def bad(self, field: str, problem: str) -> InvalidInput:
        """An error about one of this tenant's fields."""
        return bad_spec(self.where, field, problem)

    def _trace(self, path: Path) -> Trace:
        trace = read_trace(path)
        if self.trace_model:
            trace = trace.only(self.trace_model)
        if self.trace_window:
            start, dash, end = self.trace_window.partition("-")
            start_s, end_s = as_number(start), as_number(end) if end else math.inf
            if not dash or math.isnan(start_s) or math.isnan(end_s) or not 0 <= start_s < end_s:
                raise self.bad("trace-window", f"must be START-END in seconds, got {self.trace_window!r}")
            trace = trace.window(start_s, end_s)
        trace = trace.faster(self.trace_speed)
        return trace if self.rate is None else trace.at_rate(self.rate)


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """A whole run."""

    address: str
    tenants: tuple[TenantSpec, ...]
    duration_s: float = 30.0
    warmup_s: float = 0.0
    seed: int = 0
    tls_ca: Path | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if not self.tenants:
            raise InvalidInput("--tenant is missing: say who sends what to which model", fields={"field": "tenant"})
        seen: set[str] = set()
        for tenant in self.tenants:
            if tenant.name in seen:
                raise tenant.bad("name", f"{tenant.name!r} is used twice; it is a label (the key tells who asks)")
            seen.add(tenant.name)
        if not self.duration_s > 0:
            raise InvalidInput(f"duration must be above zero, got {self.duration_s}", fields={"field": "duration"})
        for tenant in self.tenants:
            planned = (tenant.rate or 0.0) * (self.warmup_s + self.duration_s)
            if planned > MOST_PLANNED:
                raise tenant.bad(
                    "rate",
                    f"makes about {planned:.3g} requests, {MOST_PLANNED:,} are the most; lower it or the duration",
                )


_KEYS = {f.name.replace("_", "-") for f in dataclasses.fields(TenantSpec)} - {"where"}
_TOP_KEYS = ("address", "duration", "warmup", "seed", "tls-ca", "tenant")


def parse_tenant(text: str, where: str = "--tenant") -> TenantSpec:
    """Reads `name=acme,key-file=...,model=minilm,text=FILE,rate=20,...`.

    Raises:
        InvalidInput: Names the field and what it should be.
    """
    values: dict[str, object] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise bad_spec(where, part.strip()[:60] or "(empty)", "is not key=value; separate the pairs by commas")
        if key.strip() in values:
            raise bad_spec(where, key.strip(), "is given twice")
        values[key.strip()] = value.strip()
    return tenant_from(values, where)


@dataclass(frozen=True, slots=True)
class SpecFile:
    """What a TOML file says; everything in it is optional."""

    address: str = ""
    tenants: tuple[TenantSpec, ...] = ()
    duration_s: float | None = None
    warmup_s: float = 0.0
    seed: int = 0
    tls_ca: Path | None = None


def read_spec(path: Path) -> SpecFile:
    """Reads a TOML file: `address`, `duration`, `warmup`, `seed`, `tls-ca` and `[[tenant]]` tables.

    Raises:
        InvalidInput: Names the file and the field.
    """
    where = f"--spec {path}"
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{where}: cannot be read: {error}", fields={"field": "spec"}) from error
    for key in found:
        if key not in _TOP_KEYS:
            raise bad_spec(where, key, f"is unknown; known: {', '.join(_TOP_KEYS)}")
    tables, seed, ca = found.get("tenant", []), found.get("seed", 0), found.get("tls-ca")
    if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise bad_spec(where, "tenant", "must be [[tenant]] tables")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise bad_spec(where, "seed", f"must be a whole number from 0, got {seed!r}")
    return SpecFile(
        address=str(found.get("address", "")),
        tenants=tuple(tenant_from(t, f"{where} tenant[{i}]") for i, t in enumerate(tables)),
        duration_s=duration_of(where, "duration", found["duration"]) if "duration" in found else None,
        warmup_s=duration_of(where, "warmup", found.get("warmup", 0)),
        seed=seed,
        tls_ca=None if ca is None else Path(str(ca)).expanduser(),
    )


def tenant_from(values: Mapping[str, object], where: str) -> TenantSpec:
    """Checks the keys and values of one tenant.

    Raises:
        InvalidInput: Names the field and what it should be.
    """
    fields: dict[str, object] = {}
    for key, value in values.items():
        if key not in _KEYS:
            raise bad_spec(where, key, f"is unknown; known: {', '.join(sorted(_KEYS))}")
        fields[key.replace("-", "_")] = read_value(where, key, value)
    for key in ("name", "model"):
        if not fields.get(key):
            raise bad_spec(where, key, "is missing")
    check_model_name(str(fields["name"]), f"{where}: name")
    if ("key" in fields) == ("key_file" in fields):
        raise bad_spec(where, "key-file", "is missing: give key-file=FILE or key=KEY, one of the two")
    if sum(source in fields for source in _SOURCES) != 1:
        raise bad_spec(where, "text", "is missing: give one of text=FILE, npy=FILE, random=TYPE:DxD or random=auto")
    spec = TenantSpec(where=where, **fields)  # type: ignore[arg-type]  # the values were checked above
    if spec.random:
        spec.random_tensor()
    return spec
