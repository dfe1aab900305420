"""`make demo`: two tenants, two real models, and a noisy neighbour, with walls and without.

Starts two instances of Partywall on this machine, does the operator's and the tenants' steps through the real command
line, measures, and stops everything again. Every figure it prints was measured in this run.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import models
import tour
import uvloop
from instance import Instance
from noise import QUOTA_BURST, ROUNDS, SOLO_S, Arm, Calibration, Neighbours, Round
from outcome import Outcome, misses, objective_line, quota_line, slowdown_table, summarise, table
from page import write_figure, write_page, write_results
from terminal import DemoError, Terminal

from partywall import __version__
from partywall.errors import PartywallError

_WITHOUT_OPTIONS = ("--modules", str(models.ARCHITECTURES), "--queue", "fifo", "--no-admission")
_WITH_OPTIONS = ("--modules", str(models.ARCHITECTURES))


def main() -> int:
    """Runs the demo; 0: the picture shows, 1: it does not or something failed, 130: interrupted."""
    options = _options()
    signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryDirectory(prefix="partywall-demo-") as name:
        terminal = Terminal(Path(name))
        try:
            outcome = _demo(terminal, Path(name), options)
        except (DemoError, PartywallError) as error:
            terminal.console.print(f"\nThe demo stopped: {error}", style="red", markup=False)
            return 1
        except KeyboardInterrupt:
            terminal.console.print("\nInterrupted; both instances are stopped.", style="red")
            return 130
    return _finish(terminal, outcome, options)


def _demo(terminal: Terminal, folder: Path, options: argparse.Namespace) -> Outcome:
    terminal.step("globex trains a digit classifier on scikit-learn's handwritten digits")
    digits = models.load_digits(options.seed)
    models.train_digits(digits, folder / "digits", options.seed, models.digits_options())
    with ExitStack() as stack:
        terminal.step("The operator starts an instance with walls: each tenant gets its own partition")
        walls = stack.enter_context(Instance(terminal, folder / "walls", *_WITH_OPTIONS))
        with_walls = tour.move_in(walls, folder, "process", 50, folder / "digits", show=True)
        tour.show_partitions(terminal, walls)
        terminal.step("acme embeds real sentences; related ones come out close")
        tour.show_embeddings(terminal, with_walls)
        accuracy = tour.digits_accuracy(with_walls, digits)
        terminal.say(f"globex's classifier reads {accuracy:.1%} of {len(digits.test_labels)} unseen digits right")
        terminal.step("For comparison, the same without walls: both tenants in one worker, first come first served")
        bare = stack.enter_context(Instance(terminal, folder / "bare", *_WITHOUT_OPTIONS))
        without = tour.move_in(bare, folder, "shared", 100, folder / "digits", show=False)
        neighbours = Neighbours({Arm.WITH: with_walls, Arm.WITHOUT: without}, digits, options.seed)
        return _measure(terminal, neighbours, walls, options)


def _measure(terminal: Terminal, neighbours: Neighbours, walls: Instance, options: argparse.Namespace) -> Outcome:
    terminal.step("What they will cost each other: each model is measured beside probes of memory and cache")
    neighbours.profile()
    terminal.step("Each model alone behind its wall")
    plan: Calibration = uvloop.run(neighbours.calibrate())
    terminal.say(
        f"acme {plan.acme_service_ms:.1f} ms per sentence; globex {plan.globex_capacity_per_s:.1f} requests of "
        f"{tour.IMAGES_PER_REQUEST} images per second"
    )
    quota = ("--requests-per-s", f"{plan.quota_per_s:.2f}", "--burst", str(QUOTA_BURST))
    walls.admin("quota", "set", tour.GLOBEX, *quota)
    terminal.step(
        f"{options.rounds} rounds of {plan.arm_s:.0f} s per arm: acme sends {plan.acme_rate_per_s:.1f}/s, globex "
        f"floods with {plan.flood_per_s:.1f}/s (seed {options.seed})"
    )
    rounds: list[Round] = [uvloop.run(neighbours.round(number, plan, terminal.say)) for number in range(options.rounds)]
    return summarise(plan, rounds, SOLO_S)


def _finish(terminal: Terminal, outcome: Outcome, options: argparse.Namespace) -> int:
    settings = {
        "seed": options.seed,
        "rounds": outcome.rounds,
        "partywall": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_page(outcome, settings, options.out / "report.html")
    write_results(outcome, settings, options.out / "results.json")
    terminal.step("What came out")
    terminal.console.print(table(outcome))
    if outcome.slowdowns:
        terminal.console.print(slowdown_table(outcome))
    else:
        terminal.say("no slowdown to show: the router did not see both models beside each other with profiles")
    terminal.say(objective_line(outcome))
    terminal.say(quota_line(outcome))
    terminal.say(f"report: {options.out / 'report.html'}, figures: {options.out / 'results.json'}")
    found = misses(outcome)
    for miss in found:
        terminal.console.print(f"  the picture does not show: {miss}", style="red", markup=False)
    if options.save_figure is not None and not found:
        write_figure(outcome, options.save_figure)
        terminal.say(f"picture: {options.save_figure}")
    terminal.step("To go on by yourself")
    terminal.show("init", "--data-dir", ".partywall")
    terminal.show("up", "--data-dir", ".partywall", "--modules", "examples/architectures.py")
    terminal.show("tenants", "create", "acme", "--data-dir", ".partywall")
    terminal.show("keys", "issue", "acme", "--data-dir", ".partywall")
    terminal.show("load", "run", "--help")
    return 1 if found else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7, help="repeats arrivals, payloads and training")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"interleaved rounds (default {ROUNDS})")
    parser.add_argument("--out", type=Path, default=Path(".demo"), help="folder for report.html and results.json")
    parser.add_argument("--save-figure", type=Path, help="also write the picture of this run as SVG, if it shows")
    return parser.parse_args()


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
