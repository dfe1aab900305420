"""Profiles to and from the wire, which is also the form in which they are sealed and stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from partywall.domain.profiles import Counters, ProbePoint, ProbeSetting, Profile, Resource
from partywall.errors import InvalidInput
from partywall.v1 import profiles_pb2 as pb

_COUNTERS = ("sm_util", "sm_occupancy", "tensor", "dram_bw", "watts", "sm_mhz", "fp32", "fp16")


def profile_to_proto(profile: Profile) -> pb.Profile:
    """The whole profile; points sorted, so that equal profiles have equal bytes."""
    return pb.Profile(
        model=profile.model,
        device_type=profile.device_type,
        batch=profile.batch,
        solo=[
            pb.SoloPoint(rows=rows, share_percent=share, latency_ms=ms)
            for (rows, share), ms in sorted(_solo_points(profile).items())
        ],
        beside_probes=[
            pb.SoloPoint(rows=profile.batch, share_percent=share, latency_ms=ms)
            for share, ms in sorted(profile.beside_probes_ms.items())
        ],
        sensitivity=_curve(profile.sensitivity),
        pressure=_curve(profile.pressure),
        probe_self=_curve(profile.probe_self),
        counters=[
            pb.CounterPoint(share_percent=share, **{n: getattr(counters, n) for n in _COUNTERS})
            for share, counters in sorted(profile.counters.items())
        ],
        memory_bytes=profile.memory_bytes,
        load_seconds=profile.load_seconds,
        input_bytes=profile.input_bytes,
        output_bytes=profile.output_bytes,
        spread=profile.spread,
    )


def profile_from_proto(message: pb.Profile) -> Profile:
    """Raises InvalidInput for a probe that this version does not know or a latency that is none."""
    solo_at = {(p.rows, p.share_percent): p.latency_ms for p in message.solo}
    return Profile(
        model=message.model,
        device_type=message.device_type,
        solo_ms={share: ms for (rows, share), ms in solo_at.items() if rows == message.batch},
        beside_probes_ms={p.share_percent: p.latency_ms for p in message.beside_probes},
        sensitivity=_points(message.sensitivity),
        pressure=_points(message.pressure),
        counters={c.share_percent: Counters(**{n: getattr(c, n) for n in _COUNTERS}) for c in message.counters},
        batch=message.batch,
        memory_bytes=message.memory_bytes,
        load_seconds=message.load_seconds,
        input_bytes=message.input_bytes,
        output_bytes=message.output_bytes,
        solo_at_ms=solo_at,
        probe_self=_points(message.probe_self),
        spread=message.spread,
    )


def _solo_points(profile: Profile) -> dict[tuple[int, int], float]:
    return {**{(profile.batch, share): ms for share, ms in profile.solo_ms.items()}, **profile.solo_at_ms}


def _curve(points: Mapping[ProbePoint, float]) -> list[pb.CurvePoint]:
    return [
        pb.CurvePoint(
            probe=point.probe.name, own_percent=point.own_percent, probe_percent=point.probe_percent, slowdown=slowdown
        )
        for point, slowdown in sorted(points.items())
    ]


def _points(messages: Iterable[pb.CurvePoint]) -> dict[ProbePoint, float]:
    return {ProbePoint(_probe(m.probe), m.own_percent, m.probe_percent): m.slowdown for m in messages}


def _probe(name: str) -> ProbeSetting:
    parts = name.split(":")
    try:
        return ProbeSetting(Resource(parts[1]), float(parts[2]))
    except (IndexError, ValueError) as error:
        raise InvalidInput(f"probe {name!r} is unknown to this version; profile the model again") from error
