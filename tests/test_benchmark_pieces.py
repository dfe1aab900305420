"""The pieces that are timed do what they say, both ways."""

from __future__ import annotations

from pathlib import Path

from benchmarks.pieces import LARGE, Measured, Piece, cpu_us, measure, page, pieces


def test_every_piece_runs_both_ways(tmp_path: Path) -> None:
    found = pieces(tmp_path)
    assert len({piece.name for piece in found}) == len(found) == 5
    for piece in found:
        piece.before()
        piece.after()
    assert LARGE == 2 << 20


def test_ratios_are_of_one_round() -> None:
    calls: list[int] = []
    found = measure(Piece("x", lambda: sum(range(3000)), lambda: calls.append(1)), rounds=1)
    assert 0 < found.ratio < 1
    assert calls
    assert cpu_us(lambda: None, 0.001) >= 0


def test_the_page_holds_the_figures() -> None:
    assert "| a, b | 2 | 1 | 0.5 |" in page([Measured("a, b", 2.0, 1.0, 0.5)], "python x")
