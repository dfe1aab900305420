"""Sub-shares inside a worker, and the pure comparisons of attestation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation.partition.attest import check_multiprocessors, share_multiprocessors
from isolation.partition.green import Granularity, SubShare, granularity, split
from isolation.partition.partitioner import Observation
from partywall.errors import InvalidInput, NotReady


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((9, 0), Granularity(8, 8)),
        ((8, 6), Granularity(4, 2)),
        ((7, 5), Granularity(2, 2)),
        ((6, 1), Granularity(1, 1)),
    ],
)
def test_granularity(capability: tuple[int, int], expected: Granularity) -> None:
    assert granularity(capability) == expected


def test_a_split_rounds_up_and_names_no_wall() -> None:
    assert split(132, {"fast": 60, "slow": 1}, Granularity(8, 8)) == (SubShare("fast", 64), SubShare("slow", 8))
    assert all(share.wall == "" for share in split(132, {"a": 8}, Granularity(8, 8)))


def test_a_split_that_does_not_fit_is_refused() -> None:
    with pytest.raises(NotReady, match="144 SMs"):
        split(132, {"a": 72, "b": 72}, Granularity(8, 8))
    with pytest.raises(InvalidInput, match="at least 1"):
        split(132, {"a": 0}, Granularity(8, 8))


@given(st.integers(8, 256), st.integers(1, 100), st.integers(1, 100))
def test_shares_grow_with_the_percentage_and_stay_on_the_device(total: int, one: int, other: int) -> None:
    small, large = sorted((one, other))
    assert 0 < share_multiprocessors(total, small) <= share_multiprocessors(total, large) <= total


@pytest.mark.parametrize(
    ("seen", "ok"), [(66, True), (64, True), (68, True), (62, False), (70, False), (132, False), (None, False)]
)
def test_one_tpc_of_rounding_is_allowed(seen: int | None, ok: bool) -> None:
    assert (check_multiprocessors(Observation(1, multiprocessors=seen), 66, 132) == []) is ok


def test_the_whole_device_under_a_large_share_is_never_rounding() -> None:
    assert check_multiprocessors(Observation(1, multiprocessors=132), 130, 132) != []
