"""Random lives of a node, with kills at any point and a foreign actor: nothing overlaps, nothing leaks, nothing that
is not ours is destroyed, and a restart always reaches the desired state."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from isolation.devices.errors import DeviceError
from isolation.devices.facts import GpuInstance, MigPlacement
from isolation.devices.geometry import MigGeometry, MigModel, Slot
from isolation.devices.simulated import SimulatedGpuLibrary
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.partition.authority import DeviceAuthority, Partitioners
from isolation.partition.cpuset import CpusetPartitioner
from isolation.partition.journal import Journal
from isolation.partition.mig import MigPartitioner, mig_partition_id, slot_of
from isolation.partition.mps import MpsPartitioner
from isolation.partition.mps_simulated import SimulatedMps
from partywall.clock import VirtualClock
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.errors import PartywallError

GIB = 1 << 30
CPU = Device("cpu", DeviceKind.CPU, "CPU", 16 * GIB, 4, (0, 1, 2, 3))
GEOMETRY = MigGeometry(MigModel.H100_80)
# The journal syncs each change to the disk: in memory thousands of them take a second and not minutes.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
MUTATIONS = (
    "create_gpu_instance",
    "create_compute_instance",
    "destroy_gpu_instance",
    "destroy_compute_instance",
)


class Killed(BaseException):
    """SIGKILL: no handler of ours may run."""


class Fuse:
    """Kills at the n-th step from now; the steps are writes of the journal and changes of the hardware, before and
    after each."""

    def __init__(self) -> None:
        self.left: int | None = None

    def burn(self) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left < 0:
            self.left = None
            raise Killed


class FusedJournal(Journal):
    def __init__(self, path: Path, fuse: Fuse) -> None:
        self._fuse = fuse
        super().__init__(path)

    def _write(self) -> None:
        self._fuse.burn()
        try:
            self._fuse.burn()
        except Killed:
            self._path.with_suffix(".new").write_text('{"format": 1, "entr')
            raise
        super()._write()
        self._fuse.burn()


class FusedLibrary(SimulatedGpuLibrary):
    def __init__(self, gpu: SimulatedGpu, clock: VirtualClock, fuse: Fuse) -> None:
        super().__init__([gpu], clock)
        for name in MUTATIONS:
            setattr(self, name, self._fused(getattr(self, name), fuse))

    @staticmethod
    def _fused(verb: Callable[..., Any], fuse: Fuse) -> Callable[..., Any]:
        def fused(*arguments: Any) -> Any:
            fuse.burn()
            result = verb(*arguments)
            fuse.burn()
            return result

        return fused


class Node:
    """Two H100s, one in MIG mode and one behind MPS, and a CPU."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = VirtualClock()
        self.sliced = SimulatedGpu(0, MigModel.H100_80, self.clock)
        self.shared = SimulatedGpu(1, MigModel.H100_80, self.clock)
        self.mps = SimulatedMps(self.shared, directory / "pipe")
        self.foreign = SimulatedGpuLibrary([self.sliced], self.clock)
        self.foreign.set_mig_mode(self.sliced.uuid, True)
        self.fuse = Fuse()
        self.restart()

    def restart(self) -> None:
        self.fuse.left = None
        sliced = Device(self.sliced.uuid, DeviceKind.GPU, "H100", 80 * GIB, 132)
        shared = Device(self.shared.uuid, DeviceKind.GPU, "H100", 80 * GIB, 132)
        self.journal = FusedJournal(self.directory / "partitions.json", self.fuse)
        library = FusedLibrary(self.sliced, self.clock, self.fuse)
        partitioners: Partitioners = {
            (CPU.id, PartitionKind.CPUSET): CpusetPartitioner(CPU),
            (sliced.id, PartitionKind.MIG): MigPartitioner(sliced, library, self.journal),
            (shared.id, PartitionKind.MPS): MpsPartitioner(
                shared, self.mps, SimulatedGpuLibrary([self.shared], self.clock)
            ),
        }
        self.authority = DeviceAuthority([sliced, shared, CPU], partitioners, self.journal)

    def mig(self, slot: Slot) -> Partition:
        return Partition(mig_partition_id("", slot), PartitionKind.MIG, self.sliced.uuid)

    def share(self, number: int, percent: int, memory_gib: int) -> Partition:
        return Partition(f"mps-{number}", PartitionKind.MPS, self.shared.uuid, (), percent, memory_gib * GIB)

    def instances(self) -> tuple[GpuInstance, ...]:
        return self.foreign.gpu_instances(self.sliced.uuid)

    def try_release_foreign(self, instance: GpuInstance) -> None:
        for compute in self.foreign.compute_instances(self.sliced.uuid, instance.id):
            self.foreign.destroy_compute_instance(self.sliced.uuid, instance.id, compute)
        self.foreign.destroy_gpu_instance(self.sliced.uuid, instance.id)


def cores(number: int, wanted: frozenset[int]) -> Partition:
    return Partition(f"cpu-{number}", PartitionKind.CPUSET, CPU.id, tuple(sorted(wanted)))


SLOTS = [Slot(p.start, number) for number in (19, 15, 14, 9, 5, 0) for p in GEOMETRY.placements(number)]
slots = st.sampled_from(SLOTS)
numbers = st.integers(0, 5)
percents = st.integers(1, 100)
gibibytes = st.integers(0, 40)
core_sets = st.frozensets(st.sampled_from(CPU.cores), min_size=1)


class LifeOfANode(RuleBasedStateMachine):
    """Everything an agent, a kill and a stranger do to a node, in any order."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.node = Node(Path(self.folder.name))
        self.strangers: set[tuple[int, MigPlacement]] = set()
        self.leaving: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def act(self, action: Callable[[], object]) -> None:
        try:
            action()
        except PartywallError:
            pass  # a refusal is fine; the invariants judge what it left behind
        except Killed:
            self.node.restart()

    @rule(slot=slots)
    def make_an_instance(self, slot: Slot) -> None:
        self.act(lambda: self.node.authority.prepare(self.node.mig(slot)))

    @rule(number=numbers, percent=percents, gib=gibibytes)
    def make_a_share(self, number: int, percent: int, gib: int) -> None:
        self.act(lambda: self.node.authority.prepare(self.node.share(number, percent, gib)))

    @rule(pick=st.integers(0, 50), number=numbers, percent=percents, gib=gibibytes)
    def take_over_a_share(self, pick: int, number: int, percent: int, gib: int) -> None:
        """A resize: the new share may overlap with the one it takes over from, and with nobody else."""
        standing = sorted(p.id for p in self.node.authority.partitions(self.node.shared.uuid))
        new = self.node.share(number + 10, percent, gib)
        if not standing or new.id in standing:
            return
        old = standing[pick % len(standing)]
        self.act(lambda: self.node.authority.prepare(new, (old,)))
        if any(p.id == new.id for p in self.node.authority.partitions(self.node.shared.uuid)):
            self.leaving.add(old)

    @rule(number=numbers, wanted=core_sets)
    def make_a_cpuset(self, number: int, wanted: frozenset[int]) -> None:
        self.act(lambda: self.node.authority.prepare(cores(number, wanted)))

    @rule(pick=st.integers(0, 50))
    def release_something(self, pick: int) -> None:
        standing = sorted(p.id for p in self.node.authority.partitions())
        if standing:
            self.act(lambda: self.node.authority.release(standing[pick % len(standing)]))

    @rule(steps=st.integers(0, 12))
    def light_the_fuse(self, steps: int) -> None:
        self.node.fuse.left = steps

    @rule()
    def crash_between_actions(self) -> None:
        self.node.restart()

    @rule(slot=slots)
    def a_stranger_makes_an_instance(self, slot: Slot) -> None:
        place = MigPlacement(slot.start, GEOMETRY.profile(slot.profile_id).memory_slices)
        ours = f"{self.node.sliced.uuid}/{slot.profile_id}@{slot.start}"
        if self.node.journal.owns(ours):
            return  # two actors in one slot at one time cannot be told apart: documented as unsupported
        try:
            made = self.node.foreign.create_gpu_instance(self.node.sliced.uuid, slot.profile_id, place)
        except DeviceError:
            return
        self.node.foreign.create_compute_instance(self.node.sliced.uuid, made.id)
        self.strangers.add((slot.profile_id, place))

    @precondition(lambda self: self.strangers)
    @rule(pick=st.integers(0, 50))
    def a_stranger_destroys_his_own(self, pick: int) -> None:
        chosen = sorted(self.strangers, key=str)[pick % len(self.strangers)]
        for instance in self.node.instances():
            if (instance.profile_id, instance.placement) == chosen:
                self.node.try_release_foreign(instance)
        self.strangers.discard(chosen)

    @rule(pick=st.integers(0, 50))
    def a_stranger_destroys_one_of_ours_and_the_driver_says_so(self, pick: int) -> None:
        ours = [i for i in self.node.instances() if (i.profile_id, i.placement) not in self.strangers]
        if ours:
            self.node.try_release_foreign(ours[pick % len(ours)])
            self.act(lambda: self.node.authority.layout_changed(self.node.sliced.uuid))

    @rule(wanted=st.lists(slots, max_size=4), percent=percents)
    def reconcile_to_something(self, wanted: Sequence[Slot], percent: int) -> None:
        desired = [*(self.node.mig(slot) for slot in wanted), self.node.share(0, percent, 1), cores(0, frozenset({1}))]
        self.act(lambda: self.node.authority.reconcile(desired))

    @invariant()
    def nothing_is_given_out_twice(self) -> None:
        authority = self.node.authority
        shares = authority.partitions(self.node.shared.uuid)
        self.leaving &= {p.id for p in shares}
        staying = [p for p in shares if p.id not in self.leaving]
        assert sum(p.share_percent for p in staying) <= 100
        assert sum(p.memory_bytes for p in staying) <= 80 * GIB
        cpusets = authority.partitions(CPU.id)
        assert sum(len(p.cores) for p in cpusets) == len(authority.account(CPU.id).cores)

    @invariant()
    def every_instance_is_a_strangers_or_accounted_for(self) -> None:
        accounted = {slot_of(p) for p in self.node.authority.partitions(self.node.sliced.uuid)}
        for instance in self.node.instances():
            slot = Slot(instance.placement.start, instance.profile_id)
            stranger = (instance.profile_id, instance.placement) in self.strangers
            assert stranger or slot in accounted, f"{instance} is nobody's"

    @invariant()
    def no_strangers_instance_was_destroyed(self) -> None:
        standing = {(i.profile_id, i.placement) for i in self.node.instances()}
        assert self.strangers <= standing


LifeOfANode.TestCase.settings = examples(60, stateful_step_count=30)
TestLifeOfANode = LifeOfANode.TestCase


def layout(node: Node) -> set[Slot]:
    return {Slot(i.placement.start, i.profile_id) for i in node.instances()}


def steps_of(node: Node, first: list[Partition], second: list[Partition]) -> None:
    node.authority.reconcile(first)
    node.authority.reconcile(second)


def check_converges_after_a_kill(directory: Path, first: list[Slot], second: list[Slot], kill_at: int) -> bool:
    """Returns whether the kill came before the end of the sequence."""
    node = Node(directory)
    before = [*map(node.mig, first), node.share(1, 75, 10), cores(1, frozenset({0, 1}))]
    after = [*map(node.mig, second), node.share(2, 50, 20), cores(2, frozenset({1, 2}))]
    node.fuse.left = kill_at
    killed = False
    try:
        steps_of(node, before, after)
    except Killed:
        killed = True
    node.restart()
    result = node.authority.reconcile(after)
    assert result.problems == {}
    assert {p.id for p in node.authority.partitions()} == {p.id for p in after}
    assert layout(node) == set(second)
    assert len(node.foreign.mig_devices(node.sliced.uuid)) == len(second)
    cleared = node.authority.reconcile([])
    assert cleared.problems == {}
    assert layout(node) == set()
    return killed


def test_a_kill_at_every_single_step_converges() -> None:
    first, second = [Slot(0, 5), Slot(4, 9)], [Slot(0, 14), Slot(2, 19), Slot(4, 9)]
    for kill_at in itertools.count():
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            if not check_converges_after_a_kill(Path(folder), first, second, kill_at):
                break
    assert kill_at > 60, "the sequence has that many steps to be killed at"


legal_layouts = st.sampled_from(list(GEOMETRY.layouts()))


@examples(60)
@given(legal_layouts, legal_layouts, st.integers(0, 120))
def test_a_kill_at_any_step_between_any_layouts_converges(
    first: tuple[Slot, ...], second: tuple[Slot, ...], kill_at: int
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        check_converges_after_a_kill(Path(folder), list(first), list(second), kill_at)


@pytest.mark.parametrize(("one", "two"), list(itertools.product(range(0, 14, 2), range(0, 14, 3))))
def test_two_kills_in_a_row_converge_too(one: int, two: int) -> None:
    slot = Slot(4, 9)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        node = Node(Path(folder))
        for kill_at in (one, two):
            node.fuse.left = kill_at
            try:
                node.authority.reconcile([node.mig(slot)])
            except Killed:
                node.restart()
        node.restart()
        assert node.authority.reconcile([node.mig(slot)]).problems == {}
        assert layout(node) == {slot}
