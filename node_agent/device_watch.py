"""Faults of GPUs as they happen: each is an event, and the fault table says what is done about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from isolation.devices.errors import DeviceError, DeviceLost
from isolation.devices.facts import DeviceEvent, EventKind
from isolation.devices.faults import Action, classify
from isolation.devices.library import GpuLibrary
from isolation.partition.authority import DeviceAuthority
from partywall.domain.events import EventName
from partywall.domain.fleet import Device, DeviceKind, PartitionKind
from partywall.v1 import agent_link_pb2 as link

log = structlog.get_logger(__name__)

WAIT_S = 1.0
_FELL_OFF_THE_BUS = 79


class DeviceWatch:
    """Waits for the driver's events and looks for lost GPUs and faulty MPS servers in between.

    Args:
        library: The driver.
        authority: Who fences devices.
        devices: The node's inventory.
        on_event: Takes each event.
        on_change: Takes the inventory when a device was fenced or cut anew.
        on_fence: Takes (device id, sentence) when everything on a device is gone.
        offers: Says what a device has to offer now, after its MIG layout changed.
    """

    def __init__(
        self,
        library: GpuLibrary,
        authority: DeviceAuthority,
        devices: Sequence[Device],
        on_event: Callable[[link.AgentEvent], None],
        on_change: Callable[[tuple[Device, ...]], None],
        on_fence: Callable[[str, str], None],
        offers: Callable[[Device], Device] = lambda device: device,
    ) -> None:
        self._library = library
        self._authority = authority
        self._devices = tuple(devices)
        self._on_event = on_event
        self._on_change = on_change
        self._on_fence = on_fence
        self._offers = offers
        self._mps_faults: dict[str, bool] = {}

    @property
    def devices(self) -> tuple[Device, ...]:
        """The inventory, with what is fenced."""
        return self._devices

    async def run(self) -> None:
        """Until cancelled; a driver that answers nothing any more is asked again."""
        while True:
            try:
                event = await asyncio.to_thread(self._library.wait_event, WAIT_S)
            except DeviceError as error:
                log.warning("the driver tells no events", reason=error.message)
                event = None
                await asyncio.sleep(WAIT_S)
            if event is not None:
                self.handle(event)
            lost, faulty = await asyncio.to_thread(self._look)
            for device_id in lost:
                self.handle(DeviceEvent(EventKind.XID, device_id, _FELL_OFF_THE_BUS))
            self._note_mps(faulty)
            self._note_observed()

    def handle(self, event: DeviceEvent) -> None:
        """One event of the driver's: told, and acted on."""
        standing = self._authority.partitions(event.gpu_uuid)
        kind = standing[0].kind if standing else PartitionKind.WHOLE
        verdict = classify(event, kind)
        name = EventName.DEVICE_LOST if verdict.action is Action.FENCE_DEVICE else EventName.DEVICE_FAULT
        log.warning("device event", device=event.gpu_uuid, code=event.code, sentence=verdict.sentence)
        self._on_event(link.AgentEvent(kind=name, device_id=event.gpu_uuid, code=event.code, message=verdict.sentence))
        if event.kind is EventKind.MIG_CHANGED:
            self._authority.layout_changed(event.gpu_uuid)
            self._devices = tuple(self._offers(d) if d.id == event.gpu_uuid else d for d in self._devices)
            self._on_change(self._devices)
        # An application fault is answered by the worker that had it: its context is broken, and it ends by itself.
        if verdict.action in (Action.DRAIN_DEVICE, Action.FENCE_DEVICE):
            self._fence(event.gpu_uuid, verdict.sentence)
        if verdict.action is Action.FENCE_DEVICE:
            self._on_fence(event.gpu_uuid, verdict.sentence)

    def _fence(self, device_id: str, sentence: str) -> None:
        self._authority.fence(device_id, sentence)
        self._devices = tuple(replace(d, fenced=sentence) if d.id == device_id else d for d in self._devices)
        self._on_change(self._devices)

    def _look(self) -> tuple[list[str], Mapping[str, bool]]:
        lost, faulty = [], {}
        for device in self._devices:
            if device.kind is not DeviceKind.GPU or device.fenced:
                continue
            try:
                self._library.memory(device.id)
            except DeviceLost:
                lost.append(device.id)
            except DeviceError:
                continue  # asked again in a second
            faulty[device.id] = self._authority.mps_faulty(device.id)
        return lost, faulty

    def _note_observed(self) -> None:
        """A refusal by the driver made us observe a device: it offers less from now on."""
        for device in self._devices:
            why = self._authority.observed(device.id)
            if why and not device.observed:
                log.warning("device is only observed from now on", device=device.id, reason=why)
                message = f"{device.id} is only observed from now on, what stands there is used: {why}"
                self._on_event(link.AgentEvent(kind=EventName.DEVICE_OBSERVED, device_id=device.id, message=message))
                changed = replace(self._offers(device), observed=why, fenced=device.fenced)
                self._devices = tuple(changed if d.id == device.id else d for d in self._devices)
                self._on_change(self._devices)

    def _note_mps(self, faulty: Mapping[str, bool]) -> None:
        for device_id, now in faulty.items():
            if now and not self._mps_faults.get(device_id, False):
                message = f"{device_id}: its MPS server is in a fault: every worker on it is hit and is started anew"
                self._on_event(link.AgentEvent(kind=EventName.MPS_FAULT, device_id=device_id, message=message))
        self._mps_faults = dict(faulty)
