"""`partywall infer`: one request from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from partywall.cli.options import command
from partywall.cli.session import Connection, Session
from partywall.client.tensors import DTYPES, Array, datatype_of
from partywall.client.views import InferResult
from partywall.domain.names import check_model_name
from partywall.errors import InvalidInput, PartywallError, Reason

_INPUT = re.compile(r"([^=:]+)(?::([A-Z0-9]+))?=(.*)", re.DOTALL)
_PREVIEW = 6


@command
def infer(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", metavar="NAME[:TYPE]=VALUE", help="JSON, @file.npy, or @file.txt (a line per element)."
        ),
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="An element of the BYTES input `text`.")] = None,
    version: Annotated[str, typer.Option("--version", help="Empty: the live one.")] = "",
    output_name: Annotated[
        list[str] | None, typer.Option("--output-name", help="Only this output; repeatable.")
    ] = None,
    deadline_ms: Annotated[float | None, typer.Option("--deadline-ms", help="Until when an answer is of use.")] = None,
) -> None:
    """Send one request and print its outputs."""
    check_model_name(model)
    connection = session.tenant()
    tensors = _tensors(connection, model, version, inputs or [], text or [])
    flow = connection.operations.infer(
        model,
        tensors,
        version=version,
        outputs=output_name,
        deadline_s=_seconds(deadline_ms),
    )
    _print_result(session, connection.run(flow))


def _seconds(deadline_ms: float | None) -> float | None:
    if deadline_ms is not None and not deadline_ms > 0:
        raise InvalidInput(
            f"--deadline-ms must be above zero, got {deadline_ms:g}; leave it out for the client's own",
            fields={"field": "deadline_ms"},
        )
    return None if deadline_ms is None else deadline_ms / 1e3


def _tensors(connection: Connection, model: str, version: str, inputs: list[str], text: list[str]) -> dict[str, Array]:
    if not inputs and not text:
        raise typer.BadParameter("give an input: --text 'some words', or --input name=VALUE")
    declared: dict[str, str] | None = None
    out: dict[str, Array] = {}
    if text:
        out["text"] = np.array(text, dtype=object)
    for given in inputs:
        match = _INPUT.fullmatch(given)
        if match is None:
            raise typer.BadParameter(f"--input {given!r} is not of the form name=VALUE or name:TYPE=VALUE")
        name, datatype, value = match.groups()
        if datatype is None and not value.startswith("@"):
            if declared is None:
                declared = _declared(connection, model, version)
            datatype = declared.get(name)
        out[name] = _read(name, datatype, value)
    return out


def _declared(connection: Connection, model: str, version: str) -> dict[str, str]:
    """Datatypes that the model declares; none where it is not ready, and the request itself will say so."""
    try:
        metadata = connection.run(connection.operations.metadata(model, version))
    except PartywallError as error:
        if error.reason in (Reason.MODEL_NOT_READY, Reason.NO_REPLICA, Reason.NO_PLACE):
            return {}
        raise
    return {tensor.name: tensor.datatype for tensor in metadata.inputs}


def _read(name: str, datatype: str | None, value: str) -> Array:
    if value.startswith("@"):
        return _from_file(name, datatype, Path(value[1:]))
    try:
        parsed = json.loads(value)
    except ValueError:
        # A bare word is text: --input text=hello
        parsed = value
    return _from_json(name, datatype, parsed)


def _from_file(name: str, datatype: str | None, path: Path) -> Array:
    try:
        if path.suffix == ".npy":
            array = _load_npy(path)
            return array if datatype in (None, "BYTES") else array.astype(_dtype(name, str(datatype)))
        return np.array(path.read_text().splitlines(), dtype=object)
    except (OSError, ValueError) as failure:
        raise InvalidInput(
            f"input {name!r}: {str(path)!r} cannot be read ({failure}); give a .npy file of numbers or a text file",
            fields={"field": name},
        ) from failure


def _load_npy(path: Path) -> Array:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as failure:
        # numpy's words tell how to load pickles.
        raise ValueError("it is no .npy file of numbers") from failure
    if not isinstance(array, np.ndarray):
        raise ValueError("it holds several arrays")  # noqa: TRY004 - about the file, not about an argument
    return array


def _from_json(name: str, datatype: str | None, parsed: Any) -> Array:
    try:
        if datatype == "BYTES" or (datatype is None and _has_text(parsed)):
            array = np.array(parsed, dtype=object)
            return np.atleast_1d(array)
        if datatype is not None:
            return np.atleast_1d(np.array(parsed, dtype=_dtype(name, datatype)))
        array = np.atleast_1d(np.array(parsed))
    except (ValueError, TypeError, OverflowError) as failure:
        raise InvalidInput(
            f"input {name!r}: {failure}; give JSON such as [[1, 2], [3, 4]] whose rows have one length",
            fields={"field": name},
        ) from failure
    # Without a declaration numbers with a point are FP32, as models mostly want them.
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _dtype(name: str, datatype: str) -> np.dtype[Any]:
    if datatype not in DTYPES:
        raise InvalidInput(
            f"input {name!r}: {datatype!r} is not a datatype to type in; use one of {', '.join(DTYPES)}, BYTES",
            fields={"field": name},
        )
    return DTYPES[datatype]


def _has_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and any(_has_text(item) for item in value))


def _print_result(session: Session, result: InferResult) -> None:
    outputs = {
        name: {"datatype": datatype_of(name, array), "shape": list(array.shape), "data": _plain(array)}
        for name, array in result.items()
    }
    if session.printer.json:
        record = {"model": result.model, "version": result.version, "id": result.id, "outputs": outputs}
        session.printer.record(record)
        return
    rows = [
        {"name": name, "datatype": o["datatype"], "shape": o["shape"], "values": _preview(result[name])}
        for name, o in outputs.items()
    ]
    columns = {"name": "OUTPUT", "datatype": "DATATYPE", "shape": "SHAPE", "values": "VALUES"}
    session.printer.rows(rows, columns, empty="no outputs")


def _plain(array: Array) -> Any:
    if array.dtype == object:
        return np.vectorize(_text, otypes=[object])(array).tolist() if array.size else []
    return array.astype(np.float64).tolist() if array.dtype.name == "bfloat16" else array.tolist()


def _text(item: Any) -> str:
    return item.decode("utf-8", "backslashreplace") if isinstance(item, bytes) else str(item)


def _preview(array: Array) -> str:
    flat = array.ravel()
    shown = [_text(v) if array.dtype == object else f"{float(v):.4g}" for v in flat[:_PREVIEW]]
    return ", ".join(shown) + (", ..." if flat.size > _PREVIEW else "")
