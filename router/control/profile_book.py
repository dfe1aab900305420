"""Profiles of all versions: sealed in the store, open in this process's memory only.

A record is sealed with a key derived from its version's data key (`partywall.sealed.record`). Deleting the version
deletes row and data key; shredding the tenant makes every copy of it, in any backup, worth nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog
from google.protobuf.message import DecodeError

from partywall.domain.models import Version
from partywall.domain.profiles import Profile
from partywall.errors import DataLoss, NotFound, PartywallError
from partywall.sealed import wipe
from partywall.sealed.record import open_record, seal_record
from partywall.v1 import profiles_pb2 as pb
from partywall.wire.profiles import profile_from_proto
from router.control.control import Control, in_thread
from router.control.kinds import Kind
from router.control.records import SealedProfile
from router.control.state import Change

log = structlog.get_logger(__name__)

PURPOSE = "profile"
PROBE_PREFIX = "probe:"
_KEY_CHARACTERS = 120
Key = tuple[str, int, str]
"""(model id, version, type of device as it stands in the store's key)"""


class ProfileBook:
    """Reads are dictionary look-ups; `put` seals and stores."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._records: dict[Key, pb.ProfileRecord] = {}
        self._profiles: dict[Key, Profile] = {}
        control.catalog.subscribe(self._on_commit)

    async def open(self) -> None:
        """Opens what is stored. A record that does not open is logged and measured again by whoever needs it."""
        for sealed in self._control.catalog.profiles():
            try:
                plain = await self._opened(sealed)
                self._keep(_key(sealed), pb.ProfileRecord.FromString(plain))
            except (PartywallError, DecodeError) as error:
                log.warning("profile not readable", model=sealed.model_id, version=sealed.version, error=str(error))

    def records(self, model_id: str, version: int) -> Sequence[pb.ProfileRecord]:
        """What is known of a version, finished or not, by type of device."""
        return [r for key, r in sorted(self._records.items()) if key[:2] == (model_id, version)]

    def record(self, model_id: str, version: int, device_type: str) -> pb.ProfileRecord | None:
        return self._records.get((model_id, version, device_key(device_type)))

    def profile(self, model_id: str, version: int, device_type: str) -> Profile | None:
        """The finished profile of a version on a type of device."""
        return self._profiles.get((model_id, version, device_key(device_type)))

    def curve(self, model_id: str, version: int, device_type: str) -> dict[tuple[int, int], float]:
        """Seconds of a batch alone by (rows, share in percent), as the finished profile has them; empty without one."""
        profile = self.profile(model_id, version, device_type)
        if profile is None:
            return {}
        alone_ms = profile.solo_at_ms or {(profile.batch, share): ms for share, ms in profile.solo_ms.items()}
        return {at: ms / 1e3 for at, ms in alone_ms.items()}

    @property
    def any_probed(self) -> bool:
        """Whether a finished profile with both curves is there."""
        return any(profile.probed for profile in self._profiles.values())

    def probe_runs(self, device_type: str, *, quick: bool) -> Sequence[pb.MeasuredRun]:
        """Runs of probes beside themselves on a type of device, whoever's profile they were made for: newest last.

        They tell of the device and of no tenant's model. Quick runs do not stand for full ones.
        """
        found: dict[str, pb.MeasuredRun] = {}
        for record in sorted(self._records.values(), key=lambda r: r.at.ToNanoseconds()):
            if record.device_type == device_type and record.settings.startswith("quick") == quick:
                found.update({run.key: run for run in record.runs if run.key.startswith(PROBE_PREFIX)})
        return list(found.values())

    @property
    def profiles(self) -> Sequence[tuple[Key, Profile]]:
        """All finished profiles."""
        return sorted(self._profiles.items())

    async def put(self, version: Version, record: pb.ProfileRecord) -> None:
        """Seals and stores what is known now, finished or not, in place of what was.

        Raises:
            NotFound: The version has been deleted meanwhile.
            Unavailable: The store does not answer.
        """
        catalog = self._control.catalog
        record.at.FromDatetime(self._control.clock.now())
        sealed = await self._sealed(version, record)
        async with catalog.transaction() as tx:
            entry = catalog.model_by_id(version.model_id)
            if entry is None or version.number not in entry.versions:
                raise NotFound(f"version {version.number} was deleted while it was measured")
            known = next(
                (p for p in catalog.profiles(version.model_id, version.number) if _key(p) == _key(sealed)), None
            )
            if known is None:
                await tx.insert(sealed)
            else:
                await tx.update(replace(sealed, rev=known.rev))
        self._keep(_key(sealed), record)

    def _keep(self, key: Key, record: pb.ProfileRecord) -> None:
        self._records[key] = record
        self._profiles.pop(key, None)
        if record.HasField("profile"):
            self._profiles[key] = profile_from_proto(record.profile)

    def _on_commit(self, changes: Sequence[Change]) -> None:
        """What was deleted is forgotten."""
        if not any(change.kind is Kind.PROFILE for change in changes):
            return
        standing = {_key(p) for p in self._control.catalog.profiles()}
        for key in self._records.keys() - standing:
            del self._records[key]
            self._profiles.pop(key, None)

    async def _sealed(self, version: Version, record: pb.ProfileRecord) -> SealedProfile:
        device = device_key(record.device_type)
        key = await self._data_key(version)
        try:
            sealed = seal_record(key, record.SerializeToString(), PURPOSE, version.artifact_id, device)
        finally:
            wipe(key)
        return SealedProfile(version.model_id, version.number, device, sealed, self._control.clock.now())

    async def _opened(self, sealed: SealedProfile) -> bytes:
        entry = self._control.catalog.model_by_id(sealed.model_id)
        version = entry.versions.get(sealed.version) if entry else None
        if version is None:
            raise NotFound(f"version {sealed.version} of model {sealed.model_id} is gone")
        key = await self._data_key(version)
        try:
            return open_record(key, sealed.sealed, PURPOSE, version.artifact_id, sealed.device)
        finally:
            wipe(key)

    async def _data_key(self, version: Version) -> bytearray:
        entry = self._control.catalog.model_by_id(version.model_id)
        record = self._control.catalog.data_key(version.key_record_id)
        if entry is None or record is None:
            raise DataLoss(f"version {version.number} has no data key any more; push it again")
        return await in_thread(self._control.keys.unwrap, entry.model.tenant_id, record.artifact_id, record.wrapped)


def device_key(device_type: str) -> str:
    """A type of device as a part of a key: no slash, bounded."""
    return device_type.replace("/", "-")[:_KEY_CHARACTERS]


def _key(sealed: SealedProfile) -> Key:
    return sealed.model_id, sealed.version, sealed.device
