"""What standing beside others would cost a model, as placement asks for it before anything stands there. Pure.

The real side stands over profiles (`router.gateway.profiled_bounds`); `TableBounds` answers from a table. Everybody on
compute units of their own is meant: who shares units in time waits for turns, which is no interference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from isolation.interference.model import Basis, Prediction
from partywall.domain.fleet import PartitionKind
from partywall.errors import InvalidInput

__all__ = ["ALONE", "Basis", "Occupant", "Prediction", "SlowdownBounds", "TableBounds", "unknown"]

ALONE = Prediction(1.0, 1.0, 0.0, Basis.PROFILES)
_UNKNOWN_DEVIATION = 0.5


@dataclass(frozen=True, slots=True, order=True)
class Occupant:
    """A version at a share of a device's compute units in percent; `busy` is the part of the time that it works.

    A replica that is to come is taken as always busy unless its traffic is known.
    """

    model_id: str
    version: int
    share_percent: int
    busy: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share_percent <= 100:
            raise InvalidInput(f"share_percent of {self.model_id} must be 1 to 100, got {self.share_percent}")
        if not 0 <= self.busy <= 1:
            raise InvalidInput(f"busy of {self.model_id} must be 0 to 1, got {self.busy}")


class SlowdownBounds(Protocol):
    """Cheap enough to be asked for every candidate; the same question gets the same answer within one decision."""

    def bound(
        self, device_type: str, victim: Occupant, neighbours: Sequence[Occupant], kind: PartitionKind
    ) -> Prediction:
        """Mean slowdown of the victim's service time beside all neighbours, and the bound on it.

        `upper` is infinite (`Prediction.known` False) where one of them is not measured on this type of device: such
        models stay apart until they are. The answer names nobody. `kind` is the wall between them: behind MIG memory
        is nobody else's.
        """
        ...


@dataclass(frozen=True, slots=True)
class TableBounds:
    """Simulated side: mean and bound by (victim's model id, neighbour's model id); several neighbours multiply.

    An idle neighbour costs in proportion to `busy`; a pair that the table does not hold is unknown.
    """

    pairs: Mapping[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def bound(
        self, device_type: str, victim: Occupant, neighbours: Sequence[Occupant], kind: PartitionKind
    ) -> Prediction:
        mean = upper = 1.0
        for neighbour in neighbours:
            found = self.pairs.get((victim.model_id, neighbour.model_id))
            if found is None:
                return unknown()
            mean *= 1 + neighbour.busy * (found[0] - 1)
            upper *= 1 + neighbour.busy * (found[1] - 1)
        return Prediction(mean, upper, math.log(upper / mean) / 2, Basis.PROFILES) if neighbours else ALONE


def unknown() -> Prediction:
    """Nobody can tell: the bound is infinite."""
    return Prediction(1.0, math.inf, _UNKNOWN_DEVIATION, Basis.CONSTANT)
