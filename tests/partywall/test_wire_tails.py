"""Frames with tails are plain protobuf on the wire, and what was put beside them comes back without a copy."""

from __future__ import annotations

import pytest

from partywall.v1 import agent_link_pb2 as link
from partywall.wire.tails import decoder, encode, join

DECODE = decoder(link.RouterFrame.FromString)


def frame() -> link.RouterFrame:
    out = link.RouterFrame(cancels=[3])
    out.calls.add(id=1, handle=2, tail=1)
    out.calls.add(id=2, handle=2, request=b"small")
    out.calls.add(id=3, handle=2, tail=2)
    return out


@pytest.mark.parametrize("sizes", [(0, 1), (127, 128), (70_000, 1 << 21), (16 << 20, 3)])
def test_tails_come_back(sizes: tuple[int, int]) -> None:
    tails = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    data = join(frame(), tails)
    opened = DECODE(data)
    assert opened.frame == frame()
    assert [bytes(tail) for tail in opened.tails] == tails
    assert all(tail.obj is data for tail in opened.tails)


def test_on_the_wire_it_is_one_message() -> None:
    whole = link.RouterFrame.FromString(join(frame(), [b"one", b"two"]))
    assert list(whole.tails) == [b"one", b"two"]
    whole.ClearField("tails")
    assert whole == frame()


def test_a_frame_without_tails_is_as_ever() -> None:
    data = encode(frame())
    assert data == frame().SerializeToString()
    assert DECODE(data) == (frame(), ())
    assert encode(data) is data
    assert DECODE(b"").frame == link.RouterFrame()


@pytest.mark.parametrize("cut", [1, 2, 3, 1000])
def test_a_tail_that_is_cut_off_is_refused(cut: int) -> None:
    data = join(link.RouterFrame(), [bytes(2000)])
    with pytest.raises((ValueError, IndexError)):
        DECODE(data[: len(data) - cut])
    with pytest.raises((ValueError, IndexError)):
        DECODE(data[:3])
