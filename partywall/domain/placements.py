"""Placements and the decisions behind them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from partywall.domain.fleet import Partition


class ShareBy(enum.StrEnum):
    """Who chose the share of a placement's partition."""

    DEFAULT = ""
    """The manifest, or nobody: what a newcomer gets."""
    OPERATOR = "operator"
    PLANNER = "planner"


@dataclass(frozen=True, slots=True)
class Placement:
    """One replica wanted: a version in a worker in a partition on a node. Replicas of a worker share its id.

    Attributes:
        replaces: The placement whose work this one takes over; empty: none. That one stands until this one serves.
        parked: It serves nobody; its worker keeps the weights, so that the version comes back without a load.
        share_by: Who chose the size of its partition: what the operator asked for stays, and a replica that moves keeps
            what it was given.
        weight: Share (0..1) of the replaced placement's traffic that comes here; 1.0 where nothing is replaced.
    """

    id: str
    tenant_id: str
    model_id: str
    version: int
    node: str
    partition: Partition
    worker_id: str
    memory_bytes: int
    generation: int
    reason: str = ""
    replaces: str = ""
    weight: float = 1.0
    rev: int = 0
    parked: bool = False
    share_by: ShareBy = ShareBy.DEFAULT


@dataclass(frozen=True, slots=True)
class Alternative:
    """A choice that was looked at, and why it was or was not taken."""

    choice: str
    chosen: bool
    reason: str
    predicted_finish_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """A recorded decision with its inputs and alternatives, as `partywall explain` shows it."""

    id: str
    kind: str
    subject: str
    summary: str
    at: datetime
    alternatives: tuple[Alternative, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
