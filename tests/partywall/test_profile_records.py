"""Profiles on the wire, and the sealed record that holds them."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partywall.domain.profiles import Counters, ProbePoint, ProbeSetting, Profile, Resource
from partywall.errors import DataLoss, InvalidInput
from partywall.sealed.record import open_record, seal_record
from partywall.wire.profiles import profile_from_proto, profile_to_proto

POINT = ProbePoint(ProbeSetting(Resource.LLC, 0.4), 50, 25)
PROFILE = Profile(
    model="m",
    device_type="gpu",
    solo_ms={50: 2.0, 100: 1.0},
    beside_probes_ms={50: 2.1},
    sensitivity={POINT: 1.2},
    pressure={POINT: 1.5},
    counters={50: Counters(1, 2, 3, 4, 5, 6, 7, 8)},
    batch=4,
    memory_bytes=7,
    load_seconds=0.5,
    input_bytes=16,
    output_bytes=8,
    solo_at_ms={(1, 50): 1.5, (4, 50): 2.0, (4, 100): 1.0},
    probe_self={POINT: 1.9},
    spread=0.01,
)


def test_a_profile_survives_the_wire() -> None:
    assert profile_from_proto(profile_to_proto(PROFILE)) == PROFILE
    bare = replace(PROFILE, solo_at_ms={})
    assert profile_from_proto(profile_to_proto(bare)).solo_ms == PROFILE.solo_ms


def test_an_unknown_probe_is_refused() -> None:
    message = profile_to_proto(PROFILE)
    message.pressure[0].probe = "probe:telepathy:1.0"
    with pytest.raises(InvalidInput, match="telepathy"):
        profile_from_proto(message)


@given(plain=st.binary(max_size=300), parts=st.lists(st.text(max_size=8), min_size=1, max_size=3))
def test_a_record_opens_under_its_own_context(plain: bytes, parts: list[str]) -> None:
    key = bytes(range(32))
    sealed = seal_record(key, plain, *parts)
    assert open_record(key, sealed, *parts) == plain
    assert plain not in sealed or len(plain) < 4


@pytest.mark.parametrize("change", ["key", "context", "bit", "format", "short"])
def test_anything_else_opens_nothing(change: str) -> None:
    key = os.urandom(32)
    sealed = bytearray(seal_record(key, b"secret figures", "profile", "artifact"))
    context = ("profile", "artifact")
    if change == "key":
        key = os.urandom(32)
    elif change == "context":
        context = ("profile", "another")
    elif change == "bit":
        sealed[-1] ^= 1
    elif change == "format":
        sealed[0] = 9
    else:
        sealed = sealed[:20]
    with pytest.raises(DataLoss, match="profile"):
        open_record(key, bytes(sealed), *context)
