"""Sums over processes that come, go and keep silent."""

from __future__ import annotations

from collections.abc import Iterable

from router.processes.tally import Tally, Totals

KEY = ("t1", "echo", 1)


class Processes:
    def __init__(self) -> None:
        self.answers: dict[int, list[tuple[tuple[str, str, int], int, int]]] = {}

    async def ask(self) -> Iterable[tuple[int, Totals]]:
        return list(self.answers.items())


async def test_sums_never_go_back_and_never_jump() -> None:
    processes = Processes()
    tally = Tally(processes.ask)
    assert tally(*KEY) is None
    processes.answers = {1: [(KEY, 100, 90)], 2: [(KEY, 1000, 1000)]}
    await tally.refresh()
    first = tally(*KEY)
    assert first is not None
    assert (first.asked, first.met) == (0, 0)
    processes.answers = {1: [(KEY, 110, 99)], 2: [(KEY, 1005, 1004)]}
    await tally.refresh()
    assert (first.asked, first.met) == (15, 13)
    # One is silent for a while: what it counted meanwhile comes when it answers again.
    processes.answers = {1: [(KEY, 111, 100)]}
    await tally.refresh()
    processes.answers = {1: [(KEY, 111, 100)], 2: [(KEY, 1010, 1009)]}
    await tally.refresh()
    assert (first.asked, first.met) == (21, 19)
    # Another takes its place and counts from its own start.
    processes.answers = {1: [(KEY, 111, 100)], 3: []}
    await tally.refresh()
    processes.answers = {1: [(KEY, 111, 100)], 3: [(KEY, 4, 4)]}
    await tally.refresh()
    assert (first.asked, first.met) == (25, 23)
