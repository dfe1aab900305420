"""The catalog's dictionaries and how a commit changes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from partywall.domain.models import Model, Version
from partywall.domain.tenants import Tenant
from router.control.kinds import SPECS, Kind, Stored


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model with all its versions by number, as of one commit."""

    model: Model
    versions: Mapping[int, Version]

    @property
    def live(self) -> Version | None:
        """The version that answers where the caller names none."""
        return self.versions.get(self.model.live)


class Index:
    """Objects by kind and key, tenants by name, models by tenant and name."""

    def __init__(self, objects: Mapping[Kind, Mapping[str, Stored]]) -> None:
        self.objects: dict[Kind, dict[str, Stored]] = {spec.kind: dict(objects.get(spec.kind, {})) for spec in SPECS}
        self.tenants_by_name: dict[str, Tenant] = {}
        self.models: dict[str, dict[str, ModelEntry]] = {}
        self._versions: dict[str, dict[int, Version]] = {}
        for tenant in self.objects[Kind.TENANT].values():
            self._tenant(None, tenant)
        for version in self.objects[Kind.VERSION].values():
            self._version(None, version)
        for model in self.objects[Kind.MODEL].values():
            self._model(None, model)

    def apply(self, written: Iterable[tuple[Kind, str, Stored | None]]) -> None:
        """Takes over one commit: (kind, key, new value or None where it was removed), in order."""
        touched: set[str] = set()
        for kind, key, value in written:
            before = self._swap(kind, key, value)
            if kind is Kind.TENANT:
                self._tenant(before, value)
            elif kind is Kind.MODEL:
                self._model(before, value)
            elif kind is Kind.VERSION:
                touched |= self._version(before, value)
        for model_id in touched:
            model = self.objects[Kind.MODEL].get(model_id)
            if model is not None:
                self._model(model, model)

    def _swap(self, kind: Kind, key: str, value: Stored | None) -> Stored | None:
        held = self.objects[kind]
        before = held.pop(key, None)
        if value is not None:
            held[key] = value
        return before

    def _tenant(self, before: Stored | None, after: Stored | None) -> None:
        if isinstance(before, Tenant):
            self.tenants_by_name.pop(before.name, None)
        if isinstance(after, Tenant):
            self.tenants_by_name[after.name] = after

    def _model(self, before: Stored | None, after: Stored | None) -> None:
        if isinstance(before, Model):
            names = self.models.get(before.tenant_id, {})
            names.pop(before.name, None)
            if not names:
                self.models.pop(before.tenant_id, None)
        if isinstance(after, Model):
            versions = dict(sorted(self._versions.get(after.id, {}).items()))
            entry = ModelEntry(after, MappingProxyType(versions))
            self.models.setdefault(after.tenant_id, {})[after.name] = entry

    def _version(self, before: Stored | None, after: Stored | None) -> set[str]:
        touched = set()
        if isinstance(before, Version):
            self._versions[before.model_id].pop(before.number, None)
            touched.add(before.model_id)
        if isinstance(after, Version):
            self._versions.setdefault(after.model_id, {})[after.number] = after
            touched.add(after.model_id)
        return touched
