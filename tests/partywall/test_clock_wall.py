"""Wall time of the hot road follows the wall clock, a second late at the most."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from partywall.clock import VirtualClock, WallFromMonotonic


class Jumping(VirtualClock):
    """Its wall clock can be set."""

    jump = timedelta()

    def now(self) -> datetime:
        return super().now() + self.jump


def test_milliseconds_are_those_of_the_wall_clock() -> None:
    clock = Jumping(datetime(2026, 1, 1, tzinfo=UTC))
    wall = WallFromMonotonic(clock)
    for _ in range(50):
        clock.advance(0.0437)
        assert abs(wall.ms(clock.monotonic()) - clock.now().timestamp() * 1e3) <= 1.0


def test_a_jump_of_the_wall_clock_shows_within_a_second() -> None:
    clock = Jumping(datetime(2026, 1, 1, tzinfo=UTC))
    wall = WallFromMonotonic(clock)
    before = wall.ms(clock.monotonic())
    clock.jump = timedelta(hours=1)
    clock.advance(0.5)
    assert wall.ms(clock.monotonic()) - before == 500
    clock.advance(0.5)
    assert wall.ms(clock.monotonic()) - before == 1000 + 3_600_000
