"""The kinds of stored objects: their class, their key, what is unique among them and what they refer to."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, TypeAlias

from partywall.domain.events import Event
from partywall.domain.fleet import Node
from partywall.domain.models import Model, Version
from partywall.domain.placements import Decision, Placement
from partywall.domain.tenants import ApiKey, Tenant
from router.control.records import (
    DataKeyRecord,
    Deletion,
    Garbage,
    JoinToken,
    MetaEntry,
    SealedProfile,
    Upload,
    VersionCounter,
)

Stored: TypeAlias = (
    Tenant
    | ApiKey
    | DataKeyRecord
    | VersionCounter
    | Model
    | Version
    | Upload
    | SealedProfile
    | Placement
    | Node
    | JoinToken
    | Decision
    | Event
    | Deletion
    | Garbage
    | MetaEntry
)


class Kind(enum.StrEnum):
    """Name of a kind, as the `changes` table has it."""

    TENANT = "tenant"
    API_KEY = "api_key"
    DATA_KEY = "data_key"
    VERSION_COUNTER = "version_counter"
    MODEL = "model"
    VERSION = "version"
    UPLOAD = "upload"
    PROFILE = "profile"
    PLACEMENT = "placement"
    NODE = "node"
    JOIN_TOKEN = "join_token"  # noqa: S105 - a kind, not a secret
    DECISION = "decision"
    EVENT = "event"
    DELETION = "deletion"
    GARBAGE = "garbage"
    META = "meta"


@dataclass(frozen=True, slots=True)
class KindSpec:
    """How one kind is stored. `parents` are the fields that refer to another kind's key; `told` those of the key that a
    change is recorded under, where not all."""

    kind: Kind
    cls: type[Stored]
    table: str
    key: tuple[str, ...] = ("id",)
    unique: tuple[tuple[str, ...], ...] = ()
    parents: tuple[tuple[tuple[str, ...], Kind], ...] = ()
    has_rev: bool = True
    told: tuple[str, ...] = ()

    def key_of(self, value: Stored) -> str:
        """The key as text: its parts joined by a slash, which no id or name contains."""
        return "/".join(str(getattr(value, name)) for name in self.key)

    def told_of(self, value: Stored) -> str:
        """The key as the table of changes keeps it, which outlives the object: no name that a tenant chose."""
        return "/".join(str(getattr(value, name)) for name in self.told or self.key)


_OF_TENANT = (("tenant_id",), Kind.TENANT)
_OF_DATA_KEY = (("key_record_id",), Kind.DATA_KEY)

# Parents before children: rows can be loaded in this order and tables created in it.
SPECS: tuple[KindSpec, ...] = (
    KindSpec(Kind.TENANT, Tenant, "tenants", unique=(("name",),)),
    KindSpec(Kind.API_KEY, ApiKey, "api_keys", parents=(_OF_TENANT,)),
    KindSpec(Kind.DATA_KEY, DataKeyRecord, "data_keys", unique=(("artifact_id",),), parents=(_OF_TENANT,)),
    KindSpec(
        Kind.VERSION_COUNTER,
        VersionCounter,
        "version_counters",
        key=("tenant_id", "model"),
        parents=(_OF_TENANT,),
        told=("tenant_id",),
    ),
    KindSpec(Kind.MODEL, Model, "models", unique=(("tenant_id", "name"),), parents=(_OF_TENANT,)),
    KindSpec(
        Kind.VERSION,
        Version,
        "versions",
        key=("model_id", "number"),
        unique=(("artifact_id",),),
        parents=((("model_id",), Kind.MODEL), _OF_DATA_KEY),
    ),
    KindSpec(Kind.UPLOAD, Upload, "uploads", unique=(("artifact_id",),), parents=(_OF_TENANT, _OF_DATA_KEY)),
    KindSpec(
        Kind.PROFILE,
        SealedProfile,
        "profiles",
        key=("model_id", "version", "device"),
        parents=((("model_id", "version"), Kind.VERSION),),
    ),
    KindSpec(Kind.PLACEMENT, Placement, "placements", parents=(_OF_TENANT, (("model_id", "version"), Kind.VERSION))),
    KindSpec(Kind.NODE, Node, "nodes", key=("name",)),
    KindSpec(Kind.JOIN_TOKEN, JoinToken, "join_tokens"),
    KindSpec(Kind.DECISION, Decision, "decisions", has_rev=False),
    KindSpec(Kind.EVENT, Event, "events", has_rev=False),
    KindSpec(Kind.DELETION, Deletion, "deletions", key=("tenant_id",)),
    KindSpec(Kind.GARBAGE, Garbage, "garbage"),
    KindSpec(Kind.META, MetaEntry, "meta", key=("name",)),
)
BY_KIND: dict[Kind, KindSpec] = {spec.kind: spec for spec in SPECS}
BY_CLASS: dict[type[Any], KindSpec] = {spec.cls: spec for spec in SPECS}


def spec_of(value: Stored) -> KindSpec:
    """The spec of a value's class."""
    return BY_CLASS[type(value)]
