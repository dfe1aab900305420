"""Random lives of a node, with kills at any point and a foreign actor: nothing overlaps, nothing leaks, nothing that
is not ours is destroyed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fused_node import CPU, GEOMETRY, GIB, MEMORY, Killed, Node, cores
from fuzzing import examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from isolation.devices.errors import DeviceError
from isolation.devices.facts import MigPlacement
from isolation.devices.geometry import Slot
from isolation.partition.mig import slot_of
from partywall.errors import PartywallError

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
