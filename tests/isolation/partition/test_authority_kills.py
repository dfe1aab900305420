"""Kills in the middle of a change of partitions: a restart always reaches the desired state."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest
from fused_node import GEOMETRY, MEMORY, Killed, Node, cores
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from isolation.devices.geometry import Slot
from partywall.domain.fleet import Partition


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
