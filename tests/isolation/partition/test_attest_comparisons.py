"""The pure comparisons of attestation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation.partition.attest import check_multiprocessors, share_multiprocessors
from isolation.partition.partitioner import Observation


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
