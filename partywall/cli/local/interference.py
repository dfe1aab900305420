"""`partywall interference`: how well neighbours' cost is predicted, on measurement files."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partywall.cli.options import command
from partywall.cli.session import Session
from partywall.errors import InvalidInput, Unsupported

if TYPE_CHECKING:
    from isolation.interference.splits import Trial

app = typer.Typer(help="Predict what neighbours cost each other.", no_args_is_help=True)


class SplitName(enum.StrEnum):
    MODEL_OUT = "leave-model-out"
    PAIR_OUT = "leave-pair-out"


@app.callback()
def _group() -> None:
    """Predict what neighbours cost each other."""


@app.command("evaluate")
@command
def evaluate(
    session: Session,
    train: Annotated[Path | None, typer.Option(help="Measurements to learn from.")] = None,
    test: Annotated[Path | None, typer.Option(help="Measurements to judge on.")] = None,
    data: Annotated[Path | None, typer.Option(help="Measurements to split.")] = None,
    split: Annotated[SplitName, typer.Option(help="What to leave out of --data.")] = SplitName.MODEL_OUT,
    seed: Annotated[int, typer.Option(help="Draws the live observations.")] = 0,
) -> None:
    """Judge the predictor beside none, a constant and gpulet's form on co-runs it has not seen."""
    try:
        from isolation.interference.evaluate import evaluate as judge
        from isolation.interference.report import as_json, as_table
    except ImportError as exc:
        raise Unsupported('evaluate needs numpy and scipy: install "partywall[load]"') from exc
    evaluation = judge(_trial(train, test, data, split), seed)
    if session.printer.json:
        session.printer.record(as_json(evaluation))
    else:
        session.printer.text(as_table(evaluation))


@app.command("fit")
@command
def fit(
    session: Session,
    data: Annotated[Path, typer.Option(help="Measurements to learn from, as `evaluate` reads them.")],
    device_type: Annotated[str, typer.Option(help="Type of device, as `partywall models profile` names it.")],
    out: Annotated[Path, typer.Option(help="File to write; routers read DATA/fits/*.json.")],
    probes: Annotated[str, typer.Option(help="Probes RESOURCE:LEVEL; else those of `partywall profile`.")] = "",
) -> None:
    """Learn from co-runs of one type of device, so that routers predict better there than from profiles alone."""
    try:
        from isolation.interference import dataset, fits, plans
    except ImportError as exc:
        raise Unsupported('fit needs numpy and scipy: install "partywall[load]"') from exc
    _check_folder(out)
    chosen = [dataset.parse_probe(f"probe:{p.strip()}") for p in probes.split(",") if p.strip()]
    made = fits.make(dataset.load(data), device_type, chosen or plans.PROBES)
    try:
        out.write_text(fits.text(made))
    except OSError as failure:
        raise _unwritable(out, str(failure.strerror)) from failure
    session.printer.record({"file": str(out), "device_type": device_type, **made.judged})


def _check_folder(out: Path) -> None:
    """Before the minutes that learning takes."""
    if not out.absolute().parent.is_dir():
        raise _unwritable(out, "there is no such folder")


def _unwritable(out: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"--out {str(out)!r} cannot be written: {why}; name a file in a folder that exists", fields={"field": "out"}
    )


def _trial(train: Path | None, test: Path | None, data: Path | None, split: SplitName) -> Trial:
    from isolation.interference import dataset, splits

    if data is not None and train is None and test is None:
        return splits.one_file(dataset.load(data), splits.Split(split.value))
    if data is None and train is not None and test is not None:
        return splits.two_files(dataset.load(train), dataset.load(test))
    raise InvalidInput("give either --data FILE with --split, or both --train A and --test B")
