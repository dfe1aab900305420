"""What became of a desired state, and how it goes on past what fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from isolation.partition.partitioner import WorkerConfinement
from partywall.errors import PartywallError


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What became of a desired state. `problems` are by partition (or device) id; the rest is reached."""

    confinements: Mapping[str, WorkerConfinement]
    released: tuple[str, ...]
    problems: Mapping[str, PartywallError]


@contextmanager
def noting(problems: dict[str, PartywallError], name: str) -> Iterator[None]:
    try:
        yield
    except PartywallError as error:
        problems[name] = error
